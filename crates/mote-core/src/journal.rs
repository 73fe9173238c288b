//! The journal's codec: one record a step, holding when, what happened and what followed from it.
//!
//! A record is: format version (1 byte), the time and the event's tag and fields, then the actions. Integers are
//! unsigned LEB128; digests are 32 raw bytes. The first record of a journal also says which version of this crate wrote
//! it. Replaying a record steps the run again and compares the actions: a difference is [`ReplayError::Diverged`], never
//! a silent change of course. What an older version of this crate did not ask for yet, its journals may lack. It does not frame, store or checksum records; the store does.

mod bytes;
mod decode;
mod encode;

pub use bytes::{Malformed, NoRoom};
pub use decode::decode;
pub use encode::encode;

use crate::{Action, Actions, Event, Refusal, Run, Time};

/// Version of the record format.
pub const FORMAT: u8 = 1;
/// Version of the state machine that writes: major in the high byte, minor in the low. A change of behaviour raises it.
///
/// 0x0001: the first. 0x0002: a run that ends concludes the calls that the end cuts off. 0x0003: attempts are counted by
/// what befell them (a broken reply, an endpoint that is not available, a lost worker), uncertain cost is told apart, a long
/// back-off is a rest, and a run that ended can be resumed.
pub const CORE: u16 = 0x0003;
/// The first version that concludes the calls that an end cuts off.
const CORE_CONCLUDES_AT_END: u16 = 0x0002;
/// The first version that counts attempts by what befell them, and can be resumed.
pub const CORE_COUNTS_APART: u16 = 0x0003;
/// Bytes that a record takes at most, for a run of `calls` calls a turn.
#[must_use]
pub const fn record_bytes_max(calls: usize) -> usize {
    // Header and the largest fixed event (`Opened`), then a call specification and two actions for each call.
    512 + calls * 96
}

/// One step, as journalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<const CALLS: usize> {
    /// When.
    pub now: Time,
    /// Version of the state machine that wrote it ([`CORE`]); told by the first record, 0 in others.
    pub core: u16,
    /// What happened.
    pub event: Event<CALLS>,
}

/// Why a journal cannot be replayed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayError {
    /// The bytes are no record.
    Malformed(Malformed),
    /// This state machine refuses the event.
    Refused(Refusal),
    /// This state machine would have asked for something else.
    Diverged {
        /// What was asked for then and is not now, or the reverse: the first action that differs, as of now.
        now: Option<Action>,
        /// As of then.
        then: Option<Action>,
    },
}

impl core::fmt::Display for ReplayError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Refused(refusal) => write!(f, "the event is refused: {refusal}"),
            Self::Diverged { now, then } => {
                write!(f, "this core asks for {now:?} where the journal has {then:?}")
            }
        }
    }
}

impl core::error::Error for ReplayError {}

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Replays one record: steps the run and checks that it asks for what it asked for then.
    ///
    /// # Errors
    /// [`ReplayError`]; the run is then as it was.
    pub fn replay(&mut self, record: &[u8]) -> Result<(Record<CALLS>, Actions<CALLS>), ReplayError> {
        let (record, mut then) = decode::<CALLS>(record).map_err(ReplayError::Malformed)?;
        let mut next = *self;
        let actions = next.step(record.now, &record.event).map_err(ReplayError::Refused)?;
        if matches!(record.event, Event::Opened { .. }) {
            next.opened_by(record.core);
        }
        let may_lack = |now: &Action| {
            next.core() < CORE_CONCLUDES_AT_END && matches!(now, Action::Conclude { .. }) && actions.finish().is_some()
        };
        let mut read = || then.next().transpose().map_err(ReplayError::Malformed);
        let mut then = read()?;
        for now in actions.iter() {
            if then == Some(now) {
                then = read()?;
            } else if !may_lack(&now) {
                return Err(ReplayError::Diverged { now: Some(now), then });
            }
        }
        if then.is_some() {
            return Err(ReplayError::Diverged { now: None, then });
        }
        *self = next;
        Ok((record, actions))
    }
}
