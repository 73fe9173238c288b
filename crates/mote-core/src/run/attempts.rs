//! Failed model calls: what befell an attempt decides what bounds the next. A broken reply counts for its endpoint, an
//! endpoint that is not available counts by time, and a call lost with its worker counts as an interruption.

use super::{Phase, Refusal, Run};
use crate::{Actions, ENDPOINTS_COUNTED, Failure, ModelFailure, Outcome, Time, retry};

/// What befell the calls of one model step so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attempts {
    /// Failed calls, for the back-off.
    failed: u16,
    /// Broken replies of each endpoint; the largest number for one that refused the request.
    broken: [u16; ENDPOINTS_COUNTED],
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
    pub(super) failure: ModelFailure,
    pub(super) endpoint: u8,
    pub(super) retry_after_ms: u32,
    pub(super) jitter: u16,
    pub(super) alternative: bool,
}

impl Attempts {
    /// Time passed in which nobody tried to reach the model.
    pub(super) fn unattended(&mut self, ms: u64) {
        if self.outage_since != 0 {
            self.outage_since = self.outage_since.saturating_add(ms);
        }
    }

    fn count(&mut self, endpoint: u8) -> &mut u16 {
        let place = usize::from(endpoint).min(ENDPOINTS_COUNTED - 1);
        &mut self.broken[place]
    }
}

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Endpoints, a bit each, that have used up their attempts at this step: they are not to be asked again.
    #[must_use]
    pub fn exhausted(&self) -> u64 {
        let most = self.limits.model_attempts.max(1);
        let counts = self.attempts.broken.iter().enumerate();
        counts.fold(0, |bits, (place, count)| if *count >= most { bits | 1 << place } else { bits })
    }

    /// Since when no model endpoint is available, if none is.
    #[must_use]
    pub fn outage_since(&self) -> Option<Time> {
        (self.attempts.outage_since != 0).then_some(self.attempts.outage_since)
    }

    /// Whether every endpoint that may be called has used up its attempts.
    fn all_exhausted(&self) -> bool {
        let endpoints = usize::from(self.limits.endpoints.max(1)).min(ENDPOINTS_COUNTED);
        let all = (1_u64 << endpoints) - 1;
        self.exhausted() & all == all
    }

    pub(super) fn model_failed(&mut self, failed: Failed, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.attempts.failed = self.attempts.failed.saturating_add(1);
        self.interruptions = Interruptions::default();
        let next = failed.attempt.saturating_add(1);
        if failed.failure != ModelFailure::Unavailable {
            self.attempts.outage_since = 0;
            let count = self.attempts.count(failed.endpoint);
            *count = count.saturating_add(1);
        }
        match failed.failure {
            ModelFailure::Rejected if !failed.alternative => {
                self.finish(Outcome::Failed(Failure::ModelRejected), actions)
            }
            ModelFailure::Rejected => {
                *self.attempts.count(failed.endpoint) = REFUSED;
                let ends = self.all_exhausted().then_some(Failure::ModelRejected);
                self.try_again(next, failed, ends, actions)
            }
            ModelFailure::ContextLength => {
                let last = self.exhausted() & (1 << u32::from(failed.endpoint).min(ENDPOINTS_COUNTED as u32 - 1)) != 0;
                self.shrink(next, last, actions)
            }
            ModelFailure::Transient => {
                let ends = self.all_exhausted().then_some(Failure::Model);
                self.try_again(next, failed, ends, actions)
            }
            ModelFailure::Unavailable => {
                if self.attempts.outage_since == 0 {
                    self.attempts.outage_since = self.now.max(1);
                }
                let lasted = self.now.saturating_sub(self.attempts.outage_since);
                let over = !failed.alternative && lasted >= self.limits.model_outage_ms;
                self.try_again(next, failed, over.then_some(Failure::Outage), actions)
            }
        }
    }

    /// Another endpoint is tried at once, the same ones after a back-off.
    fn try_again(
        &mut self,
        attempt: u16,
        failed: Failed,
        ends: Option<Failure>,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        if let Some(failure) = ends {
            return self.finish(Outcome::Failed(failure), actions);
        }
        if failed.alternative {
            return self.reserve(attempt, actions);
        }
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
        self.suspend(actions)
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
        self.suspend(actions)
    }

    /// Times in a row that work under way was lost with its worker.
    #[must_use]
    pub fn interruptions(&self) -> u16 {
        self.interruptions.count
    }
}
