//! `agent.yaml`: the whole capability set of one agent, read once, validated, never written.
//!
//! Two types a concern: what the file says (`raw`) and what was validated (here). It does not open connections or read
//! secrets' values; components do, when built.

mod advice;
mod diagnostic;
pub mod digest;
mod document;
mod findings;
mod json_schema;
mod load;
mod raw;
mod refusals;
#[cfg(test)]
mod sandbox_tests;
mod schema_keywords;
mod structure;
#[cfg(test)]
mod tests;
pub mod units;
mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::config::{Model, OutputLimitField, Price, Provider};
use crate::secret::Secret;
use crate::telemetry;
use crate::tools::config::{Builtin, HeaderValue, HttpTool};
use crate::tools::sandbox::config::{self as sandbox, SandboxTool};

pub use diagnostic::{Diagnostic, Severity};
pub use json_schema::JSON_SCHEMA;
pub use load::{Loaded, ModelChoice, Options, Places, file_of, load, load_with};

/// A validated agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// `[a-z0-9-]{1,63}`.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// One sentence.
    pub description: String,
    /// System prompt, already read from its file.
    pub prompt: String,
    /// Primary model, then fallbacks in order. Never empty.
    pub models: Vec<Model>,
    /// Declared tools.
    pub tools: Vec<HttpTool>,
    /// Built-in tools that are switched on: `wait_for_signal`, `wait_until`, `ask_person`.
    pub builtins: Vec<Builtin>,
    /// The sandbox that it works in, if it has one.
    pub sandbox: Option<SandboxTool>,
    /// JSON Schema that every result must satisfy.
    pub output: Option<serde_json::Value>,
    /// Limits of a run.
    pub limits: RunLimits,
    /// What a run does that resumes under another capability set.
    pub on_change: OnChange,
    /// Budgets.
    pub budget: Budgets,
    /// The context packet.
    pub context: Context,
    /// The HTTP service.
    pub server: Server,
    /// API keys; `None` serves without authentication (refused on a non-loopback address unless `auth: none` is written).
    pub auth: Option<Auth>,
    /// Logs, metrics, traces.
    pub telemetry: telemetry::Config,
    /// Where finished tasks are published.
    pub events: Option<EventSink>,
    /// SHA-256 over the canonical form of everything that says what the agent can do (prompt, models, tools, output,
    /// limits, budgets, context); not over server, auth or telemetry.
    pub digest: [u8; 32],
    /// The folder of the file: relative paths are resolved against it.
    pub folder: PathBuf,
}

/// Limits of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Model steps.
    pub steps: u32,
    /// Tool calls.
    pub tool_calls: u32,
    /// Calls of one turn that run at once.
    pub parallel: u16,
    /// Broken replies of one model to one step.
    pub model_attempts: u16,
    /// How long no model may be available.
    pub model_outage: Duration,
    /// Attempts at one tool call.
    pub tool_attempts: u16,
    /// First back-off.
    pub backoff: Duration,
    /// Longest back-off.
    pub backoff_max: Duration,
    /// Times that the same turn of calls may repeat before the run fails.
    pub repeats: u16,
    /// Answers that may fail the output schema before the run fails.
    pub repairs: u16,
    /// Working time, waits excluded.
    pub active: Duration,
    /// Wall time.
    pub expires: Duration,
}

/// What a run does that resumes under another capability set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// Goes on, unless a pending call's tool changed.
    Continue,
    /// Fails.
    Fail,
}

impl Agent {
    /// A model that would pass by every bound on money, because its price is not known.
    #[must_use]
    pub fn unpriced(&self) -> Option<&Model> {
        self.models.iter().find(|model| !model.is_priced)
    }
}

/// Budgets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Of each run.
    pub per_run: Bound,
    /// Of all runs of the agent in a window.
    pub agent: Option<Windowed>,
    /// Of each tenant in a window.
    pub per_tenant: Option<Windowed>,
    /// Of each user in a window.
    pub per_user: Option<Windowed>,
    /// Of each session, for good.
    pub per_session: Option<Bound>,
}

/// A bound on money and tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound {
    /// Nano-USD.
    pub nano_usd: Option<u64>,
    /// Tokens, in and out.
    pub tokens: Option<u64>,
}

/// A bound that starts anew each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windowed {
    /// The bound.
    pub bound: Bound,
    /// The window's length; windows start at multiples of it since the epoch.
    pub every: Duration,
}

/// The context packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The model's window, tokens.
    pub window: u32,
    /// Kept free for the reply, tokens.
    pub reserve: u32,
    /// Trimming goes down to this share of the usable window, percent.
    pub low_water: u8,
}

/// The HTTP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Address.
    pub listen: SocketAddr,
    /// Runs at once in this process.
    pub runs: usize,
    /// Lease of a claimed task.
    pub lease: Duration,
    /// How long a drain may take.
    pub drain: Duration,
    /// Requests a minute a key (or address); `None` is unlimited.
    pub rate: Option<u32>,
    /// Origins that CORS allows; empty is off.
    pub cors: Vec<String>,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// How long finished tasks are kept.
    pub retention: Duration,
}

/// API keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The file of hashed keys.
    pub keys: PathBuf,
}

/// Where finished tasks are published as CloudEvents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSink {
    /// URL that takes a structured-mode CloudEvent by POST.
    pub url: String,
    /// Authorization header, if any.
    pub authorization: Option<Secret>,
}
