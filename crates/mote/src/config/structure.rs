//! Compares a YAML tree with the JSON Schema of `agent.yaml` and reports every difference with its place.
//!
//! It knows only the keywords that [`super::json_schema`] generates. Broken fields are replaced by the schema's own
//! examples, so that the rest of the file can still be validated in the same pass; what they mean is not its concern.

use serde_json::{Map, Value as Json};

use super::diagnostic::{FieldPath, closest};
use super::document::{Node, Pair, Value};
use super::findings::Findings;
use super::json_schema::Published;

/// Checks the whole document; returns JSON that deserialises into [`super::raw::Agent`].
pub(super) fn check(node: &Node, published: &Published, findings: &mut Findings<'_>) -> Json {
    let (schema, mut checker) = (&published.root, Checker { published, findings });
    checker.check(node, schema, &FieldPath::default()).unwrap_or_else(|| checker.placeholder(schema))
}

struct Checker<'a, 'f> {
    published: &'a Published,
    findings: &'a mut Findings<'f>,
}

impl<'a> Checker<'a, '_> {
    /// The schema behind a `$ref`.
    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        while let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            match self.published.definition(reference) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// The node as JSON, repaired; `None` if it is of no use.
    fn check(&mut self, node: &Node, schema: &'a Json, path: &FieldPath) -> Option<Json> {
        let outer = schema;
        let schema = self.resolve(schema);
        if let Some(variants) = alternatives(schema) {
            return self.check_alternatives(node, outer, variants, path);
        }
        let expected = schema.get("type").and_then(Json::as_str);
        if let Some(expected) = expected
            && !is_of(node, expected)
        {
            self.wrong_kind(node, outer, &[expected], path);
            return None;
        }
        if let Some(allowed) = schema.get("enum").and_then(Json::as_array) {
            let allowed: Vec<&str> = allowed.iter().filter_map(Json::as_str).collect();
            return self.check_choice(node, &allowed, path);
        }
        if let Some(only) = schema.get("const").and_then(Json::as_str) {
            return self.check_choice(node, &[only], path);
        }
        match &node.value {
            Value::Map(pairs) if schema.get("properties").is_some() => Some(self.check_object(pairs, schema, path)),
            Value::Map(pairs) if schema.get("additionalProperties").is_some_and(Json::is_object) => {
                Some(self.check_dictionary(pairs, &schema["additionalProperties"], path))
            }
            Value::List(nodes) if schema.get("items").is_some() => {
                let items = &schema["items"];
                let mut kept = Vec::new();
                for (index, node) in nodes.iter().enumerate() {
                    let checked = self.check(node, items, &path.index(index));
                    // A broken element keeps its place, so that the paths of those behind it stay true.
                    kept.push(checked.unwrap_or_else(|| self.placeholder(items)));
                }
                Some(Json::Array(kept))
            }
            Value::Number(number) => self.check_range(number, schema, path).then(|| node.to_json()),
            _ => Some(node.to_json()),
        }
    }

    fn check_object(&mut self, pairs: &[Pair], schema: &'a Json, path: &FieldPath) -> Json {
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        let required: Vec<&str> = strings(schema.get("required"));
        let mut object = Map::new();
        for pair in pairs {
            let below = path.key(&pair.key);
            let Some(property) = schema["properties"].get(&pair.key) else {
                let hint = closest(&pair.key, properties.keys().map(String::as_str))
                    .map(|name| format!("did you mean `{name}`?"))
                    .unwrap_or_else(|| format!("fields here: {}", join(properties.keys().map(String::as_str))));
                self.findings.error_at(pair.at, &below, format!("unknown field `{}`", pair.key), Some(hint));
                continue;
            };
            if object.contains_key(&pair.key) {
                self.findings.error_at(pair.at, &below, format!("`{}` is written twice", pair.key), None);
                continue;
            }
            let checked = self.check(&pair.node, property, &below);
            match checked {
                Some(value) => {
                    object.insert(pair.key.clone(), value);
                }
                None if required.contains(&pair.key.as_str()) => {
                    object.insert(pair.key.clone(), self.placeholder(property));
                }
                None => {}
            }
        }
        for name in required {
            if !object.contains_key(name) {
                let property = &schema["properties"][name];
                let hint = self.hint(property).or_else(|| {
                    let example = property.get("examples").and_then(|list| list.get(0))?;
                    Some(format!("for example `{name}: {}`", compact(example)))
                });
                self.findings.broken(&path.key(name), format!("`{name}` is missing"), hint);
                object.insert(name.to_owned(), self.placeholder(property));
            }
        }
        Json::Object(object)
    }

    fn check_dictionary(&mut self, pairs: &[Pair], values: &'a Json, path: &FieldPath) -> Json {
        let mut object = Map::new();
        for pair in pairs {
            let below = path.key(&pair.key);
            if object.contains_key(&pair.key) {
                self.findings.error_at(pair.at, &below, format!("`{}` is written twice", pair.key), None);
            } else if let Some(value) = self.check(&pair.node, values, &below) {
                object.insert(pair.key.clone(), value);
            }
        }
        Json::Object(object)
    }

    fn check_alternatives(
        &mut self,
        node: &Node,
        outer: &'a Json,
        variants: &'a [Json],
        path: &FieldPath,
    ) -> Option<Json> {
        let variants: Vec<&'a Json> = variants.iter().map(|variant| self.resolve(variant)).collect();
        let constants: Vec<&str> = variants.iter().filter_map(|v| v.get("const").and_then(Json::as_str)).collect();
        if constants.len() == variants.len() {
            if !matches!(node.value, Value::Text(_)) {
                self.wrong_kind(node, outer, &["string"], path);
                return None;
            }
            return self.check_choice(node, &constants, path);
        }
        let kind_of = |variant: &Json| variant.get("type").and_then(Json::as_str).unwrap_or("object").to_owned();
        let fitting = variants.iter().filter(|variant| is_of(node, &kind_of(variant)));
        match fitting.max_by_key(|variant| (shared_keys(node, variant), std::cmp::Reverse(missing_keys(node, variant))))
        {
            Some(variant) => self.check(node, variant, path),
            None => {
                let kinds: Vec<String> = variants.iter().map(|variant| kind_of(variant)).collect();
                let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
                self.wrong_kind(node, outer, &kinds, path);
                None
            }
        }
    }

    fn check_choice(&mut self, node: &Node, allowed: &[&str], path: &FieldPath) -> Option<Json> {
        let Value::Text(text) = &node.value else { return None };
        if allowed.contains(&text.as_str()) {
            return Some(text.clone().into());
        }
        let (message, hint) = match allowed {
            [only] => (format!("must be `{only}`"), None),
            _ => (
                format!("must be one of {}", join(allowed.iter().copied())),
                closest(text, allowed.iter().copied()).map(|name| format!("did you mean `{name}`?")),
            ),
        };
        self.findings.broken(path, message, hint);
        None
    }

    fn check_range(&mut self, number: &serde_json::Number, schema: &Json, path: &FieldPath) -> bool {
        let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
        let value = number.as_f64().unwrap_or(f64::NAN);
        let fits = bound("minimum").is_none_or(|min| value >= min) && bound("maximum").is_none_or(|max| value <= max);
        if !fits {
            let range = match (bound("minimum"), bound("maximum")) {
                (Some(min), Some(max)) => format!("must be from {min} to {max}"),
                (Some(min), None) => format!("must be {min} or more"),
                (None, max) => format!("must be {} or less", max.unwrap_or_default()),
            };
            self.findings.broken(path, range, None);
        }
        fits
    }

    fn wrong_kind(&mut self, node: &Node, schema: &'a Json, expected: &[&str], path: &FieldPath) {
        let mut names: Vec<&str> = expected.iter().map(|kind| spoken(kind)).collect();
        names.dedup();
        let hint = self.hint(schema).or_else(|| {
            let scalar = matches!(node.value, Value::Number(_) | Value::Bool(_));
            (scalar && expected.contains(&"string")).then(|| "put it in quotes".to_owned())
        });
        self.findings.broken(path, format!("must be {}, not {}", names.join(" or "), kind(node)), hint);
    }

    /// The hint that the schema carries for a field (`x-hint`), there or behind its `$ref`.
    fn hint(&self, schema: &'a Json) -> Option<String> {
        let text = schema.get("x-hint").or_else(|| self.resolve(schema).get("x-hint"));
        text.and_then(Json::as_str).map(str::to_owned)
    }

    /// A value that fits, from the schema's examples.
    fn placeholder(&self, schema: &'a Json) -> Json {
        if let Some(example) = schema.get("examples").and_then(|list| list.get(0)) {
            return example.clone();
        }
        let schema = self.resolve(schema);
        if let Some(example) = schema.get("examples").and_then(|list| list.get(0)) {
            return example.clone();
        }
        if let Some(first) = alternatives(schema).and_then(<[Json]>::first) {
            return self.placeholder(first);
        }
        if let Some(only) = schema.get("const") {
            return only.clone();
        }
        if let Some(first) = schema.get("enum").and_then(|list| list.get(0)) {
            return first.clone();
        }
        match schema.get("type").and_then(Json::as_str) {
            Some("string") => Json::String(String::new()),
            Some("array") => Json::Array(Vec::new()),
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| 0.into()),
            Some("boolean") => false.into(),
            _ => {
                let fields = strings(schema.get("required"));
                let fields =
                    fields.iter().map(|name| ((*name).to_owned(), self.placeholder(&schema["properties"][*name])));
                Json::Object(fields.collect())
            }
        }
    }
}

