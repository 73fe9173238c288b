//! The JSON Schema of `agent.yaml`: as published, and, in tests, as the types of [`super::raw`] say it.
//!
//! It describes shapes; what needs more than one field or the file system is for [`super::validate`].

use serde_json::Value;

/// The schema, JSON Schema 2020-12, as `docs/agent.schema.json` holds it. A test keeps it equal to the types, so that the
/// program need not carry what generates it.
pub const JSON_SCHEMA: &str = include_str!("../../../../docs/agent.schema.json");

/// The schema, parsed.
pub(super) fn published() -> Result<Value, serde_json::Error> {
    serde_json::from_str(JSON_SCHEMA)
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
    fn it_is_a_json_schema() {
        let schema = published().unwrap();
        assert!(jsonschema::draft202012::meta::is_valid(&schema));
        assert!(!schema.to_string().contains("\"null\""), "no field may be written and left empty");
    }
}
