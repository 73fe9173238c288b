//! Performs single actions: one model call, one attempt at a tool call. Each is a future that ends in what happened;
//! dropping it abandons the attempt. It does not retry and writes nothing durable.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::live::LiveRun;
use crate::model::{self, Delta, Provider, Reply, Request};
use crate::tools::{Failure, FailureKind, Invocation, Output, Tool};

/// What an action ended in.
pub(super) enum Done {
    /// A model call.
    Model {
        attempt: u16,
        result: Result<Reply, model::Error>,
        /// Bytes that had streamed in.
        streamed: usize,
        took: Duration,
    },
    /// An attempt at a tool call.
    Call { call: u16, attempt: u16, result: Result<Output, Failure>, took: Duration },
}

/// Calls the model.
pub(super) fn model_call(
    provider: Arc<dyn Provider>,
    request: Request,
    attempt: u16,
    live: Arc<LiveRun>,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let began = Instant::now();
        let mut streamed = 0;
        live.begin(request.step, request.attempt);
        crate::crash::point("model.before_call");
        let mut sink = |delta: Delta| {
            if let Delta::Text(text) | Delta::Reasoning(text) = &delta {
                streamed += text.len();
            }
            live.push(delta);
        };
        let result = provider.complete(&request, &mut sink).await;
        crate::crash::point("model.after_call");
        Done::Model { attempt, result, streamed, took: began.elapsed() }
    })
}

/// Makes one attempt at a tool call, bounded by the tool's own time-out.
pub(super) fn tool_call(tool: Arc<dyn Tool>, invocation: Invocation, call: u16) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let began = Instant::now();
        let attempt = u16::try_from(invocation.attempt).unwrap_or(u16::MAX);
        crate::crash::point("tool.before_call");
        let timeout = tool.timeout();
        let result = tokio::time::timeout(timeout, tool.call(invocation)).await.unwrap_or_else(|_| {
            Err(Failure {
                kind: FailureKind::Unknown,
                tool: tool.definition().name.clone(),
                message: format!("no answer within {} ms", timeout.as_millis()),
                retry_after: None,
            })
        });
        crate::crash::point("tool.after_call");
        Done::Call { call, attempt, result, took: began.elapsed() }
    })
}
