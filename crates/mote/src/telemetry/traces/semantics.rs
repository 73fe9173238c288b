//! The names of the OpenTelemetry GenAI semantic conventions, in the version that is emitted.
//!
//! Version 1.41.0 by default; the newer, unreleased one with `OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental`.
//! The conventions are in Development status. docs/observability.md says where the two differ. It records nothing.

use opentelemetry::{Array, KeyValue, StringValue, Value};
use serde_json::json;

use crate::limits::SPAN_CONTENT_BYTES_MAX;
use crate::message::{Message, Part, Role};
use crate::model::{ErrorKind, Finish};
use crate::usage::Usage;

/// Which version of the conventions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Semconv {
    /// Semantic conventions 1.41.0.
    #[default]
    V1_41,
    /// `semantic-conventions-genai` as of 2026-11.
    Latest,
}

impl Semconv {
    /// Reads the value of `OTEL_SEMCONV_STABILITY_OPT_IN`: a list with commas.
    #[must_use]
    pub fn from_opt_in(value: &str) -> Self {
        let latest = value.split(',').any(|item| item.trim() == "gen_ai_latest_experimental");
        if latest { Self::Latest } else { Self::V1_41 }
    }

    pub(super) fn schema_url(self) -> Option<&'static str> {
        match self {
            Self::V1_41 => Some("https://opentelemetry.io/schemas/1.41.0"),
            // Not released, so there is none to name.
            Self::Latest => None,
        }
    }
}

pub(super) fn text(key: &'static str, value: impl Into<StringValue>) -> KeyValue {
    KeyValue::new(key, value.into())
}

pub(super) fn number(key: &'static str, value: u64) -> KeyValue {
    KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX))
}

pub(super) fn list(key: &'static str, value: &'static str) -> KeyValue {
    KeyValue::new(key, Value::Array(Array::String(vec![value.into()])))
}

pub(super) fn usage(usage: &Usage, semconv: Semconv) -> Vec<KeyValue> {
    let mut attributes = vec![
        number("gen_ai.usage.input_tokens", usage.input),
        number("gen_ai.usage.output_tokens", usage.output),
        number("gen_ai.usage.cache_read.input_tokens", usage.cache_read),
        number("gen_ai.usage.cache_creation.input_tokens", usage.cache_write),
    ];
    if semconv == Semconv::Latest {
        attributes.push(number("gen_ai.usage.reasoning.output_tokens", usage.reasoning));
    }
    attributes
}

pub(super) fn finish(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::ToolCalls => "tool_calls",
        Finish::Length => "length",
        Finish::ContentFilter => "content_filter",
    }
}

pub(super) fn model_error(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::Broken => "broken",
        ErrorKind::Aborted => "aborted",
        ErrorKind::EmptyReply => "empty_reply",
        ErrorKind::TimedOut => "timeout",
        ErrorKind::ContextLength => "context_length",
        ErrorKind::Rejected => "rejected",
        ErrorKind::CircuitOpen => "circuit_open",
    }
}

/// Messages in the conventions' JSON form; opaque reasoning blocks are a provider's own and stay out.
pub(super) fn messages(messages: &[Message]) -> String {
    let convert = |message: &Message| {
        let parts: Vec<_> = message.parts.iter().map(part).collect();
        json!({"role": role(message.role), "parts": parts})
    };
    bounded(serde_json::Value::Array(messages.iter().map(convert).collect()).to_string())
}

pub(super) fn instructions(system: &str) -> String {
    bounded(json!([{"type": "text", "content": system}]).to_string())
}

pub(super) fn bounded(mut text: String) -> String {
    if text.len() > SPAN_CONTENT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SPAN_CONTENT_BYTES_MAX));
        text.push('…');
    }
    text
}

fn role(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

fn part(part: &Part) -> serde_json::Value {
    match part {
        Part::Text { text } => json!({"type": "text", "content": text}),
        Part::Reasoning { text, .. } => json!({"type": "reasoning", "content": text}),
        Part::Call { id, name, arguments, .. } => {
            let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments));
            json!({"type": "tool_call", "id": id, "name": name, "arguments": arguments})
        }
        Part::Result { id, content, .. } => json!({"type": "tool_call_response", "id": id, "response": content}),
    }
}
