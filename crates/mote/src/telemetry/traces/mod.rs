//! Traces: one span for each stretch of work on a run, beneath it one for each model call and each tool call.
//!
//! Ids are kept so that a run stays in one trace across processes: the trace comes with the submission or is derived from
//! the task's id. With no collector configured nothing is recorded, and an incoming `traceparent` is still passed on.
//! It samples nothing itself: it follows the caller's flag, and records what came without one.

pub mod context;
mod export;
mod semantics;
mod span;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::SpanKind;
use opentelemetry::{InstrumentationScope, KeyValue};

use super::metrics::Metrics;
use crate::clock::SharedClock;
use context::TraceContext;
pub use export::Error;
use export::Queue;
pub use semantics::Semconv;
use semantics::{bounded, instructions, list, messages, model_error, number, text};
use span::Recording;

use crate::model::{self, Reply, Request};
use crate::tools::{self, Effect, Failure, Progress};
use crate::usage::Usage;

/// Who exports.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// `service.name`: the agent's name.
    pub name: &'a str,
    /// `service.version`: the agent's version.
    pub version: &'a str,
    /// `service.instance.id`: the worker's id.
    pub instance: &'a str,
}

/// Makes spans. Cheap to clone.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

struct Inner {
    queue: Option<Queue>,
    content: bool,
    semconv: Semconv,
    clock: SharedClock,
    scope: InstrumentationScope,
}

/// A stretch of work on a run: from a claim to its end or suspension.
#[derive(Debug, Clone, Copy)]
pub struct RunStart<'a> {
    /// The task.
    pub task: &'a str,
    /// The session, if it has one.
    pub session: Option<&'a str>,
    /// The agent's name.
    pub agent: &'a str,
    /// Its version.
    pub agent_version: &'a str,
    /// Its description.
    pub agent_description: &'a str,
    /// Kind of the primary provider (`anthropic`, `openai`, …).
    pub provider: &'a str,
    /// The primary model.
    pub model: &'a str,
    /// Tenant.
    pub tenant: &'a str,
    /// User.
    pub user: Option<&'a str>,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The lease's epoch: 1 for the first stretch, more for a resumed run.
    pub epoch: u64,
    /// `traceparent` of the submission.
    pub traceparent: Option<&'a str>,
}

/// How a stretch ended.
#[derive(Debug, Clone, Copy)]
pub struct RunEnd<'a> {
    /// The task's status: `completed`, `failed`, `cancelled`, or `waiting` or `queued` if it goes on later.
    pub status: &'a str,
    /// Stable code of the error, if it failed.
    pub error: Option<&'a str>,
    /// Tokens of the whole run so far.
    pub usage: &'a Usage,
    /// Nano-USD of the whole run so far.
    pub cost_nano_usd: u64,
    /// Model steps so far.
    pub steps: u32,
}

/// A tool call as it begins.
#[derive(Debug, Clone, Copy)]
pub struct ToolStart<'a> {
    /// The tool's name.
    pub name: &'a str,
    /// What it does.
    pub description: &'a str,
    /// The provider's id of the call.
    pub call_id: &'a str,
    /// The model step that asked for it.
    pub step: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// What repeating it means.
    pub effect: Effect,
    /// Arguments; recorded only with content on.
    pub arguments: &'a serde_json::Value,
}

impl Tracer {
    /// A tracer that records nothing and passes contexts on.
    #[must_use]
    pub fn off(clock: SharedClock) -> Self {
        Self::build(None, false, Semconv::default(), clock)
    }

    /// A tracer that exports to the collector at `endpoint` from a task on the current runtime.
    ///
    /// # Errors
    /// If the endpoint cannot be used or there is no runtime.
    pub fn start(
        endpoint: &str,
        content: bool,
        semconv: Semconv,
        service: &Service<'_>,
        metrics: Arc<Metrics>,
        clock: SharedClock,
    ) -> Result<Self, Error> {
        let queue = Queue::start(endpoint, service, metrics)?;
        Ok(Self::build(Some(queue), content, semconv, clock))
    }

    fn build(queue: Option<Queue>, content: bool, semconv: Semconv, clock: SharedClock) -> Self {
        let mut scope = InstrumentationScope::builder("mote").with_version(env!("CARGO_PKG_VERSION"));
        if let Some(url) = semconv.schema_url() {
            scope = scope.with_schema_url(url);
        }
        Self(Arc::new(Inner { queue, content, semconv, clock, scope: scope.build() }))
    }

    /// Exports what has ended so far, at most for `within`.
    pub async fn flush(&self, within: Duration) {
        if let Some(queue) = &self.0.queue {
            queue.flush(within).await;
        }
    }

