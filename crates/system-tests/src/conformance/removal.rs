//! Retention, erasure, dead letters and backups.

use mote::limits::{MAIL_MAX, STORE_INLINE_BYTES};
use mote::message::{Message, Role};
use mote::store::{
    Commit, EffectOp, End, Erase, Error, Filter, Mail, NewTask, SessionTurn, Status, StatusChange, Store, TaskError,
};

use super::Bench;
use super::sample::{
    NOW, batch, claim, claimed, commit, commit_as, completed, entry, finish, key, line, reserve, settle, spending,
    start, task, turn, waiting,
};

async fn finish_at(store: &dyn Store, id: &str, now: u64, payload: &str) {
    start(store, task(id)).await;
    let mut work = batch(completed());
    work.entries = vec![entry(payload)];
    store.commit(Commit { task: id.to_owned(), epoch: 1, expected_seq: 0, now, batch: work }).await.unwrap();
}

/// Old results go, in steps of a bounded size; what is not finished stays, however old.
pub async fn a_sweep_removes_what_outlived_its_retention(bench: &dyn Bench) {
    let store = bench.open().await;
    for (id, age) in [("a", 30), ("b", 20), ("c", 10)] {
        finish_at(&*store, id, NOW - age, "1").await;
    }
    store.submit(NewTask { now: 0, idempotency: Some(key("k", 1)), ..task("open") }).await.unwrap();
    assert_eq!(store.sweep(NOW - 10, NOW, 1).await.unwrap().tasks, 1);
    assert_eq!(store.task(None, "a").await.unwrap(), None);
    assert!(store.journal("a", 0, 8).await.unwrap().is_empty());
    assert_eq!(store.sweep(NOW - 10, NOW, 8).await.unwrap().tasks, 1);
    assert_eq!(store.sweep(NOW - 10, NOW, 8).await.unwrap().tasks, 0);
    let left = store.list(Filter::default(), None, 8).await.unwrap().tasks;
    assert_eq!(left.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["open", "c"]);
    // Its key is forgotten once it has expired.
    assert_eq!(store.sweep(0, NOW + 1_000, 8).await.unwrap(), mote::store::Swept { tasks: 0, keys: 1 });
    store.submit(NewTask { now: 0, idempotency: Some(key("k", 2)), ..task("again") }).await.unwrap();
}

/// A payload goes with the last journal that holds it.
pub async fn a_sweep_keeps_payloads_that_others_share(bench: &dyn Bench) {
    let store = bench.open().await;
    let large = format!("\"{}\"", "x".repeat(STORE_INLINE_BYTES));
    finish_at(&*store, "old", NOW - 20, &large).await;
    finish_at(&*store, "new", NOW, &large).await;
    assert_eq!(store.sweep(NOW - 10, NOW, 8).await.unwrap().tasks, 1);
    assert_eq!(store.journal("new", 0, 8).await.unwrap()[0].payload, Some(large));
}

/// A conversation that nobody continued is forgotten with its last task.
pub async fn a_sweep_forgets_idle_sessions(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("a", "idle")).await;
    finish(&*store, "a").await;
    start(&*store, turn("b", "busy")).await;
    store.sweep(NOW, NOW, 8).await.unwrap();
    assert!(store.session("", "idle").await.unwrap().is_some());
    assert_eq!(store.sweep(NOW + 1, NOW + 1, 8).await.unwrap().tasks, 1);
    assert_eq!(store.session("", "idle").await.unwrap(), None);
    assert!(store.session("", "busy").await.unwrap().is_some());
}

