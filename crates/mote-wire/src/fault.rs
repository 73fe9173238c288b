//! What a provider's error says: the same shapes in an answer's body and within a stream.
//!
//! It reads what is written; HTTP statuses and headers are the caller's.

use crate::json::{Text, Value};
use crate::overflow;

/// An error as a provider wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fault<'a> {
    /// `error.type`, or what stands in its place (Gemini's `status` in words, xAI has none).
    pub kind: Option<Text<'a>>,
    /// `error.code`, where it is a word.
    pub code: Option<Text<'a>>,
    /// The HTTP status that the error names: `error.code` or `status`, as a number or a string of digits.
    pub status: Option<u16>,
    /// `error.message`, or what the server has in its place.
    pub message: Option<Text<'a>>,
    /// The parameter of the request that is at fault.
    pub param: Option<Text<'a>>,
    /// What the provider behind a gateway said (OpenRouter's `metadata.raw`).
    pub upstream: Option<Text<'a>>,
    /// Whether it holds what the model wrote and the provider could not read (Groq's `failed_generation`).
    pub has_output: bool,
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
    /// The model wrote what the provider could not read (Groq's `tool_use_failed`): another attempt may do better.
    BadOutput,
    /// The same request will fail again.
    Rejected,
}

/// Phrases that say, where a gateway drops the code, that the model wrote what the provider could not read (Groq).
const BAD_OUTPUT: [&str; 12] = [
    "failed to call a function",
    "tool_use_failed",
    "tool call validation failed",
    "output_parse_failed",
    "failed to generate",
    "failed to validate json",
    "parsing tool call",
    "failed to parse tool call",
    "which was not in request.tools",
    "output that could not be parsed",
    "output could not be parsed",
    "tool call could not be parsed",
];

/// What the provider behind a gateway says of itself, where no code says it.
const UPSTREAM: [(&str, Class); 5] = [
    ("overloaded", Class::Overloaded),
    ("at capacity", Class::Overloaded),
    ("rate limit", Class::RateLimited),
    ("rate-limited", Class::RateLimited),
    ("too many requests", Class::RateLimited),
];

impl<'a> Fault<'a> {
    /// Reads an error's body: `{"error": {…}}` (Anthropic, OpenAI), `[{"error": {…}}]` (Gemini), `{"error": "…"}` (Ollama),
    /// `{"error": "…", "code": "…"}` (xAI), `{"errors": [{…}]}`, `{"object": "error", "message": …}` (vLLM), or
    /// `{"detail": …}` at the top. Of anything else, nothing is known.
    #[must_use]
    pub fn parse(body: &'a str) -> Self {
        Value::parse(body).map(|value| Self::read(&value)).unwrap_or_default()
    }

    pub(crate) fn read(body: &Value<'a>) -> Self {
        // A list of errors: the first says it.
        let Some(body) = (if body.is_object() { Some(*body) } else { body.first() }) else { return Self::default() };
        let Ok([error, errors, base]) = body.fields(["error", "errors", "base_resp"]) else { return Self::default() };
        if let Some(fault) = base.and_then(|base| of_minimax(&base)) {
            return fault;
        }
        let top = Self::from_object(&body);
        let Some(error) = error.or(errors) else { return top };
        if let Ok(words) = error.text() {
            // Where both stand, the error is the status in words, and the message says more.
            return match top.message {
                Some(_) => Self { kind: top.kind.or(Some(words)), ..top },
                None => Self { message: Some(words), ..top },
            };
        }
        let inner = if error.is_object() { Some(error) } else { error.first() };
        match inner {
            Some(inner) if inner.is_object() => {
                let inner = Self::from_object(&inner);
                let has_output = inner.has_output || top.has_output;
                Self {
                    message: inner.message.or(top.message),
                    status: inner.status.or(top.status),
                    has_output,
                    ..inner
                }
            }
            Some(words) => Self { message: words.text().ok().or(top.message), ..top },
            None => top,
        }
    }

    fn from_object(object: &Value<'a>) -> Self {
        let names = ["type", "code", "message", "detail", "status", "status_code", "param", "metadata"];
        // Baidu, Writer, and servers of no format.
        let others = ["msg", "error_msg", "description", "error_message", "error_code", "failed_generation"];
        let (Ok([kind, code, message, detail, status, status_code, param, metadata]), Ok(others)) =
            (object.fields(names), object.fields(others))
        else {
            return Self::default();
        };
        let [msg, error_msg, description, error_message, error_code, generation] = others;
        let code = code.or(error_code);
        let text = |value: Option<Value<'a>>| value.and_then(|value| value.text().ok());
        let digits = |value: Option<Value<'a>>| {
            let value = value?;
            let number = value.number().ok().or_else(|| value.text().ok()?.digits())?;
            u16::try_from(number).ok().filter(|status| (100..600).contains(status))
        };
        let word = |value: Option<Value<'a>>| text(value).filter(|word| word.digits().is_none());
        let [raw] = metadata.and_then(|metadata| metadata.fields(["raw"]).ok()).unwrap_or_default();
        Self {
            kind: text(kind).or(word(status)),
            code: word(code),
            status: digits(code).or(digits(status)).or(digits(status_code)),
            // A message of another shape (a list of complaints) is shown as it is written.
            message: message
                .or(detail)
                .or(msg)
                .or(error_msg)
                .or(description)
                .or(error_message)
                .map(|value| value.text().unwrap_or_else(|_| Text::plain(value.raw())))
                .filter(|message| !message.is_empty()),
            param: text(param),
            // JSON in a string, or as it is.
            upstream: raw.map(|raw| raw.text().unwrap_or_else(|_| Text::plain(raw.raw()))),
            has_output: generation.is_some(),
        }
    }

    /// What the error's own words say. `None` where they say nothing certain: then the status decides.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        let word = [self.code, self.kind].into_iter().flatten().find_map(class_of_word);
        // `rate_limit_exceeded` and `server_error` say less than a message that names the context.
        if let Some(Class::ContextLength | Class::BadOutput | Class::Rejected) = word {
            return word;
        }
        let says =
            |phrases: &dyn Fn(Text<'a>) -> bool| [self.message, self.upstream].into_iter().flatten().any(phrases);
        if says(&overflow::is_said_by) {
            return Some(Class::ContextLength);
        }
        if self.has_output || says(&|message| BAD_OUTPUT.iter().any(|phrase| message.contains_ignoring_case(phrase))) {
            return Some(Class::BadOutput);
        }
        let upstream = |raw: Text<'a>| {
            UPSTREAM.into_iter().find_map(|(phrase, class)| raw.contains_ignoring_case(phrase).then_some(class))
        };
        word.filter(|class| *class != Class::Server).or_else(|| self.upstream.and_then(upstream)).or(word)
    }

    /// What an error means that came without an HTTP status of its own: within a stream.
    #[must_use]
    pub fn class_in_stream(&self) -> Class {
        match self.class() {
            // A status says more than "the server failed".
            Some(Class::Server) | None => self.status.map_or(Class::Server, class_of_status),
            Some(class) => class,
        }
    }

    /// What to show of it.
    #[must_use]
    pub fn words(&self) -> Option<Text<'a>> {
        self.message.or(self.kind).or(self.code)
    }
}

