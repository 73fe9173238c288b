//! What a step of a run spent, as the store books it: the one place that says it, for the step that is taken and for the one
//! that is replayed. How much it is, known or not, is the core's word; the provider's kinds of tokens are the payload's.

use mote_core::{Action, Spend};

use super::payload::Payload;
use super::{Actions, Core};
use crate::store::Spending;
use crate::usage::Usage;

/// The model of a call of which nobody knows which endpoint had it.
const UNKNOWN: &str = "unknown";

/// What the step from `before` to `after` spent, if it settled a model call.
pub(super) fn spending(before: &Core, after: &Core, actions: &Actions, payload: &Payload) -> Option<Spending> {
    let uncertain = actions.iter().find_map(|action| match action {
        Action::Settle { uncertain, .. } => Some(uncertain),
        _ => None,
    })?;
    let (then, now) = (before.budget(), after.budget());
    let spend = if uncertain { since(then.uncertain, now.uncertain) } else { since(then.spent, now.spent) };
    let (model, told) = match payload {
        Payload::ModelReplied { model, usage, .. } => (model.as_str(), Some(*usage)),
        Payload::ModelFailed { model, usage, .. } => (model.as_str(), *usage),
        _ => (UNKNOWN, None),
    };
    let usage = told.unwrap_or(Usage { input: spend.input, output: spend.output, ..Usage::default() });
    Some(Spending { step: after.steps(), model: model.to_owned(), usage, nano_usd: spend.nano_usd, uncertain })
}

fn since(then: Spend, now: Spend) -> Spend {
    Spend {
        input: now.input.saturating_sub(then.input),
        output: now.output.saturating_sub(then.output),
        nano_usd: now.nano_usd.saturating_sub(then.nano_usd),
    }
}
