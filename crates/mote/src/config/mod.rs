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
mod sandbox;
#[cfg(test)]
mod sandbox_tests;
mod schema_keywords;
mod secret;
mod structure;
#[cfg(test)]
mod tests;
pub mod units;
mod validate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::tools::Effect;
use crate::tools::policy::network::Private;

pub use diagnostic::{Diagnostic, Severity};
pub use json_schema::JSON_SCHEMA;
pub use load::{Loaded, ModelChoice, Options, Places, file_of, load, load_with};
pub use sandbox::{
    Facility, Release, SANDBOX_KEY_FILE, SANDBOX_KEY_VARIABLE, SANDBOX_URL, SANDBOX_URL_VARIABLE, SandboxTool,
    image_source,
};
pub use secret::{Error as SecretError, SecretValue};

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
    pub telemetry: Telemetry,
    /// Where finished tasks are published.
    pub events: Option<EventSink>,
    /// SHA-256 over the canonical form of everything that says what the agent can do (prompt, models, tools, output,
    /// limits, budgets, context); not over server, auth or telemetry.
    pub digest: [u8; 32],
    /// The folder of the file: relative paths are resolved against it.
    pub folder: PathBuf,
}

/// A built-in tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Builtin {
    /// Waits for a named signal.
    WaitForSignal,
    /// Waits for a time or a duration.
    WaitUntil,
    /// Asks a person a question.
    AskPerson,
}

impl Builtin {
    /// Every built-in tool.
    pub const ALL: [Self; 3] = [Self::WaitForSignal, Self::WaitUntil, Self::AskPerson];
}

/// Where a secret comes from; its value is read when a component is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file, its trailing newline dropped.
    File(PathBuf),
}

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

/// An HTTP tool.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpTool {
    /// Name, `[a-zA-Z0-9_-]{1,64}`.
    pub name: String,
    /// Version, semantic.
    pub version: String,
    /// What it does, for the model.
    pub description: String,
    /// Method.
    pub method: String,
    /// URL template: `{name}` is replaced by the percent-encoded argument. Arguments that the template does not use go to
    /// the query (GET, HEAD, DELETE) or to a JSON body.
    pub url: String,
    /// Headers; a value is literal or a secret.
    pub headers: BTreeMap<String, HeaderValue>,
    /// JSON Schema 2020-12 of the arguments.
    pub input: serde_json::Value,
    /// Effect class.
    pub effect: Effect,
    /// Bound on one attempt.
    pub timeout: Duration,
    /// Bound on the result, bytes; what is beyond is cut and said to be.
    pub output_max: usize,
    /// How long the backend remembers an idempotency key.
    pub key_ttl: Option<Duration>,
    /// Hosts (`host` or `host:port`) that redirects may lead to; the URL's own host is always in.
    pub allow_hosts: Vec<String>,
    /// Which private and loopback addresses may be reached (only for hosts named in the URL or the allowlist).
    pub allow_private: Private,
    /// Whether a person approves each call.
    pub approval: bool,
}

/// A header's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// Written in the file.
    Literal(String),
    /// A secret, with text before it (`Bearer `).
    Secret {
        /// Text before the secret.
        prefix: String,
        /// The secret.
        secret: Secret,
    },
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

/// Logs, metrics, traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// OTLP/HTTP endpoint.
    pub otlp: Option<String>,
    /// Whether prompts, tool arguments and results may appear in logs and traces.
    pub content: bool,
    /// Log filter (`info`, `mote=debug,…`).
    pub log: String,
}

/// Where finished tasks are published as CloudEvents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSink {
    /// URL that takes a structured-mode CloudEvent by POST.
    pub url: String,
    /// Authorization header, if any.
    pub authorization: Option<Secret>,
}
