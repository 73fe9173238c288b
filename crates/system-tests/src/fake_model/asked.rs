//! A request, whatever its wire format, reduced to what a plan looks at.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which wire format a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// OpenAI Chat Completions.
    OpenAi,
    /// Anthropic Messages.
    Anthropic,
}

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The wire format.
    pub wire: Wire,
    /// The model's name.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream is to end with usage (always so on Anthropic's).
    pub include_usage: bool,
    /// Assistant messages after the last user's text.
    pub turn: usize,
    /// The last user message's text.
    pub input: String,
    /// Results of tools after it.
    pub results: Vec<String>,
    /// Tools offered.
    pub tools: Vec<Offered>,
    /// Size of the request, for estimates.
    pub bytes: usize,
}

/// A tool that the request offers.
#[derive(Debug, Clone)]
pub struct Offered {
    /// Name.
    pub name: String,
    /// JSON Schema of its arguments.
    pub schema: Value,
}

/// A refusal: what the real endpoint would answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status.
    pub status: u16,
    /// Why.
    pub message: String,
}

impl Refusal {
    /// 400.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }
}

/// Text of a content field: a string, or the text parts of a list.
pub(crate) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
