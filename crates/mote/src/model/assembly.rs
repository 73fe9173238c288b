//! Gathers a stream's pieces into one assistant message, within the limits of a reply, and says whether it is one: a reply
//! that was cut, that its server gave up, or that says nothing is refused.
//!
//! It knows no wire format: [`mote_wire`] has made them one. It does not judge what a reply says. Which call a piece
//! belongs to is [`call`]'s to say.

mod call;

use mote_wire::delta::{Delta as Piece, Finish as Ended, Usage as Counted};
use mote_wire::extent::Extent;
use mote_wire::fault::Class;
use mote_wire::json::{Joiner, Text};
use serde_json::Value;

use super::{Delta, DeltaSink, Finish, history};
use crate::limits::{MODEL_REPLY_BYTES_MAX, MODEL_REPLY_CALLS_MAX};
use crate::message::Part;
use crate::usage::Usage;
use call::{Doubt, Identity};

/// Why a reply is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is larger than [`MODEL_REPLY_BYTES_MAX`].
    TooLarge,
    /// It has more calls than [`MODEL_REPLY_CALLS_MAX`].
    TooManyCalls,
    /// It ended before the model said why it stopped.
    Cut,
    /// It ended, or may have, within a call.
    CutCall,
    /// It ended with a reason that means failure.
    Failed {
        /// The reason, as it was written.
        reason: String,
    },
    /// It has neither text nor calls.
    Empty,
    /// The provider said so.
    Fault {
        /// What it means.
        class: Class,
        /// The provider's words.
        message: String,
    },
}

/// A reasoning block, for the provider to say how it wants it back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reasoning<'a> {
    /// Readable, perhaps signed. `index` is the block's.
    Open {
        /// The block.
        index: u32,
        /// Its signature; empty if the provider gave none.
        signature: &'a str,
    },
    /// Encrypted as a whole.
    Redacted {
        /// The block's data.
        data: &'a str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
    Redacted,
    Call,
}

/// One block of the reply. `text` is what its kind has: text, reasoning, encrypted data or arguments.
#[derive(Debug)]
struct Block {
    kind: Kind,
    index: u32,
    text: String,
    /// Holds half of a character between two pieces of `text`.
    joiner: Joiner,
    signature: String,
    id: String,
    name: String,
    /// How far a call's arguments have got.
    extent: Extent,
    /// What tells a call from others.
    identity: Identity,
    /// Whether a call was passed on to who watches.
    announced: bool,
    /// What the provider wants back with a call.
    extra: Option<Value>,
}

impl Block {
    fn new(kind: Kind, index: u32) -> Self {
        let empty = String::new;
        let (joiner, extent) = (Joiner::default(), Extent::default());
        let (signature, id, name) = (empty(), empty(), empty());
        let (identity, announced, extra) = (Identity::default(), false, None);
        Self { kind, index, text: empty(), joiner, signature, id, name, extent, identity, announced, extra }
    }
}

/// A reply under way.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    blocks: Vec<Block>,
    bytes: usize,
    usage: Option<Counted>,
    finish: Option<Ended>,
    /// The finish reason that means failure.
    failure: String,
    done: bool,
    details: Vec<Value>,
    /// Calls that were addressed, so far.
    turn: u32,
    /// Lists of calls, so far.
    list: u32,
    /// Pieces that counted tokens, so far.
    counts: u32,
}

/// A whole reply, before it is somebody's.
#[derive(Debug)]
pub(super) struct Assembled {
    /// Parts of the assistant's message.
    pub(super) parts: Vec<Part>,
    /// Why it ended.
    pub(super) finish: Finish,
    /// What it used.
    pub(super) usage: Option<Usage>,
    /// Reasoning in the provider's own form, as it came.
    pub(super) details: Vec<Value>,
}

