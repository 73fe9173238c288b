//! What a driver may rely on, checked from outside with ordinary collections. It knows nothing of how the run decides.

use std::collections::BTreeMap;

use mote_core::{Action, Actions, CallFailure, CallKind, CallState, Effect, Event, Finish, Phase, Run};
use proptest::prelude::*;

#[derive(Default)]
pub struct Watcher {
    finished: bool,
    reserved: bool,
    thinking: bool,
    /// Results that each call of the present turn has.
    results: BTreeMap<u16, u32>,
    /// Calls that may have been performed.
    uncertain: BTreeMap<u16, bool>,
    last_attempt: BTreeMap<u16, u16>,
}

impl Watcher {
    pub fn watch<const U: usize, const C: usize>(
        &mut self,
        before: &Run<U, C>,
        event: &Event<C>,
        actions: &Actions<C>,
        after: &Run<U, C>,
    ) -> Result<(), TestCaseError> {
        prop_assert!(!self.finished, "an event was taken after the end");
        self.take(before, event)?;
        for action in actions.iter() {
            self.act(action, after)?;
        }
        let finishes = actions.iter().filter(|action| matches!(action, Action::Finish(_))).count();
        prop_assert_eq!(finishes, usize::from(matches!(after.phase(), Phase::Finished(_))));
        self.finished = finishes == 1;

        let (limits, budget) = (after.limits(), after.budget());
        prop_assert!(budget.spent.tokens() + budget.reserved_tokens <= limits.budget_tokens.max(budget.spent.tokens()));
        prop_assert!(budget.spent.tokens() <= limits.budget_tokens, "tokens beyond the budget");
        prop_assert!(budget.spent.nano_usd <= limits.budget_nano_usd, "money beyond the budget");
        prop_assert!(after.steps() <= limits.steps && after.tool_calls() <= limits.tool_calls);
        let busy = |call: &&mote_core::Call| matches!(call.state, CallState::Running { .. });
        prop_assert!(after.calls().iter().filter(busy).count() <= usize::from(limits.parallel));
        if after.phase() == Phase::Acting {
            let open = after.calls().iter().any(|call| call.state != CallState::Done);
            prop_assert!(open, "a turn without open calls is not left");
        }
        Ok(())
    }

    fn take<const U: usize, const C: usize>(
        &mut self,
        before: &Run<U, C>,
        event: &Event<C>,
    ) -> Result<(), TestCaseError> {
        match event {
            Event::BudgetGranted => self.reserved = true,
            Event::ModelReplied { calls, finish, .. } => {
                prop_assert!(self.thinking, "a reply was taken that nobody asked for");
                self.thinking = false;
                let rejected = |kind| matches!(kind, CallKind::Rejected { .. });
                let taken = if *finish == Finish::Calls { calls.as_slice() } else { &[] };
                self.results = (0..).zip(taken).map(|(i, spec)| (i, u32::from(rejected(spec.kind)))).collect();
                self.uncertain.clear();
                self.last_attempt.clear();
            }
            Event::ModelFailed { .. } => self.thinking = false,
            Event::CallAnswered { call, .. } | Event::Signalled { call, .. } | Event::Replied { call, .. } => {
                *self.results.entry(*call).or_default() += 1;
            }
            Event::CallFailed { call, failure: CallFailure::Unknown, .. } => {
                self.uncertain.insert(*call, true);
            }
            Event::Recovered => {
                self.thinking = false;
                for (index, call) in (0..).zip(before.calls()) {
                    if matches!(call.state, CallState::Running { .. }) {
                        self.uncertain.insert(index, true);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn act<const U: usize, const C: usize>(&mut self, action: Action, after: &Run<U, C>) -> Result<(), TestCaseError> {
        match action {
            Action::Conclude { call, .. } => *self.results.entry(call).or_default() += 1,
            Action::CallTool { call, attempt } => {
                let kind = after.calls()[usize::from(call)].spec.kind;
                let CallKind::Tool { effect, .. } = kind else {
                    return Err(TestCaseError::fail("a call without a backend was made"));
                };
                let uncertain = self.uncertain.contains_key(&call);
                prop_assert!(!(uncertain && effect == Effect::Write), "an uncertain write was repeated");
                let last = self.last_attempt.insert(call, attempt).unwrap_or(0);
                prop_assert_eq!(attempt, last + 1, "attempts are counted without gaps");
                prop_assert!(attempt <= after.limits().tool_attempts);
                prop_assert_eq!(self.results.get(&call), Some(&0), "a call with a result was made again");
            }
            Action::CallModel { attempt, .. } => {
                prop_assert!(std::mem::take(&mut self.reserved), "a model call without a reservation");
                prop_assert!(attempt <= after.limits().model_attempts);
                prop_assert!(after.context().tokens() <= u64::from(after.limits().usable()), "context over the window");
                self.thinking = true;
            }
            Action::Reserve { .. } => {
                let orphan = self.results.iter().find(|(_, results)| **results != 1);
                prop_assert_eq!(orphan, None, "a turn was left with a call that has not exactly one result");
            }
            Action::Suspend { .. } => prop_assert!(after.is_suspended()),
            Action::Settle { .. } | Action::Ask { .. } | Action::Finish(_) => {}
        }
        Ok(())
    }
}
