//! The journal's codec: one record a step, holding when, what happened and what followed from it.
//!
//! A record is: format version (1 byte), the time, the event's number and fields, then the actions. The first record of a
//! journal also says which version of this crate wrote it. Replaying a record steps the run again and compares the actions: a
//! difference is [`ReplayError::Diverged`], never a silent change of course. It does not frame, store or checksum records; the
//! store does.

pub use crate::codec::{FORMAT, Malformed, NoRoom};
use crate::codec::{Field as _, Reader, Writer};
use crate::{Action, Actions, Event, Refusal, Run, Time};

/// Version of the state machine that writes: major in the high byte, minor in the low. A change of behaviour raises it, and
/// keeps the golden journals of the versions before.
///
/// 0x0100: the first whose journals are kept.
pub const CORE: u16 = 0x0100;

/// Bytes that a record takes at most, for a run of `calls` calls a turn.
#[must_use]
pub const fn record_bytes_max(calls: usize) -> usize {
    // Header and the largest fixed event (`Opened`), then a call specification and three actions for each call.
    512 + calls * 160
}

/// One step, as journalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<const CALLS: usize> {
    /// When.
    pub now: Time,
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

/// Writes one record into `buffer` and returns its length in bytes.
///
/// # Errors
/// [`NoRoom`] if `buffer` is shorter than the record; [`record_bytes_max`] is always enough.
pub fn encode<const CALLS: usize>(
    now: Time,
    event: &Event<CALLS>,
    actions: &Actions<CALLS>,
    buffer: &mut [u8],
) -> Result<usize, NoRoom> {
    let mut w = Writer::new(buffer);
    w.byte(FORMAT)?;
    now.write(&mut w)?;
    event.write(&mut w)?;
    actions.iter().try_for_each(|action| action.write(&mut w))?;
    Ok(w.len())
}

/// Reads one record; the actions that follow it are read as the iterator goes. Whatever is not exactly a record of this format
/// is an error; nothing is guessed.
///
/// # Errors
/// [`Malformed`] for whatever is no record of this format, or has more calls than `CALLS`.
pub fn decode<const CALLS: usize>(
    bytes: &[u8],
) -> Result<(Record<CALLS>, impl Iterator<Item = Result<Action, Malformed>> + '_), Malformed> {
    let mut r = Reader::new(bytes);
    let format = r.byte()?;
    if format != FORMAT {
        return Err(Malformed::Format(format));
    }
    let now = r.number()?;
    let event = Event::read(&mut r, "event")?;
    let mut failed = false;
    let actions = core::iter::from_fn(move || {
        if failed || r.is_empty() {
            return None;
        }
        let action = Action::read(&mut r, "action");
        failed = action.is_err();
        Some(action)
    });
    Ok((Record { now, event }, actions))
}

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// Replays one record: steps the run and checks that it asks for what it asked for then.
    ///
    /// # Errors
    /// [`ReplayError`]; the run is then as it was.
    pub fn replay(&mut self, record: &[u8]) -> Result<(Record<CALLS>, Actions<CALLS>), ReplayError> {
        let (record, mut then) = decode::<CALLS>(record).map_err(ReplayError::Malformed)?;
        let mut next = *self;
        let actions = next.step(record.now, &record.event).map_err(ReplayError::Refused)?;
        let mut read = || then.next().transpose().map_err(ReplayError::Malformed);
        for now in actions.iter() {
            let then = read()?;
            if then != Some(now) {
                return Err(ReplayError::Diverged { now: Some(now), then });
            }
        }
        if let then @ Some(_) = read()? {
            return Err(ReplayError::Diverged { now: None, then });
        }
        *self = next;
        Ok((record, actions))
    }
}
