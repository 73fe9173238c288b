//! Compaction: the oldest units give way to a summary of theirs, by a call of its own, beside whatever else goes on. Where
//! there can be none, the context is trimmed; `plan` does that.

use super::{Phase, Refusal, Run};
use crate::{Action, Actions, Cost, Spend, Spender, Time, retry};

/// A summary, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Compaction {
    stage: Stage,
    from: u32,
    through: u32,
    /// The step in which one last ended: there is one a step at most.
    ended_in: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Idle,
    Reserving {
        attempt: u16,
    },
    Summarising {
        attempt: u16,
    },
    BackingOff {
        attempt: u16,
        until: Time,
    },
}

impl Compaction {
    /// Whether no summary is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether an attempt waits for its reservation.
    pub(super) fn is_reserving(&self) -> bool {
        matches!(self.stage, Stage::Reserving { .. })
    }

    /// When the next attempt may begin, where one waits.
    pub(super) fn until(&self) -> Option<Time> {
        match self.stage {
            Stage::BackingOff { until, .. } => Some(until),
            Stage::Idle | Stage::Reserving { .. } | Stage::Summarising { .. } => None,
        }
    }

    /// Lets a summary begin in this step, whatever became of one before.
    pub(super) fn may_begin(&mut self) {
        self.ended_in = 0;
    }
}

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// The newest unit of the summary that is under way, if one is.
    #[must_use]
    pub fn summary(&self) -> Option<u32> {
        (!self.compaction.is_idle()).then_some(self.compaction.through)
    }

    /// Whether the context is so full that it is to be summarised before it no longer fits.
    pub(super) fn is_filling(&self) -> bool {
        let share = u64::from(self.limits.compact_at.min(100));
        let mark = u64::from(self.limits.usable()).saturating_mul(share) / 100;
        share != 0 && self.context.tokens() > mark
    }

    /// Asks for the money to summarise what is above `tokens`, where there may be a summary and one is of use.
    pub(super) fn begin_summary(&mut self, tokens: u64, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let off = self.limits.compact_at == 0 || self.compaction.ended_in == self.step;
        if off || !self.compaction.is_idle() {
            return Ok(());
        }
        let Some((from, through, size)) = self.context.oldest(tokens) else { return Ok(()) };
        if size <= u64::from(self.limits.summary) {
            return Ok(());
        }
        (self.compaction.from, self.compaction.through) = (from, through);
        self.reserve_summary(size, 1, actions)
    }

    /// Reserves for one attempt; none is made where the run's own budget does not carry it.
    fn reserve_summary(&mut self, size: u64, attempt: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let input = size.saturating_add(self.limits.fixed.into());
        if !self.budget.reserve_summary(&self.limits, input) {
            self.compaction.stage = Stage::Idle;
            self.compaction.ended_in = self.step;
            return Ok(());
        }
        self.compaction.stage = Stage::Reserving { attempt };
        self.ask_summary_reservation(actions)
    }

    fn ask_summary_reservation(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let reserved = self.budget.summary_reservation();
        let (tokens, nano_usd) = (reserved.tokens(), reserved.nano_usd);
        Ok(actions.push(Action::Reserve { spender: Spender::Summary, tokens, nano_usd })?)
    }

    /// The reservation holds.
    pub(super) fn summarise(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let Stage::Reserving { attempt } = self.compaction.stage else { return Err(Refusal::Unexpected) };
        self.compaction.stage = Stage::Summarising { attempt };
        let (from, through, output) = (self.compaction.from, self.compaction.through, self.limits.summary);
        Ok(actions.push(Action::Compact { from, through, attempt, output })?)
    }

    /// A shared budget refuses it: the context is trimmed instead.
    pub(super) fn summary_refused(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let Stage::Reserving { .. } = self.compaction.stage else { return Err(Refusal::Unexpected) };
        self.budget.release(Spender::Summary, Spend::default());
        self.summary_ended(actions)
    }

    pub(super) fn compacted(
        &mut self,
        through: u32,
        tokens: u32,
        cost: Cost,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let Stage::Summarising { .. } = self.compaction.stage else { return Err(Refusal::Unexpected) };
        if through != self.compaction.through {
            return Err(Refusal::Unexpected);
        }
        self.settle(Spender::Summary, cost, actions)?;
        self.context.compact(through, tokens, self.limits.units);
        self.summary_ended(actions)
    }

    pub(super) fn compaction_failed(
        &mut self,
        cost: Cost,
        retry_after_ms: u32,
        jitter: u16,
        last: bool,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let Stage::Summarising { attempt } = self.compaction.stage else { return Err(Refusal::Unexpected) };
        self.settle(Spender::Summary, cost, actions)?;
        if last || attempt >= self.limits.compact_attempts.max(1) {
            return self.summary_ended(actions);
        }
        let until = retry::next_attempt_at(&self.limits, self.now, attempt, jitter, retry_after_ms);
        self.compaction.stage = Stage::BackingOff { attempt: attempt + 1, until };
        self.summary_due(actions)
    }

    /// The next attempt, once its time has come.
    pub(super) fn summary_due(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        match self.compaction.stage {
            Stage::BackingOff { attempt, until } if until <= self.now => self.summary_again(attempt, actions),
            Stage::Idle | Stage::Reserving { .. } | Stage::Summarising { .. } | Stage::BackingOff { .. } => Ok(()),
        }
    }

    /// A worker died: the summary under way is lost, and may have cost all that was reserved for it.
    pub(super) fn summary_lost(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        match self.compaction.stage {
            Stage::Reserving { .. } => self.ask_summary_reservation(actions),
            Stage::Summarising { attempt } => {
                self.forfeit_summary(actions)?;
                if attempt >= self.limits.compact_attempts.max(1) {
                    return self.summary_ended(actions);
                }
                self.summary_again(attempt + 1, actions)
            }
            Stage::Idle | Stage::BackingOff { .. } => Ok(()),
        }
    }

    fn summary_again(&mut self, attempt: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let (from, through) = (self.compaction.from, self.compaction.through);
        let size = self.context.size(from, through);
        self.reserve_summary(size, attempt, actions)?;
        if self.compaction.is_idle() { self.summary_ended(actions) } else { Ok(()) }
    }

    /// The run ends.
    pub(super) fn end_summary(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if matches!(self.compaction.stage, Stage::Summarising { .. }) {
            self.forfeit_summary(actions)?;
        }
        self.budget.release(Spender::Summary, Spend::default());
        self.compaction.stage = Stage::Idle;
        Ok(())
    }

    fn forfeit_summary(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let spend = self.budget.summary_reservation();
        self.settle(Spender::Summary, Cost { spend, uncertain: true }, actions)
    }

    /// There is a summary now, or there will be none: the call that waits for it goes on.
    fn summary_ended(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.compaction.stage = Stage::Idle;
        self.compaction.ended_in = self.step;
        match self.phase {
            Phase::Compacting { attempt } => self.reserve(attempt, actions),
            Phase::New
            | Phase::Open
            | Phase::Reserving { .. }
            | Phase::Thinking { .. }
            | Phase::BackingOff { .. }
            | Phase::Acting
            | Phase::Finished(_) => Ok(()),
        }
    }
}
