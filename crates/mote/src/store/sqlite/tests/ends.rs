//! How the end of a task is told.

use super::*;

#[tokio::test]
async fn ends_that_no_worker_drives_to_are_published_where_there_is_a_sink() {
    let dir = tempfile::tempdir().unwrap();
    for announcer in [None, Some(announcer())] {
        let path = dir.path().join(if announcer.is_some() { "with.db" } else { "without.db" });
        let published = usize::from(announcer.is_some()) * 2;
        let store = SqliteStore::open(&path, Options { announcer, ..options() }).unwrap();
        store.submit(new_task("cancelled")).await.unwrap();
        store.post("cancelled", Mail::Cancel, 2, MAIL_MAX).await.unwrap();
        store.submit(new_task("dead")).await.unwrap();
        for now in (2_000..).step_by(10).take(1 + (CLAIMS_TOGETHER_MAX + TRIALS_MAX) as usize) {
            for claim in store.claim(lease(now), now, 1).await.unwrap() {
                store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
            }
        }
        assert_eq!(store.counts().await.unwrap().dead, 1);
        let told = store.outbox(u64::MAX, 9).await.unwrap();
        assert_eq!(told.len(), published, "{told:?}");
        let bodies: String = told.iter().map(|(_, message)| message.body.as_str()).collect();
        assert_eq!(bodies.contains("dev.mote.task.cancelled") && bodies.contains("dead_letter"), published > 0);
    }
}

#[tokio::test]
async fn every_end_is_told_once_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let ends: EndObserver = Arc::new(move |ended: Ended| heard.lock().unwrap().push((ended.status, ended.dead)));
    let store = SqliteStore::open(&dir.path().join("store.db"), Options { ends: Some(ends), ..options() }).unwrap();
    store.submit(new_task("cancelled")).await.unwrap();
    store.post("cancelled", Mail::Cancel, 2, MAIL_MAX).await.unwrap();
    store.submit(new_task("dead")).await.unwrap();
    for now in (2_000..).step_by(10).take(1 + (CLAIMS_TOGETHER_MAX + TRIALS_MAX) as usize) {
        for claim in store.claim(lease(now), now, 1).await.unwrap() {
            store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
        }
    }
    let done = StatusChange::Finished(End { status: Status::Completed, result: None, error: None, dead: false });
    let lease = Lease { until: 99_000, ..lease(0) };
    store.submit(NewTask { claim: Some(lease), first: Some(batch(done)), ..new_task("done") }).await.unwrap();
    drop(store);
    let expected = [(Status::Cancelled, false), (Status::Failed, true), (Status::Completed, false)];
    assert_eq!(*told.lock().unwrap(), expected);
}
