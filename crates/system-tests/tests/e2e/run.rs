//! `POST /run`: a run with tools in both wire formats, its answer, its stream, its accounts.

use serde_json::{Value, json};
use system_tests::backend::Conduct;
use system_tests::fake_model::{Behaviour, Framing, Plan, Tokens, Wire};

use crate::stage::{Events, MODEL_KEY, Stage};

/// Reads, orders and writes in one turn, then answers with what the tools said.
pub(crate) fn three_tools() -> Plan {
    let calls = Behaviour::text("I look it up.")
        .and_call("look_up", json!({"name": "lamp"}))
        .and_call("create_order", json!({"name": "order", "note": "one lamp"}))
        .and_call("send_note", json!({"name": "note", "note": "ordered"}));
    Plan::turns([calls, Behaviour::text("Done: {{results}}")])
}

async fn a_run_calls_its_tools_and_answers(wire: Wire) {
    let stage = Stage::speaking(wire, three_tools()).await;
    let service = stage.serve().await;
    let answer = service.post("/run", &json!({"input": "Order a lamp"})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let task: Value = answer.json().await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!((task["steps"].as_u64(), task["tool_calls"].as_u64()), (Some(2), Some(3)));
    let result = task["result"].as_str().unwrap();
    assert!(result.starts_with("Done: ") && result.contains("\"effect\":1"), "{result}");
    for route in ["read/lamp", "idempotent/order", "write/note"] {
        assert_eq!(stage.backend.count(route).requests, 1, "{route}");
    }
    let bodies: Vec<_> = stage.backend.requests().into_iter().map(|request| request.body).collect();
    assert!(bodies.iter().any(|body| body.contains("one lamp")), "{bodies:?}");
    let requests = stage.model.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.refused.is_none()), "{requests:?}");
    let key = match wire {
        Wire::OpenAi => requests[0].header("authorization").and_then(|value| value.strip_prefix("Bearer ")),
        Wire::Anthropic => requests[0].header("x-api-key"),
    };
    assert_eq!(key, Some(MODEL_KEY));
}

#[tokio::test]
async fn a_run_calls_its_tools_and_answers_over_chat_completions() {
    a_run_calls_its_tools_and_answers(Wire::OpenAi).await;
}

#[tokio::test]
async fn a_run_calls_its_tools_and_answers_over_anthropic_messages() {
    a_run_calls_its_tools_and_answers(Wire::Anthropic).await;
}

#[tokio::test]
async fn calls_of_one_turn_are_under_way_at_the_same_time() {
    let calls =
        Behaviour::default().and_call("look_up", json!({"name": "a"})).and_call("look_up", json!({"name": "b"}));
    let stage = Stage::new(Plan::turns([calls, Behaviour::text("Both.")])).await;
    // Neither answers: only concurrent calls get both to the backend.
    for name in ["a", "b"] {
        stage.backend.set(&format!("read/{name}"), Conduct { hang: true, ..Conduct::default() });
    }
    let service = stage.serve().await;
    let run = tokio::spawn(service.post("/run", &json!({"input": "Look"})).send());
    stage.backend.wait_for_requests("read/a", 1).await.unwrap();
    stage.backend.wait_for_requests("read/b", 1).await.unwrap();
    assert_eq!(stage.model.stats().requests, 1, "the second model call waits for both results");
    run.abort();
}

#[tokio::test]
async fn tokens_and_money_are_counted_alike_in_both_wire_formats() {
    let usage = Tokens { input: 120, cache_read: 100, cache_write: 10, output: 40, reasoning: 15 };
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let plan = Plan::turns([Behaviour::text("Hello.").using(usage)]);
        let stage = Stage::speaking(wire, plan).await;
        let service = stage.serve().await;
        let task: Value = service.post("/run", &json!({"input": "Hello"})).send().await.unwrap().json().await.unwrap();
        assert_eq!(task["usage"]["input"], 120, "{wire:?} {task}");
        assert_eq!(task["usage"]["cache_read"], 100, "{wire:?} {task}");
        assert_eq!(task["usage"]["output"], 40, "{wire:?} {task}");
        // 10 uncached at 1,000, 100 read at 100, 10 written at 1,250, 40 out at 10,000 nano-USD.
        assert_eq!(task["cost"]["nano_usd"], 10 * 1_000 + 100 * 100 + 10 * 1_250 + 40 * 10_000, "{wire:?} {task}");
    }
}

