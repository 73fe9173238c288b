//! Back-off: when an attempt may follow a failed one. The driver only sleeps.

use crate::{Limits, Time};

/// When attempt `failed + 1` may begin: exponential with equal jitter (half fixed, half random), and never before the
/// endpoint's `Retry-After`.
pub(crate) fn next_attempt_at(limits: &Limits, now: Time, failed: u16, jitter: u16, retry_after_ms: u32) -> Time {
    let doublings = u32::from(failed.saturating_sub(1)).min(31);
    let backoff = u64::from(limits.backoff_ms) << doublings;
    let backoff = backoff.min(u64::from(limits.backoff_ms_max));
    let half = backoff / 2;
    let random = (half * u64::from(jitter)) >> 16;
    now.saturating_add((half + random).max(u64::from(retry_after_ms)))
}
