//! Act and observe: the calls of one turn, each by its effect class, until every one has a result. Deadlines of single
//! attempts are the driver's; it reports them as failures.

use super::attempts::Interruptions;
use super::{Call, CallState, Phase, Refusal, Run};
use crate::{Action, Actions, CallFailure, CallKind, CallOutcome, CallSpec, Effect, NOTICE_TOKENS, Time, retry};

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Whether nothing is under way but waits, long back-offs among them.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        let open = |call: &&Call| call.state != CallState::Done;
        let rests = |call: &Call| match call.state {
            CallState::Approving | CallState::Waiting { .. } => true,
            CallState::BackingOff { until, .. } => self.rests_until(until),
            CallState::Queued | CallState::Running { .. } | CallState::Done => false,
        };
        let mut open_calls = self.calls().iter().filter(open).peekable();
        match self.phase {
            Phase::BackingOff { until, .. } => self.rests_until(until),
            Phase::Acting => open_calls.peek().is_some() && open_calls.all(rests),
            Phase::New | Phase::Open | Phase::Reserving { .. } | Phase::Thinking { .. } | Phase::Finished(_) => false,
        }
    }

    /// Whether a back-off that ends then is long enough to give the run back.
    fn rests_until(&self, until: Time) -> bool {
        let rest = u64::from(self.limits.rest_ms);
        rest != 0 && self.counts_apart() && until.saturating_sub(self.now) >= rest
    }

    pub(super) fn next_call_time(&self) -> Option<Time> {
        let time = |call: &Call| match call.state {
            CallState::BackingOff { until, .. } => Some(until),
            CallState::Waiting { until } if until != 0 => Some(until),
            _ => None,
        };
        self.calls().iter().filter_map(time).min()
    }

    /// Starts what may start; goes on to the next step when every call has its result.
    pub(super) fn advance(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let busy = |call: &&Call| matches!(call.state, CallState::Running { .. } | CallState::BackingOff { .. });
        let mut free =
            usize::from(self.limits.parallel.max(1)).saturating_sub(self.calls().iter().filter(busy).count());
        let now = self.now;
        for (index, call) in (0..).zip(self.calls.as_mut_slice()) {
            if free > 0 && call.state == CallState::Queued {
                free -= 1;
                call.state = CallState::Running { attempt: 1, since: now, doubt: false };
                actions.push(Action::CallTool { call: index, attempt: 1 })?;
            }
        }
        if self.calls().iter().all(|call| call.state == CallState::Done) {
            return self.plan(actions);
        }
        self.suspend(actions)
    }

    pub(super) fn call_answered(
        &mut self,
        index: u16,
        tokens: u32,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        match self.call(index)?.state {
            CallState::Running { .. } => self.observe(index, tokens, actions),
            _ => Err(Refusal::Call(index)),
        }
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
        let running = |call: &Call| matches!(call.state, CallState::Running { .. });
        if self.counts_apart() && self.calls().iter().any(running) && self.interrupted(actions)? {
            return Ok(());
        }
        for index in 0..self.count() {
            if matches!(self.call(index)?.state, CallState::Running { .. }) {
                if self.counts_apart() {
                    let call = self.call(index)?;
                    call.lost = call.lost.saturating_add(1);
                }
                self.retry_or_conclude(index, CallFailure::Unknown, 0, 0, actions)?;
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
        let CallState::Running { attempt, since, doubt } = call.state else { return Err(Refusal::Call(index)) };
        let CallKind::Tool { effect, .. } = call.spec.kind else { return Err(Refusal::Call(index)) };
        let doubt = (doubt || failure == CallFailure::Unknown) && effect != Effect::Read;
        let failed = attempt.saturating_sub(call.lost);
        // Interruptions lengthen the back-off and count as no failure.
        let until = retry::next_attempt_at(&limits, now, failed.max(interruptions), jitter, retry_after_ms);
        let may_repeat = match effect {
            Effect::Read => true,
            Effect::Idempotent => !doubt || key_lives(&call.spec, since, until),
            Effect::Write => !doubt,
        };
        if failure != CallFailure::Forbidden && may_repeat && failed < limits.tool_attempts {
            call.state = CallState::BackingOff { attempt: attempt.saturating_add(1), since, doubt, until };
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
                CallState::BackingOff { since, doubt: true, until, .. }
                    if until <= now && !key_lives(&call.spec, since, now) =>
                {
                    self.conclude(index, CallOutcome::Unknown, actions)?;
                }
                CallState::BackingOff { attempt, since, doubt, until } if until <= now => {
                    call.state = CallState::Running { attempt, since, doubt };
                    actions.push(Action::CallTool { call: index, attempt })?;
                }
                CallState::Waiting { until } if until != 0 && until <= now => {
                    let timer = matches!(call.spec.kind, CallKind::Timer { .. });
                    self.turns.clear();
                    let outcome = if timer { CallOutcome::TimeReached } else { CallOutcome::TimedOut };
                    self.conclude(index, outcome, actions)?;
                }
                _ => {}
            }
        }
        self.advance(actions)
    }

    pub(super) fn signalled(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let call = self.call(index)?;
        match (call.spec.kind, call.state) {
            (CallKind::Signal { .. }, CallState::Waiting { .. }) => self.observe_wait(index, tokens, actions),
            _ => Err(Refusal::Call(index)),
        }
    }

    pub(super) fn replied(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let call = self.call(index)?;
        match (call.spec.kind, call.state) {
            (CallKind::Question { .. }, CallState::Waiting { .. }) => self.observe_wait(index, tokens, actions),
            _ => Err(Refusal::Call(index)),
        }
    }

    pub(super) fn approved(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let call = self.call(index)?;
        if call.state != CallState::Approving {
            return Err(Refusal::Call(index));
        }
        call.state = CallState::Queued;
        self.advance(actions)
    }

    pub(super) fn denied(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if self.call(index)?.state != CallState::Approving {
            return Err(Refusal::Call(index));
        }
        self.conclude(index, CallOutcome::Denied, actions)?;
        self.advance(actions)
    }

    fn observe_wait(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        // The world moved on: calls made before are no repetition after.
        self.turns.clear();
        self.observe(index, tokens, actions)
    }

    fn observe(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.interruptions = Interruptions::default();
        self.call(index)?.state = CallState::Done;
        self.context.grow(tokens);
        self.advance(actions)
    }

    fn conclude(&mut self, index: u16, outcome: CallOutcome, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
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
                CallState::Running { .. } => true,
                CallState::BackingOff { doubt, .. } => doubt,
                // Nothing was ever asked of a backend, or its answer is known.
                CallState::Queued | CallState::Approving | CallState::Waiting { .. } | CallState::Done => continue,
            };
            let reads = matches!(call.spec.kind, CallKind::Tool { effect: Effect::Read, .. });
            call.state = CallState::Done;
            let outcome = if attempted && !reads { CallOutcome::Unknown } else { CallOutcome::Failed };
            if self.counts_apart() {
                self.context.grow(NOTICE_TOKENS);
            }
            actions.push(Action::Conclude { call: index, outcome })?;
        }
        Ok(())
    }

    fn call(&mut self, index: u16) -> Result<&mut Call, Refusal> {
        self.calls.as_mut_slice().get_mut(usize::from(index)).ok_or(Refusal::Call(index))
    }

    fn count(&self) -> u16 {
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