/// Erasing a session leaves none of it, and nothing of any other is touched.
pub async fn a_session_is_erased(bench: &dyn Bench) {
    let store = bench.open().await;
    for (id, session, tenant) in [("a", "s", ""), ("b", "t", ""), ("c", "s", "acme")] {
        let mut new = NewTask { idempotency: Some(key(id, 1)), ..turn(id, session) };
        new.owner.tenant = tenant.to_owned();
        start(&*store, new).await;
        let mut work = batch(completed());
        work.entries = vec![entry(&"x".repeat(STORE_INLINE_BYTES + 1))];
        work.session = Some(SessionTurn { messages: vec![Message::text(Role::User, "private")] });
        commit(&*store, id, 0, work).await.unwrap();
    }
    store.submit(turn("queued", "s")).await.unwrap();
    let what = Erase::Session { tenant: String::new(), session: "s".to_owned() };
    assert_eq!(store.erase(what.clone()).await.unwrap(), 2);
    for gone in ["a", "queued"] {
        assert_eq!(store.task(None, gone).await.unwrap(), None);
        assert!(store.journal(gone, 0, 8).await.unwrap().is_empty());
    }
    assert_eq!(store.session("", "s").await.unwrap(), None);
    assert_eq!(store.counts().await.unwrap().queued, 0);
    for (id, session, tenant) in [("b", "t", ""), ("c", "s", "acme")] {
        assert!(store.journal(id, 0, 8).await.unwrap()[0].payload.is_some());
        assert_eq!(store.session(tenant, session).await.unwrap().unwrap().messages.len(), 1);
    }
    // The key is free; asking again erases nothing more.
    store.submit(NewTask { idempotency: Some(key("a", 9)), ..task("d") }).await.unwrap();
    assert_eq!(store.erase(what).await.unwrap(), 0);
}

/// Erasing a user takes that user's tasks and words, also out of sessions that others share.
pub async fn a_user_is_erased_and_others_stay(bench: &dyn Bench) {
    let store = bench.open().await;
    for (id, user, session) in [("a", "ada", "shared"), ("b", "bob", "shared"), ("c", "ada", "own")] {
        let mut new = turn(id, session);
        new.owner.user = Some(user.to_owned());
        start(&*store, new).await;
        let mut work = batch(completed());
        work.session = Some(SessionTurn { messages: vec![Message::text(Role::User, user)] });
        commit(&*store, id, 0, work).await.unwrap();
    }
    let what = Erase::User { tenant: String::new(), user: "ada".to_owned() };
    assert_eq!(store.erase(what).await.unwrap(), 2);
    let left = store.list(Filter::default(), None, 8).await.unwrap().tasks;
    assert_eq!(left.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(store.session("", "own").await.unwrap(), None);
    let shared = store.session("", "shared").await.unwrap().unwrap();
    assert_eq!(shared.messages, [Message::text(Role::User, "bob")]);
    assert_eq!(shared.user, None);
}

/// A deleted task leaves nothing but what it cost; one that runs is not deleted, nor is another tenant's.
pub async fn a_task_is_deleted_and_its_session_goes_with_the_last(bench: &dyn Bench) {
    let store = bench.open().await;
    for id in ["a", "b"] {
        start(&*store, NewTask { idempotency: Some(key(id, 1)), ..turn(id, "s") }).await;
        let delete = Erase::Task { tenant: None, task: id.to_owned(), now: NOW };
        assert!(matches!(store.erase(delete).await.unwrap_err(), Error::Conflict { .. }), "it runs");
        let mut work = batch(completed());
        work.entries = vec![entry("said")];
        work.session = Some(SessionTurn { messages: vec![Message::text(Role::User, id)] });
        commit(&*store, id, 0, work).await.unwrap();
    }
    let delete = |tenant: Option<&str>, id: &str| Erase::Task {
        tenant: tenant.map(str::to_owned),
        task: id.to_owned(),
        now: NOW,
    };
    assert_eq!(store.erase(delete(Some("acme"), "a")).await.unwrap(), 0);
    assert_eq!(store.erase(delete(Some(""), "a")).await.unwrap(), 1);
    assert_eq!(store.task(None, "a").await.unwrap(), None);
    assert!(store.journal("a", 0, 8).await.unwrap().is_empty());
    let left = store.session("", "s").await.unwrap().unwrap();
    assert_eq!(left.messages, [Message::text(Role::User, "b")], "the others' words stay");
    // Its key is free.
    store.submit(NewTask { idempotency: Some(key("a", 9)), ..task("c") }).await.unwrap();
    assert_eq!(store.erase(delete(None, "b")).await.unwrap(), 1);
    assert_eq!(store.session("", "s").await.unwrap(), None);
    assert_eq!(store.erase(delete(None, "b")).await.unwrap(), 0);
}

/// What a worker holds cannot be pulled from under it.
pub async fn nothing_is_erased_while_a_task_runs(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("a", "s")).await;
    finish(&*store, "a").await;
    start(&*store, turn("b", "s")).await;
    let what = Erase::Session { tenant: String::new(), session: "s".to_owned() };
    let refused = store.erase(what.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
    assert!(store.task(None, "a").await.unwrap().is_some());
    commit(&*store, "b", 0, batch(waiting(None, 0))).await.unwrap();
    assert_eq!(store.erase(what).await.unwrap(), 2);
    assert_eq!(store.counts().await.unwrap().waiting, 0);
}

/// Whoever came after an erased task in a shared session is next, and its reservation is free.
pub async fn erasing_a_head_lets_the_next_one_in(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("a", "s")).await;
    let mut work = spending(vec![reserve(&[line("agent", 100)], 100)]);
    work.status = waiting(None, 0);
    commit(&*store, "a", 0, work).await.unwrap();
    let mut next = turn("b", "s");
    next.owner.user = Some("bob".to_owned());
    store.submit(next).await.unwrap();
    assert!(claimed(&*store, 8).await.is_empty());
    store.erase(Erase::User { tenant: String::new(), user: "ada".to_owned() }).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["b"]);
    commit(&*store, "b", 0, spending(vec![reserve(&[line("agent", 100)], 100)])).await.unwrap();
}

