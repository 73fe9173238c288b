//! The equipment itself: what other tests rely on. It does not test the product.

use serde_json::{Value, json};
use system_tests::backend::{Backend, Conduct};
use system_tests::fake_model::{Behaviour, FakeModel, Fault, Framing, Plan};
use system_tests::process::service::client;

fn chat(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]})
}

async fn ask(fake: &FakeModel, body: &Value) -> reqwest::Result<reqwest::Response> {
    client().post(format!("{}/chat/completions", fake.openai_url())).json(body).send().await
}

#[tokio::test]
async fn a_model_name_alone_programs_the_fake() {
    let fake = FakeModel::start(Plan::default()).await.unwrap();
    let answer: Value = ask(&fake, &chat("fake/echo+slow-1ms", false)).await.unwrap().json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    let answer = ask(&fake, &chat("fake/status-503", false)).await.unwrap();
    assert_eq!(answer.status(), 503);
}

#[tokio::test]
async fn a_rule_is_used_up_and_then_the_turns_decide() {
    let failing = Behaviour::fault(Fault::Status { status: 429, retry_after: Some(7) });
    let fake = FakeModel::start(Plan::answer("fine").first(1, failing)).await.unwrap();
    let refused = ask(&fake, &chat("any", false)).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "7");
    let answer: Value = ask(&fake, &chat("any", false)).await.unwrap().json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "fine");
    assert_eq!(fake.stats().requests, 2);
}

#[tokio::test]
async fn every_framing_carries_the_same_text() {
    let text = "Grüße, 世界: a text of several deltas, cut anywhere.";
    for framing in
        [Framing::Each, Framing::Merged, Framing::Split(1), Framing::Split(7), Framing::Repeated, Framing::Crlf]
    {
        let fake = FakeModel::start(Plan::turns([Behaviour::text(text).framed(framing)])).await.unwrap();
        let body = ask(&fake, &chat("any", true)).await.unwrap().text().await.unwrap();
        let datas = body.lines().filter_map(|line| line.trim_end().strip_prefix("data: "));
        let values = datas.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let joined: String =
            values.filter_map(|value| value["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
        assert_eq!(joined, text, "{framing:?}");
        assert!(body.contains("data: [DONE]"), "{framing:?}");
    }
}

#[tokio::test]
async fn a_reset_and_a_cut_are_seen_as_broken_connections() {
    let fake = FakeModel::start(Plan::turns([Behaviour::fault(Fault::Reset)])).await.unwrap();
    assert!(ask(&fake, &chat("any", true)).await.is_err());
    fake.set(Plan::turns([Behaviour::text("a long enough text to be cut").with_fault(Fault::Cut { after: 2 })]));
    let answer = ask(&fake, &chat("any", true)).await.unwrap();
    assert!(answer.text().await.is_err());
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_counts_as_abandoned() {
    let fake = FakeModel::start(Plan::turns([Behaviour::fault(Fault::Hang)])).await.unwrap();
    let body = chat("any", true);
    let asked = ask(&fake, &body);
    let gone = tokio::time::timeout(system_tests::process::service::QUIET, asked).await;
    assert!(gone.is_err());
    while fake.stats().open > 0 {
        tokio::time::sleep(system_tests::limits::POLL).await;
    }
    assert_eq!(fake.stats().abandoned, 1);
}

#[tokio::test]
async fn a_call_without_its_result_is_refused_by_both_formats() {
    let fake = FakeModel::start(Plan::default()).await.unwrap();
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let body = json!({"model": "m", "messages": [
        {"role": "user", "content": "hello"}, {"role": "assistant", "content": null, "tool_calls": [call]}]});
    assert_eq!(ask(&fake, &body).await.unwrap().status(), 400);
    let body = json!({"model": "m", "max_tokens": 10, "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}]});
    let url = format!("{}/v1/messages", fake.url());
    let answer = client().post(url).header("anthropic-version", "2023-06-01").json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(fake.requests().iter().all(|request| request.refused.is_some()));
}

#[tokio::test]
async fn the_backend_counts_requests_and_effects_apart() {
    let backend = Backend::start().await.unwrap();
    let post = |path: &str| client().post(format!("{}{path}", backend.url()));
    for _ in 0..2 {
        let answer = post("/idempotent/order").header("idempotency-key", "\"k1\"").send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["effect"], 1);
        post("/write/note").send().await.unwrap();
    }
    assert_eq!(post("/idempotent/order").send().await.unwrap().status(), 400);
    let order = backend.count("idempotent/order");
    assert_eq!((order.requests, order.effects, order.keys["k1"]), (3, 1, 2));
    assert_eq!(backend.count("write/note").effects, 2);
    backend.set("write/note", Conduct { status: Some(500), times: Some(1), ..Conduct::default() });
    assert_eq!(post("/write/note").send().await.unwrap().status(), 500);
    assert_eq!(backend.count("write/note").effects, 2);
    assert_eq!(post("/write/note").send().await.unwrap().status(), 200);
}
