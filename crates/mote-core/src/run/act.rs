//! Act and observe: the calls of one turn, each by its effect class, until every one has a result. Deadlines of single
//! attempts are the driver's; it reports them as failures. What a call waits for is in `wait`.

use super::attempts::Interruptions;
use super::{Attempt, Call, CallState, Refusal, Run};
use crate::{
    Action, Actions, CallFailure, CallKind, CallOutcome, CallSpec, Cost, Effect, NOTICE_TOKENS, Spend, Spender, Time,
    retry,
};

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Starts what may start; goes on to the next step when every call has its result.
    pub(super) fn advance(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let busy = |call: &&Call| {
            matches!(call.state, CallState::Reserving(_) | CallState::Running(_) | CallState::BackingOff { .. })
        };
        let mut free =
            usize::from(self.limits.parallel.max(1)).saturating_sub(self.calls().iter().filter(busy).count());
        for index in 0..self.count() {
            if free == 0 {
                break;
            }
            match self.call(index)?.state {
                CallState::Queued => {
                    self.attempt(index, Attempt { number: 1, since: self.now, doubt: false }, actions)?;
                }
                CallState::Ready(attempt) => {
                    self.call(index)?.state = CallState::Running(attempt);
                    actions.push(Action::ResumeCall { call: index, attempt: attempt.number })?;
                }
                CallState::Reserving(_)
                | CallState::Running(_)
                | CallState::BackingOff { .. }
                | CallState::Waiting { .. }
                | CallState::Done => continue,
            }
            free -= usize::from(self.call(index)?.state != CallState::Done);
        }
        if self.calls().iter().all(|call| call.state == CallState::Done) {
            return self.plan(actions);
        }
        Ok(())
    }

    /// Makes an attempt, or asks for its reservation first.
    fn attempt(&mut self, index: u16, attempt: Attempt, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let limits = self.limits;
        let most = self.call(index)?.spec.reserve;
        if most.is_zero() {
            return self.start(index, attempt, actions);
        }
        if !self.budget.reserve_call(&limits, most) {
            let outcome = if attempt.doubt { CallOutcome::Unknown } else { CallOutcome::OverBudget };
            return self.conclude(index, outcome, actions);
        }
        let call = self.call(index)?;
        call.state = CallState::Reserving(attempt);
        call.reserved = true;
        self.ask_call_reservation(index, most, actions)
    }

    fn ask_call_reservation(&self, call: u16, most: Spend, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let (spender, tokens, nano_usd) = (Spender::Call { call }, most.tokens(), most.nano_usd);
        Ok(actions.push(Action::Reserve { spender, tokens, nano_usd })?)
    }

    fn start(&mut self, index: u16, attempt: Attempt, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.call(index)?.state = CallState::Running(attempt);
        Ok(actions.push(Action::CallTool { call: index, attempt: attempt.number })?)
    }

    /// A call's reservation holds.
    pub(super) fn call_granted(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let now = self.now;
        let call = self.call(index)?;
        let CallState::Reserving(attempt) = call.state else { return Err(Refusal::Call(index)) };
        if attempt.doubt && !key_lives(&call.spec, attempt.since, now) {
            // The reservation took longer than the backend remembers.
            self.settle_call(index, Cost::default(), actions)?;
            self.conclude(index, CallOutcome::Unknown, actions)?;
            return self.advance(actions);
        }
        let since = if attempt.number == 1 { now } else { attempt.since };
        self.start(index, Attempt { since, ..attempt }, actions)
    }

    /// A shared budget does not carry a call: that is the call's end, not the run's.
    pub(super) fn call_refused(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let CallState::Reserving(attempt) = self.call(index)?.state else { return Err(Refusal::Call(index)) };
        self.release_call(index)?;
        let outcome = if attempt.doubt { CallOutcome::Unknown } else { CallOutcome::OverBudget };
        self.conclude(index, outcome, actions)?;
        self.advance(actions)
    }

    /// Books what a call cost, where it has a reservation or cost something all the same.
    pub(super) fn settle_call(&mut self, index: u16, cost: Cost, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let call = self.call(index)?;
        let reserved = if call.reserved { call.spec.reserve } else { Spend::default() };
        if !call.reserved && cost.spend.is_zero() {
            return Ok(());
        }
        call.reserved = false;
        let spender = Spender::Call { call: index };
        self.budget.settle(spender, reserved, cost);
        Self::booked(spender, cost, actions)
    }

    /// Books a call of which nothing is known at its whole reservation.
    pub(super) fn forfeit_call(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let call = self.call(index)?;
        if !call.reserved {
            return Ok(());
        }
        let spend = call.spec.reserve;
        self.settle_call(index, Cost { spend, uncertain: true }, actions)
    }

    fn release_call(&mut self, index: u16) -> Result<(), Refusal> {
        let call = self.call(index)?;
        let reserved = call.spec.reserve;
        if core::mem::take(&mut call.reserved) {
            self.budget.release(Spender::Call { call: index }, reserved);
        }
        Ok(())
    }

    pub(super) fn call_answered(
        &mut self,
        index: u16,
        tokens: u32,
        cost: Cost,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let CallState::Running(_) = self.call(index)?.state else { return Err(Refusal::Call(index)) };
        self.settle_call(index, cost, actions)?;
        self.observe(index, tokens, actions)
    }

    pub(super) fn call_failed(
        &mut self,
        index: u16,
        failure: CallFailure,
        retry_after_ms: u32,
        jitter: u16,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        self.interruptions = Interruptions::default();
        self.retry_or_conclude(index, failure, retry_after_ms, jitter, actions)?;
        self.advance(actions)
    }

    /// A worker died: every attempt under way may or may not have been performed. That is no failed attempt.
    pub(super) fn calls_lost(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let running = |call: &Call| matches!(call.state, CallState::Running(_));
        if self.calls().iter().any(running) && self.interrupted(actions)? {
            return Ok(());
        }
        for index in 0..self.count() {
            let call = self.call(index)?;
            match call.state {
                CallState::Running(_) => {
                    call.lost = call.lost.saturating_add(1);
                    self.forfeit_call(index, actions)?;
                    self.retry_or_conclude(index, CallFailure::Unknown, 0, 0, actions)?;
                }
                CallState::Reserving(_) => {
                    let most = call.spec.reserve;
                    self.ask_call_reservation(index, most, actions)?;
                }
                CallState::Queued
                | CallState::BackingOff { .. }
                | CallState::Waiting { .. }
                | CallState::Ready(_)
                | CallState::Done => {}
            }
        }
        self.advance(actions)
    }

    fn retry_or_conclude(
        &mut self,
        index: u16,
        failure: CallFailure,
        retry_after_ms: u32,
        jitter: u16,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let (limits, now, interruptions) = (self.limits, self.now, self.interruptions.count);
        let call = self.call(index)?;
        let CallState::Running(attempt) = call.state else { return Err(Refusal::Call(index)) };
        let CallKind::Tool { effect, .. } = call.spec.kind else { return Err(Refusal::Call(index)) };
        let doubt = (attempt.doubt || failure == CallFailure::Unknown) && effect != Effect::Read;
        let failed = attempt.number.saturating_sub(call.lost);
        // Interruptions lengthen the back-off and count as no failure.
        let until = retry::next_attempt_at(&limits, now, failed.max(interruptions), jitter, retry_after_ms);
        let may_repeat = match effect {
            Effect::Read => true,
            Effect::Idempotent => !doubt || key_lives(&call.spec, attempt.since, until),
            Effect::Write => !doubt,
        };
        if failure != CallFailure::Forbidden && may_repeat && failed < limits.tool_attempts {
            let next = Attempt { number: attempt.number.saturating_add(1), since: attempt.since, doubt };
            call.state = CallState::BackingOff { next, until };
            return Ok(());
        }
        let outcome = match (doubt, failure) {
            (true, _) => CallOutcome::Unknown,
            (false, CallFailure::Forbidden) => CallOutcome::Forbidden,
            (false, CallFailure::NotPerformed | CallFailure::Unknown) => CallOutcome::Failed,
        };
        self.conclude(index, outcome, actions)
    }

    /// Calls whose time has come.
    pub(super) fn calls_due(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let now = self.now;
        for index in 0..self.count() {
            let call = self.call(index)?;
            match call.state {
                // The worker came later than the back-off asked: the backend may have forgotten the key by now.
                CallState::BackingOff { next, until }
                    if until <= now && next.doubt && !key_lives(&call.spec, next.since, now) =>
                {
                    self.conclude(index, CallOutcome::Unknown, actions)?;
                }
                CallState::BackingOff { next, until } if until <= now => self.attempt(index, next, actions)?,
                CallState::Waiting { until, .. } if until != 0 && until <= now => self.wait_over(index, actions)?,
                CallState::Queued
                | CallState::Reserving(_)
                | CallState::Running(_)
                | CallState::BackingOff { .. }
                | CallState::Waiting { .. }
                | CallState::Ready(_)
                | CallState::Done => {}
            }
        }
        self.advance(actions)
    }

    pub(super) fn observe(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.interruptions = Interruptions::default();
        self.call(index)?.state = CallState::Done;
        self.context.grow(tokens);
        self.advance(actions)
    }

    pub(super) fn conclude(
        &mut self,
        index: u16,
        outcome: CallOutcome,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        self.call(index)?.state = CallState::Done;
        self.context.grow(NOTICE_TOKENS);
        Ok(actions.push(Action::Conclude { call: index, outcome })?)
    }

    /// The run ends, and with it every attempt under way or still to come. What may have changed something is said to be
    /// unknown. A model reads the notice only if the run is resumed.
    pub(super) fn cut_off(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        for index in 0..self.count() {
            let call = self.call(index)?;
            let attempted = match call.state {
                CallState::Running(_) | CallState::Ready(_) | CallState::Waiting { attempt: Some(_), .. } => true,
                CallState::Reserving(attempt) => attempt.doubt,
                CallState::BackingOff { next, .. } => next.doubt,
                // Nothing was ever asked of a backend, or its answer is known.
                CallState::Queued | CallState::Waiting { attempt: None, .. } | CallState::Done => continue,
            };
            let (reads, state) = (matches!(call.spec.kind, CallKind::Tool { effect: Effect::Read, .. }), call.state);
            match state {
                CallState::Reserving(_) => self.release_call(index)?,
                _ => self.forfeit_call(index, actions)?,
            }
            let outcome = if attempted && !reads { CallOutcome::Unknown } else { CallOutcome::Failed };
            self.conclude(index, outcome, actions)?;
        }
        Ok(())
    }

    pub(super) fn call(&mut self, index: u16) -> Result<&mut Call, Refusal> {
        self.calls.as_mut_slice().get_mut(usize::from(index)).ok_or(Refusal::Call(index))
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.calls.len()).unwrap_or(u16::MAX)
    }
}

/// Whether the backend still knows at `then` the key of a call whose first attempt began at `since`.
fn key_lives(spec: &CallSpec, since: Time, then: Time) -> bool {
    match spec.kind {
        CallKind::Tool { key_ttl_ms, .. } => then.saturating_sub(since) <= key_ttl_ms,
        CallKind::Rejected { .. } | CallKind::Signal { .. } | CallKind::Timer { .. } | CallKind::Question { .. } => {
            false
        }
    }
}
