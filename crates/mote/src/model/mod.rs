//! Model providers: one request, one streamed reply, errors by what may be done about them.
//!
//! A provider speaks one wire format to one endpoint. [`chain::Chain`] orders several behind circuit breakers. Retrying
//! is not done here: the core decides it.

mod adapt;
pub mod anthropic;
mod assembly;
pub mod breaker;
mod build;
pub mod cassette;
pub mod chain;
pub mod config;
mod endpoint;
pub mod estimate;
mod failure;
mod history;
pub mod openai;
pub mod price;
mod schema;
pub mod scripted;
#[cfg(test)]
mod test_support;
pub mod transport;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::usage::Usage;

pub use build::{BuildError, build};
use build::{headers, insert_key, output_tokens, reply, uri, with_instruction};

/// One call of a model: everything that the provider needs, nothing that it keeps.
#[derive(Debug, Clone)]
pub struct Request {
    /// The system prompt; shared by all runs, of which thousands may wait for the model at once.
    pub system: Arc<str>,
    /// The context packet, oldest first.
    pub messages: Vec<Message>,
    /// The tools that the model may call.
    pub tools: Arc<[ToolDefinition]>,
    /// JSON Schema that the final answer must satisfy.
    pub output_schema: Option<Arc<serde_json::Value>>,
    /// Largest reply, tokens.
    pub output_tokens_max: u32,
    /// The run, for the `scripted` and `cassette` providers and for logs.
    pub task: String,
    /// The step within the run, from 1.
    pub step: u32,
    /// The attempt within the step, from 1.
    pub attempt: u32,
    /// The endpoint, by its place in the chain, from 0.
    pub endpoint: u8,
    /// W3C `traceparent` to send along, if tracing is on.
    pub traceparent: Option<String>,
}

/// A tool as a model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDefinition {
    /// Name, `[a-zA-Z0-9_-]{1,64}`.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: serde_json::Value,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It had said what it had to say.
    Stop,
    /// It calls tools.
    ToolCalls,
    /// It reached the output limit.
    Length,
    /// The provider withheld the reply.
    ContentFilter,
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The assistant's message.
    pub message: Message,
    /// Why it ended.
    pub finish: Finish,
    /// What it used. `None` where the endpoint does not say; the caller then estimates.
    pub usage: Option<Usage>,
    /// The provider's kind (`anthropic`, `openai`, `scripted`, `cassette`).
    pub provider: String,
    /// The model that answered, as configured.
    pub model: String,
}

/// A piece of a reply under way. Ephemeral: lost on reconnection, superseded by the next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// More text.
    Text(String),
    /// More reasoning.
    Reasoning(String),
    /// A tool call began.
    Call {
        /// The tool's name.
        name: String,
    },
}

/// Where deltas go while a reply streams in.
pub type DeltaSink<'a> = &'a mut (dyn FnMut(Delta) + Send);

/// What a failed call means for whoever decides what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The endpoint was never reached (resolve, connect, TLS): nothing was spent.
    Unreachable,
    /// 429.
    RateLimited,
    /// 503, 529 and their like.
    Overloaded,
    /// Other 5xx, a broken stream, a malformed event: something may have been spent.
    Broken,
    /// The reply ended in a failure that the endpoint itself names (`error`, `abort`, no resources): something was spent.
    Aborted,
    /// The reply has neither text nor calls: something was spent.
    EmptyReply,
    /// No answer in time: something may have been spent.
    TimedOut,
    /// The context is longer than the model takes.
    ContextLength,
    /// 400, 401, 403, 404 and their like: the same request will fail again.
    Rejected,
    /// Every endpoint's circuit is open.
    CircuitOpen,
}

/// A failed call of a model. Its message never contains a key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("failed to call model {model} at {endpoint}: {message}")]
pub struct Error {
    /// What may be done about it.
    pub kind: ErrorKind,
    /// The model, as configured.
    pub model: String,
    /// The endpoint's scheme, host and port; no path, no query, no credentials.
    pub endpoint: String,
    /// What happened.
    pub message: String,
    /// How long the endpoint asked to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether a reply had begun: one that breaks off is not an endpoint that is down.
    pub began: bool,
    /// What the failed call used, as far as the endpoint said it before it failed. `None` where it said nothing: the caller
    /// then estimates.
    pub usage: Option<Usage>,
    /// What the endpoint answered with, if it answered.
    pub answer: Answer,
}

/// The head of an endpoint's refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: Option<u16>,
    /// The provider's own word for it: `rate_limit_error`, `insufficient_quota`.
    pub code: Option<String>,
}

/// A model endpoint.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Calls the model once and streams its reply.
    ///
    /// Dropping the future abandons the call.
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error>;

    /// The endpoints whose circuits let a call through now, a bit each by their place in the chain.
    fn available(&self) -> u16 {
        u16::MAX
    }

    /// Whether a model may answer soon: false only while every circuit is open.
    fn is_reachable(&self) -> bool {
        true
    }
}
