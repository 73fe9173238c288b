//! `/tasks`: durable before it is answered, listed, replayed by key, cancelled; and how requests are refused.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Fault, Plan};
use system_tests::process::service::Service;

use crate::stage::Stage;

/// Asserts a problem (RFC 9457) with a status and a code, and returns it.
pub(crate) async fn problem(response: reqwest::Response, status: u16, code: &str) -> Value {
    let found = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["code"], code, "{body}");
    assert_eq!((found, body["status"].as_u64()), (status, Some(u64::from(status))), "{body}");
    assert_eq!(kind.as_deref(), Some("application/problem+json"));
    assert!(body["title"].is_string() && body["detail"].is_string() && body["type"].is_string(), "{body}");
    body
}

async fn submit_with_key(service: &Service, key: &str, body: &Value) -> reqwest::Response {
    service.post("/tasks", body).header("idempotency-key", key).send().await.unwrap()
}

#[tokio::test]
async fn a_task_is_accepted_with_its_place_and_later_has_its_result() {
    let stage = Stage::new(Plan::answer("Forty-two.")).await;
    let service = stage.serve().await;
    let body = json!({"input": "What?", "labels": {"team": "blue"}, "user": "ada"});
    let answer = service.post("/tasks", &body).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let place = answer.headers()["location"].to_str().unwrap().to_owned();
    let accepted: Value = answer.json().await.unwrap();
    let id = accepted["id"].as_str().unwrap();
    assert_eq!(place, format!("/tasks/{id}"));
    let task = service.finished(id).await.unwrap();
    assert_eq!(task["result"], "Forty-two.");
    assert_eq!((task["labels"]["team"].as_str(), task["user"].as_str()), (Some("blue"), Some("ada")));
    assert!(task["times"]["finished"].is_string());
}

#[tokio::test]
async fn a_key_that_comes_again_is_answered_with_the_first_task() {
    let stage = Stage::new(Plan::answer("Once.")).await;
    let service = stage.serve().await;
    let body = json!({"input": "Do it"});
    let first: Value = submit_with_key(&service, "\"order-1\"", &body).await.json().await.unwrap();
    service.finished(first["id"].as_str().unwrap()).await.unwrap();
    // Bare and quoted are the same key; white space in the body is not another payload.
    let again = submit_with_key(&service, "order-1", &body).await;
    assert!(again.status().is_success(), "{}", again.status());
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["id"], first["id"]);
    assert_eq!(stage.model.stats().requests, 1);
    let other = submit_with_key(&service, "\"order-1\"", &json!({"input": "Do something else"})).await;
    problem(other, 422, "idempotency_key_reused").await;
}

#[tokio::test]
async fn concurrent_requests_with_one_key_make_one_task() {
    let stage = Stage::new(Plan::answer("Once.")).await;
    let service = stage.serve().await;
    let body = json!({"input": "Do it"});
    let requests = (0..16).map(|_| submit_with_key(&service, "one", &body));
    let answers = futures_util::future::join_all(requests).await;
    let mut ids = std::collections::BTreeSet::new();
    for answer in answers {
        assert!(answer.status().is_success(), "{}", answer.status());
        let task: Value = answer.json().await.unwrap();
        ids.insert(task["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1);
    service.finished(ids.first().unwrap()).await.unwrap();
    assert_eq!(stage.model.stats().requests, 1);
}

#[tokio::test]
async fn tasks_are_listed_by_cursor_and_by_label() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let service = stage.serve().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let body = json!({"input": "x", "labels": {"parity": if number % 2 == 0 { "even" } else { "odd" }}});
        ids.push(service.submit(&body).await.unwrap());
    }
    let mut seen = Vec::new();
    let mut place = "/tasks?limit=2".to_owned();
    loop {
        let page: Value = service.get(&place).send().await.unwrap().json().await.unwrap();
        let tasks = page["tasks"].as_array().unwrap_or_else(|| panic!("{page}"));
        assert!(tasks.len() <= 2);
        seen.extend(tasks.iter().map(|task| task["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        place = format!("/tasks?limit=2&cursor={next}");
    }
    ids.reverse();
    assert_eq!(seen, ids, "newest first, each once");
    let page: Value = service.get("/tasks?label=parity=odd").send().await.unwrap().json().await.unwrap();
    assert_eq!(page["tasks"].as_array().unwrap().len(), 2, "{page}");
}

#[tokio::test]
async fn a_cancelled_task_stops_and_its_model_call_is_abandoned() {
    let stage = Stage::new(Plan::turns([Behaviour::fault(Fault::Hang)])).await;
    let stage = stage.with(|agent| agent["model"]["timeout"] = json!("60s"));
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Wait"})).await.unwrap();
    service.task_in(&id, "running").await.unwrap();
    while stage.model.stats().open == 0 {
        tokio::time::sleep(system_tests::limits::POLL).await;
    }
    let answer = service.post(&format!("/tasks/{id}/cancel"), &json!({})).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "cancelled", "{task}");
    while stage.model.stats().open > 0 {
        tokio::time::sleep(system_tests::limits::POLL).await;
    }
    let again = service.post(&format!("/tasks/{id}/cancel"), &json!({})).send().await.unwrap();
    assert!(again.status().is_success() || again.status() == 409, "{}", again.status());
}

#[tokio::test]
async fn a_wrong_request_is_refused_with_a_stable_code_that_names_the_field() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let service = stage.serve().await;
    let post = |body: Value| service.post("/tasks", &body).send();
    let unknown = problem(post(json!({"input": "x", "inptu": 1})).await.unwrap(), 422, "invalid_request").await;
    assert!(unknown["detail"].as_str().unwrap().contains("inptu"), "{unknown}");
    problem(post(json!({"input": ""})).await.unwrap(), 422, "invalid_request").await;
    let labels: Value = (0..17).map(|n| (format!("l{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    problem(post(json!({"input": "x", "labels": labels})).await.unwrap(), 422, "invalid_request").await;
    let garbled = service.request(reqwest::Method::POST, "/tasks").header("content-type", "application/json");
    problem(garbled.body("{\"input\": ").send().await.unwrap(), 400, "invalid_json").await;
    problem(service.get("/tasks/no-such-task").send().await.unwrap(), 404, "task_not_found").await;
    problem(service.get("/no/such/route").send().await.unwrap(), 404, "route_not_found").await;
    problem(service.get("/run").send().await.unwrap(), 405, "method_not_allowed").await;
    let huge = json!({"input": "x".repeat(mote::limits::REQUEST_BODY_BYTES_MAX)});
    problem(post(huge).await.unwrap(), 413, "body_too_large").await;
    assert_eq!(stage.model.stats().requests, 0);
}

#[tokio::test]
async fn a_task_past_its_wall_time_fails_as_expired() {
    let stage = Stage::new(Plan::turns([Behaviour::fault(Fault::Hang)])).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "x", "expires": "500ms"})).await.unwrap();
    let task = service.finished(&id).await.unwrap();
    assert_eq!((task["status"].as_str(), task["error"]["code"].as_str()), (Some("failed"), Some("expired")), "{task}");
}
