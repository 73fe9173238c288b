//! A span while it is open, and what becomes of it at its end.
//!
//! It does not know what the span is about.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::time::Instant;

use super::Tracer;
use super::context::TraceContext;

/// An open span. Dropped without an end (a cancelled future, a crash of its driver), it says so.
pub(super) struct Recording {
    tracer: Tracer,
    /// Taken at the end. Boxed: most runs record nothing, and thousands wait at once.
    span: Option<Box<SpanData>>,
    began: Instant,
}

impl Recording {
    pub(super) fn start(
        tracer: Tracer,
        context: TraceContext,
        parent: Option<TraceContext>,
        remote_parent: bool,
        kind: SpanKind,
        name: String,
        attributes: Vec<KeyValue>,
    ) -> Self {
        let start_time = UNIX_EPOCH + Duration::from_millis(tracer.0.clock.now_ms());
        let span = SpanData {
            span_context: SpanContext::new(
                TraceId::from(context.trace),
                SpanId::from(context.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: SpanId::from(parent.map_or(0, |parent| parent.span)),
            parent_span_is_remote: remote_parent && parent.is_some(),
            span_kind: kind,
            name: name.into(),
            start_time,
            end_time: start_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: tracer.0.scope.clone(),
        };
        Self { tracer, span: Some(Box::new(span)), began: Instant::now() }
    }

    /// Ends the span; `error` is its `error.type`, a word of few values.
    pub(super) fn end(mut self, attributes: Vec<KeyValue>, error: Option<String>) {
        self.finish(attributes, error);
    }

    fn finish(&mut self, attributes: Vec<KeyValue>, error: Option<String>) {
        let (Some(mut span), Some(queue)) = (self.span.take(), &self.tracer.0.queue) else { return };
        span.attributes.extend(attributes);
        // The monotonic clock measures, the wall clock only says when it began.
        span.end_time = end_time(span.start_time, self.began.elapsed());
        if let Some(error) = error {
            span.status = Status::error(error.clone());
            span.attributes.push(KeyValue::new("error.type", error));
        }
        queue.push(*span);
    }
}

fn end_time(start: SystemTime, duration: Duration) -> SystemTime {
    start.checked_add(duration).unwrap_or(start)
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.finish(Vec::new(), Some("abandoned".to_owned()));
    }
}
