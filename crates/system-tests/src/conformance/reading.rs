//! Listings, counts, the outbox and tenancy.

use std::time::Duration;

use mote::limits::MAIL_MAX;
use mote::store::{Counts, End, Error, Filter, NewTask, OutboxMessage, Owner, Status, StatusChange, Store};

use super::Bench;
use super::sample::{NOW, batch, claimed, commit, completed, finish, labels, start, task, turn, waiting};

async fn ids(store: &dyn Store, filter: Filter) -> Vec<String> {
    store.list(filter, None, 100).await.unwrap().tasks.into_iter().map(|task| task.id).collect()
}

/// Newest first, each filter alone and together.
pub async fn a_listing_obeys_every_filter(bench: &dyn Bench) {
    let store = bench.open().await;
    let owned = |id: &str, tenant: &str, user: &str, session: &str, pairs: &[(&str, &str)]| NewTask {
        owner: Owner {
            tenant: tenant.to_owned(),
            user: Some(user.to_owned()),
            session: Some(session.to_owned()),
            labels: labels(pairs),
        },
        ..task(id)
    };
    store.submit(owned("a", "acme", "ada", "s", &[("team", "x"), ("tier", "1")])).await.unwrap();
    store.submit(owned("b", "acme", "bob", "t", &[("team", "x"), ("tier", "2")])).await.unwrap();
    store.submit(owned("c", "", "ada", "s", &[("team", "y"), ("it's", "a \"quote\"")])).await.unwrap();
    start(&*store, task("d")).await;
    let dead = StatusChange::Finished(End { status: Status::Failed, result: None, error: None, dead: true });
    commit(&*store, "d", 0, batch(dead)).await.unwrap();
    let (all, text) = (Filter::default(), |text: &str| Some(text.to_owned()));
    let check = async |filter: Filter, expected: &[&str]| {
        assert_eq!(ids(&*store, filter.clone()).await, expected, "{filter:?}");
    };
    check(all.clone(), &["d", "c", "b", "a"]).await;
    check(Filter { tenant: text("acme"), ..all.clone() }, &["b", "a"]).await;
    check(Filter { tenant: text(""), ..all.clone() }, &["d", "c"]).await;
    check(Filter { user: text("ada"), ..all.clone() }, &["c", "a"]).await;
    check(Filter { session: text("s"), ..all.clone() }, &["c", "a"]).await;
    check(Filter { status: Some(Status::Queued), ..all.clone() }, &["c", "b", "a"]).await;
    check(Filter { status: Some(Status::Failed), ..all.clone() }, &["d"]).await;
    check(Filter { status: Some(Status::Waiting), ..all.clone() }, &[]).await;
    check(Filter { dead: true, ..all.clone() }, &["d"]).await;
    check(Filter { labels: labels(&[("team", "x")]), ..all.clone() }, &["b", "a"]).await;
    check(Filter { labels: labels(&[("team", "x"), ("tier", "2")]), ..all.clone() }, &["b"]).await;
    check(Filter { labels: labels(&[("it's", "a \"quote\"")]), ..all.clone() }, &["c"]).await;
    check(Filter { labels: labels(&[("team", "z")]), ..all.clone() }, &[]).await;
    let narrow = Filter { tenant: text("acme"), user: text("ada"), session: text("s"), ..all };
    check(Filter { status: Some(Status::Queued), labels: labels(&[("tier", "1")]), ..narrow }, &["a"]).await;
}

/// Paging on shows every task once, whatever comes in or changes meanwhile.
pub async fn a_cursor_is_stable_while_tasks_come_in(bench: &dyn Bench) {
    let store = bench.open().await;
    for n in 0..7 {
        store.submit(task(&format!("t{n}"))).await.unwrap();
    }
    let (mut cursor, mut seen) = (None, Vec::new());
    for round in 0.. {
        let page = store.list(Filter::default(), cursor, 3).await.unwrap();
        seen.extend(page.tasks.into_iter().map(|task| task.id));
        store.submit(task(&format!("later{round}"))).await.unwrap();
        claimed(&*store, 1).await;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["t6", "t5", "t4", "t3", "t2", "t1", "t0"]);
    let exact = store.list(Filter { status: Some(Status::Running), ..Filter::default() }, None, 3).await.unwrap();
    assert_eq!((exact.tasks.len(), exact.next), (3, None), "a full last page has no next");
}

/// A made-up cursor is the client's mistake, not the first page.
pub async fn a_cursor_that_no_listing_gave_is_refused(bench: &dyn Bench) {
    let store = bench.open().await;
    let refused = store.list(Filter::default(), Some("x' OR 1".to_owned()), 3).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
}

