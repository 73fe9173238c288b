//! Reads a model's reply for the core: what each call asks for, and whether a final answer is valid. Arguments are
//! validated here, before any backend is touched; nothing is performed.

use mote_core::{Array, CallKind, CallSpec, Finish, Spend};
use serde_json::Value;

use super::payload::RefusedCall;
use super::request::millis;
use super::{CALLS, Shared};
use crate::clock::UnixMs;
use crate::context;
use crate::limits::TOOL_NAME_CHARS_MAX;
use crate::message::{Message, Part};
use crate::model::{self, Reply};
use crate::tools::builtin::Wait;
use crate::tools::config::Builtin;
use crate::tools::registry::Target;
use crate::tools::validation;
use crate::tools::{Effect, key};

/// A reply as the core takes it.
pub(super) struct Reading {
    pub finish: Finish,
    pub tokens: u32,
    pub calls: Array<CallSpec, CALLS>,
    pub refused: Vec<RefusedCall>,
    pub feedback: Option<String>,
}

/// Reads a reply that was received at `now`.
pub(super) fn read(shared: &Shared, reply: &Reply, now: UnixMs) -> Reading {
    let tokens = context::message_tokens(&reply.message);
    let mut reading =
        Reading { finish: Finish::Final, tokens, calls: Array::new(), refused: Vec::new(), feedback: None };
    match reply.finish {
        model::Finish::Length => reading.finish = Finish::Length,
        model::Finish::ContentFilter => reading.finish = Finish::Filtered,
        model::Finish::Stop | model::Finish::ToolCalls => {
            read_calls(shared, &reply.message, now, &mut reading);
            if reading.calls.is_empty() {
                check_answer(shared, &reply.message, &mut reading);
            } else {
                reading.finish = Finish::Calls;
            }
        }
    }
    reading
}

fn read_calls(shared: &Shared, message: &Message, now: UnixMs, reading: &mut Reading) {
    for part in &message.parts {
        let Part::Call { id, name, arguments, .. } = part else { continue };
        let spec = match specify(shared, name, arguments, now) {
            Ok(spec) => spec,
            Err(reason) => {
                let spec = refusal(name, arguments, &reason);
                reading.refused.push(RefusedCall { id: id.clone(), reason });
                spec
            }
        };
        if reading.calls.push(spec).is_err() {
            // The core does not see this call; the model is told.
            let reason = format!("not performed: a turn carries at most {CALLS} calls");
            reading.refused.retain(|call| call.id != *id);
            reading.refused.push(RefusedCall { id: id.clone(), reason });
        }
    }
}

fn refusal(name: &str, arguments: &str, reason: &str) -> CallSpec {
    let digest = key::call_digest(name, &Value::from(arguments));
    CallSpec {
        kind: CallKind::Rejected { tokens: context::tokens(reason.len()) },
        tool: 0,
        digest,
        timeout_ms: 0,
        reserve: Spend::default(),
    }
}

fn specify(shared: &Shared, name: &str, arguments: &str, now: UnixMs) -> Result<CallSpec, String> {
    let binding = shared.registry.get(name).ok_or_else(|| {
        let known: Vec<&str> = shared.registry.definitions().iter().map(|tool| tool.name.as_str()).collect();
        no_tool(name, &known.join(", "))
    })?;
    let arguments = shared.registry.validate(name, arguments)?;
    let digest = key::call_digest(name, &arguments);
    let (kind, timeout_ms) = match &binding.target {
        Target::Tool(tool) => {
            let effect = match tool.effect() {
                Effect::Read => mote_core::Effect::Read,
                Effect::Idempotent => mote_core::Effect::Idempotent,
                Effect::Write => mote_core::Effect::Write,
            };
            let key_ttl_ms = tool.key_ttl().map_or(u64::MAX, millis);
            let kind = CallKind::Tool { effect, key_ttl_ms, approval: tool.needs_approval() };
            (kind, u32::try_from(millis(tool.timeout())).unwrap_or(u32::MAX))
        }
        Target::Builtin(builtin) => (wait_kind(*builtin, &arguments, now)?, 0),
    };
    let reserve = match &binding.target {
        Target::Tool(tool) => tool.spends(),
        Target::Builtin(_) => Spend::default(),
    };
    Ok(CallSpec { kind, tool: short(&binding.digest()), digest, timeout_ms, reserve })
}

