//! The OpenAI Chat Completions wire format, as strict about requests as the real endpoint, or a
//! server with a strict chat template, where a client could err.
//!
//! Format: the API reference of `POST /v1/chat/completions`, its streamed chunk object, and the PyPI `openai` models. It
//! does not decide what is said.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::asked::{Asked, Offered, Refusal, Wire, text_of};
use super::delivery::Event;
use super::plan::{Finish, Tokens};
use super::said::Said;
use super::strict;

/// Fixed, so that replies are reproducible.
const CREATED: u64 = 1_790_000_000;

/// Reads a request.
pub(crate) fn parse(body: &Value, bytes: usize) -> Result<Asked, Refusal> {
    let model = body["model"].as_str().ok_or_else(|| Refusal::invalid("you must provide a model parameter"))?;
    let messages =
        body["messages"].as_array().ok_or_else(|| Refusal::invalid("Missing required parameter: 'messages'."))?;
    if messages.is_empty() {
        return Err(Refusal::invalid("Invalid 'messages': empty array."));
    }
    let mut asked = Asked {
        wire: Wire::OpenAi,
        model: model.to_owned(),
        stream: body["stream"].as_bool().unwrap_or(false),
        include_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
        turn: 0,
        input: String::new(),
        results: Vec::new(),
        tools: tools(body)?,
        bytes,
    };
    if !asked.stream && !body["stream_options"].is_null() {
        return Err(Refusal::invalid("The 'stream_options' parameter is only allowed when 'stream' is enabled."));
    }
    let mut calls = Calls::default();
    for (index, message) in messages.iter().enumerate() {
        read_message(index, message, &mut calls, &mut asked)?;
    }
    unanswered(&calls.open)?;
    strict::alternation(messages)?;
    Ok(asked)
}

/// Calls of the conversation so far.
#[derive(Default)]
struct Calls {
    /// Those without a result.
    open: BTreeSet<String>,
    /// All.
    seen: BTreeSet<String>,
}

fn tools(body: &Value) -> Result<Vec<Offered>, Refusal> {
    let listed = match &body["tools"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(listed) if !listed.is_empty() => listed,
        _ => return Err(Refusal::invalid("Invalid 'tools': expected a non-empty array.")),
    };
    let read = |tool: &Value| {
        let function = &tool["function"];
        let name = function["name"].as_str().filter(|_| tool["type"] == "function");
        let name = name.ok_or_else(|| Refusal::invalid("Missing required parameter: 'tools[0].function.name'."))?;
        strict::name(&function["name"], "tools[0].function.name")?;
        strict::parameters(name, function)?;
        Ok(Offered { name: name.to_owned(), schema: function["parameters"].clone() })
    };
    listed.iter().map(read).collect()
}

fn read_message(index: usize, message: &Value, known: &mut Calls, asked: &mut Asked) -> Result<(), Refusal> {
    let role = message["role"].as_str().unwrap_or_default();
    if role != "tool" {
        unanswered(&known.open)?;
    }
    match role {
        "system" | "developer" => {}
        "user" => {
            asked.input = text_of(&message["content"]);
            asked.turn = 0;
            asked.results.clear();
        }
        "assistant" => {
            asked.turn += 1;
            let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
            if message["content"].is_null() && calls.is_empty() {
                return Err(Refusal::invalid(format!(
                    "Invalid value for 'content': expected a string, got null. (messages.[{index}].content)"
                )));
            }
            for (place, call) in calls.iter().enumerate() {
                let at = |field: &str| format!("messages[{index}].tool_calls[{place}].{field}");
                if call["type"] != "function" {
                    return Err(Refusal::invalid(format!("Invalid '{}'.", at("type"))));
                }
                strict::name(&call["function"]["name"], &at("function.name"))?;
                strict::arguments(&call["function"]["arguments"], &at("function.arguments"))?;
                known.open.insert(strict::openai_id(&call["id"], &at("id"), &mut known.seen)?);
            }
        }
        "tool" => {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            if !known.open.remove(id) {
                return Err(Refusal::invalid(
                    "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
                ));
            }
            asked.results.push(text_of(&message["content"]));
        }
        other => return Err(Refusal::invalid(format!("Invalid value: '{other}' (messages[{index}].role)."))),
    }
    Ok(())
}

