//! What a sandbox uses, as E2B tells it: shares of processors, bytes of memory and disk; now, and as it was measured before.
//!
//! A history is kept while the sandbox is there, through pauses, and not through a restart of the daemon. It covers the whole
//! life of the sandbox since then: where it is full, every second point is dropped, and the next ones come half as often.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::spec::Spec;
use tokio::time::MissedTickBehavior;

use super::{E2b, query};
use crate::clock::UnixMs;
use crate::limits::{METRICS_ASKED_AT_ONCE, METRICS_POINT_FRESH, METRICS_POINTS_MAX, METRICS_SAMPLE_EVERY};

/// One point.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub(super) at_ms: UnixMs,
    pub(super) cpu_count: u32,
    pub(super) cpu_used_pct: f64,
    pub(super) memory_total: u64,
    pub(super) memory_used: u64,
    pub(super) disk_total: u64,
    pub(super) disk_used: u64,
}

/// A span of time that is asked for, in seconds since the epoch, both ends in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    start_s: Option<u64>,
    end_s: Option<u64>,
}

impl Span {
    /// Of `start` and `end` in a query.
    ///
    /// # Errors
    /// `invalid`, naming the field.
    pub(super) fn of(query: Option<&str>) -> Result<Self, Failure> {
        let seconds = |name: &str| {
            let text = query::value(query, name).filter(|text| !text.is_empty());
            let parsed = text.map(|text| text.parse::<i64>());
            // Before the epoch there was nothing.
            parsed.transpose().map(|seconds| seconds.map(|seconds| u64::try_from(seconds).unwrap_or(0)))
        };
        let wrong = |name: &str| Failure::invalid(name, "it must be a number of seconds since the epoch");
        let span = Self {
            start_s: seconds("start").map_err(|_| wrong("start"))?,
            end_s: seconds("end").map_err(|_| wrong("end"))?,
        };
        match (span.start_s, span.end_s) {
            (Some(start), Some(end)) if start > end => {
                Err(Failure::invalid("start", "start time cannot be after end time"))
            }
            _ => Ok(span),
        }
    }

    fn holds(self, at_ms: UnixMs) -> bool {
        let second = at_ms / 1000;
        self.start_s.is_none_or(|start| second >= start) && self.end_s.is_none_or(|end| second <= end)
    }
}

/// What a share of processor time is measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Base {
    at_ms: UnixMs,
    cpu_us: u64,
}

impl Base {
    /// Percent of one processor since then, in hundredths.
    fn share(self, now_ms: UnixMs, cpu_us: u64) -> f64 {
        // The count begins anew with the first process.
        let used_us = cpu_us.checked_sub(self.cpu_us).unwrap_or(cpu_us);
        let passed_us = now_ms.saturating_sub(self.at_ms).saturating_mul(1000);
        if passed_us == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a percentage needs no 53 bits")]
        let share = used_us as f64 * 100.0 / passed_us as f64;
        (share * 100.0).round() / 100.0
    }
}

/// What was measured of one sandbox.
#[derive(Debug)]
struct History {
    base: Base,
    points: Vec<Measured>,
    every: Duration,
}

impl History {
    fn new(created_ms: UnixMs) -> Self {
        Self { base: Base { at_ms: created_ms, cpu_us: 0 }, points: Vec::new(), every: METRICS_SAMPLE_EVERY }
    }

    /// Takes a point, where it is time for one.
    fn push(&mut self, point: Measured, cpu_us: u64) {
        // A round of samples comes a little early or late.
        let least_ms = self.every.saturating_sub(METRICS_SAMPLE_EVERY / 2).as_millis();
        let since_ms = self.points.last().map(|last| u128::from(point.at_ms.saturating_sub(last.at_ms)));
        if since_ms.is_some_and(|since_ms| since_ms < least_ms) {
            return;
        }
        self.base = Base { at_ms: point.at_ms, cpu_us };
        if self.points.len() >= METRICS_POINTS_MAX {
            let mut is_kept = false;
            self.points.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.every *= 2;
        }
        self.points.push(point);
    }
}

