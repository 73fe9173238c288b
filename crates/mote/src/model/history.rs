//! Makes a transcript presentable: history that a strict server takes, whatever a model, another provider or a cut
//! stream left in it. Every call has an id that the server takes and that no other call of the conversation has, a legal
//! name, and exactly one result right behind its message; a result without a call is left out.
//!
//! Messages of one role that stand side by side become one, and the user begins: many models' templates refuse anything
//! else.
//!
//! What it changes depends on what stands before a message, never on what follows, so that a growing conversation keeps
//! its beginning and providers' caches stay warm. It knows of wire formats only that a message has a `role`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::limits::{CALL_ID_CHARS_MAX, TOOL_NAME_CHARS_MAX};
use crate::message::{Message, Part, Role};

/// Which ids of calls a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// Up to [`CALL_ID_CHARS_MAX`] printable ASCII characters (OpenAI).
    Printable,
    /// As many letters, digits, `_` and `-` (Anthropic).
    Word,
    /// Nine letters and digits (Mistral).
    Nine,
}

/// Length of an id that is made up here: what the strictest server takes.
const MADE_UP_CHARS: usize = 9;
/// The name of a call that came without one.
const NAMELESS: &str = "unnamed_tool";
/// The result of a call that has none.
const NO_RESULT: &str = "there is no result: the call was not performed, or its result was lost";

/// Stands at the beginning of a conversation whose first words were trimmed away.
pub(super) const BEGINNING: &str = "(The beginning of this conversation was left out.)";
/// Stands between two messages of one role.
const BETWEEN: &str = "\n\n";

/// The transcript as it may be sent.
pub(super) fn presentable(messages: &[Message], ids: Ids) -> Vec<Message> {
    let results = results(messages);
    let mut used = HashSet::new();
    let mut sent = Vec::with_capacity(messages.len());
    for (place, message) in messages.iter().enumerate() {
        let mut answers = Vec::new();
        let mut parts = Vec::with_capacity(message.parts.len());
        for (at, part) in message.parts.iter().enumerate() {
            match part {
                Part::Result { .. } => {}
                Part::Call { .. } if message.role != Role::Assistant => {}
                Part::Call { id, name, arguments, opaque } => {
                    let id = ids.free(id, &mut used);
                    answers.push(answer(&id, results.get(&(place, at)).copied()));
                    let (name, arguments, opaque) = (legal_name(name), arguments.clone(), opaque.clone());
                    parts.push(Part::Call { id, name, arguments, opaque });
                }
                other => parts.push(other.clone()),
            }
        }
        if !parts.is_empty() {
            sent.push(Message { role: message.role, parts });
        }
        if !answers.is_empty() {
            sent.push(Message { role: Role::Tool, parts: answers });
        }
    }
    sent
}

