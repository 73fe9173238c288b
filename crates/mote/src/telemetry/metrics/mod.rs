//! Metrics in Prometheus' terms: base units, bounded labels, one method for each thing that happens.
//!
//! No label takes a value that a client or a model chooses: tools and models come from the configuration, routes from
//! the router's table. Cost by user, session or feature is in the spans and in the store's ledger, not here.

mod declare;
mod families;
mod process;
#[cfg(test)]
mod tests;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;

pub use declare::Known;

use crate::clock::UnixMs;
use crate::model::ErrorKind;
use crate::store::{Counts, Ended, Spending};
use crate::tools::{Failure, FailureKind, Progress};
use crate::usage::Usage;
use families::{Families, HttpLabels, ModelLabels, ModelOutcome, TokenLabels, ToolLabels, ToolOutcome, name};

/// Media type of [`Metrics::render`].
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Media type of [`Metrics::render_open_metrics`].
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A circuit breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// Calls pass.
    Closed,
    /// One call is tried.
    HalfOpen,
    /// No call passes.
    Open,
}

/// What is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// A model call.
    Model,
    /// A tool call.
    Tool,
}

/// All metrics of the process. Cheap to call from anywhere; shared behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Exact, because a sum of doubles would drift.
    cost_nano_usd: AtomicU64,
    cost_uncertain_nano_usd: AtomicU64,
}

