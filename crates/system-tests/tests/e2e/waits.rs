//! Runs that wait: for an approval, an answer, a signal, a time. A wait survives the process.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan};

use crate::stage::Stage;

fn waiting_for(builtin: &str, arguments: Value) -> Plan {
    Plan::turns([Behaviour::call(builtin, arguments), Behaviour::text("Then: {{results}}")])
}

async fn with_builtins(plan: Plan) -> Stage {
    Stage::new(plan).await.with(|agent| {
        let tools = agent["tools"].as_array_mut().unwrap();
        tools.extend(["wait_for_signal", "wait_until", "ask_person"].map(|name| json!({"builtin": name})));
    })
}

async fn with_approval(plan: Plan) -> Stage {
    Stage::new(plan).await.with(|agent| agent["tools"][2]["approval"] = json!(true))
}

#[tokio::test]
async fn a_call_that_needs_approval_is_made_only_once_granted() {
    let call = Behaviour::call("send_note", json!({"name": "note"}));
    let stage = with_approval(Plan::turns([call, Behaviour::text("Sent: {{results}}")])).await;
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Send it"})).await.unwrap();
    let task = service.task_in(&id, "waiting").await.unwrap();
    assert!(task["waiting"].to_string().contains("send_note"), "it says what it waits for: {task}");
    assert_eq!(stage.backend.count("write/note").requests, 0);
    // The approval may come days later, to another process.
    service.process.kill().await.unwrap();
    let service = stage.serve().await;
    service.task_in(&id, "waiting").await.unwrap();
    let answer = service.post(&format!("/tasks/{id}/input"), &json!({"approve": true})).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!(stage.backend.count("write/note").effects, 1);
}

#[tokio::test]
async fn a_denied_call_is_not_made_and_the_model_is_told() {
    let call = Behaviour::call("send_note", json!({"name": "note"}));
    let stage = with_approval(Plan::turns([call, Behaviour::text("It said: {{results}}")])).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Send it"})).await.unwrap();
    service.task_in(&id, "waiting").await.unwrap();
    service.post(&format!("/tasks/{id}/input"), &json!({"approve": false})).send().await.unwrap();
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!(stage.backend.count("write/note").requests, 0);
}

#[tokio::test]
async fn a_question_waits_for_its_answer() {
    let stage = with_builtins(waiting_for("ask_person", json!({"question": "Which colour?"}))).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Paint"})).await.unwrap();
    let task = service.task_in(&id, "waiting").await.unwrap();
    assert!(task["waiting"].to_string().contains("Which colour?"), "{task}");
    service.post(&format!("/tasks/{id}/input"), &json!({"content": "Blue"})).send().await.unwrap();
    let task = service.finished(&id).await.unwrap();
    assert!(task["result"].as_str().unwrap_or_default().contains("Blue"), "{task}");
}

#[tokio::test]
async fn a_signal_wakes_the_run_that_waits_for_it_and_no_other_does() {
    let stage = with_builtins(waiting_for("wait_for_signal", json!({"name": "ci"}))).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Wait for CI"})).await.unwrap();
    service.task_in(&id, "waiting").await.unwrap();
    let signal = |name: &str| service.post(&format!("/tasks/{id}/signals/{name}"), &json!({"verdict": "green"})).send();
    assert!(signal("weather").await.unwrap().status().is_success());
    let task = service.task_in(&id, "waiting").await.unwrap();
    assert_eq!(task["steps"], 1, "it still waits: {task}");
    assert!(signal("ci").await.unwrap().status().is_success());
    let task = service.finished(&id).await.unwrap();
    assert!(task["result"].as_str().unwrap_or_default().contains("green"), "{task}");
}

#[tokio::test]
async fn a_signal_that_comes_before_the_wait_is_kept() {
    let slow = Behaviour::call("wait_for_signal", json!({"name": "ci"})).after_ms(700);
    let stage = with_builtins(Plan::turns([slow, Behaviour::text("Then: {{results}}")])).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Wait for CI"})).await.unwrap();
    let signal = service.post(&format!("/tasks/{id}/signals/ci"), &json!({"verdict": "early"})).send();
    assert!(signal.await.unwrap().status().is_success());
    let task = service.finished(&id).await.unwrap();
    assert!(task["result"].as_str().unwrap_or_default().contains("early"), "{task}");
}

#[tokio::test]
async fn a_timer_wakes_the_run_even_after_a_restart() {
    let stage = with_builtins(waiting_for("wait_until", json!({"after": "2s"}))).await;
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Later"})).await.unwrap();
    let task = service.task_in(&id, "waiting").await.unwrap();
    assert!(task["waiting"].is_array() || task["waiting"].is_object(), "{task}");
    service.process.kill().await.unwrap();
    let service = stage.serve().await;
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!(stage.model.stats().requests, 2, "the first step was not paid for twice");
}

#[tokio::test]
async fn a_waiting_task_can_be_cancelled() {
    let stage = with_builtins(waiting_for("wait_for_signal", json!({"name": "never"}))).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Wait"})).await.unwrap();
    service.task_in(&id, "waiting").await.unwrap();
    service.post(&format!("/tasks/{id}/cancel"), &json!({})).send().await.unwrap();
    assert_eq!(service.finished(&id).await.unwrap()["status"], "cancelled");
}

#[tokio::test]
async fn a_repeated_run_that_waits_is_answered_as_the_first_one_was() {
    let stage = with_builtins(waiting_for("wait_for_signal", json!({"name": "go"}))).await;
    let service = stage.serve().await;
    let mut ids = Vec::new();
    for replayed in [false, true] {
        let run = service.post("/run", &json!({"input": "x"})).header("idempotency-key", "k");
        let answer = run.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().contains_key("idempotency-replayed")), (202, replayed));
        ids.push(answer.json::<Value>().await.unwrap()["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
}
