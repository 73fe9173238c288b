//! What a driver may rely on, checked from outside with ordinary collections. It knows nothing of how the run decides.

mod sizes;

use std::collections::{BTreeMap, BTreeSet};

use mote_core::{
    Action, Actions, CallFailure, CallKind, CallOutcome, CallState, Change, Effect, Event, Failure, Finish,
    OUTPUT_TOKENS_MIN, Outcome, Phase, Run, Spend, Time,
};
use proptest::prelude::*;
use sizes::Sizes;

/// What was seen of one call of the present turn.
#[derive(Default)]
struct Seen {
    results: u32,
    attempts: u16,
    /// Of these, lost with their worker.
    lost: u16,
    first_attempt: Time,
    not_before: Time,
    /// Whether an attempt may have been performed.
    uncertain: bool,
    approved: bool,
}

#[derive(Default)]
pub struct Watcher {
    finished: bool,
    reserved: bool,
    thinking: bool,
    calls: BTreeMap<u16, Seen>,
    spent_tokens: u64,
    spent_nano_usd: u64,
    uncertain_tokens: u64,
    uncertain_nano_usd: u64,
    active_ms: u64,
    sizes: Sizes,
}

impl Watcher {
    pub fn watch<const U: usize, const C: usize>(
        &mut self,
        before: &Run<U, C>,
        event: &Event<C>,
        actions: &Actions<C>,
        after: &Run<U, C>,
    ) -> Result<(), TestCaseError> {
        prop_assert!(
            !self.finished || matches!(event, Event::Resumed { .. }),
            "an event was taken after the end that does not resume the run"
        );
        self.take(before, event, after.now())?;
        let from_outside = matches!(event, Event::Cancelled { .. } | Event::TimerFired | Event::Rebound { .. });
        if from_outside && actions.finish().is_some() {
            self.cut_off(before);
        }
        for action in actions.iter() {
            if let Action::Conclude { call, outcome } = action {
                self.check_outcome(call, outcome, before.calls()[usize::from(call)].spec.kind)?;
            }
            self.act(action, after)?;
        }
        let finishes = actions.iter().filter(|action| matches!(action, Action::Finish(_))).count();
        prop_assert_eq!(finishes, usize::from(matches!(after.phase(), Phase::Finished(_))));
        self.finished = finishes == 1;
        if self.finished {
            let silent =
                self.calls.iter().find(|(_, seen)| seen.attempts > 0 && seen.results != 1).map(|(call, _)| *call);
            prop_assert_eq!(silent, None, "the run ended and says nothing of a call that was made");
            prop_assert_eq!((after.budget().reserved_tokens, after.budget().reserved_nano_usd), (0, 0));
            prop_assert_eq!(after.poll_at(), None);
        }
        self.check_money(before, event, actions, after)?;
        self.check_time(before, event, actions, after)?;
        self.sizes.watch(event, actions, after)?;
        check_limits(after)
    }