fn died() -> StatusChange {
    let error = Some(TaskError { code: "internal".to_owned(), message: "broken".to_owned() });
    StatusChange::Finished(End { status: Status::Failed, result: None, error, dead: true })
}

/// A second life starts from the request alone; the first can still be read.
pub async fn a_dead_letter_is_requeued_with_a_fresh_journal(bench: &dyn Bench) {
    let store = bench.open().await;
    let expires_at = Some(NOW + 100);
    start(&*store, NewTask { expires_at, ..turn("a", "s") }).await;
    store.submit(turn("b", "s")).await.unwrap();
    let mut work = batch(died());
    work.entries = vec![entry("\"first life\"")];
    let (key, tool) = ("k".to_owned(), "t".to_owned());
    work.effects = vec![EffectOp::Reserve { key, tool, class: "write", attempt: 1, step: 1, call: "c".to_owned() }];
    work.budget = vec![settle(7)];
    work.totals.steps = 3;
    commit(&*store, "a", 0, work.clone()).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["b"]);
    store.requeue("a", NOW + 1_000).await.unwrap();
    let again = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((again.status, again.dead, again.seq, again.epoch), (Status::Queued, false, 0, 1));
    assert_eq!((again.error, again.cost_nano_usd, again.steps, again.finished_at), (None, 0, 0, None));
    assert_eq!(again.expires_at, Some(NOW + 1_100), "its wall time starts again");
    assert!(store.journal("a", 0, 8).await.unwrap().is_empty());
    assert_eq!(store.journal("a.1", 0, 8).await.unwrap()[0].payload.as_deref(), Some("\"first life\""));
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.dead, counts.queued, counts.running), (0, 1, 1));
    // It waits for its session like any other.
    assert!(store.claim(super::sample::lease("w"), NOW + 1_000, 8).await.unwrap().is_empty());
    finish(&*store, "b").await;
    let claims = claim(&*store, 8).await;
    assert_eq!((claims[0].task.id.as_str(), claims[0].epoch), ("a", 2));
    commit_as(&*store, "a", 2, 0, work).await.unwrap();
    assert_eq!(store.session("", "s").await.unwrap().unwrap().cost_nano_usd, 14, "both lives were paid for");
    store.requeue("a", NOW).await.unwrap();
    assert_eq!(store.journal("a.2", 0, 8).await.unwrap().len(), 1);
    store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    store.sweep(NOW + 1, NOW + 1, 8).await.unwrap();
    assert!(store.journal("a.1", 0, 8).await.unwrap().is_empty(), "old journals go with their task");
}

