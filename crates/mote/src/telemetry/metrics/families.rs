//! The metrics by name: what is registered, with which labels and buckets.
//!
//! It holds no rule on when to count; [`super::Metrics`] does. docs/observability.md lists the same names.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

pub(super) type Name = [(&'static str, &'static str); 1];
pub(super) type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// A single label whose values are in the program.
pub(super) fn name(label: &'static str, value: &'static str) -> Name {
    [(label, value)]
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ModelLabels {
    pub(super) provider: String,
    pub(super) model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ModelOutcome {
    pub(super) provider: String,
    pub(super) model: String,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct TokenLabels {
    pub(super) provider: String,
    pub(super) model: String,
    pub(super) r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ToolLabels {
    pub(super) tool: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct ToolOutcome {
    pub(super) tool: String,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct HttpLabels {
    pub(super) method: &'static str,
    pub(super) route: String,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: String,
}

#[derive(Debug)]
pub(super) struct Families {
    pub(super) tasks_submitted: Counter,
    pub(super) tasks_finished: Family<Name, Counter>,
    pub(super) task_duration: Histograms<Name>,
    pub(super) tasks: Family<Name, Gauge>,
    pub(super) runs_active: Gauge,
    pub(super) outbox: Gauge,
    pub(super) leases_lost: Counter,
    pub(super) dead_letters: Counter,
    pub(super) budget_refusals: Family<Name, Counter>,
    pub(super) overloads: Family<Name, Counter>,
    pub(super) model_duration: Histograms<ModelOutcome>,
    pub(super) model_first_token: Histograms<ModelLabels>,
    pub(super) tokens: Family<TokenLabels, Counter>,
    pub(super) tokens_uncertain: Family<TokenLabels, Counter>,
    pub(super) cost: Counter<f64, AtomicU64>,
    pub(super) cost_uncertain: Counter<f64, AtomicU64>,
    pub(super) retries: Family<Name, Counter>,
    pub(super) circuit: Family<ModelLabels, Gauge>,
    pub(super) tool_calls: Family<ToolOutcome, Counter>,
    pub(super) tool_duration: Histograms<ToolLabels>,
    pub(super) effects_unknown: Family<ToolLabels, Counter>,
    pub(super) http_requests: Family<HttpLabels, Counter>,
    pub(super) http_duration: Histograms<HttpLabels>,
    pub(super) http_streams: Gauge,
    pub(super) keys_failures: Counter,
    pub(super) keys_broken: Gauge,
    pub(super) store_commit: Histogram,
    pub(super) store_group_size: Histogram,
    pub(super) store_fsync: Histogram,
    pub(super) store_queue: Gauge,
    pub(super) log_dropped: Counter,
    pub(super) spans: Family<Name, Counter>,
}

/// The buckets of the GenAI semantic conventions: 0.01 to 81.92 s, doubling.
fn call_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 14))
}

/// From an instant answer to a week: tasks wait for people.
fn task_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 4.0, 12))
}

/// 1 ms to 16 s: requests end with the response's head.
fn request_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// 0.1 ms to 3.3 s.
fn disk_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

impl Families {
    pub(super) fn register(registry: &mut Registry, version: &str) -> Self {
        let families = Self {
            tasks_submitted: Counter::default(),
            tasks_finished: Family::default(),
            task_duration: Family::new_with_constructor(task_seconds),
            tasks: Family::default(),
            runs_active: Gauge::default(),
            outbox: Gauge::default(),
            leases_lost: Counter::default(),
            dead_letters: Counter::default(),
            budget_refusals: Family::default(),
            overloads: Family::default(),
            model_duration: Family::new_with_constructor(call_seconds),
            model_first_token: Family::new_with_constructor(call_seconds),
            tokens: Family::default(),
            tokens_uncertain: Family::default(),
            cost: Counter::default(),
            cost_uncertain: Counter::default(),
            retries: Family::default(),
            circuit: Family::default(),
            tool_calls: Family::default(),
            tool_duration: Family::new_with_constructor(call_seconds),
            effects_unknown: Family::default(),
            http_requests: Family::default(),
            http_duration: Family::new_with_constructor(request_seconds),
            http_streams: Gauge::default(),
            keys_failures: Counter::default(),
            keys_broken: Gauge::default(),
            store_commit: disk_seconds(),
            store_group_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            store_fsync: disk_seconds(),
            store_queue: Gauge::default(),
            log_dropped: Counter::default(),
            spans: Family::default(),
        };
        let build: Family<BuildLabels, Gauge> = Family::default();
        build.get_or_create(&BuildLabels { version: version.to_owned() }).set(1);
        registry.register("mote_build_info", "Version of this process; always 1", build);
        families.register_runs(registry);
        families.register_calls(registry);
        families.register_service(registry);
        families
    }

