//! SIGTERM: no new work, runs stop at a step boundary, force at the deadline; the next process goes on where it was.

use serde_json::json;
use system_tests::backend::Conduct;
use system_tests::fake_model::{Behaviour, Fault, Plan};
use system_tests::limits::POLL;

use super::run::three_tools;
use super::tasks::problem;
use crate::stage::Stage;

#[tokio::test]
async fn a_task_that_is_under_way_goes_on_after_the_restart() {
    let stage = Stage::new(three_tools()).await;
    stage.backend.set("write/note", Conduct { delay_ms: 700, ..Conduct::default() });
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    stage.backend.wait_for_requests("write/note", 1).await.unwrap();
    let status = service.terminate().await.unwrap();
    assert!(status.success(), "{status}; {}", service.process.output());
    let service = stage.serve().await;
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert!(!task["result"].to_string().contains("unknown"), "the call was waited for: {task}");
    assert_eq!(stage.backend.count("write/note").effects, 1);
    assert_eq!(stage.backend.count("idempotent/order").effects, 1);
}

#[tokio::test]
async fn a_draining_service_takes_no_new_work_and_says_so() {
    let stage = Stage::new(three_tools()).await;
    stage.backend.set("read/lamp", Conduct { delay_ms: 2000, ..Conduct::default() });
    let mut service = stage.serve().await;
    service.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    stage.backend.wait_for_requests("read/lamp", 1).await.unwrap();
    service.process.signal(rustix::process::Signal::TERM).unwrap();
    // A connection from before the signal: the listener may be closed already.
    loop {
        let Ok(ready) = service.get("/ready").send().await else { break };
        if ready.status() == 503 {
            if let Ok(refused) = service.post("/tasks", &json!({"input": "x"})).send().await {
                assert!(refused.headers().contains_key("retry-after"));
                problem(refused, 503, "draining").await;
            }
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    assert!(service.process.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_run_that_does_not_come_to_a_boundary_is_left_at_the_deadline() {
    let stage = Stage::new(Plan::answer("Now.").first(1, Behaviour::fault(Fault::Hang))).await;
    let stage = stage.with(|agent| {
        agent["server"]["drain"] = json!("1s");
        agent["model"]["idle_timeout"] = json!("60s");
        agent["model"]["timeout"] = json!("60s");
    });
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Hello"})).await.unwrap();
    while stage.model.stats().open == 0 {
        tokio::time::sleep(POLL).await;
    }
    let status = service.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    let wrote = service.process.output();
    assert!(wrote.contains("what was under way is given up") && wrote.contains(&id), "{wrote}");
    assert!(!wrote.contains("failed to release") && !wrote.contains("another worker holds the task"), "{wrote}");
    let service = stage.serve().await;
    let task = service.finished(&id).await.unwrap();
    assert_eq!((task["status"].as_str(), task["result"].as_str()), (Some("completed"), Some("Now.")), "{task}");
}
