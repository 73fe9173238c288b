//! The transcript: what was said, by whom, in a form that is no provider's own.
//!
//! Stored as JSON in the journal's payloads and sent to clients as it stands. It does not decide what goes into a
//! model's context; [`crate::context`] does.

use serde::{Deserialize, Serialize};

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person or program that gave the task.
    User,
    /// The model.
    Assistant,
    /// Results of tool calls.
    Tool,
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A provider's reasoning, carried back to it unchanged; never shown as the answer.
    Reasoning {
        /// Readable reasoning, where the provider gives it.
        text: String,
        /// The provider's own opaque block (signature, encrypted content), returned to it as it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opaque: Option<serde_json::Value>,
    },
    /// The model calls a tool.
    Call {
        /// The provider's id of the call; unique within the message.
        id: String,
        /// The tool's name.
        name: String,
        /// Arguments as the model wrote them: JSON text, perhaps invalid.
        arguments: String,
        /// What the provider wants back with the call (a signature of its reasoning), and which provider that is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opaque: Option<serde_json::Value>,
    },
    /// The result of a call.
    Result {
        /// The id of the call.
        id: String,
        /// What the tool gave, as text (JSON or plain).
        content: String,
        /// Whether the tool failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

/// One message of a transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<Part>,
}

impl Message {
    /// A message of one text.
    #[must_use]
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, parts: vec![Part::Text { text: text.into() }] }
    }

    /// All text parts joined; reasoning, calls and results left out.
    #[must_use]
    pub fn plain_text(&self) -> String {
        let texts = self.parts.iter().filter_map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("")
    }

    /// The tool calls in it: id, name and arguments of each, in order.
    pub fn calls(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Call { id, name, arguments, .. } => Some((id.as_str(), name.as_str(), arguments.as_str())),
            _ => None,
        })
    }

    /// Bytes of content, for token estimates.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        let size = |part: &Part| match part {
            Part::Text { text } => text.len(),
            Part::Reasoning { text, opaque } => text.len() + opaque_bytes(opaque.as_ref()),
            Part::Call { id, name, arguments, opaque } => {
                id.len() + name.len() + arguments.len() + opaque_bytes(opaque.as_ref())
            }
            Part::Result { id, content, .. } => id.len() + content.len(),
        };
        self.parts.iter().map(size).sum()
    }
}

fn opaque_bytes(opaque: Option<&serde_json::Value>) -> usize {
    opaque.map_or(0, |value| value.to_string().len())
}