impl Assembly {
    /// Takes one piece and passes on what may be shown.
    pub(super) fn take(&mut self, piece: Piece<'_>, deltas: DeltaSink<'_>) -> Result<(), Refusal> {
        if !matches!(piece, Piece::Call { distinct: false, .. } | Piece::Usage(_)) {
            self.announce(deltas);
        }
        match piece {
            Piece::Text { index, text } => {
                let more = self.append(Kind::Text, index, text)?;
                if !more.is_empty() {
                    deltas(Delta::Text(more));
                }
            }
            Piece::Reasoning { index, text } => {
                let more = self.append(Kind::Reasoning, index, text)?;
                if !more.is_empty() {
                    deltas(Delta::Reasoning(more));
                }
            }
            Piece::Signature { index, text } => {
                self.grow(text.raw_len())?;
                self.block(Kind::Reasoning, index).signature.push_str(&text.to_string());
            }
            Piece::Redacted { index, data } => drop(self.append(Kind::Redacted, index, data)?),
            Piece::Call { index, id, name, distinct } => self.call(index, id, name, distinct, deltas)?,
            Piece::Arguments { index, text } => self.arguments(index, text, deltas)?,
            Piece::Usage(counted) => {
                self.counts = self.counts.saturating_add(1);
                self.usage = Some(self.usage.map_or(counted, |before| before.largest(counted)));
            }
            Piece::Finish { finish, reason } => {
                if finish == Ended::Failed && self.failure.is_empty() {
                    self.failure = reason.to_string();
                }
                // An unknown reason never replaces a clear one, and a good end none that says more.
                self.finish = self.finish.max(Some(finish));
            }
            Piece::CallExtra { index, json } => {
                self.grow(json.len())?;
                let extra = serde_json::from_str(json).ok();
                match self.current(index) {
                    Some(at) => self.blocks[at].extra = extra,
                    None => self.block(Kind::Call, index).extra = extra,
                }
                self.check_calls()?;
            }
            Piece::ReasoningDetails { json } => {
                self.grow(json.len())?;
                history::append_details(&mut self.details, serde_json::from_str(json).unwrap_or_default());
            }
            Piece::Done => self.done = true,
            Piece::Fault(fault) => {
                let message =
                    fault.words().map_or_else(|| "the endpoint gave no reason".to_owned(), |text| text.to_string());
                return Err(Refusal::Fault { class: fault.class_in_stream(), message });
            }
        }
        Ok(())
    }

    /// Whether the stream said that the reply is whole.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the model said why it stopped, in words that are known.
    pub(super) fn is_finished(&self) -> bool {
        self.finish > Some(Ended::Other)
    }

    /// How much came of it, to see whether more does.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How often tokens were counted, to see whether they are again.
    pub(super) fn counts(&self) -> u32 {
        self.counts
    }

