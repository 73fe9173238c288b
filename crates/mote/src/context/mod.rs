//! The context packet: what a model call carries beside the transcript, and how large things are taken to be.
//!
//! Which units are in it is the core's decision; nothing is trimmed here.

use std::sync::Arc;

use crate::config::Agent;
use crate::message::Message;
use crate::model::ToolDefinition;

/// Bytes a token, on the cautious side: English prose has about 4, JSON and code about 3.
const BYTES_PER_TOKEN: usize = 3;
/// Tokens that a message costs beyond its content (role, framing).
const MESSAGE_TOKENS: usize = 6;

/// Estimated tokens of `bytes` of text.
#[must_use]
pub fn tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX)
}

/// Estimated tokens of a message.
#[must_use]
pub fn message_tokens(message: &Message) -> u32 {
    let framing = u32::try_from(MESSAGE_TOKENS * message.parts.len().max(1)).unwrap_or(u32::MAX);
    tokens(message.content_bytes()).saturating_add(framing)
}

/// Estimated tokens of several messages.
#[must_use]
pub fn messages_tokens(messages: &[Message]) -> u32 {
    messages.iter().fold(0, |sum, message| sum.saturating_add(message_tokens(message)))
}

/// Estimated tokens that every call carries: system prompt, tool definitions, output schema.
#[must_use]
pub fn fixed_tokens(agent: &Agent, definitions: &[ToolDefinition]) -> u32 {
    let definition = |tool: &ToolDefinition| {
        tool.name.len() + tool.description.len() + tool.input_schema.to_string().len() + MESSAGE_TOKENS
    };
    let schema = agent.output.as_ref().map_or(0, |schema| schema.to_string().len());
    tokens(agent.prompt.len() + definitions.iter().map(definition).sum::<usize>() + schema)
}

/// The system prompt, with a note where the context was trimmed.
#[must_use]
pub fn system(prompt: &Arc<str>, folded_units: u32) -> Arc<str> {
    if folded_units == 0 {
        return Arc::clone(prompt);
    }
    format!("{prompt}\n\n(The {folded_units} oldest parts of this conversation were left out to fit.)").into()
}
