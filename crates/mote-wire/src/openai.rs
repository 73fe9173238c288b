//! Decodes the chunks of OpenAI's Chat Completions stream, and of the servers that are compatible with it (vLLM, SGLang,
//! llama.cpp, LM Studio, Ollama, DeepSeek, Mistral, Moonshot, MiniMax, xAI, Groq, Gemini, OpenRouter).
//!
//! A `chat.completion` object that comes whole, instead of a stream or at its end, is read as well. Unknown fields are passed
//! over. Only the first choice is read: Mote asks for one.

use crate::Error;
use crate::delta::{Delta, TOKENS_MAX, Usage};
use crate::fault::{self, Fault};
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
        if let Some(choices) = choices {
            choices.items(|choice| self.choice(&choice, sink))?;
        }
        // Servers that have no choices, or write the reason beside them.
        let [reason, done] = event.fields(["finish_reason", "done_reason"])?;
        for (finish, reason) in [reason, done].into_iter().filter_map(finish::of_field) {
            sink(Delta::Finish { finish, reason });
        }
        Ok(())
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
        if !choice.is_object() {
            return Ok(());
        }
        let names = ["index", "delta", "message", "finish_reason", "error", "usage"];
        let [index, delta, message, reason, error, used] = choice.fields(names)?;
        let [native, stop] = choice.fields(["native_finish_reason", "stop_reason"])?;
        if index.and_then(|index| index.loose_number()).unwrap_or(0) != 0 {
            return Ok(());
        }
        let (delta, message) = (delta.filter(Value::is_object), message.filter(Value::is_object));
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
        let [inner] = delta.or(message).and_then(|holder| holder.fields(["finish_reason"]).ok()).unwrap_or_default();
        if let Some((finish, reason)) = finish::of_choice(reason, finish::Aside { inner, native, stop }) {
            sink(Delta::Finish { finish, reason });
        }
        Ok(())
    }
}

/// Whether an event is an error: at the top, or flat (vLLM's `{"object": "error", "message": …}`), without choices.
fn is_fault(event: &Value<'_>, choices: Option<Value<'_>>) -> Result<bool, Error> {
    let names = ["error", "object", "message", "detail", "code", "id"];
    let [error, object, message, detail, code, id] = event.fields(names)?;
    let [base] = event.fields(["base_resp"])?;
    if error.is_some_and(|error| says_something(&error)) || (base.is_some() && fault::is_flat(event)) {
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
    Ok(empty && (named || fault::is_flat(event) || (said.is_some() && (code.is_some() || id.is_none()))))
}

/// Servers write `false`, `""` or `{}` where there is no error.
fn says_something(error: &Value<'_>) -> bool {
    !matches!(error.raw(), "false" | "\"\"" | "{}" | "[]" | "0")
}

/// The pieces of a delta or a message, but those of the kinds that came already. Returns which kinds it had.
///
/// A field of another type than the format has is read where it holds text in a form that servers use, and passed over
/// otherwise: a reply is not lost over it.
fn pieces<'a>(delta: &Value<'a>, came: Seen, sink: &mut dyn FnMut(Delta<'a>)) -> Result<Seen, Error> {
    let [first, second] = REASONING_FIELDS;
    let [content, refusal, tool_calls, function_call, reasoning, alias, details] =
        delta.fields(["content", "refusal", "tool_calls", "function_call", first, second, "reasoning_details"])?;
    let mut seen = Seen::default();
    if let Some(details) = details.filter(|details| details.raw().starts_with('[') && !came.details) {
        seen.details = true;
        sink(Delta::ReasoningDetails { json: details.raw() });
    }
    for (index, thought) in [(0, reasoning), (1, alias)] {
        // Some servers write the same piece in both fields.
        if let Some(thought) = thought.filter(|_| !came.reasoning && !seen.reasoning) {
            texts(&thought, &mut |text| {
                seen.reasoning = true;
                sink(Delta::Reasoning { index, text });
            });
        }
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
    if let Some(content) = content {
        each(&content, &mut |part| content_part(&part, &mut sink_new));
    }
    if let Some(text) = refusal.and_then(|refusal| refusal.loose_text()) {
        sink_new(Delta::Text { index: 0, text });
    }
    if let Some(calls) = tool_calls.filter(|_| !came.calls) {
        seen.calls = self::calls(&calls, sink);
    }
    // The only call of a reply, in the form before `tool_calls`.
    if let Some(call) = function_call.filter(|call| call.is_object() && !came.calls && !seen.calls) {
        seen.calls = true;
        self::call(&call, 0, None, sink);
    }
    Ok(seen)
}

/// The items of a list, or the one value that stands in its place.
fn each<'a>(value: &Value<'a>, item: &mut dyn FnMut(Value<'a>)) {
    let listed = value.items(|one| {
        item(one);
        Ok::<(), Error>(())
    });
    if listed.is_err() {
        item(*value);
    }
}

/// The texts of a value: its own, or those of its items.
fn texts<'a>(value: &Value<'a>, sink: &mut dyn FnMut(Text<'a>)) {
    each(value, &mut |one| one.loose_text().into_iter().for_each(&mut *sink));
}

/// A part of content: plain, or of a list (Mistral): text is text, thinking is reasoning, a reference shows nothing.
fn content_part<'a>(part: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) {
    let Ok([kind, text, thinking, refusal]) = part.fields(["type", "text", "thinking", "refusal"]) else {
        part.loose_text().into_iter().for_each(|text| sink(Delta::Text { index: 0, text }));
        return;
    };
    let kind = kind.and_then(|kind| kind.text().ok()).unwrap_or(Text::plain("text"));
    if kind.is("thinking") || kind.is("reasoning") {
        if let Some(thinking) = thinking.or(text) {
            texts(&thinking, &mut |text| sink(Delta::Reasoning { index: IN_CONTENT, text }));
        }
    } else if kind.is("text") || kind.is("output_text") {
        texts(&text.unwrap_or(*part), &mut |text| sink(Delta::Text { index: 0, text }));
    } else if kind.is("refusal") {
        refusal.into_iter().for_each(|refusal| texts(&refusal, &mut |text| sink(Delta::Text { index: 0, text })));
    }
}

/// The calls of one chunk; whether there were any.
fn calls<'a>(calls: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> bool {
    let (mut place, mut before) = (0, None);
    each(calls, &mut |call| {
        if call.is_object() {
            before = Some(self::call(&call, place, before, sink));
            place = place.saturating_add(1);
        }
    });
    place > 0
}

