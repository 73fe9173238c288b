//! Idempotency keys whose answer was lost: what was made under them is found, and nothing is made twice.

use super::key::Key;
use super::*;

fn key(digest: &str, again: bool) -> Option<Key> {
    Some(Key { digest: digest.to_owned(), again, since_ms: 0 })
}

#[tokio::test]
async fn after_a_kill_between_effect_and_answer_nothing_is_made_twice() {
    let stage = stage();
    let one = stage.sandboxes.create_under(Spec::default(), key("one", false)).await.unwrap().id;
    let many = stage.sandboxes.create_many(Spec::default(), 2, key("many", false)).await.unwrap();
    let snapshot = stage.sandboxes.snapshot_under(&one, None, key("snapshot", false)).await.unwrap();
    let request = Fork { count: Some(2), ..Fork::default() };
    let forks = stage.sandboxes.fork_under(&one, request.clone(), key("fork", false)).await.unwrap();
    let ids = |made: Vec<Result<Sandbox, Failure>>| {
        let mut ids: Vec<_> = made.into_iter().map(|made| made.unwrap().id).collect();
        ids.sort();
        ids
    };
    let (stage, _) = stage.restart().await;
    let again = stage.sandboxes.create_under(Spec::default(), key("one", true)).await.unwrap();
    assert_eq!(again.id, one);
    assert!(again.access_token.is_some(), "it is of no use without");
    let many_again = stage.sandboxes.create_many(Spec::default(), 2, key("many", true)).await.unwrap();
    assert_eq!(ids(many_again), ids(many));
    assert_eq!(stage.sandboxes.snapshot_under(&one, None, key("snapshot", true)).await.unwrap(), snapshot);
    let forks_again = stage.sandboxes.fork_under(&one, request, key("fork", true)).await.unwrap();
    assert_eq!(ids(forks_again), ids(forks));
    assert_eq!(stage.listed(), 5);
    assert_eq!(stage.sandboxes.snapshots(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_kill_amid_a_batch_only_what_is_missing_is_made() {
    let stage = stage();
    stage.sandboxes.create_many(Spec::default(), 3, key("many", false)).await.unwrap();
    let mut record = stage.sandboxes.store().sandboxes().await.unwrap().remove(0);
    record.state = State::Creating;
    stage.sandboxes.store().put_sandbox(&record).await.unwrap();
    let (stage, recovered) = stage.restart().await;
    assert_eq!((recovered.adopted, recovered.reaped), (2, 1));
    let made = stage.sandboxes.create_many(Spec::default(), 3, key("many", true)).await.unwrap();
    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    assert!(
        made.len() == 3 && made.iter().all(|made| made.id != record.id && made.state == State::Running),
        "{made:?}"
    );
    assert_eq!(stage.listed(), 3);
}

#[tokio::test]
async fn a_claim_of_the_warm_pool_carries_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let spec = Spec { profile: Profile::Training, ..Spec::default() };
    let sandboxes = daemon(directory.path(), &fake, vec![pool::Entry { spec: spec.clone(), size: 1 }]);
    let stage = Stage { directory, fake, sandboxes };
    let keeper = stage.sandboxes.clone();
    let warming = tokio::spawn(async move { keeper.keep_warm().await });
    stage.until(async |stage| stage.sandboxes.warm() == (1, 1)).await;
    warming.abort();
    let claimed = stage.sandboxes.create_under(spec.clone(), key("one", false)).await.unwrap().id;
    assert_eq!(stage.fake.world().starts, 1);
    let (stage, _) = stage.restart().await;
    assert_eq!(stage.sandboxes.create_under(spec, key("one", true)).await.unwrap().id, claimed);
}
