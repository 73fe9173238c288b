//! What `agent.yaml` says of tools that it declares or switches on, validated.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Effect;
use super::policy::network::Private;
use crate::secret::Secret;

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
