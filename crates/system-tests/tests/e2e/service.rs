//! The service as its operators and its neighbours meet it: overload, published ends, what it says of itself.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan};
use system_tests::limits::POLL;

use super::tasks::problem;
use crate::stage::Stage;

#[tokio::test]
async fn a_run_that_finds_no_place_is_refused_and_a_task_waits() {
    let slow = Behaviour::text("At last.").after_ms(1000);
    let stage = Stage::new(Plan::turns([slow])).await.with(|agent| agent["server"]["runs"] = json!(1));
    let service = stage.serve().await;
    let body = json!({"input": "x"});
    let first = service.submit(&body).await.unwrap();
    while stage.model.stats().open == 0 {
        tokio::time::sleep(POLL).await;
    }
    let refused = service.post("/run", &body).send().await.unwrap();
    assert!(refused.headers().contains_key("retry-after"));
    problem(refused, 503, "overloaded").await;
    let second = service.submit(&body).await.unwrap();
    for id in [&first, &second] {
        assert_eq!(service.finished(id).await.unwrap()["status"], "completed");
    }
    assert_eq!(stage.model.stats().peak, 1, "never more at once than there are places");
}

#[tokio::test]
async fn a_finished_task_is_published_once_as_a_cloud_event() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let sink = format!("{}/write/events", stage.backend.url());
    let stage = stage.with(|agent| agent["events"] = json!({"sink": sink}));
    // The first attempt is refused: the outbox keeps it.
    let busy = system_tests::backend::Conduct { status: Some(503), times: Some(1), ..Default::default() };
    stage.backend.set("write/events", busy);
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "x"})).await.unwrap();
    service.finished(&id).await.unwrap();
    stage.backend.wait_for_requests("write/events", 2).await.unwrap();
    let request = &stage.backend.requests()[1];
    assert!(request.header("content-type").unwrap().starts_with("application/cloudevents+json"), "{request:?}");
    let event: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(event["specversion"], "1.0", "{event}");
    assert_eq!(event["subject"], id.as_str(), "{event}");
    for field in ["id", "source", "type", "time"] {
        assert!(event[field].is_string(), "{field}: {event}");
    }
    let earlier: Value = serde_json::from_str(&stage.backend.requests()[0].body).unwrap();
    assert_eq!(event["id"], earlier["id"], "a repeated delivery can be recognised");
}

#[tokio::test]
async fn the_service_describes_its_tools_and_its_interface() {
    let stage = Stage::new(Plan::default()).await;
    let service = stage.serve().await;
    let tools = service.get("/v1/tools").send().await.unwrap().text().await.unwrap();
    assert!(tools.contains("create_order") && tools.contains("idempotent"), "{tools}");
    assert!(!tools.contains("TOOL_KEY"), "not even where a secret is kept: {tools}");
    let openapi: Value = service.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"), "{openapi}");
    for path in ["/run", "/tasks", "/tasks/{id}/events", "/sessions/{id}"] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
}

#[tokio::test]
async fn a_task_that_was_answered_for_survives_kill_nine() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let mut service = stage.serve().await;
        ids.push(service.submit(&json!({"input": "x"})).await.unwrap());
        // At once: nothing but the answered request is waited for.
        service.process.kill().await.unwrap();
    }
    let service = stage.serve().await;
    for id in &ids {
        assert_eq!(service.finished(id).await.unwrap()["status"], "completed");
    }
}

#[tokio::test]
async fn the_longest_conversation_is_trimmed_and_goes_on() {
    // In order, once each: trimming takes assistant messages away, so turns cannot be told by counting them.
    let look = |turn: usize| Behaviour::call("look_up", json!({"name": format!("n{turn}")}));
    let plan = (0..40).fold(Plan::answer("Done."), |plan, turn| plan.first(1, look(turn)));
    let stage = Stage::new(plan).await.with(|agent| {
        agent["limits"]["steps"] = json!(50);
        agent["context"] = json!({"window": "8k", "reserve": "1k"});
        agent["model"]["output_max"] = json!(1000);
    });
    for turn in 0..40 {
        let body = Some(format!("\"{turn}: {}\"", "many words ".repeat(100)));
        let conduct = system_tests::backend::Conduct { body, ..Default::default() };
        stage.backend.set(&format!("read/n{turn}"), conduct);
    }
    let service = stage.serve().await;
    let task: Value = service.post("/run", &json!({"input": "Go"})).send().await.unwrap().json().await.unwrap();
    assert_eq!((task["status"].as_str(), task["steps"].as_u64()), (Some("completed"), Some(41)), "{task}");
    let requests = stage.model.requests();
    assert!(requests.iter().all(|request| request.refused.is_none()), "no pair is ever split: {requests:?}");
    let sizes: Vec<_> = requests.iter().map(|request| request.body["messages"].to_string().len()).collect();
    assert!(sizes.iter().all(|size| *size < 8_000 * 6), "{sizes:?}");
    assert!(!sizes.is_sorted(), "the oldest is folded away: {sizes:?}");
}
