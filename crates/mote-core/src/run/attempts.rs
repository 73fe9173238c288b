//! Failed model calls: what befell an attempt decides what bounds the next. A broken reply counts for its endpoint, an
//! endpoint that is not available counts by time, and a call lost with its worker counts as an interruption.

use super::{Phase, Refusal, Run};
use crate::{Actions, ENDPOINTS_MAX, Failure, ModelFailure, Outcome, Time, retry};

/// What befell the calls of one model step so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attempts {
    /// Failed calls, for the back-off.
    failed: u16,
    /// Broken replies of each endpoint; the largest number for one that refused the request.
    broken: [u16; ENDPOINTS_MAX],
    /// Endpoints that failed in this round over them, a bit each: another is tried at once, the same ones after a pause.
    tried: u16,
    /// Since when no endpoint is available; 0 where one is. Time in which nobody tried does not count.
    outage_since: Time,
}

/// An endpoint that is not asked again in this step.
const REFUSED: u16 = u16::MAX;

/// Times that work under way was lost with its worker since any of it last ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Interruptions {
    /// How many.
    pub(super) count: u16,
    /// When the first of them was noticed.
    since: Time,
}

/// A failed model call, as its event tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    pub(super) attempt: u16,
    pub(super) endpoint: u8,
    pub(super) failure: ModelFailure,
    pub(super) retry_after_ms: u32,
    pub(super) jitter: u16,
    pub(super) available: u16,
}

impl Attempts {
    /// Time passed in which nobody tried to reach the model.
    pub(super) fn unattended(&mut self, ms: u64) {
        if self.outage_since != 0 {
            self.outage_since = self.outage_since.saturating_add(ms);
        }
    }

