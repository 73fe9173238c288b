//! Where a run and its calls can stand, and why an event is refused.

use crate::journal::CORE;
use crate::{CallSpec, Full, Outcome, Time, Wait};

/// Where a run stands: plan (`Compacting`, `Reserving`, `Thinking`, `BackingOff`), act and observe (`Acting`), or an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing happened yet.
    New,
    /// Bounds are known, the context is being loaded.
    Open,
    /// A model call waits for the summary that makes the context fit.
    Compacting {
        /// The attempt that waits, from 1.
        attempt: u16,
    },
    /// A model call waits for its reservation.
    Reserving {
        /// The attempt that the reservation is for, from 1.
        attempt: u16,
        /// Largest reply.
        output: u32,
    },
    /// A model call is under way.
    Thinking {
        /// The attempt, from 1.
        attempt: u16,
        /// The endpoint, by its place in the chain.
        endpoint: u8,
    },
    /// A model call failed and is to be tried again.
    BackingOff {
        /// The next attempt.
        attempt: u16,
        /// When.
        until: Time,
    },
    /// Calls of tools are under way, or waited for.
    Acting,
    /// Over.
    Finished(Outcome),
}

/// One attempt at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Which, from 1.
    pub number: u16,
    /// When the first attempt began.
    pub since: Time,
    /// Whether an earlier attempt may have been performed.
    pub doubt: bool,
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallState {
    /// To be made as soon as a place is free.
    #[default]
    Queued,
    /// An attempt waits for its reservation.
    Reserving(Attempt),
    /// An attempt is under way.
    Running(Attempt),
    /// An attempt failed; another follows.
    BackingOff {
        /// The next attempt.
        next: Attempt,
        /// When it may begin.
        until: Time,
    },
    /// Waits, and holds nothing.
    Waiting {
        /// For what.
        wait: Wait,
        /// When it ends at the latest, or is asked after; 0 is never.
        until: Time,
        /// The attempt that is suspended; none where the call is the wait, or waits to be approved first.
        attempt: Option<Attempt>,
    },
    /// A suspended attempt goes on as soon as a place is free.
    Ready(Attempt),
    /// Its result is known.
    Done,
}

/// A call of the present turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// What it asks for.
    pub spec: CallSpec,
    /// Where it stands.
    pub state: CallState,
    /// Of its attempts, those that were lost with their worker.
    pub lost: u16,
    /// Whether its reservation is open.
    pub reserved: bool,
}

/// Why an event was refused. The run is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The event makes no sense in the run's phase.
    Unexpected,
    /// The run is over.
    Finished,
    /// There is no such call in this turn, or it does not wait for this event.
    Call(u16),
    /// The journal asks for more than this build has.
    Capacity {
        /// `units` or `calls`.
        what: &'static str,
        /// What it asks for.
        asked: u32,
        /// What this build has.
        has: u32,
    },
    /// A newer state machine opened the run.
    Core {
        /// Its version.
        asked: u16,
    },
    /// A reply ended in calls but carries none.
    NoCalls,
    /// More actions than one step may ask for: an error in this crate.
    ActionsFull,
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unexpected => f.write_str("the event makes no sense in the run's phase"),
            Self::Finished => f.write_str("the run is over"),
            Self::Call(call) => write!(f, "call {call} of this turn does not wait for this event"),
            Self::Capacity { what, asked, has } => {
                write!(f, "the run asks for {asked} {what}, this build has {has}")
            }
            Self::Core { asked } => {
                write!(f, "the run was opened by core {asked:#06x}, this build has {CORE:#06x}; use a newer one")
            }
            Self::NoCalls => f.write_str("the reply ended in calls but carries none"),
            Self::ActionsFull => f.write_str("one step asked for too many actions"),
        }
    }
}

impl core::error::Error for Refusal {}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::ActionsFull
    }
}
