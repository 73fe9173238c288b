//! Behaviour from the model's name: `fake/MODE+MODE…`. Stateless, so that benches and peers need no control channel.
//!
//! Modes: `echo`, `answer`, `tool-then-answer`, `tools-N` (N rounds of one call), `slow-Nms` (before the head),
//! `stream-Nms` (before each write), `size-N` (bytes of text), `status-N`, `hang`.

use serde_json::{Map, Value, json};

use super::asked::Asked;
use super::plan::{Behaviour, Fault};

/// The behaviour that the name asks for; `None` where the name is not one of these.
pub(crate) fn from_name(asked: &Asked) -> Option<Behaviour> {
    let modes = asked.model.strip_prefix("fake/")?;
    let mut behaviour = Behaviour::text("All done.");
    for mode in modes.split('+') {
        apply(mode, asked, &mut behaviour)?;
    }
    Some(behaviour)
}

fn apply(mode: &str, asked: &Asked, behaviour: &mut Behaviour) -> Option<()> {
    match mode {
        "answer" => return Some(()),
        "echo" => behaviour.reply.text = Some("{{input}}".to_owned()),
        "tool-then-answer" => call_until(1, asked, behaviour),
        "hang" => behaviour.fault = Some(Fault::Hang),
        _ => {
            let (name, value) = mode.rsplit_once('-')?;
            let number: u64 = value.trim_end_matches("ms").parse().ok()?;
            match name {
                "slow" => behaviour.timing.first_ms = number,
                "stream" => behaviour.timing.chunk_ms = number,
                "size" => behaviour.reply.pad_bytes = Some(usize::try_from(number).ok()?),
                "tools" => call_until(usize::try_from(number).ok()?, asked, behaviour),
                "status" => {
                    behaviour.fault = Some(Fault::Status { status: u16::try_from(number).ok()?, retry_after: None });
                }
                _ => return None,
            }
        }
    }
    Some(())
}

/// Calls the first tool in each of the first `rounds` turns, then answers with what the tools gave.
fn call_until(rounds: usize, asked: &Asked, behaviour: &mut Behaviour) {
    match asked.tools.first() {
        Some(tool) if asked.turn < rounds => {
            behaviour.reply.text = None;
            let mut arguments = example_of(&tool.schema);
            // Another round is another call: a runtime may stop a run that repeats itself.
            if let (Value::Object(fields), true) = (&mut arguments, rounds > 1)
                && let Some(Value::String(first)) = fields.values_mut().next()
            {
                *first = format!("{first}-{}", asked.turn + 1);
            }
            *behaviour = std::mem::take(behaviour).and_call(&tool.name, arguments);
        }
        _ => behaviour.reply.text = Some("The tools said: {{results}}".to_owned()),
    }
}

/// A value that fits a plain schema: its required properties, or its first example, constant or choice.
pub(crate) fn example_of(schema: &Value) -> Value {
    if let Some(fixed) = schema.get("const").or_else(|| schema["enum"].get(0)).or_else(|| schema["examples"].get(0)) {
        return fixed.clone();
    }
    match schema["type"].as_str() {
        Some("string") => json!("x"),
        Some("integer") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1.5)),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("null") => Value::Null,
        _ => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let fields = required.iter().filter_map(Value::as_str);
            fields.map(|name| (name.to_owned(), example_of(&schema["properties"][name]))).collect::<Map<_, _>>().into()
        }
    }
}
