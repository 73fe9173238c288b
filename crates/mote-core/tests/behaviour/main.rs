//! What a run does, told in sentences. Each test plays one run by hand; `properties.rs` plays thousands at random.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod budget;
mod calls;
mod codec;
mod compaction;
mod context;
mod endings;
mod interruptions;
mod model;
mod outage;
mod paid;
#[path = "../play/mod.rs"]
mod play;
mod refusals;
mod resume;
mod suspended;
mod time;

use mote_core::{Action, CallOutcome, Failure, Limits, Outcome};

const UNITS: usize = 8;
const CALLS: usize = 4;
type Play = play::Play<UNITS, CALLS>;

fn limits() -> Limits {
    Limits { units: UNITS as u16, calls: CALLS as u16, ..Limits::default() }
}

fn failed(failure: Failure) -> Action {
    Action::Finish { outcome: Outcome::Failed(failure) }
}

fn conclude(call: u16, outcome: CallOutcome) -> Action {
    Action::Conclude { call, outcome }
}

fn call_tool(call: u16, attempt: u16) -> Action {
    Action::CallTool { call, attempt }
}

/// The step's actions without what it books and reserves.
fn besides_money(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|action| !matches!(action, Action::Settle { .. } | Action::Reserve { .. })).collect()
}

fn is_reserve(action: &Action) -> bool {
    matches!(action, Action::Reserve { .. })
}
