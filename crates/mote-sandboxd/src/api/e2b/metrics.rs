//! What a sandbox uses, as E2B tells it: shares of processors, bytes of memory and disk.
//!
//! It keeps no history: one point is told, now. A share of processor time is measured between two questions.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mote_sandbox_api::error::Failure;

use super::E2b;
use crate::clock::UnixMs;
use crate::limits::SANDBOXES_MAX;

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

/// The processor time of each sandbox when it was asked last.
#[derive(Debug, Default)]
pub(super) struct Meter {
    last: Mutex<HashMap<String, (UnixMs, u64)>>,
}

impl Meter {
    /// Percent of one processor since the last time; since the creation at the first.
    fn share(&self, id: &str, created_ms: UnixMs, now_ms: UnixMs, cpu_us: u64) -> f64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= SANDBOXES_MAX {
            last.clear();
        }
        let before = last.insert(id.to_owned(), (now_ms, cpu_us)).filter(|(_, used)| *used <= cpu_us);
        let (then_ms, then_us) = before.unwrap_or((created_ms, 0));
        let passed_us = now_ms.saturating_sub(then_ms).saturating_mul(1000);
        if passed_us == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a percentage needs no 53 bits")]
        let share = (cpu_us - then_us) as f64 * 100.0 / passed_us as f64;
        (share * 100.0).round() / 100.0
    }
}

/// Processors and bytes of memory and disk that a sandbox may use.
pub(super) fn bounds(spec: &mote_sandbox_api::spec::Spec) -> (u32, u64, u64) {
    let resources = &spec.resources;
    let cpus = resources.cpu_milli.unwrap_or(1000).div_ceil(1000).max(1);
    (cpus, resources.memory.unwrap_or(0), resources.disk.unwrap_or(0))
}

/// What a sandbox uses now.
pub(super) async fn measure(e2b: &E2b, id: &str) -> Result<Measured, Failure> {
    let sandboxes = &e2b.api.sandboxes;
    let usage = sandboxes.usage(id).await?;
    let (spec, told, at_ms) = (sandboxes.spec(id)?, sandboxes.get(id)?, sandboxes.clock().now_ms());
    let (cpu_count, memory, disk) = bounds(&spec);
    Ok(Measured {
        at_ms,
        cpu_count,
        cpu_used_pct: e2b.meter.share(id, told.created_ms, at_ms, usage.cpu_us),
        memory_total: if usage.memory_bytes_max > 0 { usage.memory_bytes_max } else { memory },
        memory_used: usage.memory_bytes,
        disk_total: usage.disk_bytes_max.unwrap_or(disk),
        disk_used: usage.disk_bytes.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_time_between_two_questions() {
        let meter = Meter::default();
        assert!((meter.share("a", 0, 1000, 500_000) - 50.0).abs() < 0.01);
        assert!((meter.share("a", 0, 2000, 2_500_000) - 200.0).abs() < 0.01);
        assert!(meter.share("a", 0, 2000, 2_500_000).abs() < 0.01);
    }
}
