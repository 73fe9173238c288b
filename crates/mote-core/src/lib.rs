//! The run: one task carried out by one agent, as a pure function from events to actions.
//!
//! [`Run::step`] takes what happened and says what the driver must do next. Plan, act and observe are states of it.
//! Text stays with the driver: here are ids, sizes, token estimates and money. The [`journal`] codec turns steps into
//! bytes, and bytes back into the same run on a server and on a microcontroller.
//!
//! It never reads a clock, allocates, logs or blocks; whatever is not computed arrives in an event.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod codec;
mod action;
mod array;
mod budget;
mod context;
mod event;
pub mod journal;
mod limits;
mod retry;
mod run;

pub use action::{Action, Actions, CallOutcome, Failure, Outcome};
pub use array::{Array, Full};
pub use budget::{Budget, Cost, Spend};
pub use context::Context;
pub use event::{
    CallFailure, CallKind, CallSpec, Change, Effect, Event, EventKind, Finish, ModelFailure, Spender, Wait,
};
pub use limits::{ENDPOINTS_MAX, Limits, NOTICE_TOKENS, OUTPUT_TOKENS_MIN, TURNS_REMEMBERED};
pub use run::{Attempt, Call, CallState, Phase, Refusal, Run};

/// Milliseconds since the Unix epoch, as the driver saw it. Within a run it never goes back: an earlier value is taken
/// as the latest one seen.
pub type Time = u64;
/// A span of milliseconds.
pub type Millis = u64;
/// Money: billionths of a US dollar.
pub type NanoUsd = u64;
/// Tokens, by the driver's estimate or the provider's count.
pub type Tokens = u64;
