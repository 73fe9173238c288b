//! Plan: the context is trimmed, the call is paid for, the model is called, its reply is taken. It does not look into
//! calls; `act` does.

use super::attempts::{Attempts, Failed, Interruptions};
use super::{Call, CallState, Phase, Refusal, Run};
use crate::{
    Action, Actions, Array, CallKind, CallSpec, Event, Failure, Finish, ModelFailure, Outcome, Spend, TURNS_REMEMBERED,
    retry,
};

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Begins the next step.
    pub(super) fn plan(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.calls.clear();
        if self.step >= self.limits.steps {
            // The step before is over: a run that is resumed begins the next one.
            self.phase = Phase::Acting;
            return self.finish(Outcome::Failed(Failure::Steps), actions);
        }
        self.step += 1;
        self.attempts = Attempts::default();
        self.budget.begin_step();
        self.reserve(1, actions)
    }

    /// Makes the context fit and asks for the money to send it.
    pub(super) fn reserve(&mut self, attempt: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if self.context.trim(&self.limits).is_err() {
            return self.finish(Outcome::Failed(Failure::ContextOverflow), actions);
        }
        let input = self.context.tokens().saturating_add(u64::from(self.limits.fixed));
        let room = u64::from(self.limits.window).saturating_sub(input);
        let output = self.limits.output.min(u32::try_from(room).unwrap_or(u32::MAX));
        if output < self.limits.output_min() {
            return self.finish(Outcome::Failed(Failure::ContextOverflow), actions);
        }
        match self.budget.reserve(&self.limits, input, output) {
            Some(output) => {
                self.phase = Phase::Reserving { attempt, output };
                self.ask_reservation(actions)
            }
            None => self.finish(Outcome::Failed(Failure::BudgetRun), actions),
        }
    }

    pub(super) fn ask_reservation(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let (tokens, nano_usd) = (self.budget.reserved_tokens, self.budget.reserved_nano_usd);
        Ok(actions.push(Action::Reserve { tokens, nano_usd })?)
    }

    pub(super) fn think(&mut self, attempt: u16, output: u32, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.phase = Phase::Thinking { attempt };
        Ok(actions.push(Action::CallModel { step: self.step, attempt, from: self.context.first(), output })?)
    }

    /// The model call under way failed: what it cost is booked, and the core's version says what counts as an attempt.
    pub(super) fn model_call_failed(
        &mut self,
        attempt: u16,
        event: &Event<CALLS>,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let Event::ModelFailed { failure, spend, uncertain, endpoint, retry_after_ms, jitter, alternative } = *event
        else {
            return Err(Refusal::Unexpected);
        };
        self.settle(spend, uncertain, actions)?;
        let failed = Failed { attempt, failure, endpoint, retry_after_ms, jitter, alternative };
        if self.counts_apart() { self.model_failed(failed, actions) } else { self.attempt_failed(failed, actions) }
    }

    /// The model call under way was lost with its worker.
    pub(super) fn model_call_lost(&mut self, attempt: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if self.counts_apart() {
            self.budget.lose(self.budget.reservation());
        }
        self.forfeit(actions)?;
        if !self.counts_apart() {
            let failure = ModelFailure::Transient;
            let failed = Failed { attempt, failure, endpoint: 0, retry_after_ms: 0, jitter: 0, alternative: true };
            return self.attempt_failed(failed, actions);
        }
        // One that is to be made again has an attempt of its own, which no limit counts.
        if self.interrupted(actions)? { Ok(()) } else { self.call_again(attempt.saturating_add(1), actions) }
    }

    /// A failed attempt as cores before 0x0003 took it: four in all, whatever befell them and whoever was asked.
    pub(super) fn attempt_failed(&mut self, failed: Failed, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let attempt = failed.attempt;
        let last = attempt >= self.limits.model_attempts;
        match failed.failure {
            ModelFailure::Rejected if !failed.alternative => {
                self.finish(Outcome::Failed(Failure::ModelRejected), actions)
            }
            ModelFailure::ContextLength => self.shrink(attempt.saturating_add(1), last, actions),
            _ if last => self.finish(Outcome::Failed(Failure::Model), actions),
            _ => {
                let Failed { jitter, retry_after_ms, .. } = failed;
                let at = retry::next_attempt_at(&self.limits, self.now, attempt, jitter, retry_after_ms);
                if failed.alternative || at <= self.now {
                    return self.reserve(attempt + 1, actions);
                }
                self.phase = Phase::BackingOff { attempt: attempt + 1, until: at };
                Ok(())
            }
        }
    }

    /// The model finds the context too long: our estimate was too low. Halves what is sent and holds the run to that from
    /// here on.
    pub(super) fn shrink(&mut self, attempt: u16, last: bool, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let sent = self.context.tokens();
        self.context.trim_to(sent / 2);
        if last || self.context.tokens() == sent {
            return self.finish(Outcome::Failed(Failure::ContextOverflow), actions);
        }
        let held = [sent / 4 * 3, u64::from(self.limits.fixed), u64::from(self.limits.headroom())].iter().sum::<u64>();
        self.limits.window = self.limits.window.min(u32::try_from(held).unwrap_or(u32::MAX));
        self.reserve(attempt, actions)
    }

    pub(super) fn reply(
        &mut self,
        spend: Spend,
        tokens: u32,
        finish: Finish,
        calls: &Array<CallSpec, CALLS>,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        self.settle(spend, false, actions)?;
        self.interruptions = Interruptions::default();
        match finish {
            Finish::Final => return self.finish(Outcome::Completed, actions),
            Finish::Length => return self.finish(Outcome::Failed(Failure::Truncated), actions),
            Finish::Filtered => return self.finish(Outcome::Failed(Failure::Filtered), actions),
            Finish::Invalid if self.repairs >= self.limits.repairs => {
                return self.finish(Outcome::Failed(Failure::Invalid), actions);
            }
            Finish::Invalid | Finish::Calls if self.budget.is_exceeded(&self.limits) => {
                return self.finish(Outcome::Failed(Failure::BudgetRun), actions);
            }
            Finish::Invalid => {
                self.repairs += 1;
                self.context.push(tokens, self.limits.units);
                return self.plan(actions);
            }
            Finish::Calls => {}
        }
        self.take_calls(tokens, calls, actions)
    }

    fn take_calls(
        &mut self,
        tokens: u32,
        calls: &Array<CallSpec, CALLS>,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let count = u32::try_from(calls.len()).unwrap_or(u32::MAX);
        if calls.is_empty() {
            return Err(Refusal::NoCalls);
        }
        if count > u32::from(self.limits.calls) {
            let has = u32::from(self.limits.calls);
            return Err(Refusal::Capacity { what: "calls", asked: count, has });
        }
        if !self.counts_apart() {
            self.context.push(tokens, self.limits.units);
        }
        if self.tool_calls.saturating_add(count) > self.limits.tool_calls {
            return self.finish(Outcome::Failed(Failure::ToolCalls), actions);
        }
        if self.repeats(calls.as_slice()) {
            return self.finish(Outcome::Failed(Failure::Repeated), actions);
        }
        // A turn that is not taken is not in the context: a run that is resumed asks for it again.
        if self.counts_apart() {
            self.context.push(tokens, self.limits.units);
        }
        self.tool_calls += count;
        self.phase = Phase::Acting;
        self.calls.clear();
        for (index, spec) in (0..).zip(calls.as_slice()) {
            let state = match spec.kind {
                CallKind::Tool { approval: true, .. } => CallState::Approving,
                CallKind::Tool { .. } => CallState::Queued,
                CallKind::Rejected { tokens } => {
                    self.context.grow(tokens);
                    CallState::Done
                }
                CallKind::Signal { until, .. } | CallKind::Question { until } => CallState::Waiting { until },
                CallKind::Timer { at } => CallState::Waiting { until: at.max(1) },
            };
            if state == CallState::Approving || matches!(spec.kind, CallKind::Question { .. }) {
                actions.push(Action::Ask { call: index })?;
            }
            self.calls.push(Call { spec: *spec, state, lost: 0 })?;
        }
        self.advance(actions)
    }

    /// Whether these calls came too often within the turns remembered. Waiting is no work and not counted.
    fn repeats(&mut self, calls: &[CallSpec]) -> bool {
        let waits = |spec: &CallSpec| {
            matches!(spec.kind, CallKind::Signal { .. } | CallKind::Timer { .. } | CallKind::Question { .. })
        };
        if self.limits.repeats == 0 || calls.iter().all(waits) {
            return false;
        }
        // FNV-1a over the calls' digests, a word at a time.
        let turn = calls
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, spec| (hash ^ spec.digest).wrapping_mul(0x0100_0000_01b3));
        let before = self.turns.as_slice().iter().filter(|earlier| **earlier == turn).count();
        if self.turns.len() == TURNS_REMEMBERED {
            self.turns.pop_front();
        }
        // The oldest has just made room: this cannot fail.
        let _ = self.turns.push(turn);
        before >= usize::from(self.limits.repeats)
    }
}
