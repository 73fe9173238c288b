//! What the bytes of a reply's body say: server-sent events, or one JSON text from a server that does not stream, whatever the
//! content type says. It waits for nothing; the endpoint does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mote_wire::delta::Delta as Piece;
use mote_wire::extent::Extent;
use mote_wire::sse::{Buffer, Framer, Full};

use super::Decoder;
use crate::limits::{
    MODEL_COUNT_WAIT_MS, MODEL_EVENT_BYTES_MAX, MODEL_LINGER_MS, MODEL_REPLY_BYTES_MAX, MODEL_REPLY_CALLS_MAX,
};
use crate::model::assembly::{Assembly, Refusal};
use crate::model::failure::Failure;
use crate::model::{DeltaSink, ErrorKind};

/// Reads one body.
pub(super) struct Reader<'r> {
    decoder: &'r mut dyn Decoder,
    assembly: &'r mut Assembly,
    deltas: DeltaSink<'r>,
    form: Form,
    idle_timeout: Duration,
    ending: Ending,
    /// Whether tokens were counted with the finish reason, or behind it.
    counted: bool,
}

/// How a body ended.
pub(super) enum End {
    /// As HTTP has it.
    Closed,
    /// It stays open, and is waited for no longer.
    Held,
    /// Its connection broke.
    Broken(Failure),
}

/// Why an event is not taken.
enum Stop {
    /// It is none of the format's: it may be part of one.
    Malformed(String),
    Refused(Refusal),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Malformed(words) => Self::broken(words),
            Stop::Refused(why) => refusal(why),
        }
    }
}

/// How a finish reason stands in the stream: servers differ in whether it means that nothing follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// There is none, or it came in an event of its own.
    Clear,
    /// It came beside a piece of the reply: it may stand in every event.
    Beside,
    /// The reply went on behind it.
    Premature,
}

/// What a body turned out to be.
enum Form {
    /// Nothing but white space came yet.
    Unknown,
    Events {
        framer: Box<Framer<Growing>>,
        /// Whether the event under way looks whole, but for the line that ends it.
        looks_whole: Arc<AtomicBool>,
    },
    Whole {
        text: Vec<u8>,
        extent: Extent,
    },
}

impl<'r> Reader<'r> {
    pub(super) fn new(
        decoder: &'r mut dyn Decoder,
        assembly: &'r mut Assembly,
        deltas: DeltaSink<'r>,
        idle_timeout: Duration,
    ) -> Self {
        Self { decoder, assembly, deltas, form: Form::Unknown, idle_timeout, ending: Ending::Clear, counted: false }
    }

    /// Whether the reply is whole, and nothing follows.
    pub(super) fn is_done(&self) -> bool {
        self.assembly.is_done()
    }

    /// How long what may follow is waited for, from when the reply last grew; `None` while the reply is not finished.
    pub(super) fn patience(&self) -> Option<Duration> {
        let linger = Duration::from_millis(MODEL_LINGER_MS);
        let patience = match (&self.form, self.ending) {
            (Form::Whole { extent, .. }, _) => extent.is_complete().then_some(linger),
            _ if self.is_event_held() => Some(linger),
            _ if !self.assembly.is_finished() => None,
            (_, Ending::Premature) => Some(self.idle_timeout),
            (_, Ending::Clear) if self.counted => Some(linger),
            (_, Ending::Clear | Ending::Beside) => Some(Duration::from_millis(MODEL_COUNT_WAIT_MS)),
        };
        patience.map(|patience| patience.min(self.idle_timeout))
    }

    /// Whether the last event looks whole, but for the line that ends it.
    fn is_event_held(&self) -> bool {
        !self.is_done() && matches!(&self.form, Form::Events { looks_whole, .. } if looks_whole.load(Ordering::Relaxed))
    }

    /// Nothing came for as long as [`Reader::patience`] says: takes the last event if only its end was held back. Whether it
    /// did, and the stream is read on.
    pub(super) fn expire(&mut self) -> Result<bool, Failure> {
        let held = self.is_event_held();
        if held {
            self.events(b"\n\n")?;
        }
        Ok(held)
    }

    /// Takes the next bytes; whether the reply grew. `kind` is the content type that the server gave.
    pub(super) fn take(&mut self, bytes: &[u8], kind: &str) -> Result<bool, Failure> {
        let mut bytes = bytes;
        if matches!(self.form, Form::Unknown) {
            bytes = begin(bytes);
            self.form = match bytes.first() {
                None => return Ok(false),
                Some(b'{' | b'[') => Form::Whole { text: Vec::new(), extent: Extent::default() },
                Some(b'<') => {
                    let kind = if kind.is_empty() { "text/html" } else { kind };
                    return Err(Failure::broken(format!("expected an event stream, got {kind}")));
                }
                Some(_) => {
                    let looks_whole = Arc::default();
                    let growing = Growing::new(MODEL_EVENT_BYTES_MAX, Arc::clone(&looks_whole));
                    Form::Events { framer: Box::new(Framer::new(growing)), looks_whole }
                }
            };
        }
        if let Form::Whole { text, extent } = &mut self.form {
            if bytes.len() > MODEL_REPLY_BYTES_MAX - text.len() {
                return Err(refusal(Refusal::TooLarge));
            }
            extent.push(bytes);
            text.extend_from_slice(bytes);
            return Ok(true);
        }
        let before = (self.assembly.bytes(), self.assembly.is_finished());
        self.events(bytes)?;
        Ok(before != (self.assembly.bytes(), self.assembly.is_finished()))
    }

