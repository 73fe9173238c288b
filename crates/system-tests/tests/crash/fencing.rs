//! Two processes on one state folder: the second takes over what the first no longer renews; the first, woken, commits
//! nothing.

use serde_json::json;
use system_tests::backend::Conduct;
use system_tests::limits::{PATIENCE, POLL};
use system_tests::process::Process;
use system_tests::process::service::Service;

use super::{assert_effects, assert_sound, effects, journal};
use crate::stage::Stage;

#[tokio::test]
async fn a_worker_paused_past_its_lease_and_woken_commits_nothing() {
    let stage = Stage::new(effects()).await.with(|agent| agent["telemetry"] = json!({"log": "info,mote=debug"}));
    // The first worker is stopped while it waits for this answer, which only comes once it is woken.
    stage.backend.set("read/lamp", Conduct { delay_ms: 4000, times: Some(1), ..Conduct::default() });
    let mut first = stage.serve().await;
    let id = first.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    stage.backend.wait_for_requests("read/lamp", 1).await.unwrap();
    pause(&stage, &first.process).await;

    let second = stage.serve().await;
    let task = second.finished(&id).await.unwrap();
    assert_effects(&stage, &task, "taken over");
    let before = journal(&second, &id).await;
    assert_sound(&before, &task, "taken over");
    let epochs: Vec<_> = before.iter().filter_map(|entry| entry["epoch"].as_u64()).collect();
    assert!(epochs.first() < epochs.last(), "another worker ended it: {epochs:?}");
    assert!(before.iter().any(|entry| entry["kind"] == "run.recovered"), "{before:?}");

    first.process.wake().unwrap();
    first.process.line(|line| (line.contains("lets go of a task") && line.contains(&id)).then_some(())).await.unwrap();
    let after = journal(&second, &id).await;
    assert_eq!(before, after, "the journal has nothing of the first worker after the second took over");
    assert_eq!(second.task(&id).await.unwrap(), task);
    assert_effects(&stage, &task, "woken");
}

/// A task's epoch and the epochs of its journal, as the file has them.
fn epochs(stage: &Stage, id: &str) -> (i64, Vec<i64>) {
    let file = stage.path("state").join(mote::service::STORE_FILE);
    let store = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    let current = store.query_row("SELECT epoch FROM tasks WHERE id = ?1", [id], |row| row.get(0)).unwrap();
    let mut entries = store.prepare("SELECT epoch FROM journal WHERE task = ?1 ORDER BY seq").unwrap();
    let rows = entries.query_map([id], |row| row.get(0)).unwrap();
    (current, rows.map(Result::unwrap).collect())
}

/// Whether the file can be written now. A process that is stopped within a commit keeps SQLite's lock until it is woken
/// or killed: then nobody can take over, and the scenario is another one.
fn is_writable(stage: &Stage) -> bool {
    let store = rusqlite::Connection::open(stage.path("state").join(mote::service::STORE_FILE)).unwrap();
    store.busy_timeout(std::time::Duration::ZERO).unwrap();
    store.execute_batch("BEGIN IMMEDIATE; ROLLBACK;").is_ok()
}

/// Stops a worker between two commits.
async fn pause(stage: &Stage, process: &Process) {
    loop {
        process.pause().unwrap();
        process.stopped().await.unwrap();
        if is_writable(stage) {
            return;
        }
        process.wake().unwrap();
        tokio::time::sleep(POLL).await;
    }
}

/// A worker that stopped itself before it commits what a tool said.
async fn stopped_before_a_commit() -> (Stage, Service, String) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let stage = Stage::new(effects()).await.with(|agent| agent["telemetry"] = json!({"log": "info,mote=debug"}));
        let first = stage.launch().stopping_at("run.before_commit:3").unwrap().start().await.unwrap();
        let id = first.submit(&json!({"input": "Order a lamp"})).await.unwrap();
        first.process.stopped().await.unwrap();
        // Another of its threads may have been looking for work just then.
        if is_writable(&stage) {
            return (stage, first, id);
        }
        assert!(tokio::time::Instant::now() < deadline, "it always stops with the lock");
    }
}

/// Only the epoch stands between the woken worker and its commit: the journal is where it left it.
#[tokio::test]
async fn a_worker_stopped_before_a_commit_and_woken_after_another_claimed_its_task_commits_nothing() {
    let (stage, mut first, id) = stopped_before_a_commit().await;

    // The second claims under a long lease and dies before it writes anything.
    let stage = stage.with(|agent| agent["server"]["lease"] = json!("8s"));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while epochs(&stage, &id).0 == 1 {
        let mut second = stage.launch().crashing_at("claim.after").unwrap().spawn().unwrap();
        second.wait().await.unwrap();
        assert!(tokio::time::Instant::now() < deadline, "nobody takes the task over");
    }
    let (current, before) = epochs(&stage, &id);
    assert_eq!(current, 2);

    first.process.wake().unwrap();
    let gone = |line: &str| (line.contains("lets go of a task") && line.contains(&id)).then_some(());
    first.process.line(gone).await.unwrap();
    assert_eq!(epochs(&stage, &id), (2, before), "nothing was written under the first epoch any more");
    first.process.kill().await.unwrap();
    let third = stage.serve().await;
    let task = third.finished(&id).await.unwrap();
    assert_effects(&stage, &task, "taken over twice");
    assert_sound(&journal(&third, &id).await, &task, "taken over twice");
}

#[tokio::test]
async fn a_worker_that_is_killed_is_replaced_by_another_process() {
    let stage = Stage::new(effects()).await;
    stage.backend.set("read/lamp", Conduct { hang: true, times: Some(1), ..Conduct::default() });
    let mut first = stage.serve().await;
    let second = stage.serve().await;
    let id = first.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    stage.backend.wait_for_requests("read/lamp", 1).await.unwrap();
    let owner = first.task(&id).await.unwrap();
    assert_eq!(owner["status"], "running");
    first.process.kill().await.unwrap();
    let task = second.finished(&id).await.unwrap();
    assert_effects(&stage, &task, "replaced");
    assert_sound(&journal(&second, &id).await, &task, "replaced");
}

#[tokio::test]
async fn two_processes_share_the_work_and_do_nothing_twice() {
    let stage = Stage::new(effects()).await;
    let (first, second) = (stage.serve().await, stage.serve().await);
    let mut ids = Vec::new();
    for number in 0..20 {
        let service = if number % 2 == 0 { &first } else { &second };
        ids.push(service.submit(&json!({"input": "Order a lamp"})).await.unwrap());
    }
    for id in &ids {
        let task = second.finished(id).await.unwrap();
        assert_eq!(task["status"], "completed", "{task}");
        assert!(!task["result"].to_string().contains("unknown"), "{task}");
    }
    assert_eq!(stage.backend.count("write/note").requests, 20);
    assert_eq!(stage.backend.count("idempotent/order").effects, 20);
}