/// What was measured of each sandbox.
#[derive(Debug, Default)]
pub(super) struct Meter {
    histories: Mutex<HashMap<String, History>>,
}

impl Meter {
    fn histories(&self) -> MutexGuard<'_, HashMap<String, History>> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self, id: &str, created_ms: UnixMs) -> Base {
        self.histories().get(id).map_or(Base { at_ms: created_ms, cpu_us: 0 }, |history| history.base)
    }

    fn keep(&self, id: &str, created_ms: UnixMs, point: Measured, cpu_us: u64) {
        self.histories().entry(id.to_owned()).or_insert_with(|| History::new(created_ms)).push(point, cpu_us);
    }

    /// A sandbox stands still: the time until it goes on is no time in which it could have used anything.
    fn rest(&self, id: &str, now_ms: UnixMs) {
        if let Some(history) = self.histories().get_mut(id) {
            history.base.at_ms = now_ms;
        }
    }

    fn told(&self, id: &str, span: Span) -> Vec<Measured> {
        let histories = self.histories();
        let points = histories.get(id).into_iter().flat_map(|history| &history.points);
        points.filter(|point| span.holds(point.at_ms)).cloned().collect()
    }

    fn newest(&self, id: &str) -> Option<Measured> {
        self.histories().get(id).and_then(|history| history.points.last().cloned())
    }

    fn forget_all_but(&self, ids: &[String]) {
        let there: std::collections::HashSet<&String> = ids.iter().collect();
        self.histories().retain(|id, _| there.contains(id));
    }
}

/// Processors and bytes of memory and disk that a sandbox may use.
pub(super) fn bounds(spec: &Spec) -> (u32, u64, u64) {
    let resources = &spec.resources;
    let cpus = resources.cpu_milli.unwrap_or(1000).div_ceil(1000).max(1);
    (cpus, resources.memory.unwrap_or(0), resources.disk.unwrap_or(0))
}

/// What a sandbox uses now, its processor time, and when it was made.
async fn take(e2b: &E2b, id: &str) -> Result<(Measured, u64, UnixMs), Failure> {
    let sandboxes = &e2b.api.sandboxes;
    let usage = sandboxes.usage(id).await?;
    let (spec, told, at_ms) = (sandboxes.spec(id)?, sandboxes.get(id)?, sandboxes.clock().now_ms());
    let (cpu_count, memory, disk) = bounds(&spec);
    let point = Measured {
        at_ms,
        cpu_count,
        cpu_used_pct: e2b.meter.base(id, told.created_ms).share(at_ms, usage.cpu_us),
        memory_total: if usage.memory_bytes_max > 0 { usage.memory_bytes_max } else { memory },
        memory_used: usage.memory_bytes,
        disk_total: usage.disk_bytes_max.unwrap_or(disk),
        disk_used: usage.disk_bytes.unwrap_or(0),
    };
    Ok((point, usage.cpu_us, told.created_ms))
}

/// What a sandbox uses now: as it was measured last, where that was just now or the sandbox stands still since.
///
/// # Errors
/// `not_found`, `gone`, or the substrate's.
pub(super) async fn measure(e2b: &E2b, id: &str) -> Result<Measured, Failure> {
    let state = e2b.api.sandboxes.get(id)?.state;
    if let Some(newest) = e2b.meter.newest(id) {
        let age_ms = u128::from(e2b.api.sandboxes.clock().now_ms().saturating_sub(newest.at_ms));
        if state == State::Paused || age_ms < METRICS_POINT_FRESH.as_millis() {
            return Ok(newest);
        }
    }
    take(e2b, id).await.map(|(point, ..)| point)
}

/// What a sandbox used in a span of time, the present included.
///
/// # Errors
/// `not_found`, `gone`, or the substrate's.
pub(super) async fn history(e2b: &E2b, id: &str, span: Span) -> Result<Vec<Measured>, Failure> {
    let now = measure(e2b, id).await?;
    let mut points = e2b.meter.told(id, span);
    if span.holds(now.at_ms) && points.last().is_none_or(|last| last.at_ms < now.at_ms) {
        points.push(now);
    }
    Ok(points)
}

