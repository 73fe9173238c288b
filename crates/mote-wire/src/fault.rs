//! What a provider's error says: the same shapes in an answer's body and within a stream.
//!
//! It reads what is written; HTTP statuses and headers are the caller's.

use crate::json::{Text, Value};

/// An error as a provider wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fault<'a> {
    /// `error.type`.
    pub kind: Option<Text<'a>>,
    /// `error.code`, where it is a string.
    pub code: Option<Text<'a>>,
    /// `error.code`, where it is a number (an HTTP status, in the servers that write it).
    pub status: Option<u16>,
    /// `error.message`, or what the server has in its place.
    pub message: Option<Text<'a>>,
}

/// What an error means for whoever decides what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Too many requests.
    RateLimited,
    /// The provider has no capacity now.
    Overloaded,
    /// The provider took too long.
    TimedOut,
    /// The context is longer than the model takes.
    ContextLength,
    /// The provider failed.
    Server,
    /// The same request will fail again.
    Rejected,
}

/// Phrases by which providers and compatible servers say that the context is too long, where no code says it.
/// Anthropic ("prompt is too long: 208310 tokens > 200000 maximum"; "input length and `max_tokens` exceed context
/// limit"), OpenAI and vLLM ("This model's maximum context length is …"), llama.cpp ("exceeds the available context
/// size"), Ollama ("exceeded max context length").
const TOO_LONG: [&str; 6] = [
    "prompt is too long",
    "exceed context limit",
    "maximum context length",
    "available context size",
    "max context length",
    "context window",
];

impl<'a> Fault<'a> {
    /// Reads an error's body: `{"error": {…}}` (Anthropic, OpenAI), `{"error": "…"}` (Ollama), `{"message": …}` or
    /// `{"detail": …}` at the top. Of anything else, nothing is known.
    #[must_use]
    pub fn parse(body: &'a str) -> Self {
        Value::parse(body).map(|value| Self::read(&value)).unwrap_or_default()
    }

    pub(crate) fn read(body: &Value<'a>) -> Self {
        let Ok([error, message, detail, kind, code]) = body.fields(["error", "message", "detail", "type", "code"])
        else {
            return Self::default();
        };
        match error {
            Some(error) => match error.fields(["type", "code", "message"]) {
                Ok([kind, code, message]) => Self::from_fields(kind, code, message),
                Err(_) => Self { message: error.text().ok(), ..Self::default() },
            },
            None => Self::from_fields(kind, code, message.or(detail)),
        }
    }

    fn from_fields(kind: Option<Value<'a>>, code: Option<Value<'a>>, message: Option<Value<'a>>) -> Self {
        let text = |value: Option<Value<'a>>| value.and_then(|value| value.text().ok());
        let number = code.and_then(|value| value.number().ok());
        Self {
            kind: text(kind),
            code: text(code),
            status: number.and_then(|n| u16::try_from(n).ok()),
            // A message of another shape (a list of complaints) is shown as it is written.
            message: message.map(|value| value.text().unwrap_or_else(|_| Text::plain(value.raw()))),
        }
    }

    /// What the error's own words say. `None` where they say nothing certain: then the status decides.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        let words = [self.code, self.kind];
        words.into_iter().flatten().find_map(class_of_word).or_else(|| {
            let too_long = self.message.is_some_and(|m| TOO_LONG.iter().any(|p| m.contains_ignoring_case(p)));
            too_long.then_some(Class::ContextLength)
        })
    }

    /// What an error means that came without an HTTP status of its own: within a stream.
    #[must_use]
    pub fn class_in_stream(&self) -> Class {
        // `invalid_request_error` says less than a message that names the context.
        match self.class() {
            Some(class) => class,
            None => self.status.map_or(Class::Server, class_of_status),
        }
    }
}

fn class_of_word(word: Text<'_>) -> Option<Class> {
    let classes: [(&str, Class); 16] = [
        ("context_length_exceeded", Class::ContextLength),
        ("exceed_context_size_error", Class::ContextLength),
        ("request_too_large", Class::ContextLength),
        ("overloaded_error", Class::Overloaded),
        ("server_is_overloaded", Class::Overloaded),
        ("insufficient_quota", Class::Rejected),
        ("billing_error", Class::Rejected),
        ("rate_limit_error", Class::RateLimited),
        ("rate_limit_exceeded", Class::RateLimited),
        ("timeout_error", Class::TimedOut),
        ("api_error", Class::Server),
        ("server_error", Class::Server),
        ("authentication_error", Class::Rejected),
        ("permission_error", Class::Rejected),
        ("not_found_error", Class::Rejected),
        ("invalid_api_key", Class::Rejected),
    ];
    classes.into_iter().find_map(|(name, class)| word.is(name).then_some(class))
}

/// What an HTTP status means. 2xx and 3xx are no errors of the provider's; here they are [`Class::Server`].
#[must_use]
pub fn class_of_status(status: u16) -> Class {
    match status {
        408 | 504 => Class::TimedOut,
        413 => Class::ContextLength,
        429 => Class::RateLimited,
        503 | 529 => Class::Overloaded,
        400..=499 => Class::Rejected,
        _ => Class::Server,
    }
}
