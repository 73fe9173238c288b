//! Metrics for Prometheus: what the daemon did, how long it took, and what each sandbox uses.
//!
//! Of sandboxes only the first [`METRICS_SANDBOXES_MAX`] by id have series of their own; the sums are of all. What they use is
//! measured when it is asked for, and seldom: for every scraper at once. It keeps no history: a scraper does.

use std::fmt::Write as _;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::request::Usage;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::lifecycle::{Filter, Sandboxes};
use crate::limits::{METRICS_ASKED_AT_ONCE, METRICS_FRESH, METRICS_FRESH_OPEN, METRICS_SANDBOXES_MAX};
use crate::network::Network;

/// Labels of a request. The route is the pattern, so that there are no more of them than routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
}

/// The format that every scraper reads.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The format that newer ones ask for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// No sandbox by its id: for anybody.
    Sums,
    /// Sandboxes one by one, too.
    Sandboxes,
}

/// What sandboxes use, by id.
type Usages = Arc<[(String, Usage)]>;

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// What was measured last, and when. Held while it is measured: nobody measures twice at a time.
    measured: Mutex<Option<(Instant, Usages)>>,
}

impl Metrics {
    /// Registers what the lifecycle measures and what the network boundary refuses, beside what is counted here.
    #[must_use]
    pub fn new(sandboxes: &Sandboxes, network: &Network) -> Self {
        let mut registry = Registry::with_prefix("mote_sandbox");
        let requests = Family::default();
        registry.register("http_requests", "Requests by route, method and status", requests.clone());
        registry.register(
            "operation_duration_seconds",
            "How long operations of the lifecycle took that succeeded",
            sandboxes.durations().0.clone(),
        );
        let refusals = network.refusals().clone();
        registry.register("network_refusals", "What the network boundary refused, by kind and reason", refusals);
        registry.register(
            "refill_failures",
            "Times that nothing could be got ready for sandboxes to come",
            sandboxes.refills().0.clone(),
        );
        Self { registry, requests, measured: Mutex::default() }
    }

    /// Counts a request. Anybody may send any method: the label knows nine.
    pub fn request(&self, route: Option<&str>, method: &http::Method, status: u16) {
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
        let method = known.into_iter().find(|name| *name == method.as_str()).unwrap_or("OTHER");
        let labels = RequestLabels { route: route.unwrap_or("none").to_owned(), method, status };
        self.requests.get_or_create(&labels).inc();
    }

    /// Everything and its media type: the OpenMetrics text format 1.0 where it is accepted, else the Prometheus text
    /// format 0.0.4.
    ///
    /// # Errors
    /// `internal` where it cannot be written.
    pub async fn exposition(
        &self,
        sandboxes: &Sandboxes,
        detail: Detail,
        open_metrics: bool,
    ) -> Result<(String, &'static str), Failure> {
        let text = self.open_metrics(sandboxes, detail).await?;
        Ok(if open_metrics { (text, OPEN_METRICS) } else { (super::text::prometheus(&text), PROMETHEUS) })
    }

    async fn open_metrics(&self, sandboxes: &Sandboxes, detail: Detail) -> Result<String, Failure> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode_registry(&mut text, &self.registry)
            .map_err(|error| Failure::new(Code::Internal, format!("failed to write the metrics: {error}")))?;
        let states = sandboxes.counts();
        family(&mut text, "sandboxes", "gauge", "Sandboxes by state");
        for state in State::ALL {
            let count = states.get(&state).copied().unwrap_or(0);
            let _ = writeln!(text, "mote_sandbox_sandboxes{{state=\"{state}\"}} {count}");
        }
        family(&mut text, "warm", "gauge", "Sandboxes that wait in the warm pool");
        let _ = writeln!(text, "mote_sandbox_warm {}", sandboxes.warm().0);
        per_sandbox(&mut text, &self.usages(sandboxes, detail).await, detail);
        text.push_str("# EOF\n");
        Ok(text)
    }

    /// What every living sandbox uses: as it was measured a moment ago, or measured now. Somebody without a key makes the
    /// daemon measure less often.
    async fn usages(&self, sandboxes: &Sandboxes, detail: Detail) -> Usages {
        let fresh = match detail {
            Detail::Sandboxes => METRICS_FRESH,
            Detail::Sums => METRICS_FRESH_OPEN,
        };
        let mut measured = self.measured.lock().await;
        if let Some((at, usages)) = &*measured
            && at.elapsed() < fresh
        {
            return Arc::clone(usages);
        }
        let filter = Filter { states: alive(), limit: usize::MAX, ..Filter::default() };
        let (mut listed, _) = sandboxes.list(&filter);
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        let asked = listed.into_iter().map(|sandbox| async move {
            let usage = sandboxes.usage(&sandbox.id).await.ok()?;
            Some((sandbox.id, usage))
        });
        let usages: Vec<_> =
            stream::iter(asked).buffered(METRICS_ASKED_AT_ONCE).filter_map(std::future::ready).collect().await;
        let usages: Usages = usages.into();
        *measured = Some((Instant::now(), Arc::clone(&usages)));
        usages
    }
}

