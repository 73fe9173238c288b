//! A run that rests while its agent changes, and goes on or fails as `on_change` says.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan};

use crate::stage::Stage;

/// Waits for a signal, and comes back under another configuration; returns how it ended.
async fn resumed(on_change: &str, change: impl FnOnce(&mut Value)) -> (Stage, Value) {
    let wait = Behaviour::call("wait_for_signal", json!({"name": "go"}));
    let stage = Stage::new(Plan::turns([wait, Behaviour::text("Went on: {{results}}")])).await;
    let mut stage = stage.with(|agent| {
        agent["on_change"] = json!(on_change);
        agent["tools"].as_array_mut().unwrap().push(json!({"builtin": "wait_for_signal"}));
    });
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Wait"})).await.unwrap();
    service.task_in(&id, "waiting").await.unwrap();
    service.terminate().await.unwrap();
    change(&mut stage.agent);
    let service = stage.serve().await;
    let signal = service.post(&format!("/tasks/{id}/signals/go"), &json!("now")).send().await.unwrap();
    assert!(signal.status().is_success(), "{}", signal.status());
    let task = service.finished(&id).await.unwrap();
    (stage, task)
}

#[tokio::test]
async fn a_run_goes_on_under_a_changed_agent_that_continues() {
    let (stage, task) = resumed("continue", |agent| agent["prompt"] = json!("Another prompt.")).await;
    assert_eq!(task["status"], "completed", "{task}");
    let requests = stage.model.requests();
    assert!(requests[0].body.to_string().contains("You are an agent under test."));
    assert!(
        requests[1].body.to_string().contains("Another prompt."),
        "the next step is taken by the agent as it now is"
    );
}

#[tokio::test]
async fn a_run_fails_under_a_changed_agent_that_does_not_continue() {
    let (stage, task) = resumed("fail", |agent| agent["prompt"] = json!("Another prompt.")).await;
    let ended = (task["status"].as_str(), task["error"]["code"].as_str());
    assert_eq!(ended, (Some("failed"), Some("capabilities_changed")), "{task}");
    assert_eq!(stage.model.stats().requests, 1);
}

#[tokio::test]
async fn a_change_of_what_the_agent_cannot_do_with_is_no_change() {
    let (_stage, task) = resumed("fail", |agent| {
        agent["telemetry"] = json!({"log": "debug"});
        agent["server"]["runs"] = json!(7);
    })
    .await;
    assert_eq!(task["status"], "completed", "{task}");
}

#[tokio::test]
async fn a_pending_call_whose_tool_changed_is_not_made() {
    let call = Behaviour::call("send_note", json!({"name": "note"}));
    let stage = Stage::new(Plan::turns([call, Behaviour::text("Sent: {{results}}")])).await;
    let mut stage = stage.with(|agent| agent["tools"][2]["approval"] = json!(true));
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Send it"})).await.unwrap();
    service.task_in(&id, "waiting").await.unwrap();
    service.terminate().await.unwrap();
    // What was asked of the person is not what would now be done.
    stage.agent["tools"][2]["http"]["url"] = json!(format!("{}/write/elsewhere", stage.backend.url()));
    let service = stage.serve().await;
    let _ = service.post(&format!("/tasks/{id}/input"), &json!({"approve": true})).send().await.unwrap();
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["error"]["code"], "capabilities_changed", "{task}");
    assert!(stage.backend.requests().is_empty(), "{:?}", stage.backend.requests());
}