/// MiniMax's error, which it sends with a success; `None` where its code says that all is well.
fn of_minimax<'a>(base: &Value<'a>) -> Option<Fault<'a>> {
    let [code, message] = base.fields(["status_code", "status_msg"]).ok()?;
    let status = match code?.loose_number()? {
        0 => return None,
        1002 | 1039 => 429,
        1004 | 1008 | 1026 | 1027 | 2013 | 2049 => 400,
        _ => 500,
    };
    let message = message.and_then(|message| message.loose_text());
    Some(Fault { status: Some(status), message, ..Fault::default() })
}

/// Whether an event says flatly that the request failed: MiniMax's `base_resp`, Baidu's `error_code`, `success: false`.
pub(crate) fn is_flat(event: &Value<'_>) -> bool {
    let Ok([base, code, success]) = event.fields(["base_resp", "error_code", "success"]) else { return false };
    base.is_some_and(|base| of_minimax(&base).is_some())
        || code.is_some_and(|code| code.loose_number().is_none_or(|code| code != 0))
        || success.is_some_and(|success| success.raw() == "false")
}

/// Codes and types, compared without case.
const WORDS: [(&str, Class); 43] = [
    ("context_length_exceeded", Class::ContextLength),
    ("context_window_exceeded", Class::ContextLength),
    ("ContextWindowExceededError", Class::ContextLength),
    ("exceed_context_size_error", Class::ContextLength),
    ("model_max_prompt_tokens_exceeded", Class::ContextLength),
    ("request_too_large", Class::ContextLength),
    ("tool_use_failed", Class::BadOutput),
    ("output_parse_failed", Class::BadOutput),
    ("json_validate_failed", Class::BadOutput),
    ("overloaded_error", Class::Overloaded),
    ("server_is_overloaded", Class::Overloaded),
    ("engine_overloaded_error", Class::Overloaded),
    ("service_unavailable", Class::Overloaded),
    ("ServiceUnavailableError", Class::Overloaded),
    ("ServiceUnavailableException", Class::Overloaded),
    ("ModelNotReadyException", Class::Overloaded),
    ("UNAVAILABLE", Class::Overloaded),
    ("insufficient_quota", Class::Rejected),
    ("exceeded_current_quota_error", Class::Rejected),
    ("insufficient_balance", Class::Rejected),
    ("billing_error", Class::Rejected),
    ("rate_limit_error", Class::RateLimited),
    ("rate_limit_exceeded", Class::RateLimited),
    ("rate_limit_reached_error", Class::RateLimited),
    ("RateLimitError", Class::RateLimited),
    ("too_many_requests", Class::RateLimited),
    ("ThrottlingException", Class::RateLimited),
    ("Throttling", Class::RateLimited),
    ("RESOURCE_EXHAUSTED", Class::RateLimited),
    ("timeout_error", Class::TimedOut),
    ("ModelTimeoutException", Class::TimedOut),
    ("DEADLINE_EXCEEDED", Class::TimedOut),
    ("api_error", Class::Server),
    ("server_error", Class::Server),
    ("internal_error", Class::Server),
    ("InternalServerError", Class::Server),
    ("INTERNAL", Class::Server),
    ("authentication_error", Class::Rejected),
    ("permission_error", Class::Rejected),
    ("PERMISSION_DENIED", Class::Rejected),
    ("not_found_error", Class::Rejected),
    ("NOT_FOUND", Class::Rejected),
    ("invalid_api_key", Class::Rejected),
];

fn class_of_word(word: Text<'_>) -> Option<Class> {
    WORDS.into_iter().find_map(|(name, class)| word.is_ignoring_case(name).then_some(class))
}

/// What an HTTP status means. 2xx and 3xx are no errors of the provider's; here they are [`Class::Server`].
#[must_use]
pub fn class_of_status(status: u16) -> Class {
    match status {
        // Also a conflict, "too early" and a client that went away (nginx): the same request may do better.
        408 | 409 | 425 | 499 | 504 => Class::TimedOut,
        424 => Class::Server,
        413 => Class::ContextLength,
        429 => Class::RateLimited,
        498 | 503 | 529 => Class::Overloaded,
        400..=499 => Class::Rejected,
        _ => Class::Server,
    }
}
