//! Gathers a stream's pieces into one assistant message, within the limits of a reply.
//!
//! It knows no wire format: [`mote_wire`] has made them one. It does not judge a reply's content.

use mote_wire::delta::{Delta as Piece, Finish as Ended, Usage as Counted};
use mote_wire::fault::Class;
use mote_wire::json::Text;
use serde_json::Value;

use super::{Delta, DeltaSink, Finish, Usage, history};
use crate::limits::{MODEL_REPLY_BYTES_MAX, MODEL_REPLY_CALLS_MAX};
use crate::message::Part;

/// Why a reply is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is larger than [`MODEL_REPLY_BYTES_MAX`].
    TooLarge,
    /// It has more calls than [`MODEL_REPLY_CALLS_MAX`].
    TooManyCalls,
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
    signature: String,
    id: String,
    name: String,
    extra: Option<Value>,
}

/// A reply under way.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    blocks: Vec<Block>,
    bytes: usize,
    usage: Option<Usage>,
    finish: Option<Finish>,
    done: bool,
    details: Vec<Value>,
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
            Piece::Call { index, id, name } => self.call(index, id, name, deltas)?,
            Piece::Arguments { index, text } => {
                drop(self.append(Kind::Call, index, text)?);
                self.check_calls()?;
            }
            Piece::CallExtra { index, json } => {
                self.grow(json.len())?;
                self.block(Kind::Call, index).extra = serde_json::from_str(json).ok();
                self.check_calls()?;
            }
            Piece::ReasoningDetails { json } => {
                self.grow(json.len())?;
                history::append_details(&mut self.details, serde_json::from_str(json).unwrap_or_default());
            }
            Piece::Usage(counted) => self.usage = Some(usage(counted)),
            Piece::Finish(ended) => self.finish = Some(finish(ended)),
            Piece::Done => self.done = true,
            Piece::Fault(fault) => {
                let words = fault.message.or(fault.kind).or(fault.code);
                let message = words.map_or_else(|| "the endpoint gave no reason".to_owned(), |text| text.to_string());
                return Err(Refusal::Fault { class: fault.class_in_stream(), message });
            }
        }
        Ok(())
    }

    /// Whether the stream said that the reply is whole.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the model said why it stopped.
    pub(super) fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// The reply. `opaque` says what the provider wants back with a reasoning block.
    pub(super) fn into_reply(self, opaque: impl Fn(Reasoning<'_>) -> Option<Value>) -> Assembled {
        let mut has_calls = false;
        let mut parts = Vec::with_capacity(self.blocks.len());
        for block in self.blocks {
            let Block { kind, index, text, signature, id, name, extra } = block;
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
        let finish = match self.finish.unwrap_or(Finish::Stop) {
            // Servers differ in what they call the end of a turn that has calls; the calls themselves decide.
            Finish::Stop | Finish::ToolCalls if has_calls => Finish::ToolCalls,
            Finish::ToolCalls => Finish::Stop,
            other => other,
        };
        Assembled { parts, finish, usage: self.usage, details: self.details }
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
            let empty = String::new;
            self.blocks.push(Block {
                kind,
                index,
                text: empty(),
                signature: empty(),
                id: empty(),
                name: empty(),
                extra: None,
            });
        }
        &mut self.blocks[place]
    }

    fn append(&mut self, kind: Kind, index: u32, text: Text<'_>) -> Result<String, Refusal> {
        self.grow(text.raw_len())?;
        let more = text.to_string();
        self.block(kind, index).text.push_str(&more);
        Ok(more)
    }

    fn call(
        &mut self,
        index: u32,
        id: Option<Text<'_>>,
        name: Option<Text<'_>>,
        deltas: DeltaSink<'_>,
    ) -> Result<(), Refusal> {
        self.grow(id.map_or(0, |id| id.raw_len()) + name.map_or(0, |name| name.raw_len()))?;
        let mut block = self.block(Kind::Call, index);
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            if !block.id.is_empty() && !id.is(&block.id) {
                // Another call under the same index: some servers number them all 0.
                let (id, empty) = (id.to_string(), String::new);
                let (text, signature, name) = (empty(), empty(), empty());
                let next = Block { kind: Kind::Call, index, text, signature, id, name, extra: None };
                self.blocks.push(next);
                let last = self.blocks.len() - 1;
                block = &mut self.blocks[last];
            } else {
                block.id = id.to_string();
            }
        }
        if let Some(name) = name.filter(|name| !name.is_empty() && block.name.is_empty()) {
            block.name = name.to_string();
            let name = block.name.clone();
            deltas(Delta::Call { name });
        }
        self.check_calls()
    }

    fn check_calls(&self) -> Result<(), Refusal> {
        let calls = self.blocks.iter().filter(|block| block.kind == Kind::Call).count();
        if calls > MODEL_REPLY_CALLS_MAX { Err(Refusal::TooManyCalls) } else { Ok(()) }
    }
}

