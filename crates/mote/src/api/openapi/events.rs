//! docs/events.md: the kinds of journal events and their payloads, written from the types that are their source.
//!
//! The text around the tables is the document's own; this writes what stands between its marks.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::api::event_payload::EventPayload;

const DOCUMENT: &str = include_str!("../../../../../docs/events.md");
const BEGIN: &str = "<!-- kinds: written by `cargo xtask schemas` -->\n";
const END: &str = "<!-- end of kinds -->";

/// Gives each payload its `type`, which the table of events names.
pub(super) fn name_kinds(document: &mut Value) {
    let variants = document["components"]["schemas"]["Payload"]["oneOf"].as_array_mut().expect("payloads");
    assert_eq!(variants.len(), EventPayload::KINDS.len(), "a variant a kind");
    for (variant, kind) in variants.iter_mut().zip(EventPayload::KINDS) {
        let named = json!({"type": "string", "enum": [kind.name()]});
        let description = variant["description"].clone();
        if variant["properties"].is_null() {
            *variant = json!({"type": "object", "description": description, "properties": {}, "required": []});
        }
        variant["properties"]["type"] = named;
        let mut required = variant["required"].as_array().cloned().unwrap_or_default();
        required.push(json!("type"));
        variant["required"] = Value::Array(required);
    }
}

/// The tables, from the OpenAPI document's schemas.
fn kinds(schemas: &Value) -> String {
    let mut text = String::new();
    for variant in schemas["Payload"]["oneOf"].as_array().into_iter().flatten() {
        let mut fields = BTreeMap::new();
        let mut required = Vec::new();
        gather(variant, &mut fields, &mut required);
        let kind = fields.remove("type").and_then(|kind| kind["enum"][0].as_str().map(str::to_owned));
        let kind = kind.unwrap_or_else(|| panic!("a kind without a name: {variant}"));
        let said = variant["description"].as_str().unwrap_or_default();
        let _ = writeln!(text, "### `{kind}`\n\n{said}\n");
        if fields.is_empty() {
            text.push_str("No payload.\n\n");
            continue;
        }
        text.push_str("| field | type | there | meaning |\n|---|---|---|---|\n");
        for (name, field) in fields {
            let there = if required.contains(&name) { "always" } else { "or absent" };
            let meaning = field["description"].as_str().unwrap_or_default();
            let _ = writeln!(text, "| `{name}` | {} | {there} | {meaning} |", form(&field));
        }
        text.push('\n');
    }
    text
}

/// The properties of a variant, whose parts may stand in `allOf`.
fn gather(schema: &Value, fields: &mut BTreeMap<String, Value>, required: &mut Vec<String>) {
    for part in schema["allOf"].as_array().into_iter().flatten() {
        gather(part, fields, required);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        fields.insert(name.clone(), field.clone());
    }
    required
        .extend(schema["required"].as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())));
}

fn form(field: &Value) -> String {
    let named = |schema: &Value| schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
    if let Some(name) = named(field) {
        return name;
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        if let Some(forms) = field[several].as_array() {
            let forms: Vec<String> = forms.iter().map(form).filter(|form| form != "null").collect();
            return forms.join(" or ");
        }
    }
    match &field["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", form(&field["items"])),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect();
            kinds.join(" or ")
        }
        _ => "any JSON".to_owned(),
    }
}

/// `UPDATE=1 cargo test -p mote openapi` writes the document anew.
#[test]
#[allow(clippy::disallowed_methods, reason = "a switch for the person who runs the test")]
fn the_page_of_events_says_what_the_code_says() {
    let document: Value = serde_json::from_str(&super::generated::document().unwrap()).unwrap();
    let (before, rest) = DOCUMENT.split_once(BEGIN).expect("docs/events.md has its first mark");
    let (_, after) = rest.split_once(END).expect("docs/events.md has its second mark");
    let tables = kinds(&document["components"]["schemas"]);
    let page = format!("{before}{BEGIN}\n{tables}{END}{after}");
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/events.md");
        return std::fs::write(path, page).unwrap();
    }
    assert!(page == DOCUMENT, "docs/events.md is out of date: run `UPDATE=1 cargo test -p mote openapi`");
}
