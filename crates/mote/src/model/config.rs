//! What `agent.yaml` says of a model endpoint, validated.
//!
//! It reads no file and no secret: the configuration reads the file, and a provider its key when it is built.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::secret::Secret;

/// Which wire format.
#[derive(Debug, Clone, PartialEq)]
pub enum Provider {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI-compatible Chat Completions.
    OpenAi,
    /// Replays a plan from a file; tools are performed for real.
    Scripted {
        /// The plan.
        plan: PathBuf,
    },
    /// Records exchanges with another provider, or replays them.
    Cassette {
        /// The recording.
        file: PathBuf,
        /// `Some`: record through this provider; `None`: replay.
        record: Option<Box<Model>>,
    },
}

impl Provider {
    /// The provider's kind, as agent.yaml spells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::Scripted { .. } => "scripted",
            Self::Cassette { .. } => "cassette",
        }
    }
}

/// A model endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Wire format.
    pub provider: Provider,
    /// The model's name at the endpoint.
    pub name: String,
    /// Key.
    pub key: Option<Secret>,
    /// Base URL; each provider has its default.
    pub base_url: String,
    /// Price, nano-USD a token.
    pub price: Price,
    /// Whether the price is known: written, or in the table. What is asked of one that is not counts as free, so that no
    /// bound on money holds for it.
    pub is_priced: bool,
    /// Largest reply, tokens.
    pub output_tokens_max: u32,
    /// Bound on one call, start to last byte.
    pub timeout: Duration,
    /// Bound on silence within a stream.
    pub idle_timeout: Duration,
    /// Sampling temperature, if set.
    pub temperature: Option<f64>,
    /// Whether to place the provider's prompt-caching marks.
    pub cache: bool,
    /// `openai`: the name of the limit of a reply.
    pub output_limit_field: OutputLimitField,
}

/// The name under which a Chat Completions endpoint takes the limit of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputLimitField {
    /// `max_completion_tokens` at OpenAI and Azure, `max_tokens` elsewhere; the other where the endpoint refuses that one.
    #[default]
    Auto,
    /// Always `max_tokens`.
    MaxTokens,
    /// Always `max_completion_tokens`.
    MaxCompletionTokens,
}

/// Prices, nano-USD a token (1 USD a million tokens is 1,000).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// Uncached input.
    pub input: u64,
    /// Cached input.
    pub cache_read: u64,
    /// Input written to the cache.
    pub cache_write: u64,
    /// Output.
    pub output: u64,
}