impl Metrics {
    /// Metrics of a process of this version that started at `started`.
    #[must_use]
    pub fn new(version: &str, started: UnixMs) -> Self {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry, version);
        // Milliseconds since the epoch are far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let start_time = started as f64 / 1000.0;
        registry.register_collector(Box::new(process::Process { start_time }));
        Self { registry, families, cost_nano_usd: AtomicU64::new(0), cost_uncertain_nano_usd: AtomicU64::new(0) }
    }

    /// The exposition in the Prometheus text format ([`PROMETHEUS_TEXT`]).
    #[must_use]
    pub fn render(&self) -> String {
        text::to_prometheus(&self.render_open_metrics())
    }

    /// The exposition in the OpenMetrics text format ([`OPEN_METRICS`]).
    #[must_use]
    pub fn render_open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// A task was made durable.
    pub fn task_submitted(&self) {
        self.families.tasks_submitted.inc();
    }

    /// A task ended, whoever ended it.
    pub fn task_ended(&self, ended: &Ended) {
        let (status, duration) = (ended.status.as_str(), ended.lived);
        if ended.dead {
            self.families.dead_letters.inc();
        }
        self.families.tasks_finished.get_or_create(&name("status", status)).inc();
        self.families.task_duration.get_or_create(&name("status", status)).observe(duration.as_secs_f64());
    }

    /// A run is being driven by this process until the guard is dropped.
    #[must_use]
    pub fn run_active(&self) -> ActiveRun {
        self.families.runs_active.inc();
        ActiveRun(self.families.runs_active.clone())
    }

    /// Tasks by state, as the store counts them.
    pub fn set_counts(&self, counts: &Counts) {
        let states = [
            ("queued", counts.queued),
            ("running", counts.running),
            ("waiting", counts.waiting),
            ("dead", counts.dead),
        ];
        for (state, count) in states {
            self.families.tasks.get_or_create(&name("state", state)).set(signed(count));
        }
        self.families.outbox.set(signed(counts.outbox));
    }

    /// A lease was lost to another worker.
    pub fn lease_lost(&self) {
        self.families.leases_lost.inc();
    }

    /// A step could not go on because a budget line refused: `run`, `agent`, `tenant`, `user` or `session`.
    pub fn budget_refused(&self, line: &'static str) {
        self.families.budget_refusals.get_or_create(&name("line", line)).inc();
    }

    /// A submission was refused because of a limit, named as in `limits.rs`.
    pub fn overloaded(&self, limit: &'static str) {
        self.families.overloads.get_or_create(&name("limit", limit)).inc();
    }

    /// A model answered or failed. `provider` and `model` as configured.
    pub fn model_call(&self, provider: &str, model: &str, outcome: Result<(), ErrorKind>, duration: Duration) {
        let outcome = outcome.map_or_else(model_error, |()| "ok");
        let labels = ModelOutcome { provider: provider.to_owned(), model: model.to_owned(), outcome };
        self.families.model_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// The first piece of a streamed reply came this long after the request.
    pub fn model_first_token(&self, provider: &str, model: &str, delay: Duration) {
        let labels = ModelLabels { provider: provider.to_owned(), model: model.to_owned() };
        self.families.model_first_token.get_or_create(&labels).observe(delay.as_secs_f64());
    }

    /// A model call was settled: what it used and cost, or is taken to.
    pub fn spent(&self, provider: &str, spending: &Spending) {
        let (usage, model) = (&spending.usage, &spending.model);
        if !spending.uncertain {
            self.tokens(provider, model, usage);
            self.cost(spending.nano_usd);
            return;
        }
        for (kind, tokens) in [("input", usage.input), ("output", usage.output)] {
            let labels = TokenLabels { provider: provider.to_owned(), model: model.clone(), r#type: kind };
            self.families.tokens_uncertain.get_or_create(&labels).inc_by(tokens);
        }
        let nano_usd = spending.nano_usd;
        let total = self.cost_uncertain_nano_usd.fetch_add(nano_usd, Ordering::Relaxed).saturating_add(nano_usd);
        #[allow(clippy::cast_precision_loss, reason = "as of `cost`")]
        self.families.cost_uncertain.inner().store((total as f64 / 1e9).to_bits(), Ordering::Relaxed);
    }

    /// Tokens that were used. `input` counts cached tokens too, `output` reasoning too, as [`Usage`] does.
    pub fn tokens(&self, provider: &str, model: &str, usage: &Usage) {
        let kinds = [
            ("input", usage.input),
            ("cache_read", usage.cache_read),
            ("cache_write", usage.cache_write),
            ("output", usage.output),
            ("reasoning", usage.reasoning),
        ];
        for (kind, tokens) in kinds {
            let labels = TokenLabels { provider: provider.to_owned(), model: model.to_owned(), r#type: kind };
            self.families.tokens.get_or_create(&labels).inc_by(tokens);
        }
    }

    /// Money that was spent, nano-USD.
    pub fn cost(&self, nano_usd: u64) {
        let total = self.cost_nano_usd.fetch_add(nano_usd, Ordering::Relaxed).saturating_add(nano_usd);
        // Kept as a double for the exposition only; the exact sum is beside it.
        #[allow(clippy::cast_precision_loss)]
        self.families.cost.inner().store((total as f64 / 1e9).to_bits(), Ordering::Relaxed);
    }

    /// A call was tried again.
    pub fn retried(&self, what: Retried) {
        let what = match what {
            Retried::Model => "model",
            Retried::Tool => "tool",
        };
        self.families.retries.get_or_create(&name("call", what)).inc();
    }

    /// A circuit breaker changed.
    pub fn circuit(&self, provider: &str, model: &str, state: Circuit) {
        let labels = ModelLabels { provider: provider.to_owned(), model: model.to_owned() };
        let value = match state {
            Circuit::Closed => 0,
            Circuit::HalfOpen => 1,
            Circuit::Open => 2,
        };
        self.families.circuit.get_or_create(&labels).set(value);
    }

    /// A tool gave an answer or failed. Never call it with a name that the registry does not know.
    pub fn tool_call(&self, tool: &str, outcome: &Result<Progress, Failure>, duration: Duration) {
        let word = match outcome {
            Ok(Progress::Answered(output)) if output.is_error => "error",
            Ok(Progress::Answered(_)) => "ok",
            Ok(Progress::Suspended(_)) => "suspended",
            Err(failure) => tool_failure(failure.kind),
        };
        self.tool_outcome(tool, word);
        let labels = ToolLabels { tool: tool.to_owned() };
        self.families.tool_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// A tool's attempt ended by the caller's bound on time.
    pub fn tool_timed_out(&self, tool: &str, duration: Duration) {
        self.tool_outcome(tool, "timeout");
        let labels = ToolLabels { tool: tool.to_owned() };
        self.families.tool_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// A known tool's arguments were invalid, so nothing was sent.
    pub fn tool_arguments_invalid(&self, tool: &str) {
        self.tool_outcome(tool, "invalid");
    }

    fn tool_outcome(&self, tool: &str, outcome: &'static str) {
        self.families.tool_calls.get_or_create(&ToolOutcome { tool: tool.to_owned(), outcome }).inc();
    }

    /// An effect's outcome stays unknown: the model, and perhaps a person, is told.
    pub fn effect_unknown(&self, tool: &str) {
        self.families.effects_unknown.get_or_create(&ToolLabels { tool: tool.to_owned() }).inc();
    }

    /// A request was answered. `route` is the router's template, empty if none matched.
    pub fn http_request(&self, method: &http::Method, route: &str, status: u16, duration: Duration) {
        let labels = HttpLabels { method: method_label(method), route: route_label(route), status: class(status) };
        self.families.http_requests.get_or_create(&labels).inc();
        self.families.http_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// A stream (SSE, WebSocket) is open until the guard is dropped.
    #[must_use]
    pub fn http_stream(&self) -> ActiveRun {
        self.families.http_streams.inc();
        ActiveRun(self.families.http_streams.clone())
    }

    /// A commit was durable this long after it was handed to the store: queueing, writing and fsync.
    pub fn store_commit(&self, duration: Duration) {
        self.families.store_commit.observe(duration.as_secs_f64());
    }

    /// One group of `size` commands was written in one transaction that took this long, fsync included.
    pub fn store_group(&self, size: usize, duration: Duration) {
        self.families.store_group_size.observe(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
        self.families.store_fsync.observe(duration.as_secs_f64());
    }

    /// Commands that wait for the store's writer.
    pub fn store_queue(&self, depth: usize) {
        self.families.store_queue.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// The file of API keys: versions of it that could not be read since the start, and whether the newest is one.
    pub fn keys_file(&self, failures: u64, broken: bool) {
        self.families.keys_failures.inner().store(failures, Ordering::Relaxed);
        self.families.keys_broken.set(broken.into());
    }

    /// A log line was dropped because the output did not take it in time.
    pub fn log_line_dropped(&self) {
        self.families.log_dropped.inc();
    }

    /// Spans that were exported or dropped.
    pub fn spans(&self, result: &'static str, spans: u64) {
        self.families.spans.get_or_create(&name("result", result)).inc_by(spans);
    }
}

/// Counts down when dropped.
#[derive(Debug)]
pub struct ActiveRun(prometheus_client::metrics::gauge::Gauge);

impl Drop for ActiveRun {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn model_error(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::Broken => "broken",
        ErrorKind::Aborted => "aborted",
        ErrorKind::EmptyReply => "empty_reply",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::ContextLength => "context_length",
        ErrorKind::Rejected => "rejected",
        ErrorKind::CircuitOpen => "circuit_open",
    }
}

pub(super) fn tool_failure(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::NotSent => "not_sent",
        FailureKind::Refused => "refused",
        FailureKind::Unknown => "unknown",
        FailureKind::Forbidden => "forbidden",
    }
}

/// Anybody may send any method: the label knows nine.
fn method_label(method: &http::Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("OTHER")
}

fn route_label(route: &str) -> String {
    if route.is_empty() { "none".to_owned() } else { route.to_owned() }
}

fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
