//! Decodes the events of Anthropic's Messages stream (API version 2023-06-01).
//!
//! Events: `message_start`, `content_block_start | _delta | _stop`, `message_delta`, `message_stop`, `ping`, `error`.
//! Unknown events, blocks and deltas are passed over. A whole message that comes instead of a stream is read as well. It does
//! not check that events come in order.

use crate::Error;
use crate::delta::{Delta, TOKENS_MAX, Usage};
use crate::fault::{self, Fault};
use crate::finish;
use crate::json::{Text, Value};

/// The decoder of one reply: it holds the tokens counted so far.
///
/// Anthropic leaves cached tokens out of `input_tokens`; the [`Usage`] that comes out has them in. Counts in
/// `message_delta` are cumulative: of two, the larger stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoder {
    uncached: u64,
    cache_read: u64,
    cache_write: u64,
    output: u64,
    reasoning: u64,
}

impl Decoder {
    /// Decodes one event; its deltas go to `sink` in order. An event without data is a heartbeat.
    ///
    /// # Errors
    /// When the data is not JSON, or a known field has a type that the format does not have.
    pub fn event<'a>(&mut self, name: &str, data: &'a str, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
        let data = data.trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            // Gateways that come from the other format end streams so.
            sink(Delta::Done);
            return Ok(());
        }
        let event = Value::parse(data)?;
        if !event.is_object() {
            let fault = event.first().filter(Value::is_object).map(|_| Fault::read(&event));
            sink(Delta::Fault(fault.ok_or(Error::unexpected())?));
            return Ok(());
        }
        let [kind, index, block, delta, message, usage, error] =
            event.fields(["type", "index", "content_block", "delta", "message", "usage", "error"])?;
        let kind = kind.map_or(Ok(Text::plain("")), |value| value.text())?;
        let is = |wanted: &str| kind.is(wanted) || (kind.is_empty() && name == wanted);
        // Read only where it means something: an unknown event may hold anything.
        let index = || index.and_then(|index| index.loose_number()).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX));
        if is("content_block_delta") {
            if let Some(delta) = delta.filter(Value::is_object) {
                block_delta(index(), &delta, sink)?;
            }
        } else if is("content_block_start") {
            if let Some(block) = block.filter(Value::is_object) {
                block_start(index(), &block, sink)?;
            }
        } else if is("message_start") {
            if let Some(message) = message.filter(Value::is_object) {
                let [usage] = message.fields(["usage"])?;
                self.usage(usage, sink)?;
            }
        } else if is("message_delta") {
            self.usage(usage, sink)?;
            if let Some(delta) = delta.filter(Value::is_object) {
                stop_reason(&delta, sink)?;
            }
        } else if is("message_stop") {
            sink(Delta::Done);
        } else if is("error") || error.is_some() || (kind.is_empty() && (message.is_some() || fault::is_flat(&event))) {
            sink(Delta::Fault(Fault::read(&event)));
        }
        Ok(())
    }

    /// Decodes an answer that came as one JSON text instead of a stream.
    ///
    /// # Errors
    /// As [`Decoder::event`]'s.
    pub fn whole<'a>(&mut self, body: &'a str, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
        let message = Value::parse(body)?;
        let content = if message.is_object() { message.fields(["content", "usage"])? } else { [None, None] };
        let [Some(content), usage] = content else { return self.event("error", body, sink) };
        self.usage(usage, sink)?;
        let mut index = 0;
        if let Ok(text) = content.text() {
            sink(Delta::Text { index, text });
        } else {
            content.items(|block| {
                if block.is_object() {
                    block_start(index, &block, sink)?;
                }
                index += 1;
                Ok::<(), Error>(())
            })?;
        }
        stop_reason(&message, sink)?;
        sink(Delta::Done);
        Ok(())
    }

    fn usage<'a>(&mut self, usage: Option<Value<'a>>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
        let Some(usage) = usage else { return Ok(()) };
        if !usage.is_object() {
            return Ok(());
        }
        let [uncached, read, write, output, details] = usage.fields([
            "input_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "output_tokens",
            "output_tokens_details",
        ])?;
        let [reasoning] = details.and_then(|details| details.fields(["thinking_tokens"]).ok()).unwrap_or_default();
        let slots = [
            (&mut self.uncached, uncached),
            (&mut self.cache_read, read),
            (&mut self.cache_write, write),
            (&mut self.output, output),
            (&mut self.reasoning, reasoning),
        ];
        for (slot, value) in slots {
            // A count that is no number says nothing: a reply is not lost over it.
            if let Some(count) = value.and_then(|value| value.loose_number()).filter(|count| *count <= TOKENS_MAX) {
                *slot = count.max(*slot);
            }
        }
        if self.uncached == 0 && self.cache_read == 0 && self.cache_write == 0 && self.output == 0 {
            return Ok(());
        }
        sink(Delta::Usage(Usage {
            input: self.uncached.saturating_add(self.cache_read).saturating_add(self.cache_write),
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            output: self.output,
            reasoning: self.reasoning,
        }));
        Ok(())
    }
}

fn stop_reason<'a>(holder: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
    let [reason] = holder.fields(["stop_reason"])?;
    if let Some((finish, reason)) = finish::of_field(reason) {
        sink(Delta::Finish { finish, reason });
    }
    Ok(())
}

fn block_start<'a>(index: u32, block: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
    let [kind, text, thinking, signature, data, id, name, input] =
        block.fields(["type", "text", "thinking", "signature", "data", "id", "name", "input"])?;
    // What has another type than the format has there is passed over: a reply is not lost over it.
    let string = |value: Option<Value<'a>>| value.and_then(|value| value.loose_text());
    let kind = string(kind).unwrap_or(Text::plain(""));
    if kind.is("text") {
        if let Some(text) = string(text) {
            sink(Delta::Text { index, text });
        }
    } else if kind.is("thinking") {
        sink(Delta::Reasoning { index, text: string(thinking).unwrap_or(Text::plain("")) });
        if let Some(text) = string(signature) {
            sink(Delta::Signature { index, text });
        }
    } else if kind.is("redacted_thinking") {
        if let Some(data) = string(data) {
            sink(Delta::Redacted { index, data });
        }
    } else if kind.is("tool_use") {
        // Each start is another block, whatever its index says.
        sink(Delta::Call { index, id: string(id), name: string(name), distinct: true });
        // The input streams in as `input_json_delta`; a compatible server may give it whole at once.
        let whole = input.map(|input| input.raw()).filter(|raw| raw.bytes().any(|b| !b"{} \t\r\n".contains(&b)));
        if let Some(whole) = whole {
            sink(Delta::Arguments { index, text: Text::plain(whole) });
        }
    }
    Ok(())
}

fn block_delta<'a>(index: u32, delta: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
    let [kind, text, thinking, signature, json] =
        delta.fields(["type", "text", "thinking", "signature", "partial_json"])?;
    let string = |value: Option<Value<'a>>| value.and_then(|value| value.loose_text()).unwrap_or(Text::plain(""));
    let kind = string(kind);
    if kind.is("text_delta") {
        sink(Delta::Text { index, text: string(text) });
    } else if kind.is("input_json_delta") {
        sink(Delta::Arguments { index, text: string(json) });
    } else if kind.is("thinking_delta") {
        sink(Delta::Reasoning { index, text: string(thinking) });
    } else if kind.is("signature_delta") {
        sink(Delta::Signature { index, text: string(signature) });
    }
    Ok(())
}