#[tokio::test]
async fn a_thinking_block_goes_back_to_its_provider_unchanged() {
    let calls = Behaviour::call("look_up", json!({"name": "lamp"})).thinking("First I look – carefully, in pieces.");
    let stage = Stage::speaking(Wire::Anthropic, Plan::turns([calls, Behaviour::text("A lamp.")])).await;
    let service = stage.serve().await;
    let task: Value = service.post("/run", &json!({"input": "Look"})).send().await.unwrap().json().await.unwrap();
    assert_eq!(task["result"], "A lamp.", "{task}");
    // The fake refuses a block whose signature no longer fits.
    let requests = stage.model.requests();
    assert!(requests.iter().all(|request| request.refused.is_none()), "{requests:?}");
    let assistant = &requests[1].body["messages"][1]["content"][0];
    assert_eq!(assistant["type"], "thinking");
    assert_eq!(assistant["signature"], system_tests::fake_model::signature("First I look – carefully, in pieces."));
}

#[tokio::test]
async fn however_a_stream_is_cut_the_answer_is_the_same() {
    let text = "Grüße an alle: ein längerer Text, 世界, der in Stücken kommt.";
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let stage = Stage::speaking(wire, Plan::default()).await;
        let service = stage.serve().await;
        for framing in [Framing::Merged, Framing::Split(1), Framing::Split(13), Framing::Repeated, Framing::Crlf] {
            let usage = Tokens { input: 50, output: 7, ..Tokens::default() };
            let calls = Behaviour::call("look_up", json!({"name": "lämp"})).framed(framing).using(usage);
            stage.model.set(Plan::turns([calls, Behaviour::text(text).framed(framing).using(usage)]));
            let task: Value =
                service.post("/run", &json!({"input": "Hallo"})).send().await.unwrap().json().await.unwrap();
            assert_eq!(task["result"], text, "{wire:?} {framing:?} {task}");
            assert_eq!(task["usage"]["output"], 14, "{wire:?} {framing:?} {task}");
        }
    }
}

#[tokio::test]
async fn a_streamed_run_shows_its_steps_and_its_text_and_ends_with_the_task() {
    let stage = Stage::new(three_tools()).await;
    let service = stage.serve().await;
    let request = service.post("/run", &json!({"input": "Order a lamp"})).header("accept", "text/event-stream");
    let mut events = Events::of(request.send().await.unwrap());
    let events = events.rest().await;
    let ids: Vec<u64> = events.iter().filter_map(|event| event.id.as_ref()?.parse().ok()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "journal events in order, without gaps");
    let kinds: std::collections::BTreeSet<_> = events.iter().map(|event| event.event.as_str()).collect();
    for kind in ["run.opened", "model.replied", "call.answered", "delta", "end"] {
        assert!(kinds.contains(kind), "{kind} is missing: {kinds:?}");
    }
    let end = events.last().unwrap();
    assert_eq!((end.event.as_str(), &end.data["task"]["status"]), ("end", &json!("completed")), "{end:?}");
    assert!(end.data["task"]["result"].as_str().unwrap().starts_with("Done: "), "{end:?}");
}

#[tokio::test]
async fn arguments_that_do_not_fit_the_schema_reach_the_model_and_no_backend() {
    let wrong = Behaviour::call("send_note", json!({"nom": "note"}));
    let stage = Stage::new(Plan::turns([wrong, Behaviour::text("It said: {{results}}")])).await;
    let service = stage.serve().await;
    let task: Value = service.post("/run", &json!({"input": "Write"})).send().await.unwrap().json().await.unwrap();
    let result = task["result"].as_str().unwrap_or_else(|| panic!("{task}"));
    assert!(result.contains("nom") || result.contains("name"), "{result}");
    assert!(stage.backend.requests().is_empty());
}

#[tokio::test]
async fn a_call_that_is_not_json_or_names_no_tool_is_told_to_the_model() {
    let wrong = Behaviour::default().and_call("look_up", json!("{\"name\": ")).and_call("no_such_tool", json!({}));
    let stage = Stage::new(Plan::turns([wrong, Behaviour::text("It said: {{results}}")])).await;
    let service = stage.serve().await;
    let task: Value = service.post("/run", &json!({"input": "Look"})).send().await.unwrap().json().await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert!(task["result"].as_str().unwrap().contains("no_such_tool"), "{task}");
    assert!(stage.backend.requests().is_empty());
}
