//! Decodes the chunks of OpenAI's Chat Completions stream, and of the servers that are compatible with it (vLLM, SGLang,
//! llama.cpp, LM Studio, Ollama, DeepSeek, Mistral, Moonshot, MiniMax, xAI, Groq, Gemini, OpenRouter).
//!
//! A `chat.completion` object that comes whole, instead of a stream or at its end, is read as well. Unknown fields are passed
//! over. Only the first choice is read: Mote asks for one.

use crate::Error;
use crate::delta::{Delta, Usage};
use crate::fault::Fault;
use crate::finish;
use crate::json::{Text, Value};

/// Fields of a delta in which compatible servers stream reasoning; [`Delta::Reasoning`]'s index says which. An index beyond
/// them is reasoning that came as a part of the content, in no field of its own.
pub const REASONING_FIELDS: [&str; 2] = ["reasoning_content", "reasoning"];
/// The index of reasoning that came as a part of the content.
const IN_CONTENT: u32 = 2;

/// The data that ends a stream.
const DONE: &str = "[DONE]";

/// The decoder of one reply: it holds what came as deltas, for a last chunk may repeat all of it as a message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoder {
    streamed: Seen,
}

/// Which kinds of pieces came.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    text: bool,
    reasoning: bool,
    details: bool,
    calls: bool,
}

impl Decoder {
    /// Decodes one event; its deltas go to `sink` in order. An event without data is a heartbeat.
    ///
    /// Calls without an index take their place within the chunk. A server that streams several calls under one index
    /// tells them apart by a new id, or by a name where the call before is complete: whoever gathers the pieces must look at it.
    ///
    /// # Errors
    /// When the data is not JSON, or a known field has a type that the format does not have.
    pub fn event<'a>(&mut self, name: &str, data: &'a str, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
        let data = data.trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        if data == DONE {
            sink(Delta::Done);
            return Ok(());
        }
        let event = Value::parse(data)?;
        if !event.is_object() {
            // Gemini's errors are lists; nothing else of the format is no object.
            let fault = event.first().filter(Value::is_object).map(|_| Fault::read(&event));
            sink(Delta::Fault(fault.ok_or(Error::unexpected())?));
            return Ok(());
        }
        let [choices, used, groq, timings] = event.fields(["choices", "usage", "x_groq", "timings"])?;
        for used in [used.and_then(|used| usage(&used)), nested_usage(groq), timings.and_then(|t| timed(&t))] {
            used.into_iter().for_each(|used| sink(Delta::Usage(used)));
        }
        if name == "error" || is_fault(&event, choices)? {
            sink(Delta::Fault(Fault::read(&event)));
            return Ok(());
        }
        match choices {
            Some(choices) => choices.items(|choice| self.choice(&choice, sink)),
            None => Ok(()),
        }
    }

    /// Decodes an answer that came as one JSON text instead of a stream.
    ///
    /// # Errors
    /// As [`Decoder::event`]'s.
    pub fn whole<'a>(&mut self, body: &'a str, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
        self.event("", body, sink)?;
        sink(Delta::Done);
        Ok(())
    }

    fn choice<'a>(&mut self, choice: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
        let names = ["index", "delta", "message", "finish_reason", "error", "usage"];
        let [index, delta, message, reason, error, used] = choice.fields(names)?;
        if index.map_or(Ok(0), |index| index.number())? != 0 {
            return Ok(());
        }
        // Moonshot counts within the choice.
        if let Some(used) = used.and_then(|used| usage(&used)) {
            sink(Delta::Usage(used));
        }
        if error.is_some_and(|error| says_something(&error)) {
            sink(Delta::Fault(Fault::read(choice)));
            return Ok(());
        }
        if let Some(delta) = delta {
            let seen = pieces(&delta, Seen::default(), sink)?;
            self.streamed.text |= seen.text;
            self.streamed.reasoning |= seen.reasoning;
            self.streamed.details |= seen.details;
            self.streamed.calls |= seen.calls;
        }
        if let Some(message) = message {
            pieces(&message, self.streamed, sink)?;
        }
        if let Some((finish, reason)) = finish::of_field(reason) {
            sink(Delta::Finish { finish, reason });
        }
        Ok(())
    }
}

