//! Real kills, and what is there at once afterwards: the task, its books, and no request of a worker that lost it.

use serde_json::json;
use system_tests::fake_model::{Behaviour, Plan};
use system_tests::limits::PATIENCE;

use super::{assert_sound, effects, journal};
use crate::stage::Stage;

/// A lease that no test waits out.
const LONG: &str = "30m";

#[tokio::test]
async fn a_killed_service_finds_its_tasks_again_at_once_and_four_kills_in_one_step_end_none() {
    let slow = Behaviour::text("At last.").after_ms(600_000);
    let stage = Stage::new(Plan::answer("At last.").first(5, slow)).await.with(|agent| {
        agent["server"]["lease"] = json!(LONG);
        agent["model"]["timeout"] = json!("20m");
        agent["model"]["idle_timeout"] = json!("20m");
    });
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Think"})).await.unwrap();
    for requests in 1..=5 {
        let asked = async {
            while stage.model.stats().requests < requests {
                tokio::time::sleep(system_tests::limits::POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("the lease of a dead worker is waited out");
        service.process.kill().await.unwrap();
        service = stage.serve().await;
    }
    let task = service.finished(&id).await.unwrap();
    assert_eq!((&task["status"], &task["result"]), (&json!("completed"), &json!("At last.")), "{task}");
    let entries = journal(&service, &id).await;
    assert_sound(&entries, &task, "killed five times");
    let sum = |field: &str, uncertain: bool| -> u64 {
        let settled = entries.iter().map(|entry| &entry["payload"]["settled"]);
        settled.filter(|settled| settled["uncertain"] == uncertain).filter_map(|settled| settled[field].as_u64()).sum()
    };
    let (cost, usage) = (&task["cost"], &task["usage"]);
    for (uncertain, cost, usage) in [(false, cost, usage), (true, &cost["uncertain"], &usage["uncertain"])] {
        assert_eq!(cost["nano_usd"], sum("nano_usd", uncertain), "uncertain {uncertain}: {task}");
        assert_eq!(usage["input"], sum("input", uncertain), "uncertain {uncertain}: {task}");
        assert_eq!(usage["output"], sum("output", uncertain), "uncertain {uncertain}: {task}");
    }
    assert!(
        task["cost"]["uncertain"]["nano_usd"].as_u64() > task["cost"]["nano_usd"].as_u64(),
        "five lost calls: {task}"
    );
}

#[tokio::test]
async fn a_worker_that_was_stopped_before_its_write_sends_nothing_once_it_is_woken() {
    let stage = Stage::new(effects()).await.with(|agent| agent["telemetry"] = json!({"log": "info,mote=debug"}));
    // The third call of a tool is the write.
    let first = stage.launch().stopping_at("tool.before_call:3").unwrap().start().await.unwrap();
    let id = first.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    let mut first = first;
    first.process.stopped().await.unwrap();
    let second = stage.launch().with_crash_points().unwrap().start().await.unwrap();
    let task = second.finished(&id).await.unwrap();
    assert!(task["result"].as_str().unwrap().contains("outcome unknown"), "{task}");
    first.process.wake().unwrap();
    first.process.line(|line| (line.contains("lets go of a task") && line.contains(&id)).then_some(())).await.unwrap();
    assert_eq!(stage.backend.count("write/note").requests, 0, "the task had ended under another worker");
}
