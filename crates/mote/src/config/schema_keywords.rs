//! Checks JSON Schemas that `agent.yaml` carries: keywords, their types, references; by walking, at no cost in memory.
//!
//! It does not build validators, which cost megabytes and are built when first used; [`compile`] does, for `mote check`.

use serde_json::Value;

use super::diagnostic::closest;
use crate::canonical::canonical;

/// A fault in a schema: the way to it within the schema (keys and indexes) and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Keys and indexes from the schema's root.
    pub(super) way: Vec<String>,
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

/// What a keyword of JSON Schema 2020-12 holds.
#[derive(Clone, Copy)]
enum Holds {
    Anything,
    Text,
    Pattern,
    Number,
    Positive,
    Count,
    Flag,
    Texts,
    List,
    Types,
    Schema,
    Schemas,
    Named,
    NamedTexts,
    Reference,
}

/// The keywords of JSON Schema 2020-12 (core, applicator, validation, unevaluated, format, content, meta-data), and
/// those of `OpenAPI` 3.1 that are found in the wild.
const KEYWORDS: &[(&str, Holds)] = &[
    ("$anchor", Holds::Text),
    ("$comment", Holds::Text),
    ("$defs", Holds::Named),
    ("$dynamicAnchor", Holds::Text),
    ("$dynamicRef", Holds::Text),
    ("$id", Holds::Text),
    ("$ref", Holds::Reference),
    ("$schema", Holds::Text),
    ("$vocabulary", Holds::Anything),
    ("additionalProperties", Holds::Schema),
    ("allOf", Holds::Schemas),
    ("anyOf", Holds::Schemas),
    ("const", Holds::Anything),
    ("contains", Holds::Schema),
    ("contentEncoding", Holds::Text),
    ("contentMediaType", Holds::Text),
    ("contentSchema", Holds::Schema),
    ("default", Holds::Anything),
    ("definitions", Holds::Named),
    ("dependentRequired", Holds::NamedTexts),
    ("dependentSchemas", Holds::Named),
    ("deprecated", Holds::Flag),
    ("description", Holds::Text),
    ("discriminator", Holds::Anything),
    ("else", Holds::Schema),
    ("enum", Holds::List),
    ("example", Holds::Anything),
    ("examples", Holds::List),
    ("exclusiveMaximum", Holds::Number),
    ("exclusiveMinimum", Holds::Number),
    ("format", Holds::Text),
    ("if", Holds::Schema),
    ("items", Holds::Schema),
    ("maxContains", Holds::Count),
    ("maxItems", Holds::Count),
    ("maxLength", Holds::Count),
    ("maxProperties", Holds::Count),
    ("maximum", Holds::Number),
    ("minContains", Holds::Count),
    ("minItems", Holds::Count),
    ("minLength", Holds::Count),
    ("minProperties", Holds::Count),
    ("minimum", Holds::Number),
    ("multipleOf", Holds::Positive),
    ("not", Holds::Schema),
    ("oneOf", Holds::Schemas),
    ("pattern", Holds::Pattern),
    ("patternProperties", Holds::Named),
    ("prefixItems", Holds::Schemas),
    ("properties", Holds::Named),
    ("propertyNames", Holds::Schema),
    ("readOnly", Holds::Flag),
    ("required", Holds::Texts),
    ("then", Holds::Schema),
    ("title", Holds::Text),
    ("type", Holds::Types),
    ("unevaluatedItems", Holds::Schema),
    ("unevaluatedProperties", Holds::Schema),
    ("uniqueItems", Holds::Flag),
    ("writeOnly", Holds::Flag),
];

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Every fault of a schema.
pub(super) fn faults(schema: &Value) -> Vec<Fault> {
    let mut walk = Walk { root: schema, faults: Vec::new() };
    walk.schema(schema, &mut Vec::new());
    walk.faults
}

/// Builds a validator and drops it: finds what walking cannot (patterns that are no regular expressions, references in
/// circles).
pub(super) fn compile(schema: &Value) -> Result<(), String> {
    match jsonschema::draft202012::new(schema) {
        Ok(_) => Ok(()),
        Err(error) => {
            let way = error.instance_path().to_string();
            Err(if way.is_empty() { error.to_string() } else { format!("{error} (at {way})") })
        }
    }
}

struct Walk<'a> {
    root: &'a Value,
    faults: Vec<Fault>,
}