    fn count(&mut self, endpoint: u8) -> &mut u16 {
        &mut self.broken[usize::from(endpoint).min(ENDPOINTS_MAX - 1)]
    }
}

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Endpoints, a bit each, that have used up their attempts at this step: they are not asked again.
    #[must_use]
    pub fn exhausted(&self) -> u16 {
        let most = self.limits.model_attempts.max(1);
        let counts = self.attempts.broken.iter().enumerate();
        counts.fold(0, |bits, (place, count)| if *count >= most { bits | 1 << place } else { bits })
    }

    /// Endpoints, a bit each, that may still be asked at this step.
    fn left(&self) -> u16 {
        let endpoints = u32::from(self.limits.endpoints).clamp(1, ENDPOINTS_MAX as u32);
        let all = u16::try_from((1_u32 << endpoints) - 1).unwrap_or(u16::MAX);
        all & !self.exhausted()
    }

    /// The first endpoint that has not failed in this round and whose circuit lets a call through; a new round begins where
    /// there is none. Where every circuit is open the first is asked all the same: its circuit says when to come back.
    pub(super) fn choose(&mut self, available: u16) -> u8 {
        let open = self.left() & available;
        let fresh = open & !self.attempts.tried;
        if fresh == 0 {
            self.attempts.tried = 0;
        }
        let candidates = [fresh, open, self.left(), 1].into_iter().find(|bits| *bits != 0).unwrap_or(1);
        candidates.trailing_zeros() as u8
    }

    /// Since when no model endpoint is available, if none is.
    #[must_use]
    pub fn outage_since(&self) -> Option<Time> {
        (self.attempts.outage_since != 0).then_some(self.attempts.outage_since)
    }

    pub(super) fn model_failed(&mut self, failed: Failed, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.attempts.failed = self.attempts.failed.saturating_add(1);
        self.attempts.tried |= 1 << u32::from(failed.endpoint).min(ENDPOINTS_MAX as u32 - 1);
        self.interruptions = Interruptions::default();
        match failed.failure {
            ModelFailure::Rejected => {
                *self.attempts.count(failed.endpoint) = REFUSED;
                if self.left() == 0 {
                    return self.finish(Outcome::Failed(Failure::ModelRejected), actions);
                }
                // The others may answer, now or once they are back.
                self.unavailable(failed, actions)
            }
            ModelFailure::ContextLength => {
                self.replied_broken(failed.endpoint);
                self.attempts.tried = 0;
                let last = self.left() & (1 << u32::from(failed.endpoint).min(ENDPOINTS_MAX as u32 - 1)) == 0;
                self.shrink(failed.attempt.saturating_add(1), last, actions)
            }
            ModelFailure::Transient => {
                self.replied_broken(failed.endpoint);
                if self.left() == 0 {
                    return self.finish(Outcome::Failed(Failure::Model), actions);
                }
                self.try_again(failed, actions)
            }
            ModelFailure::Unavailable => self.unavailable(failed, actions),
        }
    }

    fn replied_broken(&mut self, endpoint: u8) {
        self.attempts.outage_since = 0;
        let count = self.attempts.count(endpoint);
        *count = count.saturating_add(1);
    }

    /// Whether another endpoint may be tried at once.
    fn alternative(&self, failed: Failed) -> bool {
        self.left() & failed.available & !self.attempts.tried != 0
    }

    fn unavailable(&mut self, failed: Failed, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let alternative = self.alternative(failed);
        if self.attempts.outage_since == 0 && !(alternative && failed.failure == ModelFailure::Rejected) {
            self.attempts.outage_since = self.now.max(1);
        }
        let lasted = self.now.saturating_sub(self.attempts.outage_since);
        if !alternative && lasted >= self.limits.model_outage_ms {
            return self.finish(Outcome::Failed(Failure::Outage), actions);
        }
        self.try_again(failed, actions)
    }

    /// Another endpoint is tried at once, the same ones after a back-off.
    fn try_again(&mut self, failed: Failed, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let attempt = failed.attempt.saturating_add(1);
        if self.alternative(failed) {
            return self.reserve(attempt, actions);
        }
        self.attempts.tried = 0;
        let mut until = retry::next_attempt_at(&self.limits, self.now, self.attempts.failed, failed.jitter, 0);
        if self.attempts.outage_since != 0 {
            // One last attempt when the time is over, rather than a pause beyond it.
            until = until.min(self.attempts.outage_since.saturating_add(self.limits.model_outage_ms));
        }
        let until = until.max(self.now.saturating_add(failed.retry_after_ms.into()));
        if until <= self.now {
            return self.reserve(attempt, actions);
        }
        self.phase = Phase::BackingOff { attempt, until };
        Ok(())
    }

    /// The back-off before a model call is over.
    pub(super) fn backed_off(
        &mut self,
        attempt: u16,
        until: Time,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        // Nobody was there to try in between.
        self.attempts.unattended(self.now.saturating_sub(until));
        self.reserve(attempt, actions)
    }

    /// Work under way was lost with its worker: no failed attempt, and bounded on its own, by number and by time. Whether
    /// the run ended.
    pub(super) fn interrupted(&mut self, actions: &mut Actions<CALLS>) -> Result<bool, Refusal> {
        if self.interruptions.count == 0 {
            self.interruptions.since = self.now;
        }
        self.interruptions.count = self.interruptions.count.saturating_add(1);
        let lasted = self.now.saturating_sub(self.interruptions.since);
        if self.interruptions.count <= self.limits.interruptions || lasted < self.limits.interruptions_ms {
            return Ok(false);
        }
        self.finish(Outcome::Failed(Failure::Interrupted), actions)?;
        Ok(true)
    }

    /// A model call that was lost is made again: after the first interruption at once, after further ones with a back-off,
    /// so that a process that dies again and again does not lose a reservation each time.
    pub(super) fn call_again(&mut self, attempt: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if self.interruptions.count <= 1 {
            return self.reserve(attempt, actions);
        }
        let until = retry::next_attempt_at(&self.limits, self.now, self.interruptions.count - 1, 0, 0);
        if until <= self.now {
            return self.reserve(attempt, actions);
        }
        self.phase = Phase::BackingOff { attempt, until };
        Ok(())
    }

    /// Times in a row that work under way was lost with its worker.
    #[must_use]
    pub fn interruptions(&self) -> u16 {
        self.interruptions.count
    }
}