/// Whether an event is an error: at the top, or flat (vLLM's `{"object": "error", "message": …}`), without choices.
fn is_fault(event: &Value<'_>, choices: Option<Value<'_>>) -> Result<bool, Error> {
    let names = ["error", "object", "message", "detail", "code", "id"];
    let [error, object, message, detail, code, id] = event.fields(names)?;
    if error.is_some_and(|error| says_something(&error)) {
        return Ok(true);
    }
    let mut empty = true;
    if let Some(choices) = choices {
        choices.items(|_| {
            empty = false;
            Ok::<(), Error>(())
        })?;
    }
    let named = object.and_then(|object| object.text().ok()).is_some_and(|object| object.is("error"));
    let said = message.or(detail);
    Ok(empty && (named || (said.is_some() && (code.is_some() || id.is_none()))))
}

/// Servers write `false`, `""` or `{}` where there is no error.
fn says_something(error: &Value<'_>) -> bool {
    !matches!(error.raw(), "false" | "\"\"" | "{}" | "[]" | "0")
}

/// The pieces of a delta or a message, but those of the kinds that came already. Returns which kinds it had.
fn pieces<'a>(delta: &Value<'a>, came: Seen, sink: &mut dyn FnMut(Delta<'a>)) -> Result<Seen, Error> {
    let [first, second] = REASONING_FIELDS;
    let [content, refusal, tool_calls, reasoning, alias, details] =
        delta.fields(["content", "refusal", "tool_calls", first, second, "reasoning_details"])?;
    let mut seen = Seen::default();
    if let Some(details) = details.filter(|details| details.raw().starts_with('[') && !came.details) {
        seen.details = true;
        sink(Delta::ReasoningDetails { json: details.raw() });
    }
    // Some servers write the same piece in both fields.
    let thought = match string(reasoning)? {
        Some(text) => Some((0, text)),
        None => string(alias)?.map(|text| (1, text)),
    };
    if let Some((index, text)) = thought.filter(|_| !came.reasoning) {
        seen.reasoning = true;
        sink(Delta::Reasoning { index, text });
    }
    let mut sink_new = |piece: Delta<'a>| match piece {
        Delta::Text { .. } if !came.text => {
            seen.text = true;
            sink(piece);
        }
        Delta::Reasoning { .. } if !came.reasoning => {
            seen.reasoning = true;
            sink(piece);
        }
        _ => {}
    };
    if let Some(parts) = content.filter(|content| content.raw().starts_with('[')) {
        parts.items(|part| content_part(&part, &mut sink_new))?;
    } else if let Some(text) = string(content)? {
        sink_new(Delta::Text { index: 0, text });
    }
    if let Some(text) = string(refusal)? {
        sink_new(Delta::Text { index: 0, text });
    }
    if let Some(calls) = tool_calls.filter(|_| !came.calls) {
        seen.calls = self::calls(&calls, sink)?;
    }
    Ok(seen)
}

/// A string that says something.
fn string(value: Option<Value<'_>>) -> Result<Option<Text<'_>>, Error> {
    Ok(value.map(|value| value.text()).transpose()?.filter(|text| !text.is_empty()))
}

/// A part of content that is a list (Mistral): text is text, thinking is reasoning, a reference shows nothing.
fn content_part<'a>(part: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
    if !part.is_object() {
        // A list of plain strings.
        string(Some(*part))?.into_iter().for_each(|text| sink(Delta::Text { index: 0, text }));
        return Ok(());
    }
    let [kind, text, thinking, refusal] = part.fields(["type", "text", "thinking", "refusal"])?;
    let kind = string(kind)?.unwrap_or(Text::plain("text"));
    if kind.is("thinking") || kind.is("reasoning") {
        let Some(thinking) = thinking.or(text) else { return Ok(()) };
        if thinking.raw().starts_with('[') {
            return thinking.items(|inner| {
                let [text] = inner.fields(["text"])?;
                string(text)?.into_iter().for_each(|text| sink(Delta::Reasoning { index: IN_CONTENT, text }));
                Ok::<(), Error>(())
            });
        }
        string(Some(thinking))?.into_iter().for_each(|text| sink(Delta::Reasoning { index: IN_CONTENT, text }));
    } else if kind.is("text") || kind.is("output_text") {
        string(text)?.into_iter().for_each(|text| sink(Delta::Text { index: 0, text }));
    } else if kind.is("refusal") {
        string(refusal)?.into_iter().for_each(|text| sink(Delta::Text { index: 0, text }));
    }
    Ok(())
}

