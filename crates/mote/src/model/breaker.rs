//! A circuit breaker: closed until an endpoint fails several times in a row, then open for a while, then half-open for
//! one probe.
//!
//! It is a value that is told the time; it reads no clock, holds no lock and starts nothing.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::limits::{BREAKER_FAILURES, BREAKER_OPEN_MS, BREAKER_OPEN_MS_MAX};

/// Where a circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Calls go through.
    Closed,
    /// No call goes through before `until`.
    Open {
        /// Milliseconds since the Unix epoch.
        until: UnixMs,
    },
    /// The time is over; one call may probe, or is probing.
    HalfOpen {
        /// Whether the probe is under way.
        probing: bool,
    },
}

/// Leave to call: to be handed back by [`Breaker::succeed`], [`Breaker::fail`] or [`Breaker::abandon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Whether this call is the probe of a half-open circuit.
    pub probe: bool,
}

/// One endpoint's circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// Failures in a row.
    failures: u32,
    /// How long it stayed open the last time, milliseconds.
    open_ms: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, failures: 0, open_ms: 0 }
    }
}

impl Breaker {
    /// Where it stands at `now`.
    #[must_use]
    pub fn state(&self, now: UnixMs) -> State {
        match self.state {
            State::Open { until } if now >= until => State::HalfOpen { probing: false },
            other => other,
        }
    }

    /// Whether a call would be let through now.
    #[must_use]
    pub fn permits(&self, now: UnixMs) -> bool {
        matches!(self.state(now), State::Closed | State::HalfOpen { probing: false })
    }

    /// Leave to call now, if there is any.
    pub fn permit(&mut self, now: UnixMs) -> Option<Permit> {
        match self.state(now) {
            State::Closed => Some(Permit { probe: false }),
            State::HalfOpen { probing: false } => {
                self.state = State::HalfOpen { probing: true };
                Some(Permit { probe: true })
            }
            State::HalfOpen { probing: true } | State::Open { .. } => None,
        }
    }

    /// The endpoint answered as it should, or refused the request itself: it works.
    pub fn succeed(&mut self, permit: Permit) {
        // A call from before the circuit opened says nothing about now; only the probe closes it.
        if permit.probe || self.state == State::Closed {
            *self = Self::default();
        }
    }

    /// The endpoint failed; it may have asked to be left alone for a time.
    pub fn fail(&mut self, permit: Permit, now: UnixMs, retry_after: Option<Duration>) {
        if !permit.probe && self.state != State::Closed {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if !permit.probe && self.failures < BREAKER_FAILURES {
            return;
        }
        let asked = retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self.open_ms = self.open_ms.saturating_mul(2).clamp(BREAKER_OPEN_MS, BREAKER_OPEN_MS_MAX);
        let open_ms = self.open_ms.max(asked).min(BREAKER_OPEN_MS_MAX);
        self.state = State::Open { until: now.saturating_add(open_ms) };
    }

    /// The call was given up before anything was known: a probe's place is free again.
    pub fn abandon(&mut self, permit: Permit) {
        if permit.probe && self.state == (State::HalfOpen { probing: true }) {
            self.state = State::HalfOpen { probing: false };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMs = 1_000_000;

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..BREAKER_FAILURES {
            let permit = breaker.permit(NOW).unwrap();
            breaker.fail(permit, NOW, None);
        }
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_and_probes_once_after_a_while() {
        let mut breaker = opened();
        assert_eq!(breaker.permit(NOW + BREAKER_OPEN_MS - 1), None);
        let probe = breaker.permit(NOW + BREAKER_OPEN_MS).unwrap();
        assert!(probe.probe);
        assert_eq!(breaker.permit(NOW + BREAKER_OPEN_MS), None, "one probe at a time");
        breaker.succeed(probe);
        assert_eq!(breaker.state(NOW), State::Closed);
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 1..BREAKER_FAILURES {
                breaker.fail(Permit { probe: false }, NOW, None);
            }
            breaker.succeed(Permit { probe: false });
        }
        assert_eq!(breaker.state(NOW), State::Closed);
    }

    #[test]
    fn failed_probes_double_the_time_up_to_a_bound() {
        let mut breaker = opened();
        let (mut now, mut last) = (NOW, BREAKER_OPEN_MS);
        for _ in 0..12 {
            let State::Open { until } = breaker.state else { unreachable!("it is open") };
            last = until - now;
            now = until;
            let probe = breaker.permit(now).unwrap();
            breaker.fail(probe, now, None);
        }
        assert_eq!(last, BREAKER_OPEN_MS_MAX);
    }

    #[test]
    fn the_endpoints_own_wait_counts_within_the_bound() {
        let mut breaker = opened();
        let probe = breaker.permit(NOW + BREAKER_OPEN_MS).unwrap();
        breaker.fail(probe, NOW, Some(Duration::from_secs(60)));
        assert_eq!(breaker.state(NOW), State::Open { until: NOW + 60_000 });
        let probe = breaker.permit(NOW + 60_000).unwrap();
        breaker.fail(probe, NOW, Some(Duration::MAX));
        assert_eq!(breaker.state(NOW), State::Open { until: NOW + BREAKER_OPEN_MS_MAX });
    }

    #[test]
    fn an_abandoned_probe_frees_its_place_and_late_answers_change_nothing() {
        let mut breaker = opened();
        let probe = breaker.permit(NOW + BREAKER_OPEN_MS).unwrap();
        breaker.abandon(probe);
        let again = breaker.permit(NOW + BREAKER_OPEN_MS).unwrap();
        breaker.succeed(Permit { probe: false });
        breaker.fail(Permit { probe: false }, NOW, None);
        assert_eq!(breaker.permit(NOW + BREAKER_OPEN_MS), None, "the probe is still under way");
        breaker.succeed(again);
        assert_eq!(breaker.state(NOW), State::Closed);
    }

    proptest! {
        /// Whatever happens in whatever order, the circuit never stays open longer than its bound.
        #[test]
        fn never_stuck(steps in proptest::collection::vec((0u8..4, 0u64..400_000), 0..100)) {
            let mut breaker = Breaker::default();
            let mut now = NOW;
            let mut held = Vec::new();
            for (what, later) in steps {
                now += later;
                match what {
                    0 => held.extend(breaker.permit(now)),
                    1 => { if let Some(permit) = held.pop() { breaker.fail(permit, now, None) } }
                    2 => { if let Some(permit) = held.pop() { breaker.succeed(permit) } }
                    _ => { if let Some(permit) = held.pop() { breaker.abandon(permit) } }
                }
            }
            for permit in held.drain(..) {
                breaker.abandon(permit);
            }
            prop_assert!(breaker.permit(now + BREAKER_OPEN_MS_MAX).is_some());
        }
    }
}
