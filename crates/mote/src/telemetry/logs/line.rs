//! One log line: its fields, and how they are written.
//!
//! It does not decide what is logged, only that content fields are dropped and long values cut.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use tracing::Metadata;
use tracing::field::{Field, Visit};

use crate::clock::UnixMs;
use crate::limits::{LOG_FIELD_BYTES_MAX, LOG_FIELDS_MAX};
use crate::timestamp::format_rfc3339;

/// Written first and in this order, so that a person finds them and a schema may rely on them.
const LEADING: [&str; 4] = ["trace_id", "span_id", "task_id", "session_id"];
const RESERVED: [&str; 4] = ["time", "level", "target", "message"];

/// Fields of a span or an event.
#[derive(Debug)]
pub(super) struct Fields {
    content: bool,
    values: BTreeMap<String, Value>,
}

impl Fields {
    pub(super) fn new(content: bool) -> Self {
        Self { content, values: BTreeMap::new() }
    }

    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        let hidden = !self.content && (name == "content" || name.starts_with("content."));
        if hidden || self.values.len() >= LOG_FIELDS_MAX {
            return;
        }
        let mut value = value.into();
        if let Value::String(text) = &mut value
            && text.len() > LOG_FIELD_BYTES_MAX
        {
            text.truncate(text.floor_char_boundary(LOG_FIELD_BYTES_MAX));
            text.push('…');
        }
        self.values.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.put(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// A line to be.
pub(super) struct Line<'a> {
    at: UnixMs,
    metadata: &'a Metadata<'a>,
    fields: BTreeMap<String, Value>,
}

impl<'a> Line<'a> {
    pub(super) fn new(at: UnixMs, metadata: &'a Metadata<'a>, fields: Fields) -> Self {
        Self { at, metadata, fields: fields.values }
    }

    /// Adds the fields of an enclosing span, except those that something nearer has set.
    pub(super) fn add_outer(&mut self, outer: &Fields) {
        for (name, value) in &outer.values {
            if name != "message" && !self.fields.contains_key(name) {
                self.fields.insert(name.clone(), value.clone());
            }
        }
    }

    fn message(&self) -> &str {
        self.fields.get("message").and_then(Value::as_str).unwrap_or_default()
    }

    /// Fields in writing order, without the message.
    fn ordered(&self) -> impl Iterator<Item = (&str, &Value)> {
        let leading = LEADING.into_iter().filter_map(|name| Some((name, self.fields.get(name)?)));
        let rest = self.fields.iter().map(|(name, value)| (name.as_str(), value));
        leading.chain(rest.filter(|(name, _)| !LEADING.contains(name) && *name != "message"))
    }

    pub(super) fn json(&self) -> Vec<u8> {
        let mut text = format!(
            "{{\"time\":\"{}\",\"level\":\"{}\",\"target\":{},\"message\":{}",
            format_rfc3339(self.at),
            self.metadata.level(),
            Value::from(self.metadata.target()),
            Value::from(self.message()),
        );
        for (name, value) in self.ordered() {
            // A field never takes the place of what the line itself says.
            let prefix = if RESERVED.contains(&name) { "field." } else { "" };
            let _ = write!(text, ",{}:{value}", Value::from(format!("{prefix}{name}")));
        }
        text.push_str("}\n");
        text.into_bytes()
    }

    pub(super) fn text(&self) -> Vec<u8> {
        let time = format_rfc3339(self.at);
        // UTC: `Z` says so.
        let mut text = format!("{}Z {:5} {}", &time[11..23], self.metadata.level().as_str(), self.message());
        for (name, value) in self.ordered() {
            match value {
                Value::String(value) if !value.contains([' ', '"']) => {
                    let _ = write!(text, " {name}={value}");
                }
                value => {
                    let _ = write!(text, " {name}={value}");
                }
            }
        }
        // A person's terminal must not be steered by what a stranger sent.
        let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.push('\n');
        text.into_bytes()
    }
}