/// One call of a chunk, at its place there unless it says its index; `before` is that of the entry before. Returns its own.
fn call<'a>(call: &Value<'a>, place: u32, before: Option<u32>, sink: &mut dyn FnMut(Delta<'a>)) -> u32 {
    let fields = call.fields(["index", "id", "function", "extra_content"]).unwrap_or_default();
    let [index, id, function, extra] = fields;
    let index = index.and_then(|index| index.loose_number());
    let index = index.map_or(place, |index| u32::try_from(index).unwrap_or(u32::MAX));
    // Without a `function`, what it holds stands beside the rest.
    let function = function.filter(Value::is_object).unwrap_or(*call);
    let [name, arguments] = function.fields(["name", "arguments"]).unwrap_or_default();
    // Some servers number their ids.
    let id = id.map(|id| id.text().unwrap_or(Text::plain(id.raw()))).filter(|id| !id.is_empty());
    let name = name.and_then(|name| name.text().ok()).filter(|name| !name.is_empty());
    if id.is_some() || name.is_some() {
        // Two entries of one chunk are two calls, whatever their index says.
        let distinct = name.is_some() && before == Some(index);
        sink(Delta::Call { index, id, name, distinct });
    }
    // The format has JSON text here; a server that gives the object itself is understood too.
    let arguments = arguments.map(|value| value.text().unwrap_or(Text::plain(value.raw())));
    if let Some(text) = arguments.filter(|text| !text.is_empty()) {
        sink(Delta::Arguments { index, text });
    }
    if let Some(extra) = extra {
        sink(Delta::CallExtra { index, json: extra.raw() });
    }
    index
}

/// A count that is no number, or none that can be meant, says nothing: a reply is not lost over it.
fn count(value: Option<Value<'_>>) -> Option<u64> {
    value.and_then(|value| value.loose_number()).filter(|count| *count <= TOKENS_MAX)
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
    let (mut input, completion) = (prompt.or(input).unwrap_or(0), completion.or(output).unwrap_or(0));
    let cached = count(read.or(hit)).unwrap_or(0);
    // A server that leaves what is cached out of the prompt: there is more of it, or only so the total is right.
    let counted = input.saturating_add(cached).saturating_add(completion);
    if cached > input || (cached > 0 && total == Some(counted)) {
        input = input.saturating_add(cached);
    }
    if let (0, Some(total)) = (input, total) {
        input = total.saturating_sub(completion);
    }
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
    let cache_read = cached.min(input);
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