impl Walk<'_> {
    fn fault(&mut self, way: &[String], message: impl Into<String>, hint: Option<String>) {
        self.faults.push(Fault { way: way.to_vec(), message: message.into(), hint });
    }

    fn schema(&mut self, schema: &Value, way: &mut Vec<String>) {
        let map = match schema {
            Value::Bool(_) => return,
            Value::Object(map) => map,
            _ => return self.fault(way, "a JSON Schema is a mapping, `true` or `false`", None),
        };
        for (keyword, value) in map {
            way.push(keyword.clone());
            match KEYWORDS.iter().find(|(name, _)| name == keyword) {
                Some((_, holds)) => self.keyword(*holds, value, way),
                None if keyword.starts_with("x-") => {}
                None => {
                    // Unknown keywords are annotations in JSON Schema; those that look like a slip are refused.
                    if let Some(name) = closest(keyword, KEYWORDS.iter().map(|(name, _)| *name)) {
                        let message = format!("`{keyword}` is not a keyword of JSON Schema");
                        self.fault(way, message, Some(format!("did you mean `{name}`?")));
                    }
                }
            }
            way.pop();
        }
    }

    fn keyword(&mut self, holds: Holds, value: &Value, way: &mut Vec<String>) {
        let expected = match holds {
            Holds::Anything => return,
            Holds::Text | Holds::Pattern if value.is_string() => return,
            Holds::Number | Holds::Positive if is_beyond(value) => {
                let keyword = way.last().cloned().unwrap_or_default();
                let message =
                    format!("`{keyword}` must be a number of at most 64 bits: larger ones are compared inexactly");
                return self.fault(way, message, Some("bound long numbers by a `pattern` on text".to_owned()));
            }
            Holds::Number if value.is_number() => return,
            Holds::Positive if value.as_f64().is_some_and(|number| number > 0.0) => return,
            Holds::Count if value.is_u64() => return,
            Holds::Flag if value.is_boolean() => return,
            Holds::List if value.is_array() => return,
            Holds::Texts if is_texts(value) => return,
            Holds::Types => return self.types(value, way),
            Holds::Schema => return self.schema(value, way),
            Holds::Schemas if value.as_array().is_some_and(|list| !list.is_empty()) => {
                return self.each(value.as_array().into_iter().flatten().enumerate(), way);
            }
            Holds::Named if value.is_object() => return self.each(value.as_object().into_iter().flatten(), way),
            Holds::NamedTexts if value.as_object().is_some_and(|map| map.values().all(is_texts)) => return,
            Holds::Reference => return self.reference(value, way),
            Holds::Text => "text",
            Holds::Pattern => "a regular expression",
            Holds::Number => "a number",
            Holds::Positive => "a number above 0",
            Holds::Count => "a whole number, 0 or more",
            Holds::Flag => "true or false",
            Holds::List => "a list",
            Holds::Texts => "a list of names, none twice",
            Holds::Schemas => "a list of schemas, not empty",
            Holds::Named => "a mapping of schemas",
            Holds::NamedTexts => "a mapping of lists of names",
        };
        let keyword = way.last().cloned().unwrap_or_default();
        self.fault(way, format!("`{keyword}` must be {expected}"), None);
    }

    fn each<'v, K: ToString>(&mut self, schemas: impl Iterator<Item = (K, &'v Value)>, way: &mut Vec<String>) {
        for (key, schema) in schemas {
            way.push(key.to_string());
            self.schema(schema, way);
            way.pop();
        }
    }

    fn types(&mut self, value: &Value, way: &[String]) {
        let names: Vec<Option<&str>> = match value {
            Value::Array(list) if !list.is_empty() => list.iter().map(Value::as_str).collect(),
            single => vec![single.as_str()],
        };
        for name in names {
            if !name.is_some_and(|name| TYPES.contains(&name)) {
                let hint = name.and_then(|name| closest(name, TYPES.into_iter()));
                let hint = hint.map(|name| format!("did you mean `{name}`?"));
                self.fault(way, format!("`type` must be one of {}", TYPES.join(", ")), hint);
            }
        }
    }

    fn reference(&mut self, value: &Value, way: &[String]) {
        let Some(text) = value.as_str() else { return self.fault(way, "`$ref` must be text", None) };
        let Some(pointer) = text.strip_prefix('#') else {
            let hint = "put the schema under `$defs` and write `#/$defs/NAME`".to_owned();
            return self.fault(way, "`$ref` must stay within the schema: nothing is fetched", Some(hint));
        };
        // `#name` refers to an anchor; building the validator finds those.
        if (pointer.is_empty() || pointer.starts_with('/')) && self.root.pointer(pointer).is_none() {
            self.fault(way, format!("`{text}` leads nowhere in this schema"), None);
        }
    }
}

