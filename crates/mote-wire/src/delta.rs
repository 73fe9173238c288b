//! What a provider's stream says, in one form for every wire format: pieces of one reply, borrowed from the event that
//! brought them.
//!
//! It does not gather pieces into a message; that takes memory, which the driver has.

use crate::fault::Fault;
use crate::json::Text;

/// The largest count of tokens that is believed, in tokens: no context is near it. A larger one counts as none.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// Tokens so far, normalised: `input` counts everything that was read, cached or not (uncached + cache read + cache
/// write). Counts are cumulative: of two that come, the larger stands ([`Usage::largest`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input tokens.
    pub input: u64,
    /// Of these, read from the provider's cache.
    pub cache_read: u64,
    /// Of these, written to the provider's cache.
    pub cache_write: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Of these, reasoning, where the provider tells.
    pub reasoning: u64,
}

impl Usage {
    /// Of two counts of one reply, field by field the larger: servers write zeros in a later event.
    #[must_use]
    pub fn largest(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cache_read: self.cache_read.max(other.cache_read),
            cache_write: self.cache_write.max(other.cache_write),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }
}

/// Why the model stopped, in the order in which one reason gives way to another that comes in the same reply: the larger
/// stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finish {
    /// A reason that this version does not know.
    Other,
    /// It had said what it had to say.
    Stop,
    /// It calls tools.
    ToolCalls,
    /// It reached the output limit or filled the context.
    Length,
    /// The provider withheld the reply.
    ContentFilter,
    /// The server could not go on: what came is no reply.
    Failed,
}

/// A piece of a reply. Pieces of one block carry the same `index`; blocks stand in the order in which they began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Delta<'a> {
    /// More text.
    Text {
        /// The block.
        index: u32,
        /// The piece.
        text: Text<'a>,
    },
    /// More reasoning, perhaps empty: a block that says nothing readable still begins.
    Reasoning {
        /// The block. In the OpenAI format, which field it came in ([`crate::openai::REASONING_FIELDS`]).
        index: u32,
        /// The piece.
        text: Text<'a>,
    },
    /// More of the signature of a reasoning block (Anthropic).
    Signature {
        /// The block.
        index: u32,
        /// The piece.
        text: Text<'a>,
    },
    /// A reasoning block that is encrypted as a whole (Anthropic `redacted_thinking`).
    Redacted {
        /// The block.
        index: u32,
        /// The block's data.
        data: Text<'a>,
    },
    /// A tool call began, or its id or name became known.
    Call {
        /// The call.
        index: u32,
        /// The provider's id; some servers give none.
        id: Option<Text<'a>>,
        /// The tool's name.
        name: Option<Text<'a>>,
        /// Whether it is certainly not the call before at the same index.
        distinct: bool,
    },
    /// More of a call's arguments: a fragment of JSON text.
    Arguments {
        /// The call.
        index: u32,
        /// The piece.
        text: Text<'a>,
    },
    /// What the provider wants back with a call, as it came (Gemini's `extra_content`): JSON that nobody else reads.
    CallExtra {
        /// The call.
        index: u32,
        /// The JSON.
        json: &'a str,
    },
    /// Reasoning in a form of the provider's own, wanted back as it came (OpenRouter's `reasoning_details`): a JSON list,
    /// to be appended to those before it.
    ReasoningDetails {
        /// The list.
        json: &'a str,
    },
    /// Tokens so far.
    Usage(Usage),
    /// Why the model stopped; usage may follow.
    Finish {
        /// What the reason means.
        finish: Finish,
        /// The reason, as it is written.
        reason: Text<'a>,
    },
    /// The reply is whole: nothing follows.
    Done,
    /// The provider gave up.
    Fault(Fault<'a>),
}
