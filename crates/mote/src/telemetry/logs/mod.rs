//! Logs: one JSON object a line, or short text where a person reads along.
//!
//! A layer for `tracing` that writes the fields of the enclosing spans beside the event's own. Prompts, arguments and
//! results are logged only in fields whose name begins with `content.`, and those are dropped unless the administrator
//! turned content on. It does not rotate or ship: the platform does.

mod line;
mod sink;
#[cfg(test)]
mod tests;

use std::str::FromStr as _;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::SharedClock;
use line::{Fields, Line};
pub use sink::Sink;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line, for machines.
    Json,
    /// Time, level, message and fields, for people.
    Text,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter in the configuration is not one.
    #[error("telemetry.log: {filter:?} is not a log filter: {source}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong.
        source: ParseError,
    },
    /// The process has a subscriber already.
    #[error("failed to set up logging: {0}")]
    Installed(#[from] tracing::subscriber::SetGlobalDefaultError),
    /// The writer's thread could not be started.
    #[error("failed to start the log writer: {0}")]
    Thread(#[from] std::io::Error),
}

/// Reads a filter: a level, and `target=level` after commas (`info,mote::store=debug`).
///
/// # Errors
/// What is wrong with it.
pub fn parse_filter(filter: &str) -> Result<Targets, ParseError> {
    Targets::from_str(filter)
}

/// A subscriber that writes to `sink`.
///
/// # Errors
/// [`Error::Filter`], naming what was given.
pub fn subscriber(
    filter: &str,
    format: Format,
    content: bool,
    clock: SharedClock,
    sink: Sink,
) -> Result<impl Subscriber + Send + Sync, Error> {
    let targets = parse_filter(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })?;
    let layer = Writer { format, content, clock, sink };
    Ok(tracing_subscriber::registry().with(layer.with_filter(targets)))
}

struct Writer {
    format: Format,
    content: bool,
    clock: SharedClock,
    sink: Sink,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Writer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::new(self.content);
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
        let mut fields = Fields::new(self.content);
        event.record(&mut fields);
        let mut line = Line::new(self.clock.now_ms(), event.metadata(), fields);
        // From the innermost span outwards: what is nearer wins.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.add_outer(fields);
            }
        }
        self.sink.write(match self.format {
            Format::Json => line.json(),
            Format::Text => line.text(),
        });
    }
}
