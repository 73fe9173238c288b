//! What a driver may rely on, checked from outside with ordinary collections. It knows nothing of how the run decides.

mod sizes;

use std::collections::{BTreeMap, BTreeSet};

use mote_core::{
    Action, Actions, CallFailure, CallKind, CallOutcome, CallState, Change, Cost, Effect, Event, Failure, Finish,
    OUTPUT_TOKENS_MIN, Outcome, Phase, Run, Spend, Spender, Time, Wait,
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
    /// Whether its attempt is held by nobody.
    suspended: bool,
}

/// Whose a reservation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Model,
    Summary,
    Call(u16),
}

impl Held {
    fn of(spender: Spender) -> Self {
        match spender {
            Spender::Model => Self::Model,
            Spender::Summary => Self::Summary,
            Spender::Call { call } => Self::Call(call),
        }
    }
}

#[derive(Default)]
pub struct Watcher {
    finished: bool,
    /// Reservations that were asked for, and those of them that hold.
    asked: BTreeMap<Held, (u64, u64)>,
    granted: BTreeSet<Held>,
    thinking: bool,
    summarising: bool,
    /// Whether a summary was under way before this step.
    summary_was_open: bool,
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
        self.summary_was_open = before.summary().is_some();
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
                // A call may be over in the step that makes it.
                let spec = match event {
                    Event::ModelReplied { calls, .. } => calls.as_slice()[usize::from(call)],
                    _ => before.calls()[usize::from(call)].spec,
                };
                self.check_outcome(call, outcome, spec.kind)?;
            }
            self.act(action, after)?;
        }
        let finishes = actions.iter().filter(|action| matches!(action, Action::Finish { .. })).count();
        prop_assert_eq!(finishes, usize::from(matches!(after.phase(), Phase::Finished(_))));
        self.finished = finishes == 1;
        if self.finished {
            let silent =
                self.calls.iter().find(|(_, seen)| seen.attempts > 0 && seen.results != 1).map(|(call, _)| *call);
            prop_assert_eq!(silent, None, "the run ended and says nothing of a call that was made");
            prop_assert_eq!(after.budget().reserved(), Spend::default());
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
            Event::BudgetGranted { spender, .. } => drop(self.granted.insert(Held::of(*spender))),
            Event::ModelReplied { calls, finish, .. } => {
                prop_assert!(self.thinking, "a reply was taken that nobody asked for");
                self.thinking = false;
                let rejected = |kind| u32::from(matches!(kind, CallKind::Rejected { .. }));
                let taken = if *finish == Finish::Calls { calls.as_slice() } else { &[] };
                let seen = |kind| Seen { results: rejected(kind), ..Seen::default() };
                self.calls = (0..).zip(taken).map(|(index, spec)| (index, seen(spec.kind))).collect();
            }
            Event::BudgetRefused { spender } => drop(self.asked.remove(&Held::of(*spender))),
            Event::ModelFailed { .. } => self.thinking = false,
            Event::Compacted { .. } | Event::CompactionFailed { .. } => {
                prop_assert!(std::mem::take(&mut self.summarising), "a summary was taken that nobody asked for");
            }
            Event::CallAnswered { call, .. } | Event::Signalled { call, .. } => self.seen(*call).results += 1,
            // What a backend wanted to know is no result.
            Event::Replied { call, .. } => {
                let asked = before.calls()[usize::from(*call)].state;
                let held = matches!(asked, CallState::Waiting { attempt: Some(_), .. });
                self.seen(*call).results += u32::from(!held);
            }
            Event::CallSuspended { call, wait, .. } => {
                prop_assert!(!matches!(wait, Wait::Signal | Wait::Time));
                self.seen(*call).suspended = true;
            }
            Event::Approved { call } => self.seen(*call).approved = true,
            Event::CallFailed { call, failure, retry_after_ms, .. } => {
                let seen = self.seen(*call);
                seen.uncertain |= *failure == CallFailure::Unknown;
                seen.not_before = now + u64::from(*retry_after_ms);
            }
            Event::Recovered => {
                self.thinking = false;
                self.summarising = false;
                for (index, call) in (0..).zip(before.calls()) {
                    let running = matches!(call.state, CallState::Running(_));
                    self.seen(index).uncertain |= running;
                    self.seen(index).lost += u16::from(running);
                }
            }
            Event::TimerFired => {
                // A backend that asked, and got no answer, has done who knows what.
                for (index, call) in (0..).zip(before.calls()) {
                    let CallState::Waiting { wait, until, attempt: Some(_) } = call.state else { continue };
                    let asked = matches!(wait, Wait::Approval | Wait::Input);
                    self.seen(index).uncertain |= asked && until != 0 && until <= now;
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
                    self.summarising = false;
                    self.asked.clear();
                    self.granted.clear();
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What is under way when the run ends may have been performed.
    fn cut_off<const U: usize, const C: usize>(&mut self, before: &Run<U, C>) {
        for (index, call) in (0..).zip(before.calls()) {
            let running = matches!(
                call.state,
                CallState::Running(_) | CallState::Ready(_) | CallState::Waiting { attempt: Some(_), .. }
            );
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
                prop_assert!(self.granted.contains(&Held::Model), "a model call without a reservation");
                let all = (1_u16 << after.limits().endpoints.max(1)) - 1;
                prop_assert!(after.exhausted() & all != all, "a call of endpoints that have used up their attempts");
                prop_assert!(after.context().tokens() <= u64::from(after.limits().usable()), "context over the window");
                prop_assert_eq!(from, after.context().first());
                prop_assert!(u64::from(output) <= after.budget().model_reservation().tokens());
                prop_assert!(output >= after.limits().output.min(OUTPUT_TOKENS_MIN), "no room for a reply");
                self.thinking = true;
            }
            Action::Reserve { spender: Spender::Model, tokens, nano_usd } => {
                let orphan = self.calls.iter().find(|(_, seen)| seen.results != 1).map(|(call, _)| *call);
                prop_assert_eq!(orphan, None, "a turn was left with a call that has not exactly one result");
                let reserved = after.budget().model_reservation();
                prop_assert_eq!((tokens, nano_usd), (reserved.tokens(), reserved.nano_usd));
                self.asked.insert(Held::Model, (tokens, nano_usd));
            }
            Action::Reserve { spender, tokens, nano_usd } => {
                self.asked.insert(Held::of(spender), (tokens, nano_usd));
            }
            Action::Compact { from, through, .. } => {
                prop_assert!(self.granted.contains(&Held::Summary), "a summary without a reservation");
                prop_assert!(from <= through && through < after.context().next());
                self.summarising = true;
            }
            Action::ResumeCall { call, attempt } => {
                let seen = self.seen(call);
                prop_assert!(std::mem::take(&mut seen.suspended), "a call goes on that was not suspended");
                prop_assert_eq!((seen.results, attempt), (0, seen.attempts));
            }
            Action::Suspend { until } => {
                prop_assert!(after.is_suspended());
                prop_assert_eq!(until, after.poll_at().unwrap_or(0));
            }
            Action::Settle { spender, tokens, nano_usd, uncertain } => {
                let held = Held::of(spender);
                prop_assert!(self.granted.remove(&held), "{held:?} settles what it had not reserved");
                self.asked.remove(&held);
                let (sum, money) = match uncertain {
                    false => (&mut self.spent_tokens, &mut self.spent_nano_usd),
                    true => (&mut self.uncertain_tokens, &mut self.uncertain_nano_usd),
                };
                *sum += tokens;
                *money += nano_usd;
            }
            Action::Ask { .. } | Action::Finish { .. } => {}
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
        let paid = after.calls()[usize::from(call)].spec.reserve.is_zero() || self.granted.contains(&Held::Call(call));
        prop_assert!(paid, "a call that spends was made without a reservation");
        let (now, seen) = (after.now(), self.seen(call));
        prop_assert!(!approval || seen.approved, "a call was made without its approval");
        prop_assert!(!seen.suspended, "a suspended call was made again");
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
        // Calls of one step that were lost with their workers count once, as the dearest of them.
        let counted = budget.counted();
        let (tokens, nano_usd) = (counted.tokens(), counted.nano_usd);
        prop_assert!(tokens >= self.spent_tokens && tokens <= self.spent_tokens + self.uncertain_tokens);
        let reserved = budget.reserved();
        prop_assert!(tokens + reserved.tokens() <= limits.budget_tokens, "tokens beyond the budget");
        prop_assert!(nano_usd + reserved.nano_usd <= limits.budget_nano_usd, "money beyond the budget");
        if self.finished {
            prop_assert_eq!(reserved, Spend::default(), "a reservation outlives the run");
        } else {
            let open = self.asked.values().fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
            prop_assert_eq!((reserved.tokens(), reserved.nano_usd), open, "what is reserved is not what was asked for");
        }
        let thinks = |run: &Run<U, C>| matches!(run.phase(), Phase::Thinking { .. });
        let of_model = |action: &Action| matches!(action, Action::Settle { spender: Spender::Model, .. });
        let settled: Vec<Action> = actions.iter().filter(of_model).collect();
        let expected = match event {
            _ if !thinks(before) || thinks(after) => vec![],
            Event::ModelReplied { spend, .. } => vec![settle(Cost { spend: *spend, uncertain: false })],
            Event::ModelFailed { cost, .. } => vec![settle(*cost)],
            Event::Cancelled { spend } => vec![settle(Cost { spend: *spend, uncertain: true })],
            _ => vec![settle(Cost { spend: before.budget().model_reservation(), uncertain: true })],
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
            CallState::Queued | CallState::Reserving(_) | CallState::Running(_) | CallState::Ready(_) => true,
            CallState::BackingOff { until, .. } => pauses(until),
            CallState::Waiting { .. } | CallState::Done => false,
        };
        let worked = match before.phase() {
            Phase::New | Phase::Open | Phase::Finished(_) => false,
            Phase::Compacting { .. } | Phase::Reserving { .. } | Phase::Thinking { .. } => true,
            Phase::BackingOff { until, .. } => pauses(until) || self.summary_was_open,
            Phase::Acting => before.calls().iter().any(works) || self.summary_was_open,
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
            let silent = actions.iter().all(|action| matches!(action, Action::Suspend { .. }));
            prop_assert!(silent, "a new capability set changes nothing else");
            prop_assert_eq!(after.digest(), digest);
        }
        if after.is_suspended() {
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
    let busy = |call: &&mote_core::Call| {
        matches!(call.state, CallState::Reserving(_) | CallState::Running(_) | CallState::BackingOff { .. })
    };
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

fn settle(cost: Cost) -> Action {
    let (tokens, nano_usd) = (cost.spend.tokens(), cost.spend.nano_usd);
    Action::Settle { spender: Spender::Model, tokens, nano_usd, uncertain: cost.uncertain }
}