/// The calls of one chunk; whether there were any.
fn calls<'a>(calls: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<bool, Error> {
    let (mut place, mut before) = (0, None);
    calls.items(|call| {
        let [index, id, function, extra] = call.fields(["index", "id", "function", "extra_content"])?;
        let index = index.map_or(Ok(place), |index| index.number())?;
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        place = place.saturating_add(1);
        let [name, arguments] = function.map_or(Ok([None, None]), |f| f.fields(["name", "arguments"]))?;
        // Some servers number their ids.
        let id = id.map(|id| id.text().unwrap_or(Text::plain(id.raw()))).filter(|id| !id.is_empty());
        let name = string(name)?;
        if id.is_some() || name.is_some() {
            // Two entries of one chunk are two calls, whatever their index says.
            let distinct = name.is_some() && before == Some(index);
            sink(Delta::Call { index, id, name, distinct });
        }
        before = Some(index);
        // The format has JSON text here; a server that gives the object itself is understood too.
        let arguments = arguments.map(|value| value.text().unwrap_or(Text::plain(value.raw())));
        if let Some(text) = arguments.filter(|text| !text.is_empty()) {
            sink(Delta::Arguments { index, text });
        }
        if let Some(extra) = extra {
            sink(Delta::CallExtra { index, json: extra.raw() });
        }
        Ok::<(), Error>(())
    })?;
    Ok(place > 0)
}

/// A count that is no number says nothing: a reply is not lost over it.
fn count(value: Option<Value<'_>>) -> Option<u64> {
    value.and_then(|value| value.number().ok())
}

/// OpenAI counts cached tokens into `prompt_tokens`, as [`Usage`] does. `None` where nothing is counted.
fn usage(value: &Value<'_>) -> Option<Usage> {
    let names = ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"];
    let [prompt, completion, total, input, output] = value.fields(names).ok()?.map(count);
    let [input_details, output_details, hit, reasoned] = value
        .fields(["prompt_tokens_details", "completion_tokens_details", "prompt_cache_hit_tokens", "reasoning_tokens"])
        .ok()?;
    let [read, write] =
        input_details.and_then(|d| d.fields(["cached_tokens", "cache_write_tokens"]).ok()).unwrap_or_default();
    let [detailed] = output_details.and_then(|d| d.fields(["reasoning_tokens"]).ok()).unwrap_or_default();
    let reasoning = count(detailed).or(count(reasoned)).unwrap_or(0);
    let (input, completion) = (prompt.or(input).unwrap_or(0), completion.or(output).unwrap_or(0));
    // xAI and Gemini leave reasoning out of the completion's tokens; the total has it. Where there is no total, more reasoning
    // than completion tells the same.
    let outside = match total {
        Some(total) if input > 0 => total.saturating_sub(input),
        _ if reasoning > completion => completion.saturating_add(reasoning),
        _ => 0,
    };
    let output = completion.max(outside);
    if input == 0 && output == 0 {
        return None;
    }
    // What is cached is part of the input, whatever a server writes.
    let cache_read = count(read.or(hit)).unwrap_or(0).min(input);
    Some(Usage {
        input,
        cache_read,
        cache_write: count(write).unwrap_or(0).min(input - cache_read),
        output,
        reasoning: reasoning.min(output),
    })
}

/// Groq's own place for it.
fn nested_usage(holder: Option<Value<'_>>) -> Option<Usage> {
    let [used] = holder?.fields(["usage"]).ok()?;
    usage(&used?)
}

/// llama.cpp's timings, for versions that count nowhere else. What was cached is not among the tokens that it processed.
fn timed(timings: &Value<'_>) -> Option<Usage> {
    let [processed, cached, predicted] = timings.fields(["prompt_n", "cache_n", "predicted_n"]).ok()?.map(count);
    let (cache_read, output) = (cached.unwrap_or(0), predicted.unwrap_or(0));
    let input = processed.unwrap_or(0).saturating_add(cache_read);
    (input > 0 || output > 0).then_some(Usage { input, cache_read, output, ..Usage::default() })
}
