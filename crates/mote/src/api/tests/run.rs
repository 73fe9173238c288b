//! `POST /run`.

use super::*;

const BODY: &str = r#"{"input": "hi"}"#;

fn keyed(path: &str, key: &str, body: &str) -> Request<Body> {
    with_header(request("POST", path, Some(body)), "idempotency-key", key)
}

#[tokio::test]
async fn a_run_answers_with_its_result() {
    let service = active(1).start();
    let answer = service.post("/run", BODY).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json);
    assert_eq!(answer.json["status"], "completed");
    assert_eq!(answer.json["result"], "hello");
    assert_eq!(answer.json["usage"]["input"], 10);
    assert_eq!(answer.header("location"), format!("/tasks/{}", answer.json["id"].as_str().unwrap()));
    assert_eq!(service.get(answer.header("location")).await.json["result"], "hello");
}

#[tokio::test]
async fn a_run_that_the_model_fails_is_a_502_with_the_task() {
    let service = Setup { failure: Some(ErrorKind::Rejected), ..active(9) }.start();
    let answer = service.post("/run", BODY).await;
    assert_eq!(answer.status, 502, "{:?}", answer.json);
    assert_eq!(answer.json["error"]["code"], "model_rejected");
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn a_run_streams_its_events_and_ends_with_the_task() {
    let service = active(1).start();
    let streaming = with_header(request("POST", "/run", Some(BODY)), "accept", "text/event-stream");
    let response = service.response(streaming).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert!(response.headers()["location"].to_str().unwrap().starts_with("/tasks/task_"));
    let text = within(to_bytes(response.into_body(), usize::MAX)).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("id: 1\n"), "{text}");
    let end = text.split("event: end\ndata: ").nth(1).unwrap();
    let end: Value = serde_json::from_str(end.trim()).unwrap();
    assert_eq!(end["task"]["result"], "hello");
}

#[tokio::test]
async fn a_run_whose_client_goes_away_is_cancelled() {
    let service = active(0).start();
    let running = tokio::spawn(service.router.clone().oneshot(request("POST", "/run", Some(BODY))));
    service.model.reached().await;
    let id = service.only_task().await;
    running.abort();
    let task = service.until(&id, Status::Cancelled).await;
    assert_eq!(task.error.unwrap().code, "cancelled");
}

#[tokio::test]
async fn a_streaming_run_whose_client_goes_away_is_cancelled() {
    let service = active(0).start();
    let streaming = with_header(request("POST", "/run", Some(BODY)), "accept", "text/event-stream");
    let response = service.response(streaming).await;
    service.model.reached().await;
    let id = service.only_task().await;
    drop(response);
    service.until(&id, Status::Cancelled).await;
}

#[tokio::test]
async fn a_detached_run_goes_on_without_its_client() {
    let service = active(0).start();
    let running = tokio::spawn(service.router.clone().oneshot(request("POST", "/run?detach=true", Some(BODY))));
    service.model.reached().await;
    let id = service.only_task().await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    service.model.let_go();
    service.until(&id, Status::Completed).await;
}

#[tokio::test]
async fn a_repeated_run_is_answered_with_the_first_result() {
    let service = active(1).start();
    let first = service.send(keyed("/run", "\"k\"", BODY)).await;
    let again = service.send(keyed("/run", "k", BODY)).await;
    assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(first.json["id"], again.json["id"]);
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(again.header("idempotency-key-ttl"), "3600");
    let other = service.send(keyed("/run", "k", r#"{"input": "something else"}"#)).await;
    assert_eq!((other.status.as_u16(), other.problem()), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn a_run_repeated_while_it_runs_is_refused_and_not_cancelled() {
    let service = active(0).start();
    let first = tokio::spawn(service.router.clone().oneshot(keyed("/run", "k", BODY)));
    service.model.reached().await;
    let again = service.send(keyed("/run", "k", BODY)).await;
    assert_eq!((again.status.as_u16(), again.problem()), (409, "idempotency_in_progress"));
    assert!(again.headers.contains_key("retry-after"));
    service.model.let_go();
    assert_eq!(within(first).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_run_without_a_free_place_is_refused_with_retry_after() {
    let service = passive().start();
    let answer = service.post("/run", BODY).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (503, "overloaded"));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn a_run_is_handed_over_as_a_task_when_the_service_closes() {
    let service = active(0).start();
    let running = tokio::spawn(service.router.clone().oneshot(request("POST", "/run", Some(BODY))));
    service.model.reached().await;
    service.closing.cancel();
    let response = within(running).await.unwrap().unwrap();
    assert_eq!(response.status(), 202);
    let id = service.only_task().await;
    assert_eq!(response.headers()["location"], format!("/tasks/{id}"));
    service.model.let_go();
    assert_eq!(service.until(&id, Status::Completed).await.result.as_deref(), Some("\"hello\""));
}

#[tokio::test]
async fn a_draining_service_refuses_work() {
    let service = active(1).start();
    service.runner.drain(PATIENCE).await;
    for path in ["/run", "/tasks"] {
        let answer = service.post(path, BODY).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (503, "draining"), "{path}");
        assert!(answer.headers.contains_key("retry-after"));
    }
}

#[tokio::test]
async fn a_wrong_request_is_refused_before_anything_is_durable() {
    let service = active(0).start();
    for (path, body, status, code) in [
        ("/run", "{", 400, "invalid_json"),
        ("/run", "{}", 422, "invalid_request"),
        ("/run", r#"{"input": "a", "inptu": 1}"#, 422, "invalid_request"),
        ("/run?detach=maybe", BODY, 400, "invalid_query"),
        ("/run?deatch=true", BODY, 400, "invalid_query"),
        ("/run?detach=true&detach=true", BODY, 400, "invalid_query"),
    ] {
        let answer = service.post(path, body).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (status, code), "{path} {body}");
    }
    let unknown = service.post("/run", r#"{"input": "a", "inptu": 1}"#).await;
    assert_eq!(unknown.json["field"], "inptu");
    let answer = service.send(keyed("/run", "\"unclosed", BODY)).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (400, "invalid_header"));
    assert_eq!(answer.json["field"], "idempotency-key");
    assert_eq!(service.get("/tasks").await.json["tasks"], serde_json::json!([]));
}
