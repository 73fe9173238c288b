//! The service around the agent, as it is written.
//!
//! Nothing here is validated beyond its type.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Duration, FileReference, Secret};

/// The HTTP service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Server {
    /// Address and port. Default: `127.0.0.1:8080`.
    #[schemars(extend("x-hint" = "write an address and a port, such as 127.0.0.1:8080"))]
    pub(in crate::config) listen: Option<String>,
    /// Runs at once in this process. Default: 256.
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::config) runs: Option<u32>,
    /// How long a worker holds a task without renewing; a dead worker's tasks move on after it. Default: `15s`.
    pub(in crate::config) lease: Option<Duration>,
    /// How long a shutdown waits for runs to reach a step boundary. Default: `25s`.
    pub(in crate::config) drain: Option<Duration>,
    /// Requests a minute for each key, or for each address without keys. Default: unlimited.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) rate: Option<u32>,
    /// Origins that browsers may call from, such as `https://app.example.com`. Default: none.
    #[serde(default)]
    pub(in crate::config) cors: Vec<String>,
    /// How long an `Idempotency-Key` is remembered. Default: `1d`.
    pub(in crate::config) idempotency_ttl: Option<Duration>,
    /// How long finished tasks are kept. Default: `30d`.
    pub(in crate::config) retention: Option<Duration>,
}

/// Who may use the service: `none`, or the holders of keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Auth {
    /// Everybody who reaches the address.
    None(NoAuth),
    /// Holders of keys.
    Keys(Keys),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum NoAuth {
    None,
}

/// Holders of keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Keys {
    /// The file of hashed keys; `mote key new` makes its lines.
    #[schemars(extend("x-hint" = "keys are kept in a file, as hashes: `keys: {file: PATH}`; `mote key new` makes its lines"))]
    pub(in crate::config) keys: FileReference,
}

/// Logs and traces.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Telemetry {
    /// The OTLP/HTTP collector, such as `http://collector:4318`. Default: none.
    pub(in crate::config) otlp: Option<String>,
    /// Whether prompts, tool arguments and results may appear in logs and traces. Default: `off`.
    pub(in crate::config) content: Option<Switch>,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,mote::runner=debug`.
    /// Default: `info`.
    pub(in crate::config) log: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Switch {
    On,
    Off,
}

/// Where finished tasks and calls of unknown outcome are published, as CloudEvents 1.0 in structured mode.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Events {
    /// The URL that takes them by POST.
    #[schemars(example = &"https://events.internal/mote")]
    pub(in crate::config) sink: String,
    /// The place of the `Authorization` header's value.
    pub(in crate::config) authorization: Option<Secret>,
}
