//! Waiting, waking, mail and cancellation.

use mote::limits::MAIL_MAX;
use mote::store::{End, Error, Lease, Mail, NewTask, Status, StatusChange, Store};

use super::Bench;
use super::sample::{NOW, batch, claim, claimed, commit, commit_as, start, task, waiting};

fn signal(name: &str) -> Mail {
    Mail::Signal { name: name.to_owned(), payload: serde_json::json!({"ok": true}) }
}

async fn due(store: &dyn Store, now: u64) -> Vec<String> {
    let lease = Lease { worker: "w".to_owned(), until: now + 30_000 };
    store.claim(lease, now, 8).await.unwrap().into_iter().map(|claim| claim.task.id).collect()
}

async fn put_to_wait(store: &dyn Store, new: NewTask, wake_at: Option<u64>) {
    let id = new.id.clone();
    start(store, new).await;
    commit(store, &id, 0, batch(waiting(wake_at, 0))).await.unwrap();
}

/// A timer wakes a task, no sooner than it says.
pub async fn a_waiting_task_wakes_at_its_time(bench: &dyn Bench) {
    let store = bench.open().await;
    put_to_wait(&*store, task("a"), Some(NOW + 100)).await;
    put_to_wait(&*store, task("never"), None).await;
    let asleep = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((asleep.status, asleep.waiting.as_deref()), (Status::Waiting, Some("[]")));
    assert!(due(&*store, NOW + 99).await.is_empty());
    assert_eq!(due(&*store, NOW + 100).await, ["a"]);
    let awake = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((awake.status, awake.waiting, awake.epoch), (Status::Running, None, 2));
    assert!(due(&*store, u64::MAX / 4).await.contains(&"a".to_owned()));
    assert_eq!(store.task(None, "never").await.unwrap().unwrap().status, Status::Waiting);
}

/// Mail wakes a task, whatever its timer says, in whichever process it is posted.
pub async fn a_waiting_task_wakes_for_mail(bench: &dyn Bench) {
    let (store, other) = (bench.open().await, bench.open().await);
    put_to_wait(&*store, task("a"), Some(NOW + 100_000)).await;
    put_to_wait(&*store, task("b"), None).await;
    assert!(due(&*store, NOW).await.is_empty());
    other.post("a", signal("ci"), NOW, MAIL_MAX).await.unwrap();
    let input = Mail::Input { call: Some("c".to_owned()), approve: Some(true), content: None };
    other.post("b", input.clone(), NOW + 1, MAIL_MAX).await.unwrap();
    assert_eq!(due(&*store, NOW + 1).await, ["a", "b"]);
    assert_eq!(store.mail("b").await.unwrap()[0].mail, input);
    assert_eq!(store.mail("b").await.unwrap()[0].at, NOW + 1);
}

/// The race between going to sleep and being called: the call wins.
pub async fn mail_that_came_before_the_wait_is_not_slept_through(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    store.post("a", signal("one"), NOW, MAIL_MAX).await.unwrap();
    let seen = store.mail("a").await.unwrap().last().unwrap().id;
    // The worker has looked; now another one comes, and only then the worker goes to sleep.
    store.post("a", signal("two"), NOW, MAIL_MAX).await.unwrap();
    commit(&*store, "a", 0, batch(waiting(None, seen))).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["a"]);
    assert_eq!(store.mail("a").await.unwrap().len(), 2);
}

/// A signal that nobody waits for yet is kept, and does not keep its task from sleeping.
pub async fn mail_that_was_seen_wakes_nobody(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    store.post("a", signal("early"), NOW, MAIL_MAX).await.unwrap();
    let seen = store.mail("a").await.unwrap().last().unwrap().id;
    commit(&*store, "a", 0, batch(waiting(None, seen))).await.unwrap();
    assert!(claimed(&*store, 8).await.is_empty());
    store.post("a", signal("late"), NOW, MAIL_MAX).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["a"]);
    assert_eq!(store.mail("a").await.unwrap().len(), 2);
}

/// Wall time passes while a task sleeps.
pub async fn a_waiting_task_wakes_to_expire(bench: &dyn Bench) {
    let store = bench.open().await;
    put_to_wait(&*store, NewTask { expires_at: Some(NOW + 50), ..task("a") }, Some(NOW + 100)).await;
    assert!(due(&*store, NOW + 49).await.is_empty());
    assert_eq!(due(&*store, NOW + 50).await, ["a"]);
}