fn alternatives(schema: &Json) -> Option<&[Json]> {
    schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array).map(Vec::as_slice)
}

fn strings(list: Option<&Json>) -> Vec<&str> {
    list.and_then(Json::as_array).map(|list| list.iter().filter_map(Json::as_str).collect()).unwrap_or_default()
}

fn shared_keys(node: &Node, schema: &Json) -> usize {
    let Value::Map(pairs) = &node.value else { return 0 };
    pairs.iter().filter(|pair| schema["properties"].get(&pair.key).is_some()).count()
}

fn missing_keys(node: &Node, schema: &Json) -> usize {
    let Value::Map(pairs) = &node.value else { return 0 };
    strings(schema.get("required")).iter().filter(|name| !pairs.iter().any(|pair| pair.key == **name)).count()
}

fn is_of(node: &Node, kind: &str) -> bool {
    match &node.value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "boolean",
        Value::Number(number) => kind == "number" || (kind == "integer" && !number.is_f64()),
        Value::Text(_) => kind == "string",
        Value::List(_) => kind == "array",
        Value::Map(_) => kind == "object",
    }
}

fn spoken(kind: &str) -> &str {
    match kind {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        other => other,
    }
}

fn kind(node: &Node) -> &'static str {
    match &node.value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn compact(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string().replace('"', "").replace(':', ": ").replace(',', ", "),
    }
}
