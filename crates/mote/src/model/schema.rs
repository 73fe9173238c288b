//! Which JSON Schemas a provider's constrained output takes as they are.
//!
//! A schema outside the subset is not rewritten: that would change what it means. It then goes to the model as an
//! instruction, and the runner validates the answer in either case.

use serde_json::{Map, Value};

/// Nesting beyond which a schema is taken to be outside every subset.
const DEPTH_MAX: usize = 16;

/// What a provider demands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subset {
    /// Every property must be required (OpenAI strict mode).
    pub(super) all_required: bool,
}

/// Keywords that say nothing about shape, and those that every subset takes.
const KEYWORDS: [&str; 11] = [
    "$schema",
    "$id",
    "title",
    "description",
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
];

/// Whether the schema is an object's, closed at every level, and uses only what the subset has. References, bounds and
/// combinations other than `anyOf` are left out: the providers differ on them and change.
pub(super) fn fits(schema: &Value, subset: Subset) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("object") && level(schema, subset, 0)
}

/// Whether the schema is an object's and no combination at its top: what OpenAI takes at all, strict or not.
pub(super) fn is_plain_object(schema: &Value) -> bool {
    const COMBINATIONS: [&str; 5] = ["anyOf", "oneOf", "allOf", "enum", "not"];
    schema.get("type").is_some_and(|kind| kind == "object") && COMBINATIONS.iter().all(|key| schema.get(key).is_none())
}

fn level(schema: &Value, subset: Subset, depth: usize) -> bool {
    let Some(schema) = schema.as_object() else { return false };
    if depth > DEPTH_MAX {
        return false;
    }
    let inner = |schema: &Value| level(schema, subset, depth + 1);
    schema.iter().all(|(keyword, value)| match keyword.as_str() {
        "anyOf" => depth > 0 && value.as_array().is_some_and(|any| any.iter().all(inner)),
        "items" => inner(value),
        "properties" => value.as_object().is_some_and(|properties| properties.values().all(inner)),
        other => KEYWORDS.contains(&other),
    }) && (!is_object(schema) || closed(schema, subset))
}

fn is_object(schema: &Map<String, Value>) -> bool {
    let named = match schema.get("type") {
        Some(Value::String(name)) => name == "object",
        Some(Value::Array(names)) => names.iter().any(|name| name == "object"),
        _ => false,
    };
    named || schema.contains_key("properties")
}

fn closed(schema: &Map<String, Value>, subset: Subset) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|required| required == name));
    let properties = schema.get("properties").and_then(Value::as_object);
    schema.get("additionalProperties") == Some(&Value::Bool(false))
        && (!subset.all_required || properties.is_none_or(|all| all.keys().all(|name| is_required(name))))
}

/// The instruction that stands in for a constraint.
pub(super) fn instruction(schema: &Value) -> String {
    format!(
        "Your final answer must be one JSON value that satisfies this JSON Schema, and nothing else: no other text, no \
         code fence.\n{schema}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_closed_plain_schemas_fit() {
        let loose = Subset { all_required: false };
        let strict = Subset { all_required: true };
        let closed = json!({"type": "object", "additionalProperties": false, "required": ["a"], "properties": {
            "a": {"type": "array", "items": {"enum": ["x", "y"]}},
            "b": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        }});
        assert!(fits(&closed, loose));
        assert!(!fits(&closed, strict), "b is not required");
        for schema in [
            json!({"type": "object", "properties": {"a": {"type": "string"}}}),
            json!({"type": "string"}),
            json!({"type": "object", "additionalProperties": false, "properties": {"a": {"type": "integer", "minimum": 1}}}),
            json!({"type": "object", "additionalProperties": false, "properties": {"a": {"type": "object"}}}),
            json!({"type": "object", "additionalProperties": false, "properties": {"a": {"$ref": "#"}}}),
            json!({"type": "object", "additionalProperties": false, "oneOf": []}),
            json!(true),
        ] {
            assert!(!fits(&schema, loose), "{schema}");
        }
    }
}
