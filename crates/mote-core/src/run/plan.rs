//! Plan: the context is trimmed, the call is paid for, the model is called, its reply is taken. It does not look into
//! calls; `act` does.

use super::attempts::{Attempts, Interruptions};
use super::{Call, CallState, Phase, Refusal, Run};
use crate::{
    Action, Actions, Array, CallKind, CallSpec, Cost, Failure, Finish, Outcome, Spend, Spender, TURNS_REMEMBERED, Wait,
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
        self.reserve(1, actions)?;
        // Beside the call, so that the context need not be summarised when it no longer fits.
        if matches!(self.phase, Phase::Reserving { .. }) && self.is_filling() {
            self.begin_summary(self.limits.low_water_mark(), actions)?;
        }
        Ok(())
    }

    /// Makes the context fit and asks for the money to send it.
    pub(super) fn reserve(&mut self, attempt: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if self.context.tokens() > u64::from(self.limits.usable()) {
            self.begin_summary(self.limits.low_water_mark(), actions)?;
            if !self.compaction.is_idle() {
                self.phase = Phase::Compacting { attempt };
                return Ok(());
            }
        }
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
        let reserved = self.budget.model_reservation();
        let (tokens, nano_usd) = (reserved.tokens(), reserved.nano_usd);
        Ok(actions.push(Action::Reserve { spender: Spender::Model, tokens, nano_usd })?)
    }

    /// Calls the first endpoint that has not failed in this round.
    pub(super) fn think(
        &mut self,
        attempt: u16,
        output: u32,
        available: u16,
        actions: &mut Actions<CALLS>,
    ) -> Result<(), Refusal> {
        let endpoint = self.choose(available);
        self.phase = Phase::Thinking { attempt, endpoint };
        let (step, from) = (self.step, self.context.first());
        Ok(actions.push(Action::CallModel { step, attempt, endpoint, from, output })?)
    }

    /// The model call under way was lost with its worker. One that is to be made again has an attempt of its own, which no
    /// limit counts.
    pub(super) fn model_call_lost(&mut self, attempt: u16, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.budget.lose(self.budget.model_reservation());
        self.forfeit_model(actions)?;
        if self.interrupted(actions)? { Ok(()) } else { self.call_again(attempt.saturating_add(1), actions) }
    }

    /// The model finds the context too long: our estimate was too low. Halves what is sent, by a summary where there may be
    /// one, and holds the run to that from here on.
    pub(super) fn shrink(&mut self, attempt: u16, last: bool, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let sent = self.context.tokens();
        if last {
            // One that is resumed goes on with less.
            self.context.trim_to(sent / 2);
            return self.finish(Outcome::Failed(Failure::ContextOverflow), actions);
        }
        let held = [sent / 4 * 3, u64::from(self.limits.fixed), u64::from(self.limits.headroom())].iter().sum::<u64>();
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        self.begin_summary(sent / 2, actions)?;
        if !self.compaction.is_idle() {
            self.limits.window = self.limits.window.min(held);
            self.phase = Phase::Compacting { attempt };
            return Ok(());
        }
        self.context.trim_to(sent / 2);
        if self.context.tokens() == sent {
            return self.finish(Outcome::Failed(Failure::ContextOverflow), actions);
        }
        self.limits.window = self.limits.window.min(held);
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
        self.settle(Spender::Model, Cost { spend, uncertain: false }, actions)?;
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
        if self.tool_calls.saturating_add(count) > self.limits.tool_calls {
            return self.finish(Outcome::Failed(Failure::ToolCalls), actions);
        }
        if self.repeats(calls.as_slice()) {
            return self.finish(Outcome::Failed(Failure::Repeated), actions);
        }
        // A turn that is not taken is not in the context: a run that is resumed asks for it again.
        self.context.push(tokens, self.limits.units);
        self.tool_calls += count;
        self.phase = Phase::Acting;
        self.calls.clear();
        for (index, spec) in (0..).zip(calls.as_slice()) {
            let waits = |wait, until| CallState::Waiting { wait, until, attempt: None };
            let state = match spec.kind {
                CallKind::Tool { approval: true, .. } => waits(Wait::Approval, 0),
                CallKind::Tool { .. } => CallState::Queued,
                CallKind::Rejected { tokens } => {
                    self.context.grow(tokens);
                    CallState::Done
                }
                CallKind::Signal { until, .. } => waits(Wait::Signal, until),
                CallKind::Question { until } => waits(Wait::Input, until),
                CallKind::Timer { at } => waits(Wait::Time, at.max(1)),
            };
            if matches!(state, CallState::Waiting { wait: Wait::Approval | Wait::Input, .. }) {
                actions.push(Action::Ask { call: index })?;
            }
            self.calls.push(Call { spec: *spec, state, lost: 0, reserved: false })?;
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
