//! JSON Schema 2020-12: checked at load, compiled at first use, never fetching anything.
//!
//! It does not decide what happens to invalid arguments: the caller shows the violations to the model.

use std::sync::OnceLock;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::limits::{
    SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_PATTERN_BACKTRACKS_MAX, SCHEMA_PATTERN_BYTES_MAX, VALUE_DEPTH_MAX,
    VIOLATION_BYTES_MAX, VIOLATIONS_MAX,
};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A schema is an object or a boolean.
    #[error("a JSON Schema must be an object, true or false")]
    NotASchema,
    /// It is larger than [`SCHEMA_BYTES_MAX`].
    #[error("the schema has {bytes} bytes, {SCHEMA_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is nested deeper than [`SCHEMA_DEPTH_MAX`].
    #[error("the schema is nested deeper than {SCHEMA_DEPTH_MAX} levels")]
    TooDeep,
    /// It names another dialect.
    #[error("{path}: the dialect {found} is not supported; use {DIALECT}")]
    Dialect {
        /// JSON Pointer.
        path: String,
        /// What it names.
        found: String,
    },
    /// It refers to something outside itself.
    #[error("{path}: the reference {reference} leaves the schema; only references that begin with # are followed")]
    Remote {
        /// JSON Pointer.
        path: String,
        /// The reference.
        reference: String,
    },
    /// The validator refused it.
    #[error("{path}: {message}")]
    Invalid {
        /// JSON Pointer into the schema.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// One way in which a value breaks its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON Pointer into the value; empty is the whole value.
    pub path: String,
    /// What is wrong, in words.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.path.is_empty() { "(the whole value)" } else { &self.path };
        write!(f, "{path}: {}", self.message)
    }
}

/// A schema. Compiling it costs memory, so that is put off until a value is validated.
#[derive(Debug)]
pub struct Schema {
    source: Value,
    compiled: OnceLock<Result<Validator, Error>>,
}

impl Schema {
    /// Takes a schema after the checks that cost little: shape, size, depth, dialect, references.
    ///
    /// # Errors
    /// The first thing that is wrong, with its JSON Pointer. Mistakes within keywords show in [`Schema::compile`].
    pub fn new(source: Value) -> Result<Self, Error> {
        if !source.is_object() && !source.is_boolean() {
            return Err(Error::NotASchema);
        }
        let mut path = String::new();
        inspect(&source, &mut path, 0)?;
        let bytes = source.to_string().len();
        if bytes > SCHEMA_BYTES_MAX {
            return Err(Error::TooLarge { bytes });
        }
        Ok(Self { source, compiled: OnceLock::new() })
    }

    /// The schema as it was given.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// Compiles now, so that a mistake shows now (`mote check`).
    ///
    /// # Errors
    /// What the validator finds wrong with the schema.
    pub fn compile(&self) -> Result<(), Error> {
        self.validator().map(|_| ())
    }

    /// Validates a value.
    ///
    /// # Errors
    /// Every violation up to [`VIOLATIONS_MAX`], each with its path; a schema that does not compile is one violation.
    pub fn validate(&self, value: &Value) -> Result<(), Vec<Violation>> {
        if depth_exceeds(value, VALUE_DEPTH_MAX) {
            let message = format!("it is nested deeper than {VALUE_DEPTH_MAX} levels");
            return Err(vec![Violation { path: String::new(), message }]);
        }
        let validator = match self.validator() {
            Ok(validator) => validator,
            Err(error) => {
                let message = format!("the schema itself is not usable: {error}");
                return Err(vec![Violation { path: String::new(), message }]);
            }
        };
        if validator.is_valid(value) {
            return Ok(());
        }
        let violation = |error: jsonschema::ValidationError<'_>| Violation {
            path: error.instance_path().as_str().to_owned(),
            // Values may be long or private: the path says where to look.
            message: bounded(error.masked_with("the value").to_string()),
        };
        Err(validator.iter_errors(value).take(VIOLATIONS_MAX).map(violation).collect())
    }

    fn validator(&self) -> Result<&Validator, Error> {
        let compile = || {
            jsonschema::options()
                .with_draft(Draft::Draft202012)
                .offline()
                .with_pattern_options(
                    PatternOptions::fancy_regex()
                        .backtrack_limit(SCHEMA_PATTERN_BACKTRACKS_MAX)
                        .size_limit(SCHEMA_PATTERN_BYTES_MAX)
                        .dfa_size_limit(SCHEMA_PATTERN_BYTES_MAX),
                )
                .should_validate_formats(true)
                .build(&self.source)
                .map_err(|error| Error::Invalid {
                    path: pointer(error.instance_path().as_str()),
                    message: bounded(error.to_string()),
                })
        };
        self.compiled.get_or_init(compile).as_ref().map_err(Clone::clone)
    }
}

/// The violations as a list for the model, one a line.
#[must_use]
pub fn describe(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("- {violation}")).collect::<Vec<_>>().join("\n")
}

fn pointer(path: &str) -> String {
    if path.is_empty() { "the schema".to_owned() } else { path.to_owned() }
}

fn bounded(mut message: String) -> String {
    if message.len() > VIOLATION_BYTES_MAX {
        message.truncate(message.floor_char_boundary(VIOLATION_BYTES_MAX));
        message.push('…');
    }
    message
}

