//! The Anthropic Messages wire format, as strict about requests as the real endpoint where a client could err.
//!
//! Format: the API reference of `POST /v1/messages`, its streaming events, and the PyPI `anthropic` models. It does not
//! decide what is said.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::asked::{Asked, Offered, Refusal, Wire, text_of};
use super::delivery::Event;
use super::plan::{Finish, Tokens};
use super::said::Said;
use super::strict;

/// Reads a request.
pub(crate) fn parse(body: &Value, bytes: usize) -> Result<Asked, Refusal> {
    let model = body["model"].as_str().ok_or_else(|| Refusal::invalid("model: Field required"))?;
    if body["max_tokens"].as_u64().is_none_or(|tokens| tokens == 0) {
        return Err(Refusal::invalid("max_tokens: Field required"));
    }
    let messages = body["messages"].as_array().ok_or_else(|| Refusal::invalid("messages: Field required"))?;
    if messages.first().is_none_or(|first| first["role"] != "user") {
        return Err(Refusal::invalid("messages: first message must use the \"user\" role"));
    }
    let mut asked = Asked {
        wire: Wire::Anthropic,
        model: model.to_owned(),
        stream: body["stream"].as_bool().unwrap_or(false),
        include_usage: true,
        turn: 0,
        input: String::new(),
        results: Vec::new(),
        tools: tools(body)?,
        bytes,
    };
    let (mut open, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, message) in messages.iter().enumerate() {
        match message["role"].as_str() {
            Some("user") => read_user(index, &message["content"], &mut open, &mut asked)?,
            Some("assistant") => read_assistant(index, &message["content"], &mut open, &mut seen, &mut asked)?,
            _ => return Err(Refusal::invalid(format!("messages.{index}.role: Input should be 'user' or 'assistant'"))),
        }
    }
    if open.is_empty() { Ok(asked) } else { Err(unanswered(messages.len(), &open)) }
}

fn tools(body: &Value) -> Result<Vec<Offered>, Refusal> {
    let listed = body["tools"].as_array().cloned().unwrap_or_default();
    let read = |(index, tool): (usize, &Value)| {
        let name = tool["name"].as_str();
        let name = name.ok_or_else(|| Refusal::invalid(format!("tools.{index}.name: Field required")))?;
        strict::name(&tool["name"], &format!("tools.{index}.name"))?;
        strict::input_schema(&tool["input_schema"], index)?;
        Ok(Offered { name: name.to_owned(), schema: tool["input_schema"].clone() })
    };
    listed.iter().enumerate().map(read).collect()
}

fn read_user(index: usize, content: &Value, open: &mut BTreeSet<String>, asked: &mut Asked) -> Result<(), Refusal> {
    let blocks = content.as_array().map_or(&[][..], Vec::as_slice);
    let mut said_something = content.is_string();
    let mut after_text = false;
    for block in blocks {
        if block["type"] == "tool_result" {
            let id = block["tool_use_id"].as_str().unwrap_or_default();
            if !open.remove(id) {
                return Err(Refusal::invalid(format!(
                    "messages.{index}.content: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each \
                     `tool_result` block must have a corresponding `tool_use` block in the previous message."
                )));
            }
            if after_text {
                return Err(Refusal::invalid(format!(
                    "messages.{index}: `tool_result` blocks must come first in the content"
                )));
            }
            asked.results.push(text_of(&block["content"]));
        } else {
            after_text = true;
            if block["type"] == "text" && block["text"].as_str().is_none_or(str::is_empty) {
                return Err(Refusal::invalid("messages: text content blocks must be non-empty"));
            }
            said_something = true;
        }
    }
    if !open.is_empty() {
        return Err(unanswered(index, open));
    }
    let results_too = blocks.iter().any(|block| block["type"] == "tool_result");
    if said_something && !results_too {
        asked.input = text_of(content);
        asked.turn = 0;
        asked.results.clear();
    }
    Ok(())
}

fn read_assistant(
    index: usize,
    content: &Value,
    open: &mut BTreeSet<String>,
    seen: &mut BTreeSet<String>,
    asked: &mut Asked,
) -> Result<(), Refusal> {
    if !open.is_empty() {
        return Err(unanswered(index, open));
    }
    asked.turn += 1;
    for (at, block) in content.as_array().map_or(&[][..], Vec::as_slice).iter().enumerate() {
        match block["type"].as_str() {
            Some("tool_use") => {
                if !block["input"].is_object() {
                    return Err(Refusal::invalid(format!(
                        "messages.{index}.content.{at}.tool_use.input: Input should be a valid dictionary"
                    )));
                }
                let at = |field: &str| format!("messages.{index}.content.{at}.tool_use.{field}");
                strict::name(&block["name"], &at("name"))?;
                open.insert(strict::anthropic_id(&block["id"], &at("id"), seen)?);
            }
            Some("thinking") => {
                let expected = signature(block["thinking"].as_str().unwrap_or_default());
                if block["signature"] != expected {
                    return Err(Refusal::invalid(format!(
                        "messages.{index}.content.{at}: Invalid `signature` in `thinking` block"
                    )));
                }
            }
            Some("text") if block["text"].as_str().is_none_or(str::is_empty) => {
                return Err(Refusal::invalid("messages: text content blocks must be non-empty"));
            }
            Some("text" | "redacted_thinking") => {}
            _ => return Err(Refusal::invalid(format!("messages.{index}.content.{at}.type: Input tag is unknown"))),
        }
    }
    Ok(())
}