fn unanswered(open: &BTreeSet<String>) -> Result<(), Refusal> {
    if open.is_empty() {
        return Ok(());
    }
    let ids = open.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Err(Refusal::invalid(format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. \
         The following tool_call_ids did not have response messages: {ids}"
    )))
}

fn finish(said: &Said) -> &'static str {
    match said.finish {
        Finish::Stop => "stop",
        Finish::ToolCalls => "tool_calls",
        Finish::Length => "length",
        Finish::ContentFilter => "content_filter",
    }
}

/// Cached tokens are part of `prompt_tokens` here.
fn usage(tokens: &Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "cache_write_tokens": tokens.cache_write, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

/// The whole answer as one object.
pub(crate) fn whole(said: &Said) -> Value {
    let mut message = json!({
        "role": "assistant",
        "content": said.text,
        "refusal": null,
        "annotations": [],
    });
    if let Some(thinking) = &said.thinking {
        message["reasoning_content"] = json!(thinking);
    }
    if !said.calls.is_empty() {
        let calls = said.calls.iter().map(|call| {
            json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
        });
        message["tool_calls"] = calls.collect();
    }
    let mut answer = json!({
        "id": format!("chatcmpl-{}", said.serial),
        "object": "chat.completion",
        "created": CREATED,
        "model": said.model,
        "system_fingerprint": "fp_fake",
        "service_tier": "default",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish(said)}],
    });
    if let Some(tokens) = &said.usage {
        answer["usage"] = usage(tokens);
    }
    answer
}

/// The answer as a stream of chunks.
pub(crate) fn events(said: &Said, include_usage: bool) -> Vec<Event> {
    let chunk = |choices: Value| {
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", said.serial),
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": said.model,
            "system_fingerprint": "fp_fake",
            "service_tier": "default",
            "choices": choices,
        });
        if include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let delta = |delta: Value, finish_reason: Option<&str>| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]))
    };
    let mut events =
        vec![Event::data(delta(json!({"role": "assistant", "content": "", "refusal": null}), None)).repeatable()];
    for piece in said.pieces(said.thinking.as_deref()) {
        events.push(Event::data(delta(json!({"reasoning_content": piece}), None)));
    }
    for piece in said.pieces(said.text.as_deref()) {
        events.push(Event::data(delta(json!({"content": piece}), None)));
    }
    for (index, call) in said.calls.iter().enumerate() {
        let mut head = json!({"index": index, "id": call.id, "type": "function",
            "function": {"name": call.name, "arguments": ""}});
        if let Some(extra) = &call.extra {
            head["extra_content"] = extra.clone();
        }
        events.push(Event::data(delta(json!({"tool_calls": [head]}), None)));
        for piece in said.pieces(Some(&call.arguments)) {
            let more = json!({"index": index, "function": {"arguments": piece}});
            events.push(Event::data(delta(json!({"tool_calls": [more]}), None)));
        }
    }
    events.push(Event::data(delta(json!({}), Some(finish(said)))).repeatable());
    if let (true, Some(tokens)) = (include_usage, &said.usage) {
        let mut last = chunk(json!([]));
        last["usage"] = usage(tokens);
        events.push(Event::data(last).repeatable());
    }
    events.push(Event::raw("[DONE]"));
    events
}

/// An error answer's body.
pub(crate) fn error(status: u16, message: &str) -> Value {
    let (kind, code) = match status {
        400 => ("invalid_request_error", Value::Null),
        401 => ("invalid_request_error", json!("invalid_api_key")),
        403 => ("invalid_request_error", json!("unsupported_country_region_territory")),
        404 => ("invalid_request_error", json!("model_not_found")),
        429 => ("requests", json!("rate_limit_exceeded")),
        503 => ("server_error", json!("server_overloaded")),
        _ => ("server_error", Value::Null),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// What a context that is too long gets.
pub(crate) fn context_length() -> (u16, Value) {
    let message = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. \
                   Please reduce the length of the messages.";
    let error = json!({"message": message, "type": "invalid_request_error", "param": "messages",
        "code": "context_length_exceeded"});
    (400, json!({ "error": error }))
}

/// An error in the middle of a stream.
pub(crate) fn overloaded() -> Event {
    Event::data(error(503, "The server is currently overloaded. Please try again later."))
}

/// `GET /v1/models`.
pub(crate) fn models() -> Value {
    let model = json!({"id": "fake/echo", "object": "model", "created": CREATED, "owned_by": "system-tests"});
    json!({"object": "list", "data": [model]})
}