    /// Begins a stretch of work on a run.
    #[must_use]
    pub fn run_span(&self, start: &RunStart<'_>) -> RunSpan {
        let parent = start.traceparent.and_then(TraceContext::parse);
        let context = match (parent, &self.0.queue) {
            (Some(parent), Some(_)) if parent.sampled => Some(parent.child(self.0.clock.as_ref())),
            (Some(parent), _) => Some(parent),
            (None, Some(_)) => Some(TraceContext::of_task(start.task, self.0.clock.as_ref())),
            (None, None) => None,
        };
        let recording = self.recording(
            context.filter(|context| context.sampled),
            parent,
            true,
            SpanKind::Internal,
            || format!("invoke_agent {}", start.agent),
            || self.run_attributes(start),
        );
        RunSpan {
            tracer: self.clone(),
            context,
            recording,
            task: start.task.to_owned(),
            session: start.session.map(str::to_owned),
        }
    }

    fn run_attributes(&self, start: &RunStart<'_>) -> Vec<KeyValue> {
        let mut attributes = vec![
            text("gen_ai.operation.name", "invoke_agent"),
            text("gen_ai.agent.name", start.agent.to_owned()),
            text("gen_ai.agent.version", start.agent_version.to_owned()),
            text("gen_ai.agent.description", start.agent_description.to_owned()),
            text("mote.task.id", start.task.to_owned()),
            text("mote.tenant", start.tenant.to_owned()),
            number("mote.run.epoch", start.epoch),
        ];
        if self.0.semconv == Semconv::V1_41 {
            // An agent may use several models: the newer conventions leave these to the model's spans.
            attributes.push(text("gen_ai.provider.name", start.provider.to_owned()));
            attributes.push(text("gen_ai.request.model", start.model.to_owned()));
        }
        attributes.extend(start.session.map(|session| text("gen_ai.conversation.id", session.to_owned())));
        attributes.extend(start.user.map(|user| text("user.id", user.to_owned())));
        let labels = start.labels.iter();
        attributes.extend(labels.map(|(key, value)| KeyValue::new(format!("mote.label.{key}"), value.clone())));
        attributes
    }

    fn recording(
        &self,
        context: Option<TraceContext>,
        parent: Option<TraceContext>,
        remote_parent: bool,
        kind: SpanKind,
        name: impl FnOnce() -> String,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Option<Recording> {
        self.0.queue.as_ref()?;
        let context = context?;
        Some(Recording::start(self.clone(), context, parent, remote_parent, kind, name(), attributes()))
    }
}

/// An open stretch of work. Dropped without an end, it is recorded as abandoned.
pub struct RunSpan {
    tracer: Tracer,
    context: Option<TraceContext>,
    recording: Option<Recording>,
    task: String,
    session: Option<String>,
}

impl RunSpan {
    /// `traceparent` for what this run calls; `None` if there is no trace.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.context.map(|context| context.format())
    }

    /// A span for `tracing`, so that log lines within it carry the ids of the run and of its trace.
    #[must_use]
    pub fn log_span(&self) -> tracing::Span {
        let span = tracing::info_span!(
            "run",
            task_id = self.task,
            session_id = tracing::field::Empty,
            trace_id = tracing::field::Empty,
            span_id = tracing::field::Empty,
        );
        if let Some(session) = &self.session {
            span.record("session_id", session);
        }
        if let Some(context) = self.context {
            span.record("trace_id", format!("{:032x}", context.trace));
            span.record("span_id", format!("{:016x}", context.span));
        }
        span
    }