/// The result of each call, by the call's place (message, part). A result belongs to the latest call before it with its
/// id; of several in one message, to the first that has none yet.
fn results(messages: &[Message]) -> HashMap<(usize, usize), &Part> {
    let mut open: Vec<(usize, usize, &str)> = Vec::new();
    let mut found = HashMap::new();
    for (place, message) in messages.iter().enumerate() {
        for (at, part) in message.parts.iter().enumerate() {
            match part {
                Part::Call { id, .. } if message.role == Role::Assistant => open.push((place, at, id)),
                Part::Result { id, .. } => {
                    let latest = open.iter().rev().find(|(_, _, other)| other == id).map(|(message, _, _)| *message);
                    let call = open.iter().position(|(message, _, other)| Some(*message) == latest && other == id);
                    if let Some(call) = call {
                        let (message, at, _) = open.remove(call);
                        found.insert((message, at), part);
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// Adds a message in its wire format so that roles take turns and the user begins; `text` writes a text as content.
pub(super) fn add_turn(turns: &mut Vec<Value>, said: Value, text: fn(&str) -> Value) {
    if said["role"] == "assistant" && turns.iter().all(|turn| turn["role"] == "system") {
        turns.push(json!({"role": "user", "content": text(BEGINNING)}));
    }
    match (turns.last_mut(), said) {
        (Some(Value::Object(before)), Value::Object(said)) if before.get("role") == said.get("role") => {
            join(before, said);
        }
        (_, said) => turns.push(said),
    }
}

/// Appends what a message says to the one before it.
fn join(before: &mut Map<String, Value>, said: Map<String, Value>) {
    for (field, more) in said.into_iter().filter(|(field, _)| field != "role") {
        match (before.get_mut(&field), more) {
            (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
            (Some(Value::String(text)), Value::String(more)) if !text.is_empty() => {
                if !more.is_empty() {
                    text.push_str(BETWEEN);
                    text.push_str(&more);
                }
            }
            (Some(_), Value::Null) => {}
            (_, more) => drop(before.insert(field, more)),
        }
    }
}

fn answer(id: &str, result: Option<&Part>) -> Part {
    let (content, is_error) = match result {
        Some(Part::Result { content, is_error, .. }) => (content.clone(), *is_error),
        _ => (NO_RESULT.to_owned(), true),
    };
    Part::Result { id: id.to_owned(), content, is_error }
}

impl Ids {
    /// A form of the id that the server takes and that is not used yet.
    fn free(self, id: &str, used: &mut HashSet<String>) -> String {
        let mut free = self.legal(id);
        let mut more = 0_u64;
        while !used.insert(free.clone()) {
            free = made_up(&[id.as_bytes(), &more.to_be_bytes()]);
            more += 1;
        }
        free
    }

    fn legal(self, id: &str) -> String {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let fits = match self {
            Self::Printable | Self::Word => (1..=CALL_ID_CHARS_MAX).contains(&id.chars().count()),
            Self::Nine => id.len() == MADE_UP_CHARS && id.chars().all(|c| c.is_ascii_alphanumeric()),
        };
        match self {
            _ if !fits => made_up(&[id.as_bytes()]),
            Self::Printable if id.chars().all(|c| c.is_ascii_graphic()) => id.to_owned(),
            Self::Nine => id.to_owned(),
            Self::Printable | Self::Word => id.chars().map(|c| if word(c) { c } else { '_' }).collect(),
        }
    }
}

/// Gives every call of a reply an id of its own: some servers give none, or the same to all. `task` and `step` make it one
/// that no other call of the conversation has, whichever provider comes next.
pub(super) fn identify(parts: &mut [Part], task: &str, step: u32) {
    let mut used = HashSet::new();
    for (place, part) in parts.iter_mut().enumerate() {
        let Part::Call { id, .. } = part else { continue };
        let mut more = 0_u64;
        while id.is_empty() || used.contains(id.as_str()) {
            *id = made_up(&[task.as_bytes(), &step.to_be_bytes(), &place.to_be_bytes(), &more.to_be_bytes()]);
            more += 1;
        }
        used.insert(id.clone());
    }
}

/// An id out of what it stands for: letters and digits, the same at every replay.
fn made_up(origin: &[&[u8]]) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut hash = Sha256::new();
    hash.update(b"mote call id v1\0");
    for field in origin {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    let digest = hash.finalize();
    digest.iter().take(MADE_UP_CHARS).map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()])).collect()
}

/// The name in a form that every provider takes: `^[a-zA-Z0-9_-]{1,64}$`.
fn legal_name(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = name.chars().take(TOOL_NAME_CHARS_MAX).map(legal).collect();
    if name.is_empty() { NAMELESS.to_owned() } else { name }
}

/// Puts streamed pieces of `reasoning_details` together: a piece that goes on with the entry before it (same type, same
/// index) is appended to it, anything else is an entry of its own.
pub(super) fn append_details(details: &mut Vec<Value>, pieces: Vec<Value>) {
    /// Texts that come in pieces.
    const TEXTS: [&str; 3] = ["text", "summary", "data"];
    for piece in pieces {
        let goes_on =
            |last: &Value| ["type", "index"].iter().all(|key| last[key] == piece[key]) && !piece["index"].is_null();
        let (Some(Value::Object(last)), Value::Object(more)) =
            (details.last_mut().filter(|last| goes_on(last)), &piece)
        else {
            details.push(piece);
            continue;
        };
        for (key, value) in more {
            match (last.get_mut(key), value) {
                (Some(Value::String(text)), Value::String(more)) if TEXTS.contains(&key.as_str()) => {
                    text.push_str(more)
                }
                (_, Value::Null) => {}
                _ => drop(last.insert(key.clone(), value.clone())),
            }
        }
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
