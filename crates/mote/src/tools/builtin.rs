//! The built-in tools: waiting for a signal or a time, and asking a person.
//!
//! They reach no backend. This module says what the model sees and reads its arguments; the runner does the waiting.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::UnixMs;
use crate::limits::{NAME_BYTES_MAX, QUESTION_CHARS_MAX, WAIT_MAX};
use crate::model::ToolDefinition;
use crate::timestamp;
use crate::tools::config::Builtin;

/// What a built-in call asks for, read from validated arguments.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// Until `POST /tasks/{id}/signals/{name}`.
    Signal {
        /// The signal's name.
        name: String,
        /// When to give up.
        timeout: Option<Duration>,
    },
    /// Until a time.
    At(UnixMs),
    /// For a while.
    For(Duration),
    /// Until a person answers.
    Answer {
        /// The question.
        question: String,
        /// JSON Schema of the answer.
        schema: Option<Value>,
    },
}

impl Builtin {
    /// The tool's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitForSignal => "wait_for_signal",
            Self::WaitUntil => "wait_until",
            Self::AskPerson => "ask_person",
        }
    }

    /// What the model sees.
    #[must_use]
    pub fn definition(self) -> ToolDefinition {
        let (description, input_schema) = match self {
            Self::WaitForSignal => (
                "Waits until somebody sends the named signal to this task, and returns what the signal carries. Use it \
                 for an event outside, such as a CI result or a review. Waiting costs nothing.",
                signal_schema(),
            ),
            Self::WaitUntil => (
                "Waits until a time (`at`, RFC 3339) or for a duration (`after`, such as 30s, 15m, 2h or 7d). Give \
                 exactly one of the two. Waiting costs nothing.",
                until_schema(),
            ),
            Self::AskPerson => (
                "Asks a person and waits for the answer. Use it when only a person can know or decide. With `schema`, the \
                 answer is JSON that satisfies this JSON Schema.",
                question_schema(),
            ),
        };
        ToolDefinition { name: self.name().to_owned(), description: description.to_owned(), input_schema }
    }

    /// Reads validated arguments.
    ///
    /// # Errors
    /// A sentence for the model, where a schema cannot say it: a duration out of bounds, a time that is none.
    pub fn parse(self, arguments: &Value) -> Result<Wait, String> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str);
        match self {
            Self::WaitForSignal => Ok(Wait::Signal {
                name: text("name").ok_or("/name: it is missing")?.to_owned(),
                timeout: text("timeout").map(|given| duration("/timeout", given)).transpose()?,
            }),
            Self::WaitUntil => match (text("at"), text("after")) {
                (Some(at), None) => timestamp::parse_rfc3339(at).map(Wait::At).ok_or_else(|| {
                    "/at: it is not an RFC 3339 time with its offset, such as 2026-11-23T09:00:00Z".to_owned()
                }),
                (None, Some(after)) => duration("/after", after).map(Wait::For),
                _ => Err("give exactly one of at and after".to_owned()),
            },
            Self::AskPerson => {
                let schema = arguments.get("schema").cloned();
                if let Some(schema) = &schema {
                    super::validation::Schema::new(schema.clone())
                        .and_then(|schema| schema.compile())
                        .map_err(|error| format!("/schema: {error}"))?;
                }
                Ok(Wait::Answer { question: text("question").ok_or("/question: it is missing")?.to_owned(), schema })
            }
        }
    }
}

/// What a signal's name looks like; [`NAME_BYTES_MAX`] bytes at most.
pub const SIGNAL_NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$";

/// Whether a tool can wait for a signal of this name.
#[must_use]
pub fn is_signal_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain)
}

const DURATION_PATTERN: &str = "^[0-9]{1,9}(s|m|h|d)$";

fn signal_schema() -> Value {
    json!({
        "type": "object",
        "required": ["name"],
        "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "pattern": SIGNAL_NAME_PATTERN,
                     "description": "The signal's name."},
            "timeout": {"type": "string", "pattern": DURATION_PATTERN,
                        "description": "How long to wait at most, such as 30s, 15m, 2h or 7d."}
        }
    })
}

// Exactly one of two, said by counting: model providers refuse `oneOf` at the top of a tool's schema.
fn until_schema() -> Value {
    json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
        "properties": {
            "at": {"type": "string", "format": "date-time", "description": "RFC 3339 time with its offset."},
            "after": {"type": "string", "pattern": DURATION_PATTERN, "description": "30s, 15m, 2h or 7d."}
        }
    })
}

fn question_schema() -> Value {
    json!({
        "type": "object",
        "required": ["question"],
        "additionalProperties": false,
        "properties": {
            "question": {"type": "string", "minLength": 1, "maxLength": QUESTION_CHARS_MAX,
                         "description": "The question, with all that is needed to answer it."},
            "schema": {"type": "object", "description": "JSON Schema of the answer; without it the answer is text."}
        }
    })
}

fn duration(path: &str, text: &str) -> Result<Duration, String> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(format!("{path}: a duration is a number and s, m, h or d, such as 15m")),
    };
    let number: u64 = text[..text.len() - 1]
        .parse()
        .map_err(|_| format!("{path}: a duration is a number and s, m, h or d, such as 15m"))?;
    let duration = Duration::from_secs(number.saturating_mul(unit));
    if duration > WAIT_MAX {
        return Err(format!("{path}: the longest wait is {} days", WAIT_MAX.as_secs() / 86_400));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_become_waits() {
        let signal = Builtin::WaitForSignal.parse(&json!({"name": "ci", "timeout": "2h"}));
        assert_eq!(signal, Ok(Wait::Signal { name: "ci".to_owned(), timeout: Some(Duration::from_secs(7200)) }));
        assert_eq!(Builtin::WaitUntil.parse(&json!({"after": "7d"})), Ok(Wait::For(Duration::from_secs(604_800))));
        assert_eq!(Builtin::WaitUntil.parse(&json!({"at": "1970-01-01T00:00:01Z"})), Ok(Wait::At(1000)));
        let answer = Builtin::AskPerson.parse(&json!({"question": "Ship it?", "schema": {"type": "boolean"}}));
        assert!(matches!(answer, Ok(Wait::Answer { schema: Some(_), .. })));
    }

    #[test]
    fn what_a_schema_cannot_say_is_said_here() {
        assert!(Builtin::WaitUntil.parse(&json!({"after": "999999999d"})).unwrap_err().contains("longest wait"));
        assert!(Builtin::WaitUntil.parse(&json!({"at": "tomorrow"})).unwrap_err().starts_with("/at"));
        assert!(Builtin::WaitUntil.parse(&json!({"at": "1970-01-01T00:00:01Z", "after": "1s"})).is_err());
        let remote = json!({"question": "?", "schema": {"$ref": "http://example.com/"}});
        assert!(Builtin::AskPerson.parse(&remote).unwrap_err().starts_with("/schema"));
    }
}
