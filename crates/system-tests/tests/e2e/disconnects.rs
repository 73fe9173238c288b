//! What a client's going away means: it cancels a `/run`, and nothing of a task.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan};
use system_tests::limits::POLL;
use system_tests::process::service::Service;

use crate::stage::{Events, Stage};

fn slow() -> Plan {
    Plan::turns([Behaviour::text("At last.").after_ms(1500)])
}

async fn model_is_asked(stage: &Stage) {
    while stage.model.stats().open == 0 {
        tokio::time::sleep(POLL).await;
    }
}

/// The only task there is, once it is finished.
async fn the_task(service: &Service) -> Value {
    let page: Value = service.get("/tasks").send().await.unwrap().json().await.unwrap();
    let id = page["tasks"][0]["id"].as_str().unwrap_or_else(|| panic!("{page}")).to_owned();
    service.finished(&id).await.unwrap()
}

#[tokio::test]
async fn a_run_whose_client_goes_away_is_cancelled() {
    let stage = Stage::new(slow()).await;
    let service = stage.serve().await;
    let request = tokio::spawn(service.post("/run", &json!({"input": "Wait"})).send());
    model_is_asked(&stage).await;
    request.abort();
    assert_eq!(the_task(&service).await["status"], "cancelled");
    while stage.model.stats().open > 0 {
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(stage.model.stats().abandoned, 1);
}

#[tokio::test]
async fn a_run_that_was_asked_to_goes_on_without_its_client() {
    let stage = Stage::new(slow()).await;
    let service = stage.serve().await;
    let request = tokio::spawn(service.post("/run?detach=true", &json!({"input": "Wait"})).send());
    model_is_asked(&stage).await;
    request.abort();
    assert_eq!(the_task(&service).await["result"], "At last.");
}

#[tokio::test]
async fn a_streamed_run_whose_client_goes_away_is_cancelled() {
    let stage = Stage::new(slow()).await;
    let service = stage.serve().await;
    let request = service.post("/run", &json!({"input": "Wait"})).header("accept", "text/event-stream");
    let mut events = Events::of(request.send().await.unwrap());
    events.next().await;
    model_is_asked(&stage).await;
    drop(events);
    assert_eq!(the_task(&service).await["status"], "cancelled");
}

#[tokio::test]
async fn a_task_goes_on_when_its_watcher_goes_away() {
    let stage = Stage::new(slow()).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Wait"})).await.unwrap();
    let mut events = Events::of(service.get(&format!("/tasks/{id}/events")).send().await.unwrap());
    events.next().await;
    model_is_asked(&stage).await;
    drop(events);
    let task = service.finished(&id).await.unwrap();
    assert_eq!((task["status"].as_str(), task["result"].as_str()), (Some("completed"), Some("At last.")), "{task}");
}
