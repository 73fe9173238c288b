//! The tokio runtime of a command, and what it takes from the environment.
//!
//! It does not choose what runs on it.

use anyhow::Context;
use mote::telemetry::Semconv;

/// Threads that run tasks in the service; the store has its own.
const SERVICE_THREADS: usize = 2;

/// A runtime on the command's own thread: for clients and for `run`.
pub(crate) fn single() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the async runtime")
}

/// The service's runtime.
pub(crate) fn service() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVICE_THREADS)
        .enable_all()
        .build()
        .context("failed to start the async runtime")
}

/// Which GenAI conventions traces follow.
#[allow(clippy::disallowed_methods, reason = "the standard variable of OpenTelemetry, read once at start")]
pub(crate) fn semconv() -> Semconv {
    Semconv::from_opt_in(&std::env::var("OTEL_SEMCONV_STABILITY_OPT_IN").unwrap_or_default())
}
