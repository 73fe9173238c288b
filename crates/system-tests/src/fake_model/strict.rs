//! What both real endpoints refuse in a conversation's calls and in tools, with their words. It does not know which
//! result belongs to which call; the formats do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::asked::Refusal;

/// Longest id of a call at OpenAI, characters.
const ID_CHARS_MAX: usize = 40;
/// Longest name, characters.
const NAME_CHARS_MAX: usize = 64;
/// Longest description of a tool at OpenAI, characters.
const DESCRIPTION_CHARS_MAX: usize = 1_024;

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// A name of a function or a tool; `at` is the place, as the endpoint names it.
pub(super) fn name(name: &Value, at: &str) -> Result<(), Refusal> {
    let text = name.as_str().unwrap_or_default();
    if !(1..=NAME_CHARS_MAX).contains(&text.len()) || !is_word(text) {
        return Err(Refusal::invalid(format!(
            "Invalid '{at}': string does not match pattern. Expected a string that matches the pattern \
             '^[a-zA-Z0-9_-]{{1,64}}$'."
        )));
    }
    Ok(())
}

/// An id at OpenAI, which no other call of the conversation may have.
pub(super) fn openai_id(id: &Value, at: &str, seen: &mut BTreeSet<String>) -> Result<String, Refusal> {
    let id = id.as_str().filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Refusal::invalid(format!("Invalid '{at}': empty string.")))?;
    let length = id.chars().count();
    if length > ID_CHARS_MAX {
        return Err(Refusal::invalid(format!(
            "Invalid '{at}': string too long. Expected a string with maximum length {ID_CHARS_MAX}, but got a string with \
             length {length} instead."
        )));
    }
    unique(id, at, seen)
}

/// An id at Anthropic.
pub(super) fn anthropic_id(id: &Value, at: &str, seen: &mut BTreeSet<String>) -> Result<String, Refusal> {
    let id = id.as_str().filter(|id| !id.is_empty() && is_word(id));
    let id = id.ok_or_else(|| Refusal::invalid(format!("{at}: String should match pattern '^[a-zA-Z0-9_-]+$'")))?;
    unique(id, at, seen)
}

fn unique(id: &str, at: &str, seen: &mut BTreeSet<String>) -> Result<String, Refusal> {
    if !seen.insert(id.to_owned()) {
        return Err(Refusal::invalid(format!("{at}: `tool_use` ids must be unique: {id}")));
    }
    Ok(id.to_owned())
}

/// Arguments in OpenAI's format: text of a JSON object. vLLM, SGLang and others parse it, OpenAI's newer models too.
pub(super) fn arguments(arguments: &Value, at: &str) -> Result<(), Refusal> {
    let parsed = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if parsed.is_some_and(|value| value.is_object()) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("Invalid '{at}': the arguments must be a valid JSON object.")))
}

/// Roles that the templates of many models refuse (Gemma, Mistral), as llama.cpp, vLLM and LM Studio answer: the user
/// begins, and neither the user nor the model speaks twice in a row.
pub(super) fn alternation(messages: &[Value]) -> Result<(), Refusal> {
    let mut before = "assistant";
    for message in messages {
        let role = message["role"].as_str().unwrap_or_default();
        match role {
            "system" | "developer" => continue,
            "user" | "assistant" if role == before => {
                return Err(Refusal::invalid(
                    "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...",
                ));
            }
            _ => before = role,
        }
    }
    Ok(())
}

/// A tool's parameters at OpenAI.
pub(super) fn parameters(name: &str, function: &Value) -> Result<(), Refusal> {
    if function["description"].as_str().is_some_and(|text| text.chars().count() > DESCRIPTION_CHARS_MAX) {
        return Err(Refusal::invalid("Invalid 'tools[0].function.description': string too long."));
    }
    let schema = &function["parameters"];
    let combined = ["oneOf", "anyOf", "allOf", "enum", "not"].iter().any(|key| schema.get(key).is_some());
    if schema["type"] != "object" || combined {
        return Err(Refusal::invalid(format!(
            "Invalid schema for function '{name}': schema must have type 'object' and not have \
             'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level."
        )));
    }
    if !schema["properties"].is_object() {
        return Err(Refusal::invalid(format!(
            "Invalid schema for function '{name}': In context=(), object schema missing properties."
        )));
    }
    Ok(())
}

/// A tool's `input_schema` at Anthropic.
pub(super) fn input_schema(schema: &Value, index: usize) -> Result<(), Refusal> {
    if schema["type"] != "object" {
        return Err(Refusal::invalid(format!("tools.{index}.input_schema.type: Input should be 'object'")));
    }
    if ["oneOf", "anyOf", "allOf"].iter().any(|key| schema.get(key).is_some()) {
        return Err(Refusal::invalid(format!(
            "tools.{index}.custom.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level"
        )));
    }
    let legal = |name: &String| (1..=NAME_CHARS_MAX).contains(&name.len()) && is_word(&name.replace('.', "_"));
    if schema["properties"].as_object().is_some_and(|properties| !properties.keys().all(legal)) {
        return Err(Refusal::invalid(format!(
            "tools.{index}.custom.input_schema.properties: Property keys should match pattern '^[a-zA-Z0-9_.-]{{1,64}}$'"
        )));
    }
    Ok(())
}
