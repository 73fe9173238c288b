//! The context, modelled as a plain list of sizes: which units must be in it, and what was folded. It does not check
//! what is spent on it.

use std::collections::VecDeque;

use mote_core::{
    Action, Actions, CallKind, CallState, Event, Finish, ModelFailure, NOTICE_TOKENS, Phase, Run, Spender,
};
use proptest::prelude::*;

#[derive(Default)]
pub struct Sizes {
    input: u64,
    /// Id and size of each.
    units: VecDeque<(u32, u64)>,
    ids: u32,
    folded: (u32, u64),
    next: u32,
}

impl Sizes {
    pub fn watch<const U: usize, const C: usize>(
        &mut self,
        event: &Event<C>,
        actions: &Actions<C>,
        after: &Run<U, C>,
    ) -> Result<(), TestCaseError> {
        let units_max = usize::from(after.limits().units).max(1);
        // A turn that ends the run before it is taken is no unit of it.
        let taken = after.context().next() > self.next;
        self.next = after.context().next();
        match event {
            Event::Loaded { tokens } => self.push(u64::from(*tokens), units_max),
            Event::Started { tokens } => {
                self.input = u64::from(*tokens);
                self.ids += 1;
            }
            Event::ModelReplied { tokens, finish: Finish::Invalid, .. } if taken => {
                self.push(u64::from(*tokens), units_max)
            }
            Event::ModelReplied { tokens, finish: Finish::Calls, calls, .. } if taken => {
                self.push(u64::from(*tokens), units_max);
                // A call that the driver rejected has its answer from the beginning.
                for spec in calls.as_slice() {
                    let CallKind::Rejected { tokens } = spec.kind else { continue };
                    self.grow(u64::from(tokens));
                }
            }
            Event::CallAnswered { tokens, .. } | Event::Signalled { tokens, .. } => self.grow(u64::from(*tokens)),
            Event::Replied { call, tokens } if !goes_on(actions, after, *call) => {
                self.grow(u64::from(*tokens));
            }
            Event::ModelFailed { failure: ModelFailure::ContextLength, .. } if after.summary().is_none() => {
                self.fold_to(self.tokens() / 2);
            }
            Event::Compacted { through, tokens, .. } => self.compact(*through, u64::from(*tokens), units_max),
            _ => {}
        }
        let notices = actions.iter().filter(|action| matches!(action, Action::Conclude { .. })).count() as u64;
        self.grow(notices * u64::from(NOTICE_TOKENS));
        if matches!(after.phase(), Phase::Finished(_)) {
            return Ok(());
        }
        let usable = u64::from(after.limits().usable());
        let plans = actions.iter().any(|action| matches!(action, Action::Reserve { spender: Spender::Model, .. }));
        if plans && self.tokens() > usable {
            self.fold_to(usable * u64::from(after.limits().low_water.min(100)) / 100);
        }
        let context = after.context();
        prop_assert_eq!(context.tokens(), self.tokens());
        prop_assert_eq!((context.folded_units(), context.folded_tokens()), self.folded);
        Ok(())
    }

    fn tokens(&self) -> u64 {
        self.input + self.units.iter().map(|(_, tokens)| tokens).sum::<u64>()
    }

    fn push(&mut self, tokens: u64, units_max: usize) {
        while self.units.len() >= units_max {
            self.fold();
        }
        self.units.push_back((self.ids, tokens));
        self.ids += 1;
    }

    fn grow(&mut self, tokens: u64) {
        if let Some((_, newest)) = self.units.back_mut() {
            *newest += tokens;
        }
    }

    fn fold_to(&mut self, tokens: u64) {
        while self.tokens() > tokens && self.units.len() > 1 {
            self.fold();
        }
    }

    /// A summary stands where the units were that it is of.
    fn compact(&mut self, through: u32, tokens: u64, units_max: usize) {
        while self.units.front().is_some_and(|(id, _)| *id <= through) {
            self.fold();
        }
        while self.units.len() >= units_max && self.units.len() > 1 {
            self.fold();
        }
        if self.units.len() < units_max {
            self.units.push_front((through, tokens));
        }
    }

    fn fold(&mut self) {
        let (_, tokens) = self.units.pop_front().unwrap();
        self.folded.0 += 1;
        self.folded.1 += tokens;
    }
}

/// Whether the answer is what a backend wanted to know, and no result.
fn goes_on<const U: usize, const C: usize>(actions: &Actions<C>, after: &Run<U, C>, call: u16) -> bool {
    if after.calls().get(usize::from(call)).is_some_and(|call| matches!(call.state, CallState::Ready(_))) {
        return true;
    }
    actions.iter().any(|action| matches!(action, Action::ResumeCall { call: resumed, .. } if resumed == call))
}