/// Whether it is a number that neither a whole number of 64 bits nor a double holds: validators compare doubles then.
fn is_beyond(value: &Value) -> bool {
    let Value::Number(number) = value else { return false };
    if number.is_i64() || number.is_u64() {
        return false;
    }
    let written = number.to_string();
    let whole = written.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
    let double = number.as_f64().and_then(serde_json::Number::from_f64).map(Value::Number);
    whole || double.is_none_or(|double| canonical(&double) != canonical(value))
}

fn is_texts(value: &Value) -> bool {
    let Some(list) = value.as_array() else { return false };
    let mut names: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    let all = names.len() == list.len();
    names.sort_unstable();
    all && names.windows(2).all(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(schema: &Value, expected: &[(&str, &str)]) {
        let found = faults(schema);
        let found: Vec<(String, &str)> = found.iter().map(|f| (f.way.join("/"), f.message.as_str())).collect();
        let expected: Vec<(String, &str)> = expected.iter().map(|(way, text)| ((*way).to_owned(), *text)).collect();
        assert_eq!(found, expected, "{schema}");
        // The walk and the library agree on what is no schema (spelling slips apart, which the library ignores).
        if expected.iter().all(|(_, text)| !text.contains("not a keyword")) {
            assert_eq!(jsonschema::draft202012::meta::is_valid(schema), expected.is_empty(), "{schema}");
        }
    }

    #[test]
    fn good_schemas_pass() {
        check(&json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}), &[]);
        check(&json!({"$defs": {"a": {"enum": [1, 2]}}, "properties": {"b": {"$ref": "#/$defs/a"}}}), &[]);
        check(&json!({"type": "object", "x-order": 1, "unknown_but_unlike_any": true}), &[]);
    }

    #[test]
    fn every_fault_is_found_at_its_place() {
        check(
            &json!({"type": "objekt", "properties": {"a": {"type": 3}, "b": {"minLength": -1}}, "required": "a"}),
            &[
                ("type", "`type` must be one of array, boolean, integer, null, number, object, string"),
                ("properties/a/type", "`type` must be one of array, boolean, integer, null, number, object, string"),
                ("properties/b/minLength", "`minLength` must be a whole number, 0 or more"),
                ("required", "`required` must be a list of names, none twice"),
            ],
        );
        check(&json!({"anyOf": []}), &[("anyOf", "`anyOf` must be a list of schemas, not empty")]);
        check(&json!({"items": "x"}), &[("items", "a JSON Schema is a mapping, `true` or `false`")]);
        check(&json!({"requird": ["a"]}), &[("requird", "`requird` is not a keyword of JSON Schema")]);
    }

    #[test]
    fn bounds_that_would_be_compared_inexactly_are_refused() {
        for (bound, refused) in [
            ("123456789012345678901234567890", true),
            ("100000000000000000000", true),
            ("0.1234567890123456789", true),
            ("18446744073709551615", false),
            ("-9223372036854775808", false),
            ("0.10", false),
            ("1e30", false),
        ] {
            let bound: Value = serde_json::from_str(bound).unwrap();
            for keyword in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
                let found = faults(&json!({"properties": {"n": {keyword: bound}}}));
                assert_eq!(found.iter().any(|fault| fault.way == ["properties", "n", keyword]), refused, "{bound}");
            }
        }
        assert!(
            faults(&json!({"enum": [serde_json::from_str::<Value>("123456789012345678901234567890").unwrap()]}))
                .is_empty()
        );
    }

    #[test]
    fn references_stay_inside() {
        let outside = faults(&json!({"$ref": "https://example.com/schema.json"}));
        assert_eq!(outside[0].message, "`$ref` must stay within the schema: nothing is fetched");
        let nowhere = faults(&json!({"$ref": "#/$defs/missing"}));
        assert_eq!(nowhere[0].message, "`#/$defs/missing` leads nowhere in this schema");
    }

    #[test]
    fn compiling_finds_bad_patterns() {
        assert!(compile(&json!({"type": "string", "pattern": "^[a-z]+$"})).is_ok());
        assert!(compile(&json!({"type": "string", "pattern": "["})).is_err());
    }
}
