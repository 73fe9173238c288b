//! What model calls used, in tokens: told by the endpoint or estimated, added up in the store.

use serde::{Deserialize, Serialize};

/// Tokens, normalised: `input` counts everything that was read, cached or not (uncached + cache read + cache write).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// All input tokens.
    pub input: u64,
    /// Of these, read from the provider's cache.
    #[serde(default)]
    pub cache_read: u64,
    /// Of these, written to the provider's cache.
    #[serde(default)]
    pub cache_write: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Of these, reasoning.
    #[serde(default)]
    pub reasoning: u64,
}

impl Usage {
    /// Adds another call's tokens.
    pub fn add(&mut self, other: &Self) {
        self.input = self.input.saturating_add(other.input);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.output = self.output.saturating_add(other.output);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
    }
}
