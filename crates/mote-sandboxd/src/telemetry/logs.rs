//! Logs: one JSON object a line on standard error, the fields of the enclosing spans beside the event's own.
//!
//! It does not rotate or ship: the platform does. A line is one write, so that lines of several threads do not mix.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr as _;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::{SharedClock, UnixMs};
use crate::limits::LOG_FIELD_BYTES_MAX;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter in the configuration is not one.
    #[error("log: {filter:?} is not a log filter: {message}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong.
        message: String,
    },
    /// The process has a subscriber already.
    #[error("failed to set up logging: {0}")]
    Installed(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Writes what passes `filter` (a level, and `target=level` after commas) to standard error.
///
/// # Errors
/// [`Error`].
pub fn install(filter: &str, clock: SharedClock) -> Result<(), Error> {
    let targets = Targets::from_str(filter)
        .map_err(|error| Error::Filter { filter: filter.to_owned(), message: error.to_string() })?;
    let layer = Lines { clock }.with_filter(targets);
    Ok(tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?)
}

struct Lines {
    clock: SharedClock,
}

#[derive(Debug, Default)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let mut value = value.into();
        if let Value::String(text) = &mut value
            && text.len() > LOG_FIELD_BYTES_MAX
        {
            text.truncate(text.floor_char_boundary(LOG_FIELD_BYTES_MAX));
            text.push('…');
        }
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.0 {
                    if !fields.0.contains_key(name) {
                        fields.0.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        let line = line(self.clock.now_ms(), event.metadata().level().as_str(), event.metadata().target(), fields.0);
        // Nothing can be told where standard error is closed.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn line(at: UnixMs, level: &str, target: &str, mut fields: BTreeMap<String, Value>) -> String {
    let message = fields.remove("message").unwrap_or_else(|| Value::from(""));
    let mut text = format!(
        "{{\"time\":\"{}\",\"level\":{},\"target\":{},\"message\":{message}",
        timestamp(at),
        Value::from(level),
        Value::from(target),
    );
    for (name, value) in &fields {
        // A field never takes the place of what the line itself says.
        let prefix = if matches!(name.as_str(), "time" | "level" | "target") { "field." } else { "" };
        let _ = write!(text, ",{}:{value}", Value::from(format!("{prefix}{name}")));
    }
    text.push_str("}\n");
    text
}

/// RFC 3339 in UTC, to the millisecond. The date is Howard Hinnant's `civil_from_days`.
fn timestamp(at: UnixMs) -> String {
    let (days, ms) = (at / 86_400_000, at % 86_400_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_its_fields_say() {
        let fields = BTreeMap::from_iter([
            ("message".to_owned(), Value::from("a \"quote\"\nand a break")),
            ("level".to_owned(), Value::from("mine")),
        ]);
        let line = line(0, "INFO", "t", fields);
        assert_eq!(line.lines().count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((read["level"].as_str(), read["field.level"].as_str()), (Some("INFO"), Some("mine")));
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_827_696_789), "2000-02-29T12:34:56.789Z");
    }
}