/// What has not ended, and what ended well, has no other life.
pub async fn only_what_failed_or_was_cancelled_lives_again(bench: &dyn Bench) {
    let store = bench.open().await;
    let refused = [store.requeue("a", NOW).await.unwrap_err(), store.resume("a", NOW).await.unwrap_err()];
    for refused in refused {
        assert_eq!(refused, Error::NotFound { what: "task", id: "a".to_owned() });
    }
    start(&*store, task("a")).await;
    for _ in 0..2 {
        for refused in [store.requeue("a", NOW).await.unwrap_err(), store.resume("a", NOW).await.unwrap_err()] {
            assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
        }
        let _ = commit(&*store, "a", 0, batch(completed())).await;
    }
    store.submit(task("b")).await.unwrap();
    store.post("b", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    store.resume("b", NOW).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["b"], "one that was cancelled in the queue too");
}

/// A resumed task keeps its journal, its effects and what it spent; its wall time starts again, and it waits for its session.
pub async fn a_failed_task_is_resumed_where_its_journal_ends(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, NewTask { expires_at: Some(NOW + 100), ..turn("a", "s") }).await;
    store.submit(turn("b", "s")).await.unwrap();
    let error = Some(TaskError { code: "model_failed".to_owned(), message: "no".to_owned() });
    let mut work = batch(StatusChange::Finished(End { status: Status::Failed, result: None, error, dead: false }));
    work.entries = vec![entry("1"), entry("2")];
    let (key, tool, call) = ("k".to_owned(), "send".to_owned(), "c".to_owned());
    work.effects = vec![
        EffectOp::Reserve { key: key.clone(), tool, class: "write", attempt: 1, step: 2, call },
        EffectOp::Finalise { key, outcome: "done" },
    ];
    work.budget = vec![settle(7)];
    work.totals.steps = 2;
    commit(&*store, "a", 0, work).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["b"]);
    store.resume("a", NOW + 1_000).await.unwrap();
    let again = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((again.status, again.seq, again.lives, again.error), (Status::Queued, 2, 1, None));
    assert_eq!((again.cost_nano_usd, again.steps, again.finished_at), (7, 2, None));
    assert_eq!(again.expires_at, Some(NOW + 1_100));
    let effects = store.effects("a").await.unwrap();
    assert_eq!((effects[0].tool.as_str(), effects[0].outcome.as_str(), effects[0].step), ("send", "done", 2));
    assert!(store.claim(super::sample::lease("w"), NOW + 1_000, 8).await.unwrap().is_empty(), "its session is busy");
    finish(&*store, "b").await;
    let claims = store.claim(super::sample::lease("w"), NOW + 1_000, 8).await.unwrap();
    assert_eq!((claims[0].task.id.as_str(), claims[0].epoch, claims[0].task.seq), ("a", 2, 2));
    commit_as(&*store, "a", 2, 2, spending(vec![settle(3)])).await.unwrap();
    assert_eq!(store.task(None, "a").await.unwrap().unwrap().cost_nano_usd, 10);
    assert_eq!(store.session("", "s").await.unwrap().unwrap().cost_nano_usd, 10);
}

/// A copy taken while others write is one consistent moment, and a store in its own right.
pub async fn a_backup_is_readable_while_the_store_goes_on(bench: &dyn Bench) {
    let store = bench.open().await;
    for n in 0..50 {
        finish_at(&*store, &format!("t{n}"), NOW, &"x".repeat(STORE_INLINE_BYTES * 2)).await;
    }
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..50 {
                store.submit(task(&format!("later{n}"))).await.unwrap();
            }
        }
    });
    let to = bench.scratch().join("backup");
    store.backup(&to).await.unwrap();
    writer.await.unwrap();
    let copy = bench.open_backup(&to).await;
    let mut found = 0;
    let mut cursor = None;
    loop {
        let page = copy.list(Filter::default(), cursor, 100).await.unwrap();
        found += page.tasks.iter().filter(|task| task.status == Status::Queued).count();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found as u64, copy.counts().await.unwrap().queued);
    assert_eq!(copy.journal("t49", 0, 8).await.unwrap()[0].payload.as_ref().unwrap().len(), STORE_INLINE_BYTES * 2);
    copy.submit(task("restored")).await.unwrap();
    assert_eq!(store.task(None, "restored").await.unwrap(), None);
    // The next backup takes the older one's place.
    drop(copy);
    store.backup(&to).await.unwrap();
    assert_eq!(bench.open_backup(&to).await.counts().await.unwrap().queued, 50);
}
