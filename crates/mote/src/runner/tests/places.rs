//! Places for runs between the queue and `POST /run`, and what is removed after its retention.

use rusqlite::Connection;

use super::*;
use crate::limits::SWEEP_BATCH;
use crate::runner::SubmitError;
use crate::store::Filter;

fn one_place() -> Agent {
    let mut agent = agent();
    agent.server.runs = 1;
    agent
}

/// Holds the store's file as another process may, so that what the runner asks of it waits.
fn hold_file(world: &World) -> Connection {
    let file = Connection::open(world.folder.join("mote.db")).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    file
}

/// Waits until a look for work has taken the only place.
async fn looking(world: &World) {
    while world.runner.shared.places.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_task_is_claimed_only_for_a_place_that_is_held_for_it() {
    let hold = Arc::new(Notify::new());
    let world = World::with(one_place(), vec![says("one")], &[], Some(Arc::clone(&hold)));
    let place = world.runner.shared.place().await.unwrap();
    let queued = world.runner.submit(ask("queued"), false).await.unwrap().task;
    let file = hold_file(&world);
    drop(place);
    looking(&world).await;
    // It comes while the claim is under way, and must not take the place that the claim is for.
    let at_once = tokio::spawn({
        let runner = world.runner.clone();
        async move { runner.submit(ask("at once"), true).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    file.execute_batch("COMMIT").unwrap();
    let refused = at_once.await.unwrap().unwrap_err();
    assert!(matches!(refused, SubmitError::Overloaded { .. }), "{refused}");
    let running = Filter { status: Some(Status::Running), ..Filter::default() };
    world.model.called.notified().await;
    assert_eq!(world.store.list(running, None, 9).await.unwrap().tasks.len(), 1);
    hold.notify_one();
    assert_eq!(world.end(&queued).await.status, Status::Completed);
}

#[tokio::test]
async fn a_look_that_finds_nothing_takes_no_place_from_a_run() {
    let world = World::new(one_place(), vec![says("one")], &[]);
    world.runner.looked().await;
    let file = hold_file(&world);
    world.store.work().notify_one();
    looking(&world).await;
    let at_once = tokio::spawn({
        let runner = world.runner.clone();
        async move { runner.submit(ask("at once"), true).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    file.execute_batch("COMMIT").unwrap();
    let task = at_once.await.unwrap().unwrap().task;
    assert_eq!(world.end(&task).await.status, Status::Completed);
}

#[tokio::test]
async fn everything_past_its_retention_goes_however_much_it_is() {
    let world = World::new(agent(), vec![says("one")], &[]);
    let task = world.submit(ask("one")).await;
    world.end(&task).await;
    let many = 3 * SWEEP_BATCH + 1;
    let file = Connection::open(world.folder.join("mote.db")).unwrap();
    let numbers = format!("WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i WHERE x < {many})");
    let columns = "tenant, user, session, labels, status, request, epoch, seq, claims, created_at, updated_at";
    file.execute_batch(&format!(
        "INSERT INTO tasks (id, finished_at, {columns})
           {numbers} SELECT 'old-' || x, 1, {columns} FROM i, tasks WHERE tasks.id = '{task}';
         INSERT INTO idempotency (tenant, route, key, fingerprint, task, expires_at)
           {numbers} SELECT '', 'POST /tasks', 'k' || x, x'00', '{task}', 1 FROM i;"
    ))
    .unwrap();
    world.runner.shared.sweep().await;
    let count = |table: &str| {
        let query = format!("SELECT count(*) FROM {table}");
        file.query_row(&query, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count("tasks"), count("idempotency")), (1, 0));
}
