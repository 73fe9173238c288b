//! What a step of a run spent, as the store books it: the one place that says it, for the step that is taken and for the one
//! that is replayed. Whether it is known is the core's word; the provider's kinds of tokens are the payload's.

use mote_core::{Action, Event, Spend};

use super::payload::Payload;
use super::{Actions, Core, CoreEvent};
use crate::store::{Spender, Spending};
use crate::usage::Usage;

/// The model of a call of which nobody knows which endpoint had it.
const UNKNOWN: &str = "unknown";

/// What the step that `event` makes from `before` spent: one for each settlement that it asks for.
pub(super) fn spending(before: &Core, event: &CoreEvent, actions: &Actions, payload: &Payload) -> Vec<Spending> {
    // A reply may begin the next step; it was paid for in the one before.
    let step = before.steps();
    let settled = |action| {
        let Action::Settle { spender, nano_usd, uncertain, .. } = action else { return None };
        let spend = spend(before, event, spender);
        let (model, told) = match (spender, payload) {
            (mote_core::Spender::Model, Payload::ModelReplied { model, usage, .. }) => (model.as_str(), Some(*usage)),
            (mote_core::Spender::Model, Payload::ModelFailed { model, usage, .. }) => (model.as_str(), *usage),
            (mote_core::Spender::Summary, Payload::Compacted { model, usage, .. }) => (model.as_str(), Some(*usage)),
            (mote_core::Spender::Summary, Payload::CompactionFailed { model, .. }) => (model.as_str(), None),
            _ => (UNKNOWN, None),
        };
        let usage = told.unwrap_or(Usage { input: spend.input, output: spend.output, ..Usage::default() });
        Some(Spending { spender: stored(spender), step, model: model.to_owned(), usage, nano_usd, uncertain })
    };
    actions.iter().filter_map(settled).collect()
}

/// What was spent, input and output apart: what the event says, or the whole reservation of what was lost or cut off.
fn spend(before: &Core, event: &CoreEvent, spender: mote_core::Spender) -> Spend {
    use mote_core::Spender::{Call, Model, Summary};
    match (spender, event) {
        (Model, Event::ModelReplied { spend, .. } | Event::Cancelled { spend }) => *spend,
        (Model, Event::ModelFailed { cost, .. }) => cost.spend,
        (Model, _) => before.budget().model_reservation(),
        (Summary, Event::Compacted { cost, .. } | Event::CompactionFailed { cost, .. }) => cost.spend,
        (Summary, _) => before.budget().summary_reservation(),
        (Call { call }, Event::CallAnswered { call: of, cost, .. } | Event::CallFailed { call: of, cost, .. })
            if call == *of =>
        {
            cost.spend
        }
        // One whose reservation was only asked for cost nothing.
        (Call { .. }, Event::BudgetGranted { .. }) => Spend::default(),
        (Call { call }, _) => before.calls().get(usize::from(call)).map(|call| call.spec.reserve).unwrap_or_default(),
    }
}

/// Who spends, as the store calls it.
pub(super) fn stored(spender: mote_core::Spender) -> Spender {
    match spender {
        mote_core::Spender::Model => Spender::Model,
        mote_core::Spender::Summary => Spender::Summary,
        mote_core::Spender::Call { call } => Spender::Call(call),
    }
}

/// Who spends, as the core calls it.
pub(super) fn of_store(spender: Spender) -> mote_core::Spender {
    match spender {
        Spender::Model => mote_core::Spender::Model,
        Spender::Summary => mote_core::Spender::Summary,
        Spender::Call(call) => mote_core::Spender::Call { call },
    }
}