fn inspect(value: &Value, path: &mut String, depth: usize) -> Result<(), Error> {
    if depth > SCHEMA_DEPTH_MAX {
        return Err(Error::TooDeep);
    }
    let here = path.len();
    match value {
        Value::Object(map) => {
            for (key, item) in map {
                path.push('/');
                path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                match (key.as_str(), item) {
                    ("$ref" | "$dynamicRef", Value::String(reference)) if !reference.starts_with('#') => {
                        return Err(Error::Remote { path: path.clone(), reference: reference.clone() });
                    }
                    ("$schema", Value::String(found)) if found.trim_end_matches('#') != DIALECT => {
                        return Err(Error::Dialect { path: path.clone(), found: found.clone() });
                    }
                    // Data, not schema: a `$ref` in there refers to nothing.
                    ("const" | "enum" | "default" | "examples", _) => {}
                    _ => inspect(item, path, depth + 1)?,
                }
                path.truncate(here);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("/{index}"));
                inspect(item, path, depth + 1)?;
                path.truncate(here);
            }
        }
        _ => {}
    }
    Ok(())
}

fn depth_exceeds(value: &Value, max: usize) -> bool {
    match value {
        Value::Object(map) => max == 0 || map.values().any(|item| depth_exceeds(item, max - 1)),
        Value::Array(items) => max == 0 || items.iter().any(|item| depth_exceeds(item, max - 1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_violation_has_its_path() {
        let schema = Schema::new(json!({
            "type": "object", "required": ["id"], "additionalProperties": false,
            "properties": {"id": {"type": "string"}, "lines": {"type": "array", "items": {"type": "integer"}}}
        }))
        .unwrap();
        assert_eq!(schema.validate(&json!({"id": "a", "lines": [1, 2]})), Ok(()));
        let violations = schema.validate(&json!({"lines": [1, "two"], "extra": 1})).unwrap_err();
        let text = describe(&violations);
        assert_eq!(violations.len(), 3, "{text}");
        assert!(text.contains("/lines/1: "), "{text}");
        assert!(text.contains("\"id\" is a required property"), "{text}");
        assert!(text.contains("extra"), "{text}");
        assert!(!text.contains("two"), "values are not repeated: {text}");
    }

    #[test]
    fn long_numbers_are_compared_by_their_digits() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        for schema in [r#"{"enum":[123456789012345678901234567890]}"#, r#"{"const":123456789012345678901234567890}"#] {
            let schema = Schema::new(read(schema)).unwrap();
            assert_eq!(schema.validate(&read("123456789012345678901234567890")), Ok(()));
            assert!(schema.validate(&read("123456789012345678901234567891")).is_err());
        }
    }

    #[test]
    fn nothing_is_fetched() {
        let error = Schema::new(json!({"properties": {"a": {"$ref": "http://127.0.0.1:9/x.json"}}})).unwrap_err();
        assert!(error.to_string().contains("/properties/a/$ref"), "{error}");
        let file = Schema::new(json!({"$ref": "file:///etc/passwd"})).unwrap_err();
        assert!(matches!(file, Error::Remote { .. }));
        let data = json!({"const": {"$ref": "http://127.0.0.1:9/"}});
        assert_eq!(Schema::new(data.clone()).unwrap().validate(&data["const"]), Ok(()));
    }

    #[test]
    fn local_references_may_recurse() {
        let schema = Schema::new(json!({
            "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
            "$ref": "#/$defs/node"
        }))
        .unwrap();
        assert_eq!(schema.validate(&json!({"next": {"next": {}}})), Ok(()));
        assert!(schema.validate(&json!({"next": {"next": 3}})).is_err());
    }

    #[test]
    fn size_depth_and_dialect_are_bounded() {
        let mut deep = json!({});
        for _ in 0..=SCHEMA_DEPTH_MAX {
            deep = json!({"items": deep});
        }
        assert_eq!(Schema::new(deep).unwrap_err(), Error::TooDeep);
        let large = json!({"description": "x".repeat(SCHEMA_BYTES_MAX)});
        assert!(matches!(Schema::new(large).unwrap_err(), Error::TooLarge { .. }));
        let old = json!({"$schema": "http://json-schema.org/draft-07/schema#"});
        assert!(matches!(Schema::new(old).unwrap_err(), Error::Dialect { .. }));
        assert_eq!(Schema::new(json!(3)).unwrap_err(), Error::NotASchema);
        let mut value = json!(1);
        for _ in 0..=VALUE_DEPTH_MAX {
            value = json!([value]);
        }
        assert!(Schema::new(json!(true)).unwrap().validate(&value).is_err());
    }

    #[test]
    fn a_mistake_in_a_keyword_is_named() {
        let schema = Schema::new(json!({"properties": {"a": {"type": "strin"}}})).unwrap();
        let error = schema.compile().unwrap_err().to_string();
        assert!(error.contains("/properties/a/type"), "{error}");
        assert!(schema.validate(&json!({})).is_err(), "an unusable schema lets nothing through");
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let schema = Schema::new(json!({"type": "string", "pattern": "^(?=(a+)+$)(a|a)*\\1b$"})).unwrap();
        assert!(schema.validate(&json!("a".repeat(64))).is_err());
    }
}
