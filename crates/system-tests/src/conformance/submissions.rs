//! Submitting tasks.

use mote::store::{Error, Filter, NewTask, Owner, Status, Submitted};

use super::Bench;
use super::sample::{NOW, batch, claimed, completed, entry, key, labels, lease, line, reserve, settle, task, turn};

const CREATED: Submitted = Submitted::Created { epoch: None };

/// What was submitted is there, in every column, for this process and for the next.
pub async fn a_submission_is_durable_as_it_was_made(bench: &dyn Bench) {
    let store = bench.open().await;
    let owner = Owner {
        tenant: "acme".to_owned(),
        user: Some("ada".to_owned()),
        session: Some("s-1".to_owned()),
        labels: labels(&[("team", "support"), ("quote", "it's \"so\"")]),
    };
    let new = NewTask { owner: owner.clone(), expires_at: Some(NOW + 5), ..task("a") };
    assert_eq!(store.submit(new).await.unwrap(), CREATED);
    let here = store.task(None, "a").await.unwrap().unwrap();
    drop(store);
    let there = bench.open().await.task(None, "a").await.unwrap().unwrap();
    assert_eq!(here, there);
    assert_eq!(here.owner, owner);
    assert_eq!((here.status, here.epoch, here.seq), (Status::Queued, 0, 0));
    assert_eq!(here.request, r#"{"input":"hello"}"#);
    assert_eq!((here.created_at, here.updated_at, here.expires_at), (NOW, NOW, Some(NOW + 5)));
    assert_eq!((here.started_at, here.finished_at, here.dead), (None, None, false));
}

/// The same request under the same key is the same task, whatever became of it.
pub async fn a_replayed_key_answers_with_the_first_task(bench: &dyn Bench) {
    let store = bench.open().await;
    let new = |id| NewTask { idempotency: Some(key("k", 1)), ..task(id) };
    assert_eq!(store.submit(new("a")).await.unwrap(), CREATED);
    assert_eq!(claimed(&*store, 8).await, ["a"]);
    assert_eq!(store.submit(new("b")).await.unwrap(), Submitted::Replayed { task: "a".to_owned() });
    assert_eq!(store.task(None, "b").await.unwrap(), None);
}

/// The same key with another request is the client's mistake.
pub async fn a_key_is_refused_for_another_request(bench: &dyn Bench) {
    let store = bench.open().await;
    store.submit(NewTask { idempotency: Some(key("k", 1)), ..task("a") }).await.unwrap();
    let other = NewTask { idempotency: Some(key("k", 2)), ..task("b") };
    assert_eq!(store.submit(other).await.unwrap_err(), Error::KeyReused);
    assert_eq!(store.task(None, "b").await.unwrap(), None);
}

/// Two tenants may choose the same key, two routes too, and an old key is free again.
pub async fn keys_are_apart_by_tenant_and_route_and_forgotten_in_time(bench: &dyn Bench) {
    let store = bench.open().await;
    let first = NewTask { idempotency: Some(key("k", 1)), ..task("a") };
    let mut tenant = NewTask { idempotency: Some(key("k", 2)), ..task("b") };
    tenant.owner.tenant = "acme".to_owned();
    let mut route = NewTask { idempotency: Some(key("k", 3)), ..task("c") };
    route.idempotency.as_mut().unwrap().route = "POST /run".to_owned();
    let later = NewTask { idempotency: Some(key("k", 4)), now: NOW + 1_000, ..task("d") };
    for new in [first, tenant, route, later] {
        assert_eq!(store.submit(new).await.unwrap(), CREATED);
    }
}

/// However many clients retry at once, by way of two processes, there is one task.
pub async fn concurrent_submissions_of_one_key_make_one_task(bench: &dyn Bench) {
    let stores = [bench.open().await, bench.open().await];
    let submissions = (0..32).map(|n: usize| {
        let store = stores[n % 2].clone();
        let new = NewTask { idempotency: Some(key("k", 1)), ..task(&format!("t{n}")) };
        tokio::spawn(async move { store.submit(new).await.unwrap() })
    });
    let mut created = 0;
    for submission in submissions.collect::<Vec<_>>() {
        created += usize::from(submission.await.unwrap() == CREATED);
    }
    assert_eq!(created, 1);
    assert_eq!(stores[0].list(Filter::default(), None, 64).await.unwrap().tasks.len(), 1);
}

/// Submission, claim and first commit are one transaction.
pub async fn a_submission_may_be_claimed_and_committed_at_once(bench: &dyn Bench) {
    let store = bench.open().await;
    let mut first = batch(completed());
    first.entries = vec![entry(r#"{"n":1}"#), entry(r#"{"n":2}"#)];
    let new = NewTask { claim: Some(lease("w")), first: Some(first), ..task("a") };
    assert_eq!(store.submit(new).await.unwrap(), Submitted::Created { epoch: Some(1) });
    let done = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((done.status, done.epoch, done.seq), (Status::Completed, 1, 2));
    assert_eq!((done.started_at, done.finished_at), (Some(NOW), Some(NOW)));
    assert_eq!(store.journal("a", 0, 10).await.unwrap().len(), 2);
    assert!(claimed(&*store, 8).await.is_empty());
}

/// A client is told at once that there is no money left, and no trace of its task remains.
pub async fn a_first_commit_that_a_budget_refuses_submits_nothing(bench: &dyn Bench) {
    let store = bench.open().await;
    let with = |id: &str, nano_usd| {
        let mut first = batch(completed());
        first.budget = vec![reserve(&[line("agent", 100)], nano_usd), settle(nano_usd)];
        NewTask { claim: Some(lease("w")), first: Some(first), idempotency: Some(key(id, 1)), ..turn(id, "s") }
    };
    store.submit(with("a", 60)).await.unwrap();
    let refused = store.submit(with("b", 60)).await.unwrap_err();
    assert_eq!(refused, Error::Budget { scope: "agent".to_owned() });
    assert_eq!(store.task(None, "b").await.unwrap(), None);
    // Not even its key.
    store.submit(NewTask { idempotency: Some(key("b", 2)), ..task("c") }).await.unwrap();
    assert_eq!(store.counts().await.unwrap().running, 0);
}

/// A second task of the same id is refused, and the first stays as it is.
pub async fn an_id_is_used_once(bench: &dyn Bench) {
    let store = bench.open().await;
    store.submit(task("a")).await.unwrap();
    let again = store.submit(NewTask { request: "{}".to_owned(), ..task("a") }).await.unwrap_err();
    assert!(matches!(again, Error::Conflict { .. }), "{again}");
    assert_eq!(store.task(None, "a").await.unwrap().unwrap().request, task("a").request);
    assert_eq!(store.counts().await.unwrap().queued, 1);
}