    /// What was counted so far. No output for a reply that has some is no count: whoever books it estimates that.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage.map(usage)
    }

    /// Says, at the stream's end, whether what came is a reply. Nothing of one that is refused may be used. `sure` is whether
    /// nothing can be missing behind the finish reason.
    pub(super) fn conclude(&mut self, sure: bool) -> Result<(), Refusal> {
        if self.finish == Some(Ended::Failed) {
            return Err(Refusal::Failed { reason: self.failure.clone() });
        }
        self.settle();
        if !self.is_finished() && !self.done {
            return Err(Refusal::Cut);
        }
        let mut calls = self.blocks.iter().filter(|block| block.kind == Kind::Call).peekable();
        let has_calls = calls.peek().is_some();
        let cut_call = if self.is_finished() {
            // Servers send no arguments for a tool that has none, and no word that the reply is whole. But where more may have
            // been to come, nobody knows what would be performed. Behind a limit or a filter, nothing is.
            let performed = self.finish <= Some(Ended::ToolCalls);
            performed && !self.done && !sure && calls.any(|call| call.extent.is_blank())
        } else {
            // The server says that it is done, but never why the model stopped: a call that is not closed may be cut.
            calls.any(|call| !call.extent.is_complete())
        };
        if cut_call {
            return Err(Refusal::CutCall);
        }
        let says = self.blocks.iter().any(|block| block.kind == Kind::Text && !block.text.trim().is_empty());
        match self.finish {
            // A limit or a filter may leave nothing; what that means is the run's to say.
            Some(Ended::Length | Ended::ContentFilter) => Ok(()),
            Some(Ended::ToolCalls) if says && !has_calls => {
                Err(Refusal::Failed { reason: "tool_calls, but without a call".to_owned() })
            }
            _ if says || has_calls => Ok(()),
            _ => Err(Refusal::Empty),
        }
    }

    /// The reply. `opaque` says what the provider wants back with a reasoning block.
    pub(super) fn into_reply(mut self, opaque: impl Fn(Reasoning<'_>) -> Option<Value>) -> Assembled {
        self.settle();
        let (mut has_calls, usage) = (false, self.usage());
        let mut parts = Vec::with_capacity(self.blocks.len());
        for block in self.blocks {
            let Block { kind, index, mut text, mut joiner, signature, id, name, extra, .. } = block;
            // Writing to a string does not fail.
            let _ = joiner.finish(&mut text);
            match kind {
                Kind::Text if text.is_empty() => {}
                Kind::Text => parts.push(Part::Text { text }),
                Kind::Reasoning => {
                    let opaque = opaque(Reasoning::Open { index, signature: &signature });
                    parts.push(Part::Reasoning { text, opaque });
                }
                Kind::Redacted => {
                    let opaque = opaque(Reasoning::Redacted { data: &text });
                    parts.push(Part::Reasoning { text: String::new(), opaque });
                }
                Kind::Call => {
                    has_calls = true;
                    let arguments = if text.trim().is_empty() { "{}".to_owned() } else { text };
                    parts.push(Part::Call { id, name, arguments, opaque: extra });
                }
            }
        }
        let finish = match self.finish.map_or(Finish::Stop, finish) {
            // Servers differ in what they call the end of a turn that has calls; the calls themselves decide.
            Finish::Stop | Finish::ToolCalls if has_calls => Finish::ToolCalls,
            Finish::ToolCalls => Finish::Stop,
            other => other,
        };
        Assembled { parts, finish, usage, details: self.details }
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MODEL_REPLY_BYTES_MAX { Err(Refusal::TooLarge) } else { Ok(()) }
    }

    /// The block that pieces of this kind and index go to: the last such one, or a new one.
    fn block(&mut self, kind: Kind, index: u32) -> &mut Block {
        let found = self.blocks.iter().rposition(|block| block.kind == kind && block.index == index);
        let place = found.unwrap_or(self.blocks.len());
        if found.is_none() {
            self.blocks.push(Block::new(kind, index));
        }
        &mut self.blocks[place]
    }

    fn append(&mut self, kind: Kind, index: u32, text: Text<'_>) -> Result<String, Refusal> {
        self.grow(text.raw_len())?;
        let block = self.block(kind, index);
        let mut more = String::new();
        // Writing to a string does not fail.
        let _ = block.joiner.push(text, &mut more);
        block.text.push_str(&more);
        Ok(more)
    }

    /// Passes on the calls whose names are whole: a name may come in fragments, until something else comes. Of one that may
    /// repeat another, nothing is said yet.
    fn announce(&mut self, deltas: DeltaSink<'_>) {
        let known = |block: &&mut Block| !block.announced && block.identity.doubt == Doubt::None;
        for block in self.blocks.iter_mut().filter(known) {
            if block.kind == Kind::Call && !block.name.is_empty() {
                deltas(Delta::Call { name: block.name.clone() });
            }
            block.announced = block.kind != Kind::Call || !block.name.is_empty();
        }
    }

    fn check_calls(&self) -> Result<(), Refusal> {
        let calls = || self.blocks.iter().filter(|block| block.kind == Kind::Call);
        let doubtful = calls().filter(|call| call.identity.doubt != Doubt::None).count();
        let certain = calls().count() - doubtful;
        if certain.max(doubtful) > MODEL_REPLY_CALLS_MAX { Err(Refusal::TooManyCalls) } else { Ok(()) }
    }
}

fn usage(counted: Counted) -> Usage {
    let Counted { input, cache_read, cache_write, output, reasoning } = counted;
    Usage { input, cache_read, cache_write, output, reasoning }
}

fn finish(ended: Ended) -> Finish {
    match ended {
        // A failed one is refused before.
        Ended::Stop | Ended::Other | Ended::Failed => Finish::Stop,
        Ended::ToolCalls => Finish::ToolCalls,
        Ended::Length => Finish::Length,
        Ended::ContentFilter => Finish::ContentFilter,
    }
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