    /// Takes the events that end within these bytes.
    fn events(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        let Form::Events { framer, .. } = &mut self.form else { return Ok(()) };
        let malformed = |error| Stop::Malformed(format!("malformed stream: {error}"));
        while let Some(event) = framer.next(&mut bytes).map_err(malformed)? {
            let (bytes, counts, finished) =
                (self.assembly.bytes(), self.assembly.counts(), self.assembly.is_finished());
            let decoder = &mut *self.decoder;
            let decode = |sink: &mut dyn FnMut(Piece<'_>)| decoder.event(event.name, event.data, sink);
            gather(self.assembly, self.deltas, decode)?;
            let grew = self.assembly.bytes() != bytes;
            if grew && finished {
                self.ending = Ending::Premature;
            } else if grew && self.assembly.is_finished() {
                self.ending = Ending::Beside;
            }
            // A server may count with each event: only what it counts at the end is all.
            self.counted |= self.assembly.is_finished() && self.assembly.counts() != counts;
            if self.assembly.is_done() {
                break;
            }
        }
        Ok(())
    }

    /// Whether nothing more is expected: the reply is whole, or said why it ended and then said no more of itself.
    fn is_settled(&self) -> bool {
        self.is_done() || (self.assembly.is_finished() && self.ending == Ending::Clear)
    }

    /// The body ended, or is waited for no longer: whether what came is a reply.
    pub(super) fn end(mut self, end: End) -> Result<(), Failure> {
        let mut sure = matches!(end, End::Closed);
        match &self.form {
            Form::Unknown => {}
            Form::Whole { text, extent } => {
                if let End::Broken(failure) = end
                    && !extent.is_complete()
                {
                    return Err(failure);
                }
                let text = std::str::from_utf8(text).map_err(|_| Failure::broken("the answer is not UTF-8"))?;
                let decoder = &mut *self.decoder;
                let decode = |sink: &mut dyn FnMut(Piece<'_>)| decoder.whole(text, sink);
                gather(self.assembly, self.deltas, decode)?;
                return self.assembly.conclude(true).map_err(refusal);
            }
            Form::Events { framer, .. } if framer.is_mid_event() && !self.is_done() => {
                // Servers leave out the blank line after the last event. An event that was cut is no JSON: behind the end of
                // a reply, nothing is lost with it.
                match self.events(b"\n\n") {
                    Err(Stop::Refused(why)) => return Err(refusal(why)),
                    Err(Stop::Malformed(_)) if self.is_settled() => sure = false,
                    Err(Stop::Malformed(_)) => {
                        return Err(if let End::Broken(failure) = end { failure } else { Failure::broken(CUT) });
                    }
                    Ok(()) => {}
                }
            }
            Form::Events { .. } => {}
        }
        match end {
            End::Broken(failure) if !self.is_settled() => Err(failure),
            _ => self.assembly.conclude(sure && self.ending == Ending::Clear).map_err(refusal),
        }
    }
}

const CUT: &str = "the stream ended before the reply did";

/// Takes what a decoder finds.
fn gather(
    assembly: &mut Assembly,
    deltas: DeltaSink<'_>,
    decode: impl FnOnce(&mut dyn FnMut(Piece<'_>)) -> Result<(), mote_wire::Error>,
) -> Result<(), Stop> {
    let mut taken = Ok(());
    let decoded = decode(&mut |piece| {
        // What the pieces behind a fault count is still known.
        if taken.is_ok() {
            taken = assembly.take(piece, deltas);
        }
    });
    taken.map_err(Stop::Refused)?;
    decoded.map_err(|error| Stop::Malformed(error.to_string()))
}

/// Where a body begins: behind a byte-order mark and white space.
fn begin(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start()
}

fn refusal(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::TooLarge => Failure::broken(format!(
            "the reply is larger than {MODEL_REPLY_BYTES_MAX} bytes (limit MODEL_REPLY_BYTES_MAX)"
        )),
        Refusal::TooManyCalls => Failure::broken(format!(
            "the reply has more than {MODEL_REPLY_CALLS_MAX} tool calls (limit MODEL_REPLY_CALLS_MAX)"
        )),
        Refusal::Cut => Failure::broken(CUT),
        Refusal::CutCall => Failure::broken("the reply ended within a tool call, or may have"),
        Refusal::Failed { reason } => {
            let reason = crate::model::failure::shorten(&reason);
            Failure::new(ErrorKind::Aborted, format!("the reply ended with the finish reason {reason}"))
        }
        Refusal::Empty => Failure::new(ErrorKind::EmptyReply, "the reply has neither text nor tool calls"),
        Refusal::Fault { class, message } => Failure::of_stream(class, &message),
    }
}

/// A buffer that takes memory only once an event comes: a run that waits for its model holds none.
struct Growing {
    bytes: Vec<u8>,
    limit: usize,
    extent: Extent,
    /// Whether what it holds is a JSON text, or a stream's end.
    looks_whole: Arc<AtomicBool>,
}

impl Growing {
    fn new(limit: usize, looks_whole: Arc<AtomicBool>) -> Self {
        Self { bytes: Vec::new(), limit, extent: Extent::default(), looks_whole }
    }
}

impl Buffer for Growing {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(Full(self.limit));
        }
        self.bytes.extend_from_slice(bytes);
        self.extent.push(bytes);
        // `[DONE]` is closed as a list is.
        self.looks_whole.store(self.extent.is_complete(), Ordering::Relaxed);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.extent = Extent::default();
        self.looks_whole.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
