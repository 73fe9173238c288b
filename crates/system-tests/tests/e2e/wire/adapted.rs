//! Endpoints that refuse a parameter: asked again without it within the same attempt, and remembered.

use serde_json::{Value, json};

use super::Stand;
use super::player::{Asked, Reply, Step};

fn write(bytes: String) -> Reply {
    vec![Step::Write(bytes)]
}

fn refusal(status: &str, body: &Value) -> Reply {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    write(format!("{head}connection: close\r\n\r\n{body}"))
}

fn said(text: &str) -> Reply {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]});
    write(format!("{head}data: {chunk}\n\ndata: [DONE]\n\n"))
}

/// What the endpoint is asked by two tasks, after it refused the first request so. Each has one attempt.
async fn two_tasks(refusals: Vec<Reply>, change: impl FnOnce(&mut Value)) -> (Vec<Asked>, Vec<Value>) {
    let mut replies = refusals;
    replies.push(said("Good."));
    let mut stand = Stand::new("openai", replies).await;
    stand.agent["limits"]["model_attempts"] = json!(1);
    change(&mut stand.agent);
    let service = stand.serve().await;
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let answer = service.post("/run", &json!({"input": "Hello"})).send().await.unwrap();
        tasks.push(answer.json().await.unwrap());
    }
    (stand.player.requests(), tasks)
}

fn has(asked: &Asked, field: &str) -> bool {
    asked.body.get(field).is_some()
}

#[tokio::test]
async fn the_name_of_the_limit_is_learned_from_one_refusal() {
    for body in [
        json!({"error": {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter",
        }}),
        json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]}),
        json!({"error": "litellm.UnsupportedParamsError: model does not support parameters: ['max_tokens']"}),
    ] {
        let (asked, tasks) = two_tasks(vec![refusal("400 Bad Request", &body)], |_| {}).await;
        assert!(tasks.iter().all(|task| task["result"] == "Good."), "{tasks:?}");
        let seen: Vec<_> =
            asked.iter().map(|asked| (has(asked, "max_tokens"), has(asked, "max_completion_tokens"))).collect();
        assert_eq!(seen, [(true, false), (false, true), (false, true)], "{body}");
    }
}

#[tokio::test]
async fn a_refusal_within_a_success_or_a_crash_is_learned_from() {
    let body = json!({"error": {"message": "Unsupported parameter: 'max_tokens'", "code": 400}});
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let crash = json!({"error": "create() got an unexpected keyword argument 'max_tokens'"});
    for reply in [
        refusal("200 OK", &body),
        write(format!("{stream}data: {body}\n\n")),
        refusal("500 Internal Server Error", &crash),
        refusal("501 Not Implemented", &body),
    ] {
        let (asked, tasks) = two_tasks(vec![reply], |_| {}).await;
        assert!(tasks.iter().all(|task| task["result"] == "Good."), "{tasks:?}");
        let seen: Vec<_> = asked.iter().map(|asked| has(asked, "max_completion_tokens")).collect();
        assert_eq!(seen, [false, true, true]);
    }
}

#[tokio::test]
async fn the_name_of_the_limit_can_be_set() {
    let set = |agent: &mut Value| agent["model"]["output_limit_field"] = json!("max_completion_tokens");
    let (asked, _) = two_tasks(Vec::new(), set).await;
    assert!(asked.iter().all(|asked| has(asked, "max_completion_tokens") && !has(asked, "max_tokens")), "{asked:?}");
    let body = json!({"error": {"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens"}});
    let set = |agent: &mut Value| agent["model"]["output_limit_field"] = json!("max_tokens");
    let (asked, tasks) = two_tasks(vec![refusal("400 Bad Request", &body)], set).await;
    assert_eq!(tasks[0]["error"]["code"], "model_rejected", "what is set is not changed: {tasks:?}");
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn what_a_server_does_not_know_is_left_out_from_then_on() {
    let unknown = |field: &str| {
        let message = format!("Unrecognized request argument supplied: {field}");
        refusal("400 Bad Request", &json!({"error": {"message": message, "type": "invalid_request_error"}}))
    };
    let (asked, tasks) = two_tasks(vec![unknown("stream_options"), unknown("temperature")], |agent| {
        agent["model"]["temperature"] = json!(0.2);
    })
    .await;
    assert!(tasks.iter().all(|task| task["result"] == "Good."), "{tasks:?}");
    let seen: Vec<_> = asked.iter().map(|asked| (has(asked, "stream_options"), has(asked, "temperature"))).collect();
    assert_eq!(seen, [(true, true), (false, true), (false, false), (false, false)]);
}

#[tokio::test]
async fn a_server_that_cannot_constrain_the_output_is_asked_in_words() {
    let message = "This response_format type is unavailable now";
    let body = json!({"error": {"message": message, "type": "invalid_request_error"}});
    let (asked, _) = two_tasks(vec![refusal("400 Bad Request", &body)], |agent| {
        agent["tools"] = json!([]);
        agent["output"] = json!({"schema": {"type": "object"}});
    })
    .await;
    let seen: Vec<_> = asked.iter().take(2).map(|asked| has(asked, "response_format")).collect();
    assert_eq!(seen, [true, false]);
    assert!(asked[1].body["messages"][0].to_string().contains("JSON Schema"), "{}", asked[1].body);
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_not_repaired() {
    let message = "max_tokens is too large: 5000. This model supports at most 4096 completion tokens.";
    let body = json!({"error": {"message": message, "param": "max_tokens"}});
    let (asked, tasks) = two_tasks(vec![refusal("400 Bad Request", &body)], |_| {}).await;
    assert_eq!(tasks[0]["error"]["code"], "model_rejected", "{tasks:?}");
    assert_eq!(asked.len(), 2, "one a task");
}

#[tokio::test]
async fn a_base_url_keeps_its_query() {
    let (asked, _) = two_tasks(Vec::new(), |agent| {
        let url = agent["model"]["base_url"].as_str().unwrap().replace("/v1", "/openai/deployments/gpt");
        agent["model"]["base_url"] = json!(format!("{url}?api-version=2024-10-21"));
    })
    .await;
    let line = asked[0].head.lines().next().unwrap();
    assert_eq!(line, "post /openai/deployments/gpt/chat/completions?api-version=2024-10-21 http/1.1");
    assert!(asked[0].head.contains("accept-encoding: identity"), "{}", asked[0].head);
}
