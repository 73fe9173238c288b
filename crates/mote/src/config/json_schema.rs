//! The JSON Schema of `agent.yaml`: as published, and, in tests, as the types of [`super::raw`] say it.
//!
//! It describes shapes; what needs more than one field or the file system is for [`super::validate`].

use std::cell::OnceCell;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// The schema, JSON Schema 2020-12, as `docs/agent.schema.json` holds it. A test keeps it equal to the types, so that the
/// program need not carry what generates it.
pub const JSON_SCHEMA: &str = include_str!("../../../../docs/agent.schema.json");
/// Before the name of a definition in a `$ref`.
const REFERENCE: &str = "#/$defs/";

/// The schema, each of its definitions parsed when it is first asked for: a file uses a few of them, and to parse them all
/// takes a millisecond of every start.
pub(super) struct Published {
    /// The schema of the whole file.
    pub(super) root: Value,
    definitions: BTreeMap<&'static str, Definition>,
}

struct Definition {
    text: &'static RawValue,
    parsed: OnceCell<Value>,
}

impl Published {
    /// What a `$ref` names.
    pub(super) fn definition(&self, reference: &str) -> Option<&Value> {
        let definition = self.definitions.get(reference.strip_prefix(REFERENCE)?)?;
        // It was found to be JSON when the whole was read.
        Some(definition.parsed.get_or_init(|| serde_json::from_str(definition.text.get()).unwrap_or_default()))
    }
}

/// The schema, read.
pub(super) fn published() -> Result<Published, serde_json::Error> {
    let mut parts: BTreeMap<&str, &RawValue> = serde_json::from_str(JSON_SCHEMA)?;
    let definitions: BTreeMap<&str, &RawValue> = match parts.remove("$defs") {
        Some(definitions) => serde_json::from_str(definitions.get())?,
        None => BTreeMap::new(),
    };
    let definitions =
        definitions.into_iter().map(|(name, text)| (name, Definition { text, parsed: OnceCell::new() })).collect();
    let root = parts.into_iter().map(|(keyword, text)| Ok((keyword.to_owned(), serde_json::from_str(text.get())?)));
    Ok(Published { root: Value::Object(root.collect::<Result<_, serde_json::Error>>()?), definitions })
}

#[cfg(test)]
mod generated {
    use serde_json::{Map, Value};

    use super::super::raw;

    /// Where the schema is published.
    const ID: &str = "https://mote.dev/schemas/agent.v1.json";

    /// The schema, JSON Schema 2020-12.
    pub(super) fn json_schema() -> Value {
        let settings = schemars::generate::SchemaSettings::draft2020_12().for_deserialize();
        let mut schema = settings.into_generator().into_root_schema_for::<raw::Agent>().to_value();
        forbid_empty(&mut schema);
        if let Some(map) = schema.as_object_mut() {
            map.insert("$id".to_owned(), ID.into());
        }
        sorted(&schema)
    }

    /// The same value with its keys in order, whether or not `serde_json` keeps the order of insertion: the published file
    /// must not depend on a feature of a dependency.
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_unstable();
                Value::Object(keys.into_iter().map(|key| (key.clone(), sorted(&map[key]))).collect::<Map<_, _>>())
            }
            Value::Array(list) => list.iter().map(sorted).collect(),
            scalar => scalar.clone(),
        }
    }

    /// A field that may be left out may still not be written and left empty: that is a slip more often than a wish.
    fn forbid_empty(schema: &mut Value) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::Array(kinds)) = map.get_mut("type") {
                    kinds.retain(|kind| kind != "null");
                    if let [only] = kinds.as_slice() {
                        let only = only.clone();
                        map.insert("type".to_owned(), only);
                    }
                }
                if let Some(Value::Array(variants)) = map.get_mut("anyOf") {
                    variants.retain(|variant| variant.get("type").and_then(Value::as_str) != Some("null"));
                    if let [Value::Object(only)] = variants.as_slice() {
                        let only = only.clone();
                        map.remove("anyOf");
                        for (keyword, value) in only {
                            map.entry(keyword).or_insert(value);
                        }
                    }
                }
                // Defaults of lists and mappings say nothing; those of scalars are told in the descriptions.
                map.remove("default");
                map.values_mut().for_each(forbid_empty);
            }
            Value::Array(list) => list.iter_mut().for_each(forbid_empty),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::generated::json_schema;
    use super::*;

    /// `UPDATE=1 cargo test -p mote json_schema` writes the schema anew.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a switch for the person who runs the test")]
    fn the_published_schema_is_the_generated_one() {
        let generated = format!("{}\n", serde_json::to_string_pretty(&json_schema()).unwrap());
        if std::env::var_os("UPDATE").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/agent.schema.json");
            return std::fs::write(path, generated).unwrap();
        }
        assert!(JSON_SCHEMA == generated, "docs/agent.schema.json is stale: run `cargo xtask schemas`");
    }

    #[test]
    fn every_reference_is_to_a_definition() {
        fn references(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|below| references(below, found));
                }
                Value::Array(list) => list.iter().for_each(|below| references(below, found)),
                _ => {}
            }
        }
        let (published, whole) = (published().unwrap(), serde_json::from_str::<Value>(JSON_SCHEMA).unwrap());
        let mut found = Vec::new();
        references(&whole, &mut found);
        assert!(found.len() > 60, "{found:?}");
        for reference in found {
            assert_eq!(published.definition(&reference), whole.pointer(&reference[1..]), "{reference}");
        }
        assert_eq!(published.root["properties"], whole["properties"]);
    }

    #[test]
    fn it_is_a_json_schema() {
        let schema = serde_json::from_str::<Value>(JSON_SCHEMA).unwrap();
        assert!(jsonschema::draft202012::meta::is_valid(&schema));
        assert!(!schema.to_string().contains("\"null\""), "no field may be written and left empty");
    }
}
