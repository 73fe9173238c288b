//! A run that failed or was cancelled goes on from its last good step: with what was said, done and spent, under new bounds.
//! A completed one has nothing to go on to.

use super::{Attempts, CallState, Interruptions, Phase, Refusal, Run};
use crate::{Action, Actions, CallOutcome, Limits, NOTICE_TOKENS, Outcome};

/// Where a run that ended would go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Resumption {
    /// Nowhere: it had no input yet, or has not ended.
    #[default]
    None,
    /// The model is called again for the step that was under way.
    Step {
        /// The attempt.
        attempt: u16,
    },
    /// The next step begins, once the open calls of this one have their notices.
    Next,
}

impl Resumption {
    /// Where a run goes on that ends in this phase.
    pub(super) fn of(phase: Phase) -> Self {
        match phase {
            Phase::New | Phase::Open | Phase::Finished(_) => Self::None,
            Phase::Compacting { attempt } | Phase::Reserving { attempt, .. } | Phase::BackingOff { attempt, .. } => {
                Self::Step { attempt }
            }
            Phase::Thinking { attempt, .. } => Self::Step { attempt: attempt.saturating_add(1) },
            Phase::Acting => Self::Next,
        }
    }
}

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Whether [`crate::Event::Resumed`] would be taken.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        let ended = matches!(self.phase, Phase::Finished(Outcome::Failed(_) | Outcome::Cancelled));
        ended && self.resumption != Resumption::None
    }

    /// Whether a task with this run may be taken up again after it ended: resumed where the run ended too, gone on with
    /// where it did not (the task was given up), begun where nothing happened yet.
    #[must_use]
    pub fn is_open_to_resume(&self) -> bool {
        !matches!(self.phase, Phase::Finished(_)) || self.is_resumable()
    }

    /// Takes new bounds; an ended run goes on.
    pub(super) fn resumed(
        &mut self,
        limits: &Limits,
        digest: &[u8; 32],
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let ended = matches!(self.phase, Phase::Finished(_));
        if ended && !self.is_resumable() {
            return Err(Refusal::Finished);
        }
        self.check_capacity(limits)?;
        self.limits = *limits;
        self.active_ms = 0;
        self.interruptions = Interruptions::default();
        self.attempts = Attempts::default();
        self.compaction.may_begin();
        if !ended {
            return Ok(());
        }
        // Nothing is pending any more: what was begun has its notice, what was not gets one here.
        self.digest = *digest;
        self.repairs = 0;
        self.turns.clear();
        match core::mem::take(&mut self.resumption) {
            Resumption::None => Err(Refusal::Finished),
            Resumption::Step { attempt } => self.reserve(attempt, actions),
            Resumption::Next => {
                self.phase = Phase::Acting;
                for (index, call) in (0..).zip(self.calls.as_mut_slice()) {
                    if call.state != CallState::Done {
                        call.state = CallState::Done;
                        self.context.grow(NOTICE_TOKENS);
                        actions.push(Action::Conclude { call: index, outcome: CallOutcome::NotMade })?;
                    }
                }
                self.plan(actions)
            }
        }
    }
}
