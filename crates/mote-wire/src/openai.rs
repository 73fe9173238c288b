//! Decodes the chunks of OpenAI's Chat Completions stream, and of the servers that are compatible with it (vLLM,
//! llama.cpp, Ollama, DeepSeek, OpenRouter).
//!
//! Unknown fields are passed over. Only the first choice is read: Mote asks for one.

use crate::Error;
use crate::delta::{Delta, Finish, Usage};
use crate::fault::Fault;
use crate::json::{Text, Value};

/// Fields of a delta in which compatible servers stream reasoning; [`Delta::Reasoning`]'s index says which.
pub const REASONING_FIELDS: [&str; 2] = ["reasoning_content", "reasoning"];

/// The data that ends a stream.
const DONE: &str = "[DONE]";

/// The decoder of one reply. The format needs no memory between events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoder;

impl Decoder {
    /// Decodes one event; its deltas go to `sink` in order.
    ///
    /// Calls without an index take their place within the chunk. A server that streams several calls under one index
    /// tells them apart by a new id: whoever gathers the pieces must look at it.
    ///
    /// # Errors
    /// When the data is not JSON, or a known field has a type that the format does not have.
    pub fn event<'a>(&mut self, name: &str, data: &'a str, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
        if data.trim_ascii() == DONE {
            sink(Delta::Done);
            return Ok(());
        }
        let event = Value::parse(data)?;
        let [error, choices, used] = event.fields(["error", "choices", "usage"])?;
        if error.is_some() || name == "error" {
            sink(Delta::Fault(Fault::read(&event)));
            return Ok(());
        }
        if let Some(choices) = choices {
            choices.items(|choice| {
                let [index, delta, reason] = choice.fields(["index", "delta", "finish_reason"])?;
                if index.map_or(Ok(0), |index| index.number())? != 0 {
                    return Ok(());
                }
                if let Some(delta) = delta {
                    pieces(&delta, sink)?;
                }
                if let Some(reason) = reason {
                    sink(Delta::Finish(finish(reason.text()?)));
                }
                Ok::<(), Error>(())
            })?;
        }
        if let Some(used) = used {
            sink(Delta::Usage(usage(&used)?));
        }
        Ok(())
    }
}

fn pieces<'a>(delta: &Value<'a>, sink: &mut dyn FnMut(Delta<'a>)) -> Result<(), Error> {
    let [first, second] = REASONING_FIELDS;
    let [content, refusal, calls, reasoning, alias, details] =
        delta.fields(["content", "refusal", "tool_calls", first, second, "reasoning_details"])?;
    if let Some(details) = details.filter(|details| details.raw().starts_with('[')) {
        sink(Delta::ReasoningDetails { json: details.raw() });
    }
    let string = |value: Option<Value<'a>>| {
        value.map(|value| value.text()).transpose().map(|text| text.filter(|text| !text.is_empty()))
    };
    // Some servers write the same piece in both fields.
    if let Some(text) = string(reasoning)? {
        sink(Delta::Reasoning { index: 0, text });
    } else if let Some(text) = string(alias)? {
        sink(Delta::Reasoning { index: 1, text });
    }
    for text in [string(content)?, string(refusal)?].into_iter().flatten() {
        sink(Delta::Text { index: 0, text });
    }
    let Some(calls) = calls else { return Ok(()) };
    let mut place = 0;
    calls.items(|call| {
        let [index, id, function, extra] = call.fields(["index", "id", "function", "extra_content"])?;
        let index = index.map_or(Ok(place), |index| index.number())?;
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        place = place.saturating_add(1);
        let [name, arguments] = function.map_or(Ok([None, None]), |f| f.fields(["name", "arguments"]))?;
        let (id, name) = (string(id)?, string(name)?);
        if id.is_some() || name.is_some() {
            sink(Delta::Call { index, id, name });
        }
        // The format has JSON text here; a server that gives the object itself is understood too.
        let arguments = arguments.map(|value| value.text().unwrap_or(Text::plain(value.raw())));
        if let Some(text) = arguments.filter(|text| !text.is_empty()) {
            sink(Delta::Arguments { index, text });
        }
        if let Some(extra) = extra {
            sink(Delta::CallExtra { index, json: extra.raw() });
        }
        Ok::<(), Error>(())
    })
}

/// OpenAI counts cached tokens into `prompt_tokens`, as [`Usage`] does.
fn usage(value: &Value<'_>) -> Result<Usage, Error> {
    let [input, output, input_details, output_details, hit] = value.fields([
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "prompt_cache_hit_tokens",
    ])?;
    let number = |value: Option<Value<'_>>| value.map_or(Ok(0), |value| value.number());
    let [read, write] =
        input_details.map_or(Ok([None, None]), |details| details.fields(["cached_tokens", "cache_write_tokens"]))?;
    let [reasoning] = output_details.map_or(Ok([None]), |details| details.fields(["reasoning_tokens"]))?;
    let input = number(input)?;
    // What is cached is part of the input, whatever a server writes.
    let cache_read = number(read.or(hit))?.min(input);
    Ok(Usage {
        input,
        cache_read,
        cache_write: number(write)?.min(input - cache_read),
        output: number(output)?,
        reasoning: number(reasoning)?,
    })
}

fn finish(reason: Text<'_>) -> Finish {
    let known = [
        ("stop", Finish::Stop),
        ("tool_calls", Finish::ToolCalls),
        ("function_call", Finish::ToolCalls),
        ("length", Finish::Length),
        ("content_filter", Finish::ContentFilter),
    ];
    known.into_iter().find_map(|(name, finish)| reason.is(name).then_some(finish)).unwrap_or(Finish::Other)
}
