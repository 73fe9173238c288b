//! What the bytes of a reply's body say: server-sent events, or one JSON text from a server that does not stream, whatever the
//! content type says. It waits for nothing; the endpoint does.

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
    Events(Box<Framer<Growing>>),
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
        Self { decoder, assembly, deltas, form: Form::Unknown, idle_timeout, ending: Ending::Clear }
    }

    /// Whether the reply is whole, and nothing follows.
    pub(super) fn is_done(&self) -> bool {
        self.assembly.is_done()
    }

    /// How long what may follow is waited for; `None` while the reply is not finished.
    pub(super) fn patience(&self) -> Option<Duration> {
        let finished = match &self.form {
            Form::Unknown => false,
            Form::Events(framer) => self.assembly.is_finished() && !framer.is_mid_event(),
            Form::Whole { extent, .. } => extent.is_complete(),
        };
        let counted = self.assembly.usage().is_some() || matches!(self.form, Form::Whole { .. });
        let patience = match self.ending {
            Ending::Premature => self.idle_timeout,
            Ending::Clear if counted => Duration::from_millis(MODEL_LINGER_MS),
            Ending::Clear | Ending::Beside => Duration::from_millis(MODEL_COUNT_WAIT_MS),
        };
        finished.then_some(patience.min(self.idle_timeout))
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
                    Form::Events(Box::new(Framer::new(Growing { bytes: Vec::new(), limit: MODEL_EVENT_BYTES_MAX })))
                }
            };
        }
        let before = (self.assembly.bytes(), self.assembly.is_finished());
        match &mut self.form {
            Form::Unknown => {}
            Form::Whole { text, extent } => {
                if bytes.len() > MODEL_REPLY_BYTES_MAX - text.len() {
                    return Err(refusal(Refusal::TooLarge));
                }
                extent.push(bytes);
                text.extend_from_slice(bytes);
                return Ok(true);
            }
            Form::Events(framer) => {
                while let Some(event) =
                    framer.next(&mut bytes).map_err(|error| Failure::broken(format!("malformed stream: {error}")))?
                {
                    let (bytes, finished) = (self.assembly.bytes(), self.assembly.is_finished());
                    let decoder = &mut *self.decoder;
                    let decode = |sink: &mut dyn FnMut(Piece<'_>)| decoder.event(event.name, event.data, sink);
                    gather(self.assembly, self.deltas, decode)?;
                    let grew = self.assembly.bytes() != bytes;
                    if grew && finished {
                        self.ending = Ending::Premature;
                    } else if grew && self.assembly.is_finished() {
                        self.ending = Ending::Beside;
                    }
                    if self.assembly.is_done() {
                        break;
                    }
                }
            }
        }
        Ok(before != (self.assembly.bytes(), self.assembly.is_finished()))
    }

    /// The body ended, or is waited for no longer: whether what came is a reply.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        if let Form::Whole { text, .. } = &self.form {
            let text = std::str::from_utf8(text).map_err(|_| Failure::broken("the answer is not UTF-8"))?;
            let decoder = &mut *self.decoder;
            let decode = |sink: &mut dyn FnMut(Piece<'_>)| decoder.whole(text, sink);
            gather(self.assembly, self.deltas, decode)?;
        } else if let Form::Events(framer) = &self.form
            && framer.is_mid_event()
            && !self.is_done()
        {
            // Servers leave out the blank line after the last event. An event that was cut is no JSON.
            self.take(b"\n\n", "").map_err(|failure| Failure { message: CUT.to_owned(), ..failure })?;
        }
        self.assembly.conclude().map_err(refusal)
    }
}

const CUT: &str = "the stream ended before the reply did";

/// Takes what a decoder finds.
fn gather(
    assembly: &mut Assembly,
    deltas: DeltaSink<'_>,
    decode: impl FnOnce(&mut dyn FnMut(Piece<'_>)) -> Result<(), mote_wire::Error>,
) -> Result<(), Failure> {
    let mut taken = Ok(());
    let decoded = decode(&mut |piece| {
        // What the pieces behind a fault count is still known.
        if taken.is_ok() {
            taken = assembly.take(piece, deltas);
        }
    });
    taken.map_err(refusal)?;
    decoded.map_err(|error| Failure::broken(error.to_string()))
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
        Refusal::CutCall => Failure::broken("the reply ended within a tool call, and without a finish reason"),
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
}

impl Buffer for Growing {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(Full(self.limit));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.clear();
    }
}
