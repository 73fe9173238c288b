//! Sandboxes of sessions and tasks: one an owner, none forgotten.

use mote::limits::MAIL_MAX;
use mote::store::{EffectOp, Erase, NewSandbox, SandboxChange, SandboxRow, SandboxScope, StatusChange, Store};

use super::Bench;
use super::sample::{NOW, batch, commit, finish, start, task, turn};

fn of_session(session: &str) -> SandboxScope {
    SandboxScope::Session { tenant: String::new(), session: session.to_owned() }
}

fn new(scope: SandboxScope, creation: &str) -> NewSandbox {
    NewSandbox {
        scope,
        url: "http://daemon".to_owned(),
        creation: creation.to_owned(),
        spec: "digest".to_owned(),
        now: NOW,
        replaces: None,
    }
}

async fn made(store: &dyn Store, scope: SandboxScope, creation: &str) -> SandboxRow {
    let row = store.enter_sandbox(new(scope, creation)).await.unwrap();
    store.change_sandbox(row.row, SandboxChange::Made { sandbox: format!("sb-{creation}") }).await.unwrap();
    row
}

async fn due(store: &dyn Store) -> Vec<String> {
    let rows = store.sandboxes_due(NOW, 10).await.unwrap();
    rows.into_iter().map(|row| row.sandbox.unwrap_or(row.creation)).collect()
}

/// Whoever enters a sandbox second gets the first, so that a crash or a race makes one only.
pub async fn an_owner_has_one_sandbox(bench: &dyn Bench) {
    let store = bench.open().await;
    assert_eq!(store.sandbox(&of_session("s")).await.unwrap(), None);
    let first = store.enter_sandbox(new(of_session("s"), "a")).await.unwrap();
    assert_eq!((first.generation, first.creation.as_str(), &first.sandbox), (1, "a", &None));
    let other = bench.open().await;
    assert_eq!(other.enter_sandbox(new(of_session("s"), "b")).await.unwrap(), first);
    store.change_sandbox(first.row, SandboxChange::Made { sandbox: "sb1".to_owned() }).await.unwrap();
    let known = other.sandbox(&of_session("s")).await.unwrap().unwrap();
    assert_eq!((known.sandbox.as_deref(), known.python, known.told), (Some("sb1"), false, false));
    let tasks = other.enter_sandbox(new(SandboxScope::Task("s".to_owned()), "c")).await.unwrap();
    assert_eq!((tasks.generation, tasks.creation.as_str()), (1, "c"), "a task is no session");
}

/// One that takes another's place says why, until the call that told so has an end; the other is given back.
pub async fn a_replaced_sandbox_is_told_and_given_back(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("t", "s")).await;
    let first = made(&*store, of_session("s"), "a").await;
    let replacement =
        NewSandbox { replaces: Some((first.row, "it was removed".to_owned())), ..new(of_session("s"), "b") };
    let second = store.enter_sandbox(replacement.clone()).await.unwrap();
    assert_eq!((second.generation, second.reason.as_deref(), second.told), (2, Some("it was removed"), false));
    // The same replacement again, after a crash: nothing more is replaced.
    let again = NewSandbox { creation: "c".to_owned(), ..replacement };
    assert_eq!(store.enter_sandbox(again).await.unwrap(), second);
    assert_eq!(due(&*store).await, ["sb-a"]);
    let told = SandboxChange::Told { task: "t".to_owned(), call: "k".to_owned() };
    store.change_sandbox(second.row, told).await.unwrap();
    let mut work = batch(StatusChange::Running);
    work.effects = vec![EffectOp::Reserve {
        key: "k".to_owned(),
        tool: "shell".to_owned(),
        class: "write",
        attempt: 1,
        step: 1,
        call: "c".to_owned(),
    }];
    commit(&*store, "t", 0, work).await.unwrap();
    assert!(!store.sandbox(&of_session("s")).await.unwrap().unwrap().told, "the call is under way");
    let mut work = batch(StatusChange::Running);
    work.effects = vec![EffectOp::Finalise { key: "k".to_owned(), outcome: "done" }];
    commit(&*store, "t", 0, work).await.unwrap();
    assert!(store.sandbox(&of_session("s")).await.unwrap().unwrap().told);
}

/// A task's own sandbox is due when the task ends, a session's when the session goes.
pub async fn what_lost_its_owner_is_due_until_it_is_gone(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("t", "s")).await;
    made(&*store, SandboxScope::Task("t".to_owned()), "task").await;
    made(&*store, of_session("s"), "session").await;
    assert!(due(&*store).await.is_empty());
    finish(&*store, "t").await;
    assert_eq!(due(&*store).await, ["sb-task"]);
    let row = store.sandboxes_due(NOW, 1).await.unwrap().remove(0);
    store.change_sandbox(row.row, SandboxChange::Retry(NOW + 5)).await.unwrap();
    assert!(due(&*store).await.is_empty());
    let later = store.sandboxes_due(NOW + 5, 1).await.unwrap().remove(0);
    assert_eq!((later.row, later.attempts), (row.row, 1));
    store.change_sandbox(row.row, SandboxChange::Gone).await.unwrap();
    assert!(store.sandboxes_due(NOW + 5, 1).await.unwrap().is_empty());
    let session = Erase::Session { tenant: String::new(), session: "s".to_owned() };
    store.erase(session).await.unwrap();
    assert_eq!(due(&*store).await, ["sb-session"]);
    // One that still has its owner is not removed by a worker that thinks otherwise.
    let owned = made(&*store, of_session("other"), "owned").await;
    store.change_sandbox(owned.row, SandboxChange::Gone).await.unwrap();
    assert!(store.sandbox(&of_session("other")).await.unwrap().is_some());
}

/// Cancelled in the queue, swept, or erased with their user: every end of an owner counts.
pub async fn every_end_of_an_owner_gives_its_sandbox_back(bench: &dyn Bench) {
    let store = bench.open().await;
    store.submit(task("queued")).await.unwrap();
    made(&*store, SandboxScope::Task("queued".to_owned()), "queued").await;
    store.post("queued", mote::store::Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    assert_eq!(due(&*store).await, ["sb-queued"]);
    start(&*store, turn("swept", "idle")).await;
    made(&*store, of_session("idle"), "idle").await;
    finish(&*store, "swept").await;
    store.sweep(NOW + 1, NOW + 1, 8).await.unwrap();
    assert_eq!(due(&*store).await, ["sb-queued", "sb-idle"]);
    start(&*store, turn("hers", "shared")).await;
    made(&*store, of_session("shared"), "shared").await;
    finish(&*store, "hers").await;
    store.erase(Erase::User { tenant: String::new(), user: "ada".to_owned() }).await.unwrap();
    assert_eq!(due(&*store).await, ["sb-queued", "sb-idle", "sb-shared"]);
}
