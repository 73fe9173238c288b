//! Two processes on one state folder: the second takes over what the first no longer renews; the first, woken, commits
//! nothing.

use serde_json::json;
use system_tests::backend::Conduct;

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
    first.process.pause().unwrap();

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