fn alive() -> Vec<State> {
    vec![State::Running, State::Pausing, State::Paused, State::Resuming, State::Snapshotting, State::Forking]
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP mote_sandbox_{name} {help}.\n# TYPE mote_sandbox_{name} {kind}");
}

/// One figure of a sandbox's use.
struct Figure {
    name: &'static str,
    is_counter: bool,
    help: &'static str,
    of: fn(&Usage) -> Option<u64>,
    /// Of these the figure tells make one of the unit in its name.
    per_unit: u64,
}

const fn figure(name: &'static str, help: &'static str, of: fn(&Usage) -> Option<u64>) -> Figure {
    Figure { name, is_counter: false, help, of, per_unit: 1 }
}

const fn counter(name: &'static str, help: &'static str, of: fn(&Usage) -> Option<u64>) -> Figure {
    Figure { name, is_counter: true, help, of, per_unit: 1 }
}

const FIGURES: [Figure; 9] = [
    Figure { per_unit: 1_000_000, ..counter("cpu_seconds", "CPU time", |usage| Some(usage.cpu_us)) },
    Figure {
        per_unit: 1_000_000,
        ..counter("cpu_throttled_seconds", "Time held back by the bound on the CPU", |usage| {
            Some(usage.cpu_throttled_us)
        })
    },
    figure("memory_bytes", "Memory in use", |usage| Some(usage.memory_bytes)),
    figure("memory_limit_bytes", "Bound of the memory", |usage| Some(usage.memory_bytes_max)),
    figure("pids", "Processes and threads", |usage| Some(usage.pids)),
    counter("oom_kills", "Times that the kernel ended a process for memory", |usage| Some(usage.oom_kills)),
    figure("disk_bytes", "Bytes of its own filesystem in use", |usage| usage.disk_bytes),
    counter("network_sent_bytes", "Bytes sent through the proxy", |usage| Some(usage.sent_bytes)),
    counter("network_received_bytes", "Bytes received through the proxy", |usage| Some(usage.received_bytes)),
];

/// A figure in its unit, exactly.
fn scaled(value: u64, per_unit: u64) -> String {
    match per_unit {
        1 => value.to_string(),
        _ => format!("{}.{:06}", value / per_unit, value % per_unit),
    }
}

fn per_sandbox(text: &mut String, usages: &[(String, Usage)], detail: Detail) {
    let shown = if detail == Detail::Sandboxes { METRICS_SANDBOXES_MAX } else { 0 };
    for Figure { name, is_counter, help, of, per_unit } in FIGURES {
        let suffix = if is_counter { "_total" } else { "" };
        family(text, name, if is_counter { "counter" } else { "gauge" }, help);
        for (id, usage) in usages.iter().take(shown) {
            if let Some(value) = of(usage).map(|value| scaled(value, per_unit)) {
                let _ = writeln!(text, "mote_sandbox_{name}{suffix}{{sandbox=\"{id}\"}} {value}");
            }
        }
        family(text, &format!("all_{name}"), "gauge", &format!("{help}, of all living sandboxes"));
        let sum = scaled(usages.iter().filter_map(|(_, usage)| of(usage)).sum(), per_unit);
        let _ = writeln!(text, "mote_sandbox_all_{name} {sum}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_sums_are_not() {
        let usage = Usage { pids: 1, cpu_us: 1_500_001, ..Usage::default() };
        let usages: Vec<_> = (0..METRICS_SANDBOXES_MAX + 7).map(|at| (format!("sb{at}"), usage.clone())).collect();
        let mut text = String::new();
        per_sandbox(&mut text, &usages, Detail::Sandboxes);
        assert_eq!(text.matches("mote_sandbox_pids{").count(), METRICS_SANDBOXES_MAX);
        assert!(text.contains(&format!("mote_sandbox_all_pids {}", METRICS_SANDBOXES_MAX + 7)));
        assert!(text.contains("\nmote_sandbox_cpu_seconds_total{sandbox=\"sb0\"} 1.500001\n"), "{text}");
    }
}