/// Another tenant's task is as good as not there.
pub async fn a_tenant_sees_only_its_own(bench: &dyn Bench) {
    let store = bench.open().await;
    let mut mine = turn("a", "s");
    mine.owner.tenant = "acme".to_owned();
    store.submit(mine).await.unwrap();
    assert!(store.task(Some("acme"), "a").await.unwrap().is_some());
    assert!(store.task(None, "a").await.unwrap().is_some());
    for other in ["", "globex"] {
        assert_eq!(store.task(Some(other), "a").await.unwrap(), None);
        assert!(ids(&*store, Filter { tenant: Some(other.to_owned()), ..Filter::default() }).await.is_empty());
        assert_eq!(store.session(other, "s").await.unwrap(), None);
    }
    assert!(store.session("acme", "s").await.unwrap().is_some());
}

/// The numbers that an operator sees are the tasks' own.
pub async fn counts_follow_the_tasks(bench: &dyn Bench) {
    let store = bench.open().await;
    assert_eq!(store.counts().await.unwrap(), Counts::default());
    for id in ["a", "b", "c", "d"] {
        store.submit(task(id)).await.unwrap();
    }
    assert_eq!(claimed(&*store, 3).await, ["a", "b", "c"]);
    commit(&*store, "a", 0, batch(waiting(None, 0))).await.unwrap();
    let mut done = batch(completed());
    done.outbox = vec![OutboxMessage { id: "m".to_owned(), body: "{}".to_owned() }];
    commit(&*store, "b", 0, done).await.unwrap();
    let expected = Counts { queued: 1, running: 1, waiting: 1, dead: 0, outbox: 1 };
    assert_eq!(store.counts().await.unwrap(), expected);
    assert_eq!(bench.open().await.counts().await.unwrap(), expected);
    finish(&*store, "c").await;
    store.post("d", mote::store::Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    assert_eq!(store.counts().await.unwrap(), Counts { waiting: 1, outbox: 1, ..Counts::default() });
}

/// A message waits for its time and goes only when it was delivered.
pub async fn outbox_messages_come_when_due_until_done(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let message = |id: &str| OutboxMessage { id: id.to_owned(), body: format!(r#"{{"id":"{id}"}}"#) };
    let mut work = batch(completed());
    work.outbox = vec![message("m1"), message("m2"), message("m3")];
    commit(&*store, "a", 0, work).await.unwrap();
    assert!(store.outbox(NOW - 1, 8).await.unwrap().is_empty());
    let due = store.outbox(NOW, 2).await.unwrap();
    assert_eq!(due.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>(), [message("m1"), message("m2")]);
    store.outbox_done(due[0].0, Some(NOW + 10)).await.unwrap();
    store.outbox_done(due[1].0, None).await.unwrap();
    let due = store.outbox(NOW + 9, 8).await.unwrap();
    assert_eq!(due.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>(), [message("m3")]);
    assert_eq!(store.outbox(NOW + 10, 8).await.unwrap().len(), 2);
    assert_eq!(store.counts().await.unwrap().outbox, 2);
}

/// Ready means that it can be written.
pub async fn a_store_answers_a_ping(bench: &dyn Bench) {
    let store = bench.open().await;
    store.ping(Duration::from_secs(60)).await.unwrap();
}

/// Submitted later than one time, earlier than another; neither time itself.
pub async fn tasks_are_listed_by_date(bench: &dyn Bench) {
    let store = bench.open().await;
    for (id, age) in [("a", 30), ("b", 20), ("c", 10)] {
        store.submit(NewTask { now: NOW - age, ..task(id) }).await.unwrap();
    }
    for (after, before, expected) in [
        (Some(NOW - 30), None, &["c", "b"][..]),
        (None, Some(NOW - 10), &["b", "a"]),
        (Some(NOW - 30), Some(NOW - 10), &["b"]),
        (Some(NOW), None, &[]),
    ] {
        let filter = Filter { created_after: after, created_before: before, ..Filter::default() };
        assert_eq!(ids(&*store, filter).await, expected);
    }
}

/// By tenant and name, a page at a time, without transcripts.
pub async fn sessions_are_listed_by_name(bench: &dyn Bench) {
    let store = bench.open().await;
    for (id, session, tenant, user) in [("a", "x", "", "ada"), ("b", "y", "", "bob"), ("c", "a", "acme", "ada")] {
        let mut new = super::sample::turn(id, session);
        (new.owner.tenant, new.owner.user) = (tenant.to_owned(), Some(user.to_owned()));
        store.submit(new).await.unwrap();
    }
    let names = |page: &mote::store::SessionPage| -> Vec<String> {
        page.sessions.iter().map(|session| format!("{}/{}", session.tenant, session.id)).collect()
    };
    let first = store.sessions(None, None, None, 2).await.unwrap();
    assert_eq!(names(&first), ["/x", "/y"]);
    let rest = store.sessions(None, None, first.next, 2).await.unwrap();
    assert_eq!((names(&rest), rest.next), (vec!["acme/a".to_owned()], None));
    assert_eq!(names(&store.sessions(Some(""), Some("bob"), None, 9).await.unwrap()), ["/y"]);
    assert_eq!(names(&store.sessions(Some("acme"), None, None, 9).await.unwrap()), ["acme/a"]);
}
