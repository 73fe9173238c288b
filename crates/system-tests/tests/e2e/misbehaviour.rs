//! What becomes of a run whose model misbehaves: retried, replaced by the fallback, or failed with a stable code.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, FakeModel, Fault, Finish, Plan, Reply, Wire};

use crate::stage::{Stage, endpoint};

async fn run(stage: &Stage) -> Value {
    let service = stage.serve().await;
    service.post("/run", &json!({"input": "Hello"})).send().await.unwrap().json().await.unwrap()
}

/// After one bad answer the run asks again and completes, whatever the wire format; nothing of the bad answer remains.
async fn is_retried(bad: Behaviour) {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let stage = Stage::speaking(wire, Plan::answer("Good.").first(1, bad.clone())).await;
        let task = run(&stage).await;
        assert_eq!(
            (task["status"].as_str(), task["result"].as_str()),
            (Some("completed"), Some("Good.")),
            "{wire:?} {task}"
        );
        assert_eq!(stage.model.stats().requests, 2, "{wire:?}");
    }
}

/// The run fails at once with a code, whatever the wire format.
async fn fails(bad: Behaviour, code: &str, requests: u64) {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let stage = Stage::speaking(wire, Plan::turns([bad.clone()])).await;
        let task = run(&stage).await;
        assert_eq!(
            (task["status"].as_str(), task["error"]["code"].as_str()),
            (Some("failed"), Some(code)),
            "{wire:?} {task}"
        );
        assert_eq!(stage.model.stats().requests, requests, "{wire:?}");
    }
}

fn partial(fault: Fault) -> Behaviour {
    Behaviour::text("This must not remain, whatever happens to the rest of it.").with_fault(fault)
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    is_retried(Behaviour::fault(Fault::Status { status: 429, retry_after: Some(1) })).await;
}

#[tokio::test]
async fn a_server_error_is_retried() {
    is_retried(Behaviour::status(500)).await;
}

#[tokio::test]
async fn an_overloaded_endpoint_is_retried() {
    is_retried(Behaviour::status(503)).await;
    is_retried(Behaviour::status(529)).await;
}

#[tokio::test]
async fn overload_in_the_middle_of_a_stream_is_retried() {
    is_retried(partial(Fault::OverloadedMidStream { after: 3 })).await;
}

#[tokio::test]
async fn a_truncated_stream_is_retried_and_its_text_is_dropped() {
    is_retried(partial(Fault::Truncated { after: 4 })).await;
}

#[tokio::test]
async fn a_connection_that_breaks_within_a_stream_is_retried() {
    is_retried(partial(Fault::Cut { after: 4 })).await;
}

#[tokio::test]
async fn a_connection_that_is_reset_is_retried() {
    is_retried(Behaviour::fault(Fault::Reset)).await;
}

#[tokio::test]
async fn a_malformed_event_is_retried() {
    is_retried(partial(Fault::Malformed { after: 3 })).await;
}

