//! Telemetry: logs, metrics and traces of the process, set up once from `agent.yaml`.
//!
//! It observes and never decides: nothing here fails a run, and a collector or a log reader that stops is not waited for.
//! Values of secrets never reach it; prompts, arguments and results only where the administrator turned content on.

mod config;
pub mod logs;
pub mod metrics;
pub mod traces;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

pub use config::Config;
pub use metrics::Metrics;
pub use traces::{Semconv, Service, Tracer};

use crate::clock::SharedClock;

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Logs.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// Traces.
    #[error(transparent)]
    Traces(#[from] traces::Error),
}

/// Where log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output: the service.
    Stdout,
    /// Standard error: commands whose result is on standard output.
    Stderr,
}

/// What does not stand in `agent.yaml`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where lines go.
    pub output: LogOutput,
    /// How they look; `None` is text on a terminal and JSON elsewhere.
    pub format: Option<logs::Format>,
    /// Which GenAI conventions: [`Semconv::from_opt_in`] of `OTEL_SEMCONV_STABILITY_OPT_IN`.
    pub semconv: Semconv,
}

/// The process's telemetry.
pub struct Telemetry {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Traces.
    pub tracer: Tracer,
    sink: logs::Sink,
}

/// Sets up logs for the whole process, metrics, and traces if a collector is configured. Call it once, within the
/// runtime.
///
/// # Errors
/// A filter or an endpoint that is none, or a process that has a subscriber already.
pub fn init(config: &Config, service: &Service<'_>, options: Options, clock: SharedClock) -> Result<Telemetry, Error> {
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), clock.now_ms()));
    let sink = start_sink(options.output, metrics.clone())?;
    let terminal = match options.output {
        LogOutput::Stdout => std::io::stdout().is_terminal(),
        LogOutput::Stderr => std::io::stderr().is_terminal(),
    };
    let natural = if terminal { logs::Format::Text } else { logs::Format::Json };
    let format = options.format.unwrap_or(natural);
    let subscriber = logs::subscriber(&config.log, format, config.content, clock.clone(), sink.clone())?;
    let tracer = match &config.otlp {
        Some(endpoint) => Tracer::start(endpoint, config.content, options.semconv, service, metrics.clone(), clock)?,
        None => Tracer::off(clock),
    };
    tracing::subscriber::set_global_default(subscriber).map_err(logs::Error::from)?;
    Ok(Telemetry { metrics, tracer, sink })
}

fn start_sink(output: LogOutput, metrics: Arc<Metrics>) -> Result<logs::Sink, logs::Error> {
    let on_drop = move || metrics.log_line_dropped();
    Ok(match output {
        LogOutput::Stdout => logs::Sink::start(std::io::stdout(), on_drop)?,
        LogOutput::Stderr => logs::Sink::start(std::io::stderr(), on_drop)?,
    })
}

impl Telemetry {
    /// Exports the spans and writes the log lines that are under way, each at most for `within`.
    pub async fn shutdown(&self, within: Duration) {
        self.tracer.flush(within).await;
        let sink = self.sink.clone();
        // It blocks, so it does so where that is allowed.
        let _ = tokio::task::spawn_blocking(move || sink.flush(within)).await;
    }
}
