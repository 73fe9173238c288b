//! Tasks that failed, resumed or run again over HTTP and from the command line.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan};
use system_tests::process::service::{Service, run_mote};

use super::tasks::problem;
use crate::stage::Stage;

/// A task that failed by its model after a write.
async fn failed() -> (Stage, Service, String) {
    let write = Behaviour::call("send_note", json!({"name": "note"}));
    let answer = Behaviour::text("Done: {{results}}");
    let stage = Stage::new(Plan::turns([write, answer])).await;
    let stage = stage.with(|agent| agent["limits"]["steps"] = json!(1));
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Send it"})).await.unwrap();
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["error"]["code"], "limit_steps", "{task}");
    (stage, service, id)
}

async fn again(stage: Stage, mut service: Service) -> (Stage, Service) {
    service.terminate().await.unwrap();
    let stage = stage.with(|agent| agent["limits"]["steps"] = json!(9));
    let service = stage.serve().await;
    (stage, service)
}

#[tokio::test]
async fn a_failed_task_is_resumed_and_nothing_is_done_twice() {
    let (stage, service, id) = failed().await;
    let (stage, service) = again(stage, service).await;
    let resumed = service.post(&format!("/tasks/{id}/resume"), &json!({})).send().await.unwrap();
    assert_eq!(resumed.status(), 202);
    let task = service.finished(&id).await.unwrap();
    assert_eq!((&task["status"], task["steps"].as_u64()), (&json!("completed"), Some(2)), "{task}");
    assert_eq!(stage.backend.count("write/note").requests, 1);
    let refused = service.post(&format!("/tasks/{id}/resume"), &json!({})).send().await.unwrap();
    problem(refused, 409, "not_failed").await;
}

#[tokio::test]
async fn to_run_a_task_again_that_wrote_something_has_to_be_confirmed() {
    let (stage, service, id) = failed().await;
    let (stage, service) = again(stage, service).await;
    let path = format!("/tasks/{id}/rerun");
    let refused: Value = service.post(&path, &json!({})).send().await.unwrap().json().await.unwrap();
    assert_eq!((refused["status"].as_u64(), &refused["code"]), (Some(409), &json!("writes_repeated")), "{refused}");
    assert_eq!(
        (&refused["writes"][0]["tool"], &refused["writes"][0]["outcome"]),
        (&json!("send_note"), &json!("done"))
    );
    let url = service.url("");
    let asked = run_mote(&stage.path("."), &["task", "rerun", &id, "--url", &url], &[]).await.unwrap();
    assert_eq!(asked.code, Some(4), "{asked:?}");
    assert!(asked.stderr.contains("send_note") && asked.stderr.contains("task resume"), "{asked:?}");
    assert_eq!(stage.backend.count("write/note").requests, 1, "nothing was done");
    let done = run_mote(&stage.path("."), &["task", "rerun", &id, "--yes", "--url", &url], &[]).await.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!(stage.backend.count("write/note").requests, 2);
    // The first life is still there to be read.
    assert_eq!(task["life"], 2, "{task}");
    let first = format!("{id}.1");
    let journal = service.get(&format!("/tasks/{first}/journal")).send().await.unwrap();
    let journal: Value = journal.json().await.unwrap();
    let last = journal["entries"].as_array().and_then(|entries| entries.last());
    assert_eq!(last.map(|entry| &entry["kind"]), Some(&json!("call.answered")), "it ended behind its write: {journal}");
    let replayed = run_mote(&stage.path("."), &["replay", &first, "--state", "state"], &[]).await.unwrap();
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let none = run_mote(&stage.path("."), &["replay", &format!("{id}.3"), "--state", "state"], &[]).await.unwrap();
    assert!(none.code == Some(2) && none.stderr.contains("there is no task"), "{none:?}");
}

#[tokio::test]
async fn a_task_is_resumed_from_the_command_line() {
    let (stage, service, id) = failed().await;
    let (stage, service) = again(stage, service).await;
    let done = run_mote(&stage.path("."), &["task", "resume", &id, "--url", &service.url("")], &[]).await.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(service.finished(&id).await.unwrap()["status"], "completed");
}
