//! Waits: what a call rests on without anything under way. A tool that asks a person first, a question, a signal, a time, a
//! backend that wants to know something or works on by itself: all are one state, and a run of which every open call is in it
//! is given back.

use super::{Call, CallState, Phase, Refusal, Run};
use crate::{Action, Actions, CallKind, CallOutcome, Effect, Time, Wait};

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Whether nothing is under way but waits, long back-offs among them.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        let open = |call: &&Call| call.state != CallState::Done;
        let rests = |call: &Call| match call.state {
            CallState::Waiting { .. } => true,
            CallState::BackingOff { until, .. } => self.rests_until(until),
            CallState::Queued
            | CallState::Reserving(_)
            | CallState::Running(_)
            | CallState::Ready(_)
            | CallState::Done => false,
        };
        let mut open_calls = self.calls().iter().filter(open).peekable();
        let rests = match self.phase {
            Phase::BackingOff { until, .. } => self.rests_until(until),
            Phase::Acting => open_calls.peek().is_some() && open_calls.all(rests),
            Phase::New
            | Phase::Open
            | Phase::Compacting { .. }
            | Phase::Reserving { .. }
            | Phase::Thinking { .. }
            | Phase::Finished(_) => false,
        };
        rests && self.compaction.is_idle()
    }

    /// Whether a back-off that ends then is long enough to give the run back.
    fn rests_until(&self, until: Time) -> bool {
        let rest = u64::from(self.limits.rest_ms);
        rest != 0 && until.saturating_sub(self.now) >= rest
    }

    pub(super) fn next_call_time(&self) -> Option<Time> {
        let time = |call: &Call| match call.state {
            CallState::BackingOff { until, .. } => Some(until),
            CallState::Waiting { until, .. } if until != 0 => Some(until),
            CallState::Queued
            | CallState::Reserving(_)
            | CallState::Running(_)
            | CallState::Waiting { .. }
            | CallState::Ready(_)
            | CallState::Done => None,
        };
        self.calls().iter().filter_map(time).min()
    }

    /// An attempt under way need not be held: it goes on by itself, or not before somebody answers.
    pub(super) fn call_suspended(
        &mut self,
        index: u16,
        wait: Wait,
        until: Time,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let call = self.call(index)?;
        let CallState::Running(attempt) = call.state else { return Err(Refusal::Call(index)) };
        match wait {
            Wait::Approval | Wait::Input => actions.push(Action::Ask { call: index })?,
            Wait::Remote => {}
            // These are calls of their own.
            Wait::Signal | Wait::Time => return Err(Refusal::Call(index)),
        }
        call.state = CallState::Waiting { wait, until, attempt: Some(attempt) };
        self.advance(actions)
    }

    /// What a suspended call waits for has moved.
    pub(super) fn call_woken(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        match self.call(index)?.state {
            CallState::Waiting { wait: Wait::Remote, attempt: Some(_), .. } => self.go_on(index, actions),
            _ => Err(Refusal::Call(index)),
        }
    }

    pub(super) fn signalled(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        match self.call(index)?.state {
            CallState::Waiting { wait: Wait::Signal, .. } => self.observe_wait(index, tokens, actions),
            _ => Err(Refusal::Call(index)),
        }
    }

    /// A person answered: that is the call's result, or what its backend wanted to know.
    pub(super) fn replied(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        match self.call(index)?.state {
            CallState::Waiting { wait: Wait::Input, attempt: None, .. } => self.observe_wait(index, tokens, actions),
            CallState::Waiting { wait: Wait::Input, attempt: Some(_), .. } => self.go_on(index, actions),
            _ => Err(Refusal::Call(index)),
        }
    }

    pub(super) fn approved(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let call = self.call(index)?;
        match call.state {
            CallState::Waiting { wait: Wait::Approval, attempt: None, .. } => {
                call.state = CallState::Queued;
                self.advance(actions)
            }
            CallState::Waiting { wait: Wait::Approval, attempt: Some(_), .. } => self.go_on(index, actions),
            _ => Err(Refusal::Call(index)),
        }
    }

    /// A person said no. A call that is under way at its backend is told so there.
    pub(super) fn denied(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        match self.call(index)?.state {
            CallState::Waiting { wait: Wait::Approval, attempt: None, .. } => {
                self.conclude(index, CallOutcome::Denied, actions)?;
                self.advance(actions)
            }
            CallState::Waiting { wait: Wait::Approval | Wait::Input, attempt: Some(_), .. } => {
                self.go_on(index, actions)
            }
            _ => Err(Refusal::Call(index)),
        }
    }

    /// A wait's time is over.
    pub(super) fn wait_over(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let CallState::Waiting { wait, attempt, .. } = self.call(index)?.state else {
            return Err(Refusal::Call(index));
        };
        self.turns.clear();
        match (wait, attempt) {
            (Wait::Remote, Some(attempt)) => {
                self.call(index)?.state = CallState::Ready(attempt);
                Ok(())
            }
            (Wait::Time, _) => self.conclude(index, CallOutcome::TimeReached, actions),
            // Nobody answered: the backend still waits, and what it did by then stays.
            (Wait::Approval | Wait::Input, Some(_)) => {
                self.forfeit_call(index, actions)?;
                let reads = matches!(self.call(index)?.spec.kind, CallKind::Tool { effect: Effect::Read, .. });
                let outcome = if reads { CallOutcome::TimedOut } else { CallOutcome::Unknown };
                self.conclude(index, outcome, actions)
            }
            (Wait::Approval | Wait::Input | Wait::Signal | Wait::Remote, _) => {
                self.conclude(index, CallOutcome::TimedOut, actions)
            }
        }
    }

    fn go_on(&mut self, index: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let call = self.call(index)?;
        let CallState::Waiting { attempt: Some(attempt), .. } = call.state else { return Err(Refusal::Call(index)) };
        call.state = CallState::Ready(attempt);
        // The world moved on: calls made before are no repetition after.
        self.turns.clear();
        self.advance(actions)
    }

    fn observe_wait(&mut self, index: u16, tokens: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.turns.clear();
        self.observe(index, tokens, actions)
    }
}