/// What a call of no tool gets.
fn no_tool(name: &str, known: &str) -> String {
    match name.char_indices().nth(TOOL_NAME_CHARS_MAX) {
        _ if name.is_empty() => format!("the call names no tool; the tools are: {known}"),
        Some((end, _)) => format!("there is no tool {}…; the tools are: {known}", &name[..end]),
        None => format!("there is no tool {name}; the tools are: {known}"),
    }
}

fn wait_kind(builtin: Builtin, arguments: &Value, now: UnixMs) -> Result<CallKind, String> {
    let after = |duration| now.saturating_add(millis(duration));
    Ok(match builtin.parse(arguments)? {
        Wait::Signal { name, timeout } => {
            CallKind::Signal { name: signal_hash(&name), until: timeout.map_or(0, after) }
        }
        Wait::At(at) => CallKind::Timer { at },
        Wait::For(duration) => CallKind::Timer { at: after(duration) },
        Wait::Answer { .. } => CallKind::Question { until: 0 },
    })
}

/// What the core knows of a signal's name.
pub(super) fn signal_hash(name: &str) -> u64 {
    key::call_digest("signal", &Value::from(name))
}

/// What the core knows of a tool's binding.
fn short(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The digest that a call to `name` would carry now; `None` if there is no such tool any more.
pub(super) fn binding_digest(shared: &Shared, name: &str) -> Option<u64> {
    shared.registry.get(name).map(|binding| short(&binding.digest()))
}

fn check_answer(shared: &Shared, message: &Message, reading: &mut Reading) {
    let Some(schema) = &shared.output else { return };
    let text = message.plain_text();
    let violations = match serde_json::from_str::<Value>(unfenced(&text)) {
        Ok(value) => match schema.validate(&value) {
            Ok(()) => return,
            Err(violations) => validation::describe(&violations),
        },
        Err(error) => format!("it is not JSON: {error}"),
    };
    let feedback = format!("{FEEDBACK_BEFORE}{violations}{FEEDBACK_AFTER}");
    reading.tokens = reading.tokens.saturating_add(context::tokens(feedback.len()));
    reading.finish = Finish::Invalid;
    reading.feedback = Some(feedback);
}

const FEEDBACK_BEFORE: &str = "Your answer does not satisfy the output schema: ";
const FEEDBACK_AFTER: &str = ". Answer again with nothing but JSON that satisfies the schema.";

/// What the schema refused, of the feedback that tells it to the model.
pub(super) fn violations(feedback: &str) -> &str {
    let inner = feedback.strip_prefix(FEEDBACK_BEFORE).and_then(|rest| rest.strip_suffix(FEEDBACK_AFTER));
    inner.unwrap_or(feedback)
}

/// A result for the client: JSON that satisfies the output schema, or the text as a JSON string.
pub(super) fn result(shared: &Shared, message: &Message) -> String {
    let text = message.plain_text();
    let json = shared.output.as_ref().and_then(|_| serde_json::from_str::<Value>(unfenced(&text)).ok());
    json.unwrap_or(Value::String(text)).to_string()
}

/// Models like to fence JSON as Markdown; the fence is no part of the answer.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inner.map_or(text, |inner| inner.strip_prefix("json").unwrap_or(inner).trim())
}

#[cfg(test)]
mod tests {
    use super::no_tool;

    #[test]
    fn a_call_of_no_tool_is_told_so_in_few_words() {
        assert_eq!(no_tool("", "a, b"), "the call names no tool; the tools are: a, b");
        assert_eq!(no_tool("c.d", "a, b"), "there is no tool c.d; the tools are: a, b");
        let long = no_tool(&"é".repeat(10_000), "a");
        assert_eq!(long, format!("there is no tool {}…; the tools are: a", "é".repeat(64)));
    }
}