/// A commit takes the mail that it dealt with, no other, and nobody else's.
pub async fn consumed_mail_is_gone_and_the_rest_stays(bench: &dyn Bench) {
    let store = bench.open().await;
    for id in ["a", "b"] {
        start(&*store, task(id)).await;
        store.post(id, signal("one"), NOW, MAIL_MAX).await.unwrap();
        store.post(id, signal("two"), NOW, MAIL_MAX).await.unwrap();
    }
    let (mine, theirs) = (store.mail("a").await.unwrap(), store.mail("b").await.unwrap());
    let mut work = batch(StatusChange::Running);
    work.mail_consumed = vec![mine[0].id, theirs[0].id];
    commit(&*store, "a", 0, work).await.unwrap();
    assert_eq!(store.mail("a").await.unwrap(), mine[1..]);
    assert_eq!(store.mail("b").await.unwrap(), theirs);
    commit(&*store, "a", 0, batch(super::sample::completed())).await.unwrap();
    assert!(store.mail("a").await.unwrap().is_empty(), "a finished task keeps no mail");
}

/// Nobody has to wake up to cancel what never ran.
pub async fn a_queued_task_is_cancelled_at_once(bench: &dyn Bench) {
    let store = bench.open().await;
    store.submit(task("a")).await.unwrap();
    store.post("a", Mail::Cancel, NOW + 1, MAIL_MAX).await.unwrap();
    let task = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((task.status, task.finished_at), (Status::Cancelled, Some(NOW + 1)));
    assert!(claimed(&*store, 8).await.is_empty());
    assert_eq!(store.counts().await.unwrap().queued, 0);
}

/// What runs or has run is told to stop, and does so in its own journal.
pub async fn a_running_task_gets_its_cancel_as_mail(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let mut work = batch(StatusChange::Running);
    work.entries = vec![super::sample::entry("1")];
    commit(&*store, "a", 0, work).await.unwrap();
    store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    assert_eq!(store.mail("a").await.unwrap().len(), 1, "to be told once is enough");
    assert_eq!(store.task(None, "a").await.unwrap().unwrap().status, Status::Running);
    // Also when its worker has given it back in the meantime.
    store.release("a", 1).await.unwrap();
    store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    let claims = claim(&*store, 8).await;
    let mail = store.mail("a").await.unwrap();
    assert_eq!(mail[0].mail, Mail::Cancel);
    let cancelled = StatusChange::Finished(End { status: Status::Cancelled, result: None, error: None, dead: false });
    commit_as(&*store, "a", claims[0].epoch, 1, batch(cancelled)).await.unwrap();
}

/// A mailbox is bounded, but a task can always be stopped.
pub async fn a_full_mailbox_still_takes_a_cancel(bench: &dyn Bench) {
    let store = bench.open().await;
    put_to_wait(&*store, task("a"), None).await;
    for _ in 0..MAIL_MAX {
        store.post("a", signal("ci"), NOW, MAIL_MAX).await.unwrap();
    }
    let refused = store.post("a", signal("ci"), NOW, MAIL_MAX).await.unwrap_err();
    assert_eq!(refused, Error::Limit { name: "MAIL_MAX", max: MAIL_MAX as u64 });
    // Another kind has room of its own, and one that is awaited may have more.
    let input = Mail::Input { call: None, approve: Some(true), content: None };
    store.post("a", input, NOW, MAIL_MAX).await.unwrap();
    store.post("a", signal("awaited"), NOW, MAIL_MAX + 1).await.unwrap();
    store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    assert_eq!(store.mail("a").await.unwrap().last().unwrap().mail, Mail::Cancel);
}

/// Who is finished or unknown gets no mail.
pub async fn mail_to_nobody_is_refused(bench: &dyn Bench) {
    let store = bench.open().await;
    let refused = store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap_err();
    assert_eq!(refused, Error::NotFound { what: "task", id: "a".to_owned() });
    start(&*store, task("a")).await;
    super::sample::finish(&*store, "a").await;
    let refused = store.post("a", signal("ci"), NOW, MAIL_MAX).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
    assert!(store.mail("a").await.unwrap().is_empty());
}
