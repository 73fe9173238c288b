//! What bounds a run, all of it in one value that the first event carries. It holds no policy: the driver fills it from
//! the agent's configuration and the request, narrowing only.

use crate::{Millis, NanoUsd, Time, Tokens};

/// Tokens that the context is charged for a notice written by the driver in place of a tool's result.
pub const NOTICE_TOKENS: u32 = 48;
/// A model is not called for fewer output tokens than this, unless the limit itself is smaller.
pub const OUTPUT_TOKENS_MIN: u32 = 256;
/// Turns whose calls are remembered to detect repetition.
pub const TURNS_REMEMBERED: usize = 8;
/// Model endpoints that a run may have: a bit each in [`crate::Event::BudgetGranted`].
pub const ENDPOINTS_MAX: usize = 16;

structure! {
    /// Bounds of one run. Every count is a maximum.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Limits {
        /// Model steps.
        pub steps: u32,
        /// Tool calls in all.
        pub tool_calls: u32,
        /// Calls in one turn; at most the run's `CALLS`.
        pub calls: u16,
        /// Calls of one turn under way at once; 0 is taken as 1.
        pub parallel: u16,
        /// Context units kept; at most the run's `UNITS`.
        pub units: u16,
        /// Replies of one endpoint to one model step that may be broken; 0 is taken as 1. An endpoint that is not available is
        /// bounded by `model_outage_ms`, an attempt lost with its worker by `interruptions`.
        pub model_attempts: u16,
        /// Model endpoints that may be called; 0 is taken as 1.
        pub endpoints: u16,
        /// How long no endpoint may be available before the run fails.
        pub model_outage_ms: Millis,
        /// Times that work under way may be lost with its worker before any of it ends. More end the run only where they are
        /// also spread over `interruptions_ms`: a process that dies again and again is not the run's fault.
        pub interruptions: u16,
        /// How long the interruptions beyond `interruptions` must last, from the first of them, to end the run.
        pub interruptions_ms: Millis,
        /// A run that backs off for at least this long is given back meanwhile; 0 never is.
        pub rest_ms: u32,
        /// Attempts at one tool call; 0 is taken as 1.
        pub tool_attempts: u16,
        /// Back-off before the second attempt; it doubles from there.
        pub backoff_ms: u32,
        /// Longest back-off of our own; an endpoint's `Retry-After` may be longer.
        pub backoff_ms_max: u32,
        /// Times that one turn of calls may come within [`TURNS_REMEMBERED`] turns; 0 does not look.
        pub repeats: u16,
        /// Answers that may fail validation.
        pub repairs: u16,
        /// Working time; waiting for a person, a signal or a time is not work.
        pub active_ms: Millis,
        /// Wall time at which the run ends whatever it does; 0 is never.
        pub expires_at: Time,
        /// The model's context window.
        pub window: u32,
        /// Of the window, kept free for the reply; [`OUTPUT_TOKENS_MIN`] or `output` are kept free if it is less.
        pub reserve: u32,
        /// Share of the usable window that trimming goes down to, percent.
        pub low_water: u8,
        /// Tokens of every call that are not in a unit: system prompt, tool definitions.
        pub fixed: u32,
        /// Largest reply.
        pub output: u32,
        /// Tokens that the run may spend, in and out; `u64::MAX` is unbounded.
        pub budget_tokens: Tokens,
        /// Money that the run may spend; `u64::MAX` is unbounded.
        pub budget_nano_usd: NanoUsd,
        /// Price of an input token: the dearest of the models that may be called.
        pub price_input: NanoUsd,
        /// Price of an output token: the dearest of the models that may be called.
        pub price_output: NanoUsd,
        /// Share of the usable window at which the oldest units are summarised, percent; 0 only trims.
        pub compact_at: u8,
        /// Attempts at one summary; 0 is taken as 1.
        pub compact_attempts: u16,
        /// Largest summary.
        pub summary: u32,
        /// Price of an input token of the model that summarises.
        pub summary_price_input: NanoUsd,
        /// Price of an output token of the model that summarises.
        pub summary_price_output: NanoUsd,
    }
}

impl Limits {
    /// Tokens that units may take in one call.
    #[must_use]
    pub fn usable(&self) -> u32 {
        self.window.saturating_sub(self.headroom()).saturating_sub(self.fixed)
    }

    /// What trimming and summaries bring the units down to, tokens.
    #[must_use]
    pub fn low_water_mark(&self) -> u64 {
        u64::from(self.usable()).saturating_mul(u64::from(self.low_water.min(100))) / 100
    }

    /// Tokens of the window that no input takes: the reserve, and never less than a useful reply.
    pub(crate) fn headroom(&self) -> u32 {
        self.reserve.max(self.output_min())
    }

    /// The smallest reply that a call is worth making for.
    pub(crate) fn output_min(&self) -> u32 {
        self.output.min(OUTPUT_TOKENS_MIN)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps: 30,
            tool_calls: 60,
            calls: 4,
            parallel: 4,
            units: 16,
            model_attempts: 4,
            endpoints: 1,
            model_outage_ms: 900_000,
            interruptions: 20,
            interruptions_ms: 900_000,
            rest_ms: 0,
            tool_attempts: 3,
            backoff_ms: 500,
            backoff_ms_max: 30_000,
            repeats: 4,
            repairs: 2,
            active_ms: 600_000,
            expires_at: 0,
            window: 120_000,
            reserve: 8_000,
            low_water: 60,
            fixed: 0,
            output: 4_096,
            budget_tokens: u64::MAX,
            budget_nano_usd: u64::MAX,
            price_input: 0,
            price_output: 0,
            compact_at: 0,
            compact_attempts: 2,
            summary: 1_024,
            summary_price_input: 0,
            summary_price_output: 0,
        }
    }
}
