//! Performs single actions: one model call, one attempt at a tool call. Each is a future that ends in what happened;
//! dropping it abandons the attempt. It does not retry and writes nothing durable.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::live::LiveRun;
use super::observe;
use crate::model::{self, Delta, Provider, Reply, Request};
use crate::telemetry::Metrics;
use crate::telemetry::traces::{ModelSpan, ToolSpan};
use crate::tools::{Failure, FailureKind, Invocation, Progress, Resumption, Tool};

/// What an action ended in.
pub(super) enum Done {
    /// A model call.
    Model {
        attempt: u16,
        result: Result<Reply, model::Error>,
        /// Bytes that had streamed in.
        streamed: usize,
        /// Whether a piece of a reply had come.
        began: bool,
        took: Duration,
    },
    /// An attempt at a tool call.
    Call { call: u16, attempt: u16, result: Result<Progress, Failure>, took: Duration },
    /// A summary that nobody writes.
    Compaction,
}

/// Calls the model.
pub(super) fn model_call(
    provider: Arc<dyn Provider>,
    request: Request,
    attempt: u16,
    live: Arc<LiveRun>,
    observer: Observer<ModelSpan>,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let began = Instant::now();
        let (mut streamed, mut first) = (0, None);
        live.begin(request.step, request.attempt);
        crate::crash::point("model.before_call");
        let mut sink = |delta: Delta| {
            if let Delta::Text(text) | Delta::Reasoning(text) = &delta {
                streamed += text.len();
            }
            first.get_or_insert_with(|| began.elapsed());
            live.push(delta);
        };
        let result = provider.complete(&request, &mut sink).await;
        crate::crash::point("model.after_call");
        if let Err(error) = &result {
            observe::attempt_failed(&request, error, observer.content, began.elapsed());
        }
        observer.model(&result, first, began.elapsed());
        Done::Model { attempt, result, streamed, began: first.is_some(), took: began.elapsed() }
    })
}

/// Makes one attempt at a tool call, or goes on with one that was suspended, bounded by the tool's own time-out.
pub(super) fn tool_call(
    tool: Arc<dyn Tool>,
    invocation: Invocation,
    resumption: Option<Resumption>,
    call: u16,
    observer: Observer<ToolSpan>,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let began = Instant::now();
        let attempt = u16::try_from(invocation.attempt).unwrap_or(u16::MAX);
        crate::crash::point("tool.before_call");
        let timeout = tool.timeout();
        let work = match resumption {
            Some(resumption) => tool.resume(invocation, resumption),
            None => tool.call(invocation),
        };
        let answered = tokio::time::timeout(timeout, work).await;
        crate::crash::point("tool.after_call");
        let name = &tool.definition().name;
        observer.tool(name, answered.as_ref().ok(), began.elapsed());
        let result = answered.unwrap_or_else(|_| {
            Err(Failure {
                kind: FailureKind::Unknown,
                tool: name.clone(),
                message: format!("no answer within {} ms", timeout.as_millis()),
                retry_after: None,
            })
        });
        Done::Call { call, attempt, result, took: began.elapsed() }
    })
}

/// Where one attempt is recorded.
pub(super) struct Observer<S> {
    pub span: S,
    pub metrics: Arc<Metrics>,
    /// Kind of the provider that is asked first.
    pub provider: &'static str,
    /// Whether what was said may stand in the log.
    pub content: bool,
}

impl Observer<ModelSpan> {
    fn model(self, result: &Result<Reply, model::Error>, first: Option<Duration>, took: Duration) {
        match result {
            Ok(reply) => {
                self.metrics.model_call(&reply.provider, &reply.model, Ok(()), took);
                if let Some(first) = first {
                    self.metrics.model_first_token(&reply.provider, &reply.model, first);
                }
            }
            Err(error) => self.metrics.model_call(self.provider, &error.model, Err(error.kind), took),
        }
        self.span.end(result.as_ref(), first);
    }
}

impl Observer<ToolSpan> {
    /// `answered` is `None` if the time ran out.
    fn tool(self, tool: &str, answered: Option<&Result<Progress, Failure>>, took: Duration) {
        match answered {
            Some(answered) => {
                self.metrics.tool_call(tool, answered, took);
                self.span.end(answered);
            }
            None => {
                self.metrics.tool_timed_out(tool, took);
                self.span.end_timed_out();
            }
        }
    }
}