    fn child(
        &self,
        kind: SpanKind,
        name: impl FnOnce() -> String,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> (Option<TraceContext>, Option<Recording>) {
        if self.recording.is_none() {
            return (self.context, None);
        }
        let context = self.context.map(|context| context.child(self.tracer.0.clock.as_ref()));
        let all = || {
            let mut all = attributes();
            all.push(text("mote.task.id", self.task.clone()));
            all.extend(self.session.clone().map(|session| text("gen_ai.conversation.id", session)));
            all
        };
        (context, self.tracer.recording(context, self.context, false, kind, name, all))
    }

    /// Begins one attempt at a model call. `provider` and `model` are those that are asked first.
    #[must_use]
    pub fn model_call(&self, provider: &str, model: &str, endpoint: &str, request: &Request) -> ModelSpan {
        let inner = &self.tracer.0;
        let attributes = || {
            let mut attributes = vec![
                text("gen_ai.operation.name", "chat"),
                text("gen_ai.provider.name", provider.to_owned()),
                text("gen_ai.request.model", model.to_owned()),
                number("gen_ai.request.max_tokens", request.output_tokens_max.into()),
                text("gen_ai.output.type", if request.output_schema.is_some() { "json" } else { "text" }),
                number("mote.step", request.step.into()),
                number("mote.attempt", request.attempt.into()),
            ];
            if inner.semconv == Semconv::Latest {
                attributes.push(KeyValue::new("gen_ai.request.stream", true));
            }
            if let Ok(url) = reqwest::Url::parse(endpoint) {
                attributes.extend(url.host_str().map(|host| text("server.address", host.to_owned())));
                attributes.extend(url.port_or_known_default().map(|port| number("server.port", port.into())));
            }
            if inner.content {
                attributes.push(text("gen_ai.system_instructions", instructions(&request.system)));
                attributes.push(text("gen_ai.input.messages", messages(&request.messages)));
            }
            attributes
        };
        let (context, recording) = self.child(SpanKind::Client, || format!("chat {model}"), attributes);
        ModelSpan { tracer: self.tracer.clone(), context, recording }
    }

    /// Begins one attempt at a tool call.
    #[must_use]
    pub fn tool_call(&self, call: &ToolStart<'_>) -> ToolSpan {
        let attributes = || {
            let mut attributes = vec![
                text("gen_ai.operation.name", "execute_tool"),
                text("gen_ai.tool.name", call.name.to_owned()),
                text("gen_ai.tool.description", call.description.to_owned()),
                text("gen_ai.tool.call.id", call.call_id.to_owned()),
                text("gen_ai.tool.type", "function"),
                text("mote.tool.effect", effect(call.effect)),
                number("mote.step", call.step.into()),
                number("mote.attempt", call.attempt.into()),
            ];
            if self.tracer.0.content {
                attributes.push(text("gen_ai.tool.call.arguments", bounded(call.arguments.to_string())));
            }
            attributes
        };
        let (context, recording) = self.child(SpanKind::Internal, || format!("execute_tool {}", call.name), attributes);
        ToolSpan { tracer: self.tracer.clone(), context, recording }
    }

    /// Ends the stretch.
    pub fn end(mut self, end: &RunEnd<'_>) {
        let Some(recording) = self.recording.take() else { return };
        let mut attributes = semantics::usage(end.usage, self.tracer.0.semconv);
        attributes.push(text("mote.task.status", end.status.to_owned()));
        attributes.push(number("mote.cost_nano_usd", end.cost_nano_usd));
        attributes.push(number("mote.steps", end.steps.into()));
        recording.end(attributes, end.error.map(str::to_owned));
    }
}

/// An open model call.
pub struct ModelSpan {
    tracer: Tracer,
    context: Option<TraceContext>,
    recording: Option<Recording>,
}

impl ModelSpan {
    /// `traceparent` for the request to the model.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.context.map(|context| context.format())
    }

    /// Ends it. `first` is the time to the first piece of the reply.
    pub fn end(mut self, outcome: Result<&Reply, &model::Error>, first: Option<Duration>) {
        let Some(recording) = self.recording.take() else { return };
        let inner = &self.tracer.0;
        let mut attributes = Vec::new();
        if let (Semconv::Latest, Some(first)) = (inner.semconv, first) {
            attributes.push(KeyValue::new("gen_ai.response.time_to_first_chunk", first.as_secs_f64()));
        }
        match outcome {
            Ok(reply) => {
                attributes.push(text("gen_ai.response.model", reply.model.clone()));
                attributes.push(list("gen_ai.response.finish_reasons", semantics::finish(reply.finish)));
                attributes.extend(reply.usage.iter().flat_map(|usage| semantics::usage(usage, inner.semconv)));
                if inner.content {
                    let said = messages(std::slice::from_ref(&reply.message));
                    attributes.push(text("gen_ai.output.messages", said));
                }
                recording.end(attributes, None);
            }
            Err(error) => recording.end(attributes, Some(model_error(error.kind).to_owned())),
        }
    }
}

/// An open tool call.
pub struct ToolSpan {
    tracer: Tracer,
    context: Option<TraceContext>,
    recording: Option<Recording>,
}

impl ToolSpan {
    /// `traceparent` for the tool's backend.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.context.map(|context| context.format())
    }

    /// Ends it with what the tool gave.
    pub fn end(mut self, outcome: &Result<Progress, Failure>) {
        let Some(recording) = self.recording.take() else { return };
        match outcome {
            Ok(Progress::Answered(output)) => {
                let mut attributes = Vec::new();
                if self.tracer.0.content {
                    attributes.push(text("gen_ai.tool.call.result", bounded(output.content.clone())));
                }
                recording.end(attributes, output.is_error.then(|| "tool_error".to_owned()));
            }
            Ok(Progress::Suspended(_)) => recording.end(Vec::new(), None),
            Err(failure) => {
                let kind = super::metrics::tool_failure(failure.kind);
                recording.end(Vec::new(), Some(kind.to_owned()));
            }
        }
    }

    /// Ends it because the caller's bound on time was met.
    pub fn end_timed_out(mut self) {
        if let Some(recording) = self.recording.take() {
            recording.end(Vec::new(), Some("timeout".to_owned()));
        }
    }
}

fn effect(effect: tools::Effect) -> &'static str {
    match effect {
        Effect::Read => "read",
        Effect::Idempotent => "idempotent",
        Effect::Write => "write",
    }
}