/// Measures every sandbox that runs, again and again.
pub(super) async fn keep(e2b: E2b) {
    let mut ticks = tokio::time::interval(METRICS_SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ids = e2b.api.sandboxes.ids();
        e2b.meter.forget_all_but(&ids);
        futures_util::stream::iter(ids).for_each_concurrent(METRICS_ASKED_AT_ONCE, |id| sample(&e2b, id)).await;
    }
}

async fn sample(e2b: &E2b, id: String) {
    match e2b.api.sandboxes.get(&id).map(|sandbox| sandbox.state) {
        Ok(state) if state.is_usable() => {
            // One that ends meanwhile has no use for a point.
            if let Ok((point, cpu_us, created_ms)) = take(e2b, &id).await {
                e2b.meter.keep(&id, created_ms, point, cpu_us);
            }
        }
        Ok(State::Paused) => e2b.meter.rest(&id, e2b.api.sandboxes.clock().now_ms()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_ms: UnixMs) -> Measured {
        Measured {
            at_ms,
            cpu_count: 1,
            cpu_used_pct: 0.0,
            memory_total: 2,
            memory_used: 1,
            disk_total: 2,
            disk_used: 1,
        }
    }

    fn span(query: &str) -> Span {
        Span::of(Some(query)).unwrap()
    }

    #[test]
    fn a_share_is_of_the_time_between_two_points() {
        let base = Base { at_ms: 1000, cpu_us: 500_000 };
        assert!((base.share(2000, 2_500_000) - 200.0).abs() < 0.01);
        assert!(base.share(1000, 2_500_000).abs() < 0.01);
        // A first process that started anew counts from nothing.
        assert!((base.share(2000, 100_000) - 10.0).abs() < 0.01);
    }

    #[test]
    fn a_span_holds_both_of_its_seconds_and_a_wrong_one_is_named() {
        let both = span("start=10&end=12");
        let held: Vec<u64> = [9_999, 10_000, 11_500, 12_999, 13_000].into_iter().filter(|ms| both.holds(*ms)).collect();
        assert_eq!(held, [10_000, 11_500, 12_999]);
        assert!(span("start=10").holds(99_000) && !span("end=10").holds(11_000) && span("").holds(0));
        assert!(span("start=-5").holds(0));
        for (query, field) in [("start=x", "start"), ("end=1.5", "end"), ("start=2&end=1", "start")] {
            assert_eq!(Span::of(Some(query)).unwrap_err().context["field"], field, "{query}");
        }
    }

    #[test]
    fn a_history_that_is_full_covers_the_same_time_in_half_the_points() {
        let meter = Meter::default();
        let every_ms = u64::try_from(METRICS_SAMPLE_EVERY.as_millis()).unwrap();
        let rounds = u64::try_from(METRICS_POINTS_MAX * 4).unwrap();
        for round in 0..rounds {
            meter.keep("a", 0, point(round * every_ms), 0);
        }
        let told = meter.told("a", Span::default());
        assert!((METRICS_POINTS_MAX / 2..=METRICS_POINTS_MAX).contains(&told.len()), "{}", told.len());
        assert_eq!(told[0].at_ms, 0, "the beginning stays");
        assert!(told.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
        assert!(rounds * every_ms - told.last().unwrap().at_ms <= 4 * every_ms, "the end is there");
        let later = meter.told("a", span(&format!("start={}", rounds * every_ms / 2000)));
        assert!(!later.is_empty() && later.len() < told.len());
    }

    #[test]
    fn time_at_rest_does_not_count_and_a_sandbox_that_is_gone_is_forgotten() {
        let meter = Meter::default();
        meter.keep("a", 0, point(1000), 1_000_000);
        meter.rest("a", 100_000);
        assert!((meter.base("a", 0).share(101_000, 2_000_000) - 100.0).abs() < 0.01);
        assert_eq!(meter.told("a", Span::default()).len(), 1, "the history stays through a pause");
        meter.forget_all_but(&["b".to_owned()]);
        assert!(meter.told("a", Span::default()).is_empty());
    }
}