#[tokio::test]
async fn a_page_of_html_is_retried() {
    is_retried(Behaviour::fault(Fault::WrongContentType)).await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up_and_retried() {
    is_retried(partial(Fault::HangMidStream { after: 3 })).await;
}

#[tokio::test]
async fn a_slow_trickle_is_not_taken_for_silence() {
    let slow = Behaviour::text("slowly but surely").trickling(300, 1);
    let stage = Stage::new(Plan::turns([slow])).await;
    let stage = stage.with(|agent| agent["model"]["idle_timeout"] = json!("1s"));
    assert_eq!(run(&stage).await["result"], "slowly but surely");
    assert_eq!(stage.model.stats().requests, 1);
}

#[tokio::test]
async fn replies_that_are_always_broken_fail_the_run_after_every_attempt() {
    fails(partial(Fault::Malformed { after: 3 }), "model_failed", 4).await;
}

#[tokio::test]
async fn an_endpoint_that_never_recovers_fails_the_run_once_its_outage_has_lasted() {
    for status in [500, 503] {
        let stage = Stage::new(Plan::turns([Behaviour::status(status)])).await;
        let stage = stage.with(|agent| agent["limits"]["model_outage"] = json!("200ms"));
        let service = stage.serve().await;
        // Behind an open circuit the run waits for longer than a request is kept.
        let task = service.submit(&json!({"input": "Hello"})).await.unwrap();
        let task = service.finished(&task).await.unwrap();
        assert_eq!(task["error"]["code"], "model_failed", "{status} {task}");
        assert!(task["error"]["message"].as_str().unwrap().contains("limits.model_outage"), "{task}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_for_more_requests_than_one_step_may_have_attempts_ends_nothing() {
    for status in [429, 500, 502, 503, 529] {
        // Fewer in a row than open its circuit.
        let down = Behaviour::status(status);
        let stage = Stage::new(Plan::answer("Back again.").first(4, down)).await;
        let stage = stage.with(|agent| agent["limits"]["model_attempts"] = json!(1));
        assert_eq!(run(&stage).await["result"], "Back again.", "{status}");
        assert_eq!(stage.model.stats().requests, 5);
    }
}

#[tokio::test]
async fn a_request_that_is_refused_is_not_tried_again() {
    fails(Behaviour::status(400), "model_rejected", 1).await;
    fails(Behaviour::status(401), "model_rejected", 1).await;
}

#[tokio::test]
async fn a_withheld_reply_fails_the_run() {
    let reply = Reply { finish: Some(Finish::ContentFilter), text: Some("No.".to_owned()), ..Reply::default() };
    fails(Behaviour { reply, ..Behaviour::default() }, "content_filtered", 1).await;
}

#[tokio::test]
async fn a_reply_cut_by_the_output_limit_fails_the_run() {
    let reply = Reply { finish: Some(Finish::Length), text: Some("And then".to_owned()), ..Reply::default() };
    fails(Behaviour { reply, ..Behaviour::default() }, "output_truncated", 1).await;
}

#[tokio::test]
async fn a_context_that_is_too_long_for_the_model_is_a_failure_of_its_own() {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let stage = Stage::speaking(wire, Plan::turns([Behaviour::fault(Fault::ContextLength)])).await;
        let task = run(&stage).await;
        assert_eq!(task["error"]["code"], "context_overflow", "{wire:?} {task}");
        // The endpoint's window is smaller than the agent's: only its own sentence says how large it is.
        let message = task["error"]["message"].as_str().unwrap();
        assert!(message.contains("8192 tokens") || message.contains("200000 maximum"), "{wire:?} {message}");
        assert!(stage.model.stats().requests <= 4, "it does not go on for ever");
    }
}

#[tokio::test]
async fn a_reply_beyond_every_bound_is_refused() {
    let mut huge = Behaviour::text("").trickling(0, 256 << 10);
    huge.reply.pad_bytes = Some(mote::limits::MODEL_REPLY_BYTES_MAX + 1);
    let stage = Stage::new(Plan::turns([huge])).await.with(|agent| agent["limits"]["model_attempts"] = json!(1));
    let task = run(&stage).await;
    assert_eq!(
        (task["status"].as_str(), task["error"]["code"].as_str()),
        (Some("failed"), Some("model_failed")),
        "{task}"
    );
}

#[tokio::test]
async fn tokens_that_the_endpoint_does_not_count_are_estimated() {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let reply = Reply { text: Some("Hello there.".to_owned()), omit_usage: true, ..Reply::default() };
        let stage = Stage::speaking(wire, Plan::turns([Behaviour { reply, ..Behaviour::default() }])).await;
        let task = run(&stage).await;
        assert_eq!(task["result"], "Hello there.", "{wire:?} {task}");
        assert!(task["usage"]["input"].as_u64() > Some(0) && task["usage"]["output"].as_u64() > Some(0), "{task}");
        assert!(task["cost"]["nano_usd"].as_u64() > Some(0), "a budget is not escaped by silence: {task}");
    }
}

#[tokio::test]
async fn the_fallback_answers_when_the_first_model_does_not() {
    let fallback = FakeModel::start(Plan::answer("From the second.")).await.unwrap();
    let other = endpoint(Wire::Anthropic, &fallback);
    let stage = Stage::new(Plan::turns([Behaviour::status(503)])).await;
    let stage = stage.with(|agent| agent["model"]["fallback"] = json!([other]));
    let task = run(&stage).await;
    assert_eq!(task["result"], "From the second.", "{task}");
    assert!(stage.model.stats().requests >= 1);
}

#[tokio::test]
async fn the_fallback_answers_when_nobody_listens_at_the_first() {
    let stage = Stage::new(Plan::answer("From the second.")).await;
    let stage = stage.with(|agent| {
        let second = agent["model"].clone();
        // A port that was free a moment ago.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        agent["model"]["base_url"] = json!(format!("http://{closed}/v1"));
        agent["model"]["fallback"] = json!([second]);
    });
    assert_eq!(run(&stage).await["result"], "From the second.");
}

#[tokio::test]
async fn a_fallback_keeps_the_calls_of_the_other_format() {
    let fallback = FakeModel::start(Plan::answer("From the second: {{results}}")).await.unwrap();
    let other = endpoint(Wire::Anthropic, &fallback);
    let call = Behaviour::call("look_up", json!({"name": "lamp"})).thinking("Hm.");
    let stage = Stage::new(Plan::turns([call, Behaviour::status(503)])).await;
    let stage = stage.with(|agent| agent["model"]["fallback"] = json!([other]));
    let task = run(&stage).await;
    assert!(task["result"].as_str().unwrap_or_default().contains("lamp"), "{task}");
    assert!(fallback.requests().iter().all(|request| request.refused.is_none()), "{:?}", fallback.requests());
}
