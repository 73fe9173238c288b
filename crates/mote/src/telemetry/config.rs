//! What `agent.yaml` says of telemetry, validated.

/// Logs, metrics, traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// OTLP/HTTP endpoint.
    pub otlp: Option<String>,
    /// Whether prompts, tool arguments and results may appear in logs and traces.
    pub content: bool,
    /// Log filter (`info`, `mote=debug,…`).
    pub log: String,
}
