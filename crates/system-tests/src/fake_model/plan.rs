//! What the fake model does: replies, timing, faults; chosen by rules, by the turn, or by the model's name.
//!
//! It does not know a wire format; [`super::openai`] and [`super::anthropic`] do.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::asked::{Asked, Wire};
use crate::limits::DELTA_BYTES;

/// The whole program of a fake model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// The only key that is accepted; without it every key is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Looked at first, in order; the first that fits and is not used up decides.
    pub rules: Vec<Rule>,
    /// Then by the number of assistant messages after the last user's text: stateless, so that a call that is asked again
    /// gets the same answer. The last one repeats. Empty: a short answer.
    pub turns: Vec<Behaviour>,
}

/// An override for some requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Which requests.
    pub when: When,
    /// How many of them; absent is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What happens.
    pub then: Behaviour,
}

/// Which requests a rule takes. What is absent does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// The model's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Text that the last user message contains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Text that anything in the request contains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Assistant messages after the last user's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<usize>,
    /// The wire format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire: Option<Wire>,
}

impl When {
    /// Whether a request is one of these.
    #[must_use]
    pub fn fits(&self, asked: &Asked, body: &str) -> bool {
        self.model.as_ref().is_none_or(|model| *model == asked.model)
            && self.input.as_ref().is_none_or(|text| asked.input.contains(text))
            && self.contains.as_ref().is_none_or(|text| body.contains(text))
            && self.turn.is_none_or(|turn| turn == asked.turn)
            && self.wire.is_none_or(|wire| wire == asked.wire)
    }
}

/// What one request gets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// What is said.
    pub reply: Reply,
    /// How fast.
    pub timing: Timing,
    /// How the stream is cut into writes.
    pub framing: Framing,
    /// What goes wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What is said. In `text`, `{{input}}` and `{{results}}` stand for the last user message and for the results of the tools.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reply {
    /// Reasoning before the answer: a signed thinking block, or `reasoning_content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// The answer, or what is said before the calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Pads the text to this many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_bytes: Option<usize>,
    /// Tool calls.
    pub calls: Vec<Call>,
    /// Why it stops; follows from the calls where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
    /// Tokens; estimated from the sizes where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Tokens>,
    /// Says nothing about tokens.
    pub omit_usage: bool,
}

/// A tool call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// The arguments; a string is sent as it stands, so that it can be invalid JSON.
    pub arguments: Value,
    /// Its id, as it stands; one of its own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `extra_content`, in OpenAI's format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Value>,
}

/// Why the model stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It said everything.
    Stop,
    /// It calls tools.
    ToolCalls,
    /// Out of output tokens.
    Length,
    /// Withheld.
    ContentFilter,
}

/// Tokens in normalised terms: `input` is everything read, cached or not. Each wire format renders its own way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// All input.
    pub input: u64,
    /// Of these, from the cache.
    pub cache_read: u64,
    /// Of these, into the cache.
    pub cache_write: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// Of these, reasoning.
    pub reasoning: u64,
}

/// How fast a reply comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// Before the response's head, ms.
    pub first_ms: u64,
    /// Before each write after the first, ms.
    pub chunk_ms: u64,
    /// Bytes of text a delta.
    pub delta_bytes: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self { first_ms: 0, chunk_ms: 0, delta_bytes: DELTA_BYTES }
    }
}

/// How events become writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// An event a write.
    #[default]
    Each,
    /// Everything in one write.
    Merged,
    /// Writes of so many bytes, wherever that cuts an event (or a character).
    Split(usize),
    /// Events that carry no text are sent twice: first chunk, pings, finish and usage. A client must not count them twice.
    Repeated,
    /// An event a write, lines ended by CRLF and comments in between.
    Crlf,
}