fn unanswered(index: usize, open: &BTreeSet<String>) -> Refusal {
    let ids = open.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Refusal::invalid(format!(
        "messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. Each \
         `tool_use` block must have a corresponding `tool_result` block in the next message."
    ))
}

/// What this endpoint signs a thinking block with: any change to the block is noticed when it comes back.
#[must_use]
pub fn signature(thinking: &str) -> String {
    let digest = Sha256::digest(thinking.as_bytes());
    digest.iter().fold("EqfakeSig".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn stop_reason(said: &Said) -> &'static str {
    match said.finish {
        Finish::Stop => "end_turn",
        Finish::ToolCalls => "tool_use",
        Finish::Length => "max_tokens",
        Finish::ContentFilter => "refusal",
    }
}

/// Cached tokens are beside `input_tokens` here, not within.
fn usage(tokens: &Tokens, output: u64) -> Value {
    json!({
        "input_tokens": tokens.input.saturating_sub(tokens.cache_read + tokens.cache_write),
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": tokens.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning.min(output)},
        "service_tier": "standard",
    })
}

fn input_of(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}

/// The whole answer as one object.
pub(crate) fn whole(said: &Said) -> Value {
    let mut content = Vec::new();
    if let Some(thinking) = &said.thinking {
        content.push(json!({"type": "thinking", "thinking": thinking, "signature": signature(thinking)}));
    }
    if let Some(text) = &said.text {
        content.push(json!({"type": "text", "text": text, "citations": null}));
    }
    for call in &said.calls {
        content.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input_of(&call.arguments)}));
    }
    let mut answer = json!({
        "id": format!("msg_{}", said.serial),
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": content,
        "stop_reason": stop_reason(said),
        "stop_sequence": null,
    });
    if let Some(tokens) = &said.usage {
        answer["usage"] = usage(tokens, tokens.output);
    }
    answer
}

/// The answer as a stream of events.
pub(crate) fn events(said: &Said) -> Vec<Event> {
    let mut message = json!({
        "id": format!("msg_{}", said.serial),
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
    });
    if let Some(tokens) = &said.usage {
        message["usage"] = usage(tokens, 1);
    }
    let mut events = vec![Event::named("message_start", json!({"type": "message_start", "message": message}))];
    let mut index = 0;
    if let Some(thinking) = &said.thinking {
        let block = json!({"type": "thinking", "thinking": "", "signature": ""});
        let mut deltas: Vec<Value> =
            said.pieces(Some(thinking)).map(|piece| json!({"type": "thinking_delta", "thinking": piece})).collect();
        deltas.push(json!({"type": "signature_delta", "signature": signature(thinking)}));
        push_block(&mut events, &mut index, &block, deltas);
    }
    if let Some(text) = &said.text {
        let deltas = said.pieces(Some(text)).map(|piece| json!({"type": "text_delta", "text": piece})).collect();
        push_block(&mut events, &mut index, &json!({"type": "text", "text": ""}), deltas);
    }
    for call in &said.calls {
        let block = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
        // The real endpoint begins with an empty fragment.
        let mut deltas = vec![json!({"type": "input_json_delta", "partial_json": ""})];
        deltas.extend(
            said.pieces(Some(&call.arguments)).map(|piece| json!({"type": "input_json_delta", "partial_json": piece})),
        );
        push_block(&mut events, &mut index, &block, deltas);
    }
    let mut end = json!({
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason(said), "stop_sequence": null},
    });
    // Cumulative: it replaces what `message_start` said.
    end["usage"] =
        said.usage.as_ref().map_or_else(|| json!({"output_tokens": 0}), |tokens| usage(tokens, tokens.output));
    if said.usage.is_none() {
        end.as_object_mut().map(|fields| fields.remove("usage"));
    }
    events.push(Event::named("message_delta", end).repeatable());
    events.push(Event::named("message_stop", json!({"type": "message_stop"})));
    events
}

fn push_block(events: &mut Vec<Event>, index: &mut usize, block: &Value, deltas: Vec<Value>) {
    let start = json!({"type": "content_block_start", "index": *index, "content_block": block});
    events.push(Event::named("content_block_start", start));
    if *index == 0 {
        events.push(Event::named("ping", json!({"type": "ping"})).repeatable());
    }
    for delta in deltas {
        let delta = json!({"type": "content_block_delta", "index": *index, "delta": delta});
        events.push(Event::named("content_block_delta", delta));
    }
    events.push(Event::named("content_block_stop", json!({"type": "content_block_stop", "index": *index})));
    *index += 1;
}

/// An error answer's body.
pub(crate) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"})
}

/// What a context that is too long gets.
pub(crate) fn context_length() -> (u16, Value) {
    (400, error(400, "prompt is too long: 210000 tokens > 200000 maximum"))
}

/// An error in the middle of a stream.
pub(crate) fn overloaded() -> Event {
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    Event::named("error", error)
}

/// `GET /v1/models`.
pub(crate) fn models() -> Value {
    let model = json!({"type": "model", "id": "fake/echo", "display_name": "Echo", "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active"});
    json!({"data": [model], "has_more": false, "first_id": "fake/echo", "last_id": "fake/echo"})
}