fn usage(counted: Counted) -> Usage {
    let Counted { input, cache_read, cache_write, output, reasoning } = counted;
    Usage { input, cache_read, cache_write, output, reasoning }
}

fn finish(ended: Ended) -> Finish {
    match ended {
        Ended::Stop | Ended::Other => Finish::Stop,
        Ended::ToolCalls => Finish::ToolCalls,
        Ended::Length => Finish::Length,
        Ended::ContentFilter => Finish::ContentFilter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(index: u32, id: &'static str, name: &'static str) -> Piece<'static> {
        Piece::Call { index, id: Some(Text::plain(id)), name: Some(Text::plain(name)) }
    }

    fn arguments(index: u32, text: &str) -> Piece<'_> {
        Piece::Arguments { index, text: Text::plain(text) }
    }

    fn gather(pieces: &[Piece<'_>]) -> (Assembled, Vec<Delta>) {
        let mut seen = Vec::new();
        let mut assembly = Assembly::default();
        for piece in pieces {
            assembly.take(*piece, &mut |delta| seen.push(delta)).unwrap();
        }
        (assembly.into_reply(|_| None), seen)
    }

    #[test]
    fn blocks_keep_their_order_and_calls_their_arguments() {
        let text = |text| Piece::Text { index: 1, text: Text::plain(text) };
        let (reply, seen) = gather(&[
            Piece::Reasoning { index: 0, text: Text::plain("hm") },
            text("a"),
            text("b"),
            call(2, "x", "first"),
            call(3, "y", "second"),
            arguments(3, "{\"n\":2}"),
            arguments(2, ""),
            Piece::Finish(Ended::Stop),
        ]);
        let expected = [
            Part::Reasoning { text: "hm".into(), opaque: None },
            Part::Text { text: "ab".into() },
            Part::Call { id: "x".into(), name: "first".into(), arguments: "{}".into(), opaque: None },
            Part::Call { id: "y".into(), name: "second".into(), arguments: "{\"n\":2}".into(), opaque: None },
        ];
        assert_eq!(reply.parts, expected);
        assert_eq!(reply.finish, Finish::ToolCalls, "the calls decide, whatever the server called the end");
        assert_eq!(seen.len(), 5, "reasoning, two texts, two calls: {seen:?}");
    }

    #[test]
    fn calls_of_one_index_are_told_apart_by_their_ids() {
        let (reply, _) = gather(&[call(0, "x", "first"), arguments(0, "1"), call(0, "y", "second"), arguments(0, "2")]);
        let expected = [
            Part::Call { id: "x".into(), name: "first".into(), arguments: "1".into(), opaque: None },
            Part::Call { id: "y".into(), name: "second".into(), arguments: "2".into(), opaque: None },
        ];
        assert_eq!(reply.parts, expected);
    }

    #[test]
    fn limits_refuse() {
        let mut assembly = Assembly::default();
        let half = "x".repeat(MODEL_REPLY_BYTES_MAX / 2 + 1);
        let piece = Piece::Text { index: 0, text: Text::plain(&half) };
        assert_eq!(assembly.take(piece, &mut |_| {}), Ok(()));
        assert_eq!(assembly.take(piece, &mut |_| {}), Err(Refusal::TooLarge));
        let mut assembly = Assembly::default();
        for index in 0..MODEL_REPLY_CALLS_MAX {
            assert_eq!(assembly.take(arguments(u32::try_from(index).unwrap(), "1"), &mut |_| {}), Ok(()));
        }
        assert_eq!(assembly.take(call(999, "z", "late"), &mut |_| {}), Err(Refusal::TooManyCalls));
    }
}