/// What goes wrong. `after` counts the events that still arrive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An error answer instead of a reply.
    Status {
        /// The status.
        status: u16,
        /// `Retry-After`, seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// 400: the context is too long.
    ContextLength,
    /// An error event within the stream (`overloaded_error`), after which it ends.
    OverloadedMidStream {
        /// Events before it.
        after: usize,
    },
    /// The body ends properly, but the stream is not finished.
    Truncated {
        /// Events before that.
        after: usize,
    },
    /// The connection closes within the body.
    Cut {
        /// Events before that.
        after: usize,
    },
    /// An event that is not JSON; the stream goes on after it.
    Malformed {
        /// Events before it.
        after: usize,
    },
    /// 200 with a page of HTML.
    WrongContentType,
    /// Never answers.
    Hang,
    /// Stops answering in the middle.
    HangMidStream {
        /// Events before that.
        after: usize,
    },
    /// The connection is reset before any answer.
    Reset,
}

impl Behaviour {
    /// Says something.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { reply: Reply { text: Some(text.into()), ..Reply::default() }, ..Self::default() }
    }

    /// Calls a tool.
    #[must_use]
    pub fn call(name: &str, arguments: Value) -> Self {
        Self::default().and_call(name, arguments)
    }

    /// Calls another tool in the same turn.
    #[must_use]
    pub fn and_call(mut self, name: &str, arguments: Value) -> Self {
        self.reply.calls.push(Call { name: name.to_owned(), arguments, ..Call::default() });
        self
    }

    /// The same, its last call under this id.
    #[must_use]
    pub fn under_id(mut self, id: &str) -> Self {
        if let Some(call) = self.reply.calls.last_mut() {
            call.id = Some(id.to_owned());
        }
        self
    }

    /// The same, its last call with this `extra_content`.
    #[must_use]
    pub fn with_extra(mut self, extra: Value) -> Self {
        if let Some(call) = self.reply.calls.last_mut() {
            call.extra = Some(extra);
        }
        self
    }

    /// Fails.
    #[must_use]
    pub fn fault(fault: Fault) -> Self {
        Self::default().with_fault(fault)
    }

    /// Answers with an error status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::fault(Fault::Status { status, retry_after: None })
    }

    /// The same, but something goes wrong.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// The same, after a delay.
    #[must_use]
    pub fn after_ms(mut self, first_ms: u64) -> Self {
        self.timing.first_ms = first_ms;
        self
    }

    /// The same, with a pause before each write.
    #[must_use]
    pub fn trickling(mut self, chunk_ms: u64, delta_bytes: usize) -> Self {
        self.timing.chunk_ms = chunk_ms;
        self.timing.delta_bytes = delta_bytes;
        self
    }

    /// The same, framed otherwise.
    #[must_use]
    pub fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// The same, with reasoning before it.
    #[must_use]
    pub fn thinking(mut self, thinking: impl Into<String>) -> Self {
        self.reply.thinking = Some(thinking.into());
        self
    }

    /// The same, with these tokens.
    #[must_use]
    pub fn using(mut self, usage: Tokens) -> Self {
        self.reply.usage = Some(usage);
        self
    }
}

impl Plan {
    /// Always the same answer.
    #[must_use]
    pub fn answer(text: impl Into<String>) -> Self {
        Self::turns([Behaviour::text(text)])
    }

    /// By the turn.
    #[must_use]
    pub fn turns(turns: impl IntoIterator<Item = Behaviour>) -> Self {
        Self { turns: turns.into_iter().collect(), ..Self::default() }
    }

    /// The next `times` requests that no earlier rule takes get this.
    #[must_use]
    pub fn first(self, times: u64, then: Behaviour) -> Self {
        self.rule(When::default(), Some(times), then)
    }

    /// Requests that fit get this.
    #[must_use]
    pub fn rule(mut self, when: When, times: Option<u64>, then: Behaviour) -> Self {
        self.rules.push(Rule { when, times, then });
        self
    }

    /// What a turn gets when no rule takes it.
    #[must_use]
    pub fn at_turn(&self, turn: usize) -> Behaviour {
        let last = self.turns.len().checked_sub(1);
        last.map_or_else(|| Behaviour::text("All done."), |last| self.turns[turn.min(last)].clone())
    }
}