    fn register_runs(&self, to: &mut Registry) {
        to.register("mote_tasks_submitted", "Tasks made durable", self.tasks_submitted.clone());
        to.register("mote_tasks_finished", "Tasks that reached a final status", self.tasks_finished.clone());
        let help = "Time from submission to the final status, waits included";
        to.register_with_unit("mote_task_duration", help, Unit::Seconds, self.task_duration.clone());
        to.register("mote_tasks", "Tasks in the store by state; dead counts dead letters", self.tasks.clone());
        to.register("mote_runs_active", "Runs that this process drives now", self.runs_active.clone());
        to.register("mote_outbox_messages", "Events not yet delivered to their sink", self.outbox.clone());
        to.register("mote_leases_lost", "Leases lost to another worker", self.leases_lost.clone());
        to.register("mote_dead_letters", "Tasks that went to the dead letters", self.dead_letters.clone());
        let help = "Steps that a budget line refused";
        to.register("mote_budget_refusals", help, self.budget_refusals.clone());
        to.register("mote_overloads", "Submissions refused because of a limit", self.overloads.clone());
    }

    fn register_calls(&self, to: &mut Registry) {
        let help = "Duration of one attempt at a model call";
        to.register_with_unit("mote_model_call_duration", help, Unit::Seconds, self.model_duration.clone());
        let help = "Time from a model request to the first piece of its reply";
        to.register_with_unit("mote_model_first_token", help, Unit::Seconds, self.model_first_token.clone());
        let help = "Tokens; input includes cache_read and cache_write, output includes reasoning";
        to.register("mote_model_tokens", help, self.tokens.clone());
        let help = "Tokens that calls may have used of which nobody said it: lost, cut off, failed";
        to.register("mote_model_tokens_uncertain", help, self.tokens_uncertain.clone());
        to.register("mote_cost_usd", "Money spent on model calls at configured prices", self.cost.clone());
        let help = "Money that calls may have cost of which nobody said it";
        to.register("mote_cost_uncertain_usd", help, self.cost_uncertain.clone());
        to.register("mote_retries", "Calls that were tried again", self.retries.clone());
        let help = "Circuit breaker of a model endpoint: 0 closed, 1 half open, 2 open";
        to.register("mote_model_circuit_state", help, self.circuit.clone());
        to.register("mote_tool_calls", "Attempts at tool calls by outcome", self.tool_calls.clone());
        let help = "Duration of one attempt at a tool call";
        to.register_with_unit("mote_tool_call_duration", help, Unit::Seconds, self.tool_duration.clone());
        let help = "Effects whose outcome stays unknown";
        to.register("mote_effects_outcome_unknown", help, self.effects_unknown.clone());
    }

    fn register_service(&self, to: &mut Registry) {
        to.register("mote_http_requests", "Requests answered", self.http_requests.clone());
        let help = "Time from a request to the head of its response";
        to.register_with_unit("mote_http_request_duration", help, Unit::Seconds, self.http_duration.clone());
        to.register("mote_http_streams_open", "Open event streams", self.http_streams.clone());
        let help = "Versions of the keys file that could not be read; the keys before them stayed in force";
        to.register("mote_keys_file_failures", help, self.keys_failures.clone());
        let help = "1 while the newest version of the keys file cannot be read";
        to.register("mote_keys_file_broken", help, self.keys_broken.clone());
        let help = "Time from handing a commit to the store to its durability";
        to.register_with_unit("mote_store_commit_duration", help, Unit::Seconds, self.store_commit.clone());
        let help = "Commands written in one transaction";
        to.register("mote_store_group_size", help, self.store_group_size.clone());
        let help = "Time of one transaction's commit, fsync included";
        to.register_with_unit("mote_store_fsync_duration", help, Unit::Seconds, self.store_fsync.clone());
        to.register("mote_store_queue_depth", "Commands that wait for the writer", self.store_queue.clone());
        let help = "Log lines dropped because the output did not take them in time";
        to.register("mote_log_lines_dropped", help, self.log_dropped.clone());
        to.register("mote_spans", "Spans by what became of them: exported, dropped, failed", self.spans.clone());
    }
}