    fn take<const U: usize, const C: usize>(
        &mut self,
        before: &Run<U, C>,
        event: &Event<C>,
        now: Time,
    ) -> Result<(), TestCaseError> {
        match event {
            Event::BudgetGranted => self.reserved = true,
            Event::ModelReplied { calls, finish, .. } => {
                prop_assert!(self.thinking, "a reply was taken that nobody asked for");
                self.thinking = false;
                let rejected = |kind| u32::from(matches!(kind, CallKind::Rejected { .. }));
                let taken = if *finish == Finish::Calls { calls.as_slice() } else { &[] };
                let seen = |kind| Seen { results: rejected(kind), ..Seen::default() };
                self.calls = (0..).zip(taken).map(|(index, spec)| (index, seen(spec.kind))).collect();
            }
            Event::ModelFailed { .. } => self.thinking = false,
            Event::CallAnswered { call, .. } | Event::Signalled { call, .. } | Event::Replied { call, .. } => {
                self.seen(*call).results += 1;
            }
            Event::Approved { call } => self.seen(*call).approved = true,
            Event::CallFailed { call, failure, retry_after_ms, .. } => {
                let seen = self.seen(*call);
                seen.uncertain |= *failure == CallFailure::Unknown;
                seen.not_before = now + u64::from(*retry_after_ms);
            }
            Event::Recovered => {
                self.thinking = false;
                for (index, call) in (0..).zip(before.calls()) {
                    let running = matches!(call.state, CallState::Running { .. });
                    self.seen(index).uncertain |= running;
                    self.seen(index).lost += u16::from(running);
                }
            }
            Event::Resumed { .. } => {
                self.active_ms = 0;
                if before.calls().is_empty() {
                    // A turn that was refused was never taken.
                    self.calls.clear();
                }
                if matches!(before.phase(), Phase::Finished(_)) {
                    self.thinking = false;
                    self.reserved = false;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What is under way when the run ends may have been performed.
    fn cut_off<const U: usize, const C: usize>(&mut self, before: &Run<U, C>) {
        for (index, call) in (0..).zip(before.calls()) {
            let running = matches!(call.state, CallState::Running { .. });
            let seen = self.seen(index);
            seen.uncertain |= running && seen.results == 0;
        }
    }

    fn seen(&mut self, call: u16) -> &mut Seen {
        self.calls.entry(call).or_default()
    }

    fn act<const U: usize, const C: usize>(&mut self, action: Action, after: &Run<U, C>) -> Result<(), TestCaseError> {
        match action {
            Action::Conclude { call, .. } => {
                self.seen(call).results += 1;
                prop_assert_eq!(self.seen(call).results, 1, "a call has two results");
            }
            Action::CallTool { call, attempt } => self.call_tool(call, attempt, after)?,
            Action::CallModel { from, output, .. } => {
                prop_assert!(std::mem::take(&mut self.reserved), "a model call without a reservation");
                let all = (1_u64 << after.limits().endpoints.max(1)) - 1;
                prop_assert!(after.exhausted() & all != all, "a call of endpoints that have used up their attempts");
                prop_assert!(after.context().tokens() <= u64::from(after.limits().usable()), "context over the window");
                prop_assert_eq!(from, after.context().first());
                prop_assert!(u64::from(output) <= after.budget().reserved_tokens);
                prop_assert!(output >= after.limits().output.min(OUTPUT_TOKENS_MIN), "no room for a reply");
                self.thinking = true;
            }
            Action::Reserve { tokens, nano_usd } => {
                let orphan = self.calls.iter().find(|(_, seen)| seen.results != 1).map(|(call, _)| *call);
                prop_assert_eq!(orphan, None, "a turn was left with a call that has not exactly one result");
                let budget = after.budget();
                prop_assert_eq!((tokens, nano_usd), (budget.reserved_tokens, budget.reserved_nano_usd));
            }
            Action::Suspend { until } => {
                prop_assert!(after.is_suspended());
                prop_assert_eq!(until, after.poll_at().unwrap_or(0));
            }
            Action::Settle { tokens, nano_usd, uncertain: false } => {
                self.spent_tokens += tokens;
                self.spent_nano_usd += nano_usd;
            }
            Action::Settle { tokens, nano_usd, uncertain: true } => {
                self.uncertain_tokens += tokens;
                self.uncertain_nano_usd += nano_usd;
            }
            Action::Ask { .. } | Action::Finish(_) => {}
        }
        Ok(())
    }

    fn call_tool<const U: usize, const C: usize>(
        &mut self,
        call: u16,
        attempt: u16,
        after: &Run<U, C>,
    ) -> Result<(), TestCaseError> {
        let kind = after.calls()[usize::from(call)].spec.kind;
        let CallKind::Tool { effect, key_ttl_ms, approval } = kind else {
            return Err(TestCaseError::fail("a call without a backend was made"));
        };
        let (now, seen) = (after.now(), self.seen(call));
        prop_assert!(!approval || seen.approved, "a call was made without its approval");
        prop_assert_eq!(attempt, seen.attempts + 1, "attempts are counted without gaps");
        prop_assert!(attempt - seen.lost <= after.limits().tool_attempts.max(1));
        prop_assert_eq!(seen.results, 0, "a call with a result was made again");
        prop_assert!(now >= seen.not_before, "a call was repeated before its Retry-After");
        if seen.attempts == 0 {
            seen.first_attempt = now;
        }
        if seen.uncertain {
            prop_assert!(effect != Effect::Write, "an uncertain write was repeated");
            let key_lives = now - seen.first_attempt <= key_ttl_ms;
            prop_assert!(effect != Effect::Idempotent || key_lives, "a call was repeated past its key's life");
        }
        seen.attempts = attempt;
        Ok(())
    }

    /// An outcome says *unknown* exactly if the call may have changed something.
    fn check_outcome(&mut self, call: u16, outcome: CallOutcome, kind: CallKind) -> Result<(), TestCaseError> {
        let changes = matches!(kind, CallKind::Tool { effect: Effect::Idempotent | Effect::Write, .. });
        let doubt = changes && self.seen(call).uncertain;
        prop_assert_eq!(outcome == CallOutcome::Unknown, doubt, "{:?} hides what is known", outcome);
        Ok(())
    }

    fn check_money<const U: usize, const C: usize>(
        &self,
        before: &Run<U, C>,
        event: &Event<C>,
        actions: &Actions<C>,
        after: &Run<U, C>,
    ) -> Result<(), TestCaseError> {
        let (limits, budget) = (after.limits(), after.budget());
        prop_assert_eq!(budget.spent.tokens(), self.spent_tokens);
        prop_assert_eq!(budget.spent.nano_usd, self.spent_nano_usd);
        prop_assert_eq!(budget.uncertain.tokens(), self.uncertain_tokens);
        prop_assert_eq!(budget.uncertain.nano_usd, self.uncertain_nano_usd);
        let (tokens, nano_usd) =
            (self.spent_tokens + self.uncertain_tokens, self.spent_nano_usd + self.uncertain_nano_usd);
        prop_assert!(tokens + budget.reserved_tokens <= limits.budget_tokens, "tokens beyond the budget");
        prop_assert!(nano_usd + budget.reserved_nano_usd <= limits.budget_nano_usd, "money beyond the budget");
        let thinks = |run: &Run<U, C>| matches!(run.phase(), Phase::Thinking { .. });
        let settled: Vec<Action> = actions.iter().filter(|action| matches!(action, Action::Settle { .. })).collect();
        let expected = match event {
            _ if !thinks(before) || thinks(after) => vec![],
            Event::ModelReplied { spend, .. } => vec![settle(*spend, false)],
            Event::ModelFailed { spend, uncertain, .. } => vec![settle(*spend, *uncertain)],
            Event::Cancelled { spend } => vec![settle(*spend, true)],
            _ => vec![settle(before.budget().reservation(), true)],
        };
        prop_assert_eq!(settled, expected, "a model call is settled once, when it ends");
        Ok(())
    }

    fn check_time<const U: usize, const C: usize>(
        &mut self,
        before: &Run<U, C>,
        event: &Event<C>,
        actions: &Actions<C>,
        after: &Run<U, C>,
    ) -> Result<(), TestCaseError> {
        let rest = u64::from(before.limits().rest_ms);
        let pauses = |until: Time| rest == 0 || until.saturating_sub(before.now()) < rest;
        let works = |call: &mote_core::Call| match call.state {
            CallState::Queued | CallState::Running { .. } => true,
            CallState::BackingOff { until, .. } => pauses(until),
            _ => false,
        };
        let worked = match before.phase() {
            Phase::New | Phase::Open | Phase::Finished(_) => false,
            Phase::Reserving { .. } | Phase::Thinking { .. } => true,
            Phase::BackingOff { until, .. } => pauses(until),
            Phase::Acting => before.calls().iter().any(works),
        };
        if worked && !matches!(event, Event::Recovered | Event::Rebound { .. } | Event::Resumed { .. }) {
            self.active_ms += after.now() - before.now();
        }
        prop_assert_eq!(after.active_ms(), self.active_ms);
        let limits = after.limits();
        let due = if limits.expires_at != 0 && after.now() >= limits.expires_at {
            Some(Failure::Expired)
        } else {
            (worked && self.active_ms >= limits.active_ms).then_some(Failure::Active)
        };
        if let (Event::TimerFired, Some(failure)) = (event, due) {
            prop_assert_eq!(actions.finish(), Some(Outcome::Failed(failure)));
        }
        if let Event::Rebound { change: Change::Continue, digest } = event {
            prop_assert_eq!(actions.iter().count(), 0);
            prop_assert_eq!(after.digest(), digest);
        }
        if after.is_suspended() && !before.is_suspended() {
            let told = actions.iter().any(|action| matches!(action, Action::Suspend { .. }));
            prop_assert!(told, "a run came to rest and did not say so");
        }
        timer_makes_progress(after)
    }
}

/// A driver that sleeps until `poll_at` and fires the timer never spins.
fn timer_makes_progress<const U: usize, const C: usize>(run: &Run<U, C>) -> Result<(), TestCaseError> {
    let Some(due) = run.poll_at() else { return Ok(()) };
    let (now, mut next) = (due.max(run.now()), *run);
    let actions = next.step(now, &Event::TimerFired).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let rests = next.poll_at().is_none_or(|then| then > now);
    prop_assert!(rests || actions.iter().next().is_some(), "the timer of {} did nothing", due);
    Ok(())
}

fn check_limits<const U: usize, const C: usize>(run: &Run<U, C>) -> Result<(), TestCaseError> {
    let limits = run.limits();
    prop_assert!(run.steps() <= limits.steps && run.tool_calls() <= limits.tool_calls);
    let busy = |call: &&mote_core::Call| matches!(call.state, CallState::Running { .. } | CallState::BackingOff { .. });
    let busy = run.calls().iter().filter(busy).count();
    prop_assert!(busy <= usize::from(limits.parallel));
    if run.phase() == Phase::Acting {
        let states: BTreeSet<_> = run.calls().iter().map(|call| format!("{:?}", call.state)).collect();
        prop_assert!(states != BTreeSet::from(["Done".to_owned()]), "a turn without open calls is not left");
        let idle = states.contains("Queued") && busy < usize::from(limits.parallel);
        prop_assert!(!idle, "a call waits though a place is free");
    }
    Ok(())
}

fn settle(spend: Spend, uncertain: bool) -> Action {
    Action::Settle { tokens: spend.tokens(), nano_usd: spend.nano_usd, uncertain }
}
