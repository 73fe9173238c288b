//! Tools: what an agent may do, each with a schema, a timeout, an output bound and an effect class.
//!
//! A tool performs one attempt and says what is known about it. Retrying is not done here: the core decides it from
//! the effect class.

pub mod builtin;
pub mod config;
pub mod http;
pub mod key;
mod lease;
pub mod policy;
pub mod registry;
pub mod sandbox;
pub mod validation;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use lease::{LeaseGuard, LeaseLost, SendError};

use crate::clock::UnixMs;
use crate::model::ToolDefinition;

/// What repeating a call means (DESIGN.md, "Tools").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// May be retried and repeated freely.
    Read,
    /// Retried with the same key, within the backend's key lifetime.
    Idempotent,
    /// Never retried automatically once it may have reached the backend.
    Write,
}

/// One attempt at one call.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The run.
    pub task: String,
    /// Whose it is.
    pub tenant: String,
    /// The session that it is a turn of.
    pub session: Option<String>,
    /// The provider's id of the call.
    pub call_id: String,
    /// The idempotency key: the same for every attempt at this call, another for any other call.
    pub key: String,
    /// Validated arguments.
    pub arguments: serde_json::Value,
    /// The attempt, from 1.
    pub attempt: u32,
    /// W3C `traceparent`, if tracing is on.
    pub traceparent: Option<String>,
    /// Whether the worker still holds the task: asked again directly before a request goes out.
    pub lease: LeaseGuard,
}

/// A tool's answer, good or bad: both are shown to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Text for the model: JSON or plain, within the tool's output bound.
    pub content: String,
    /// Whether the backend refused (a 4xx, a failed command): final, not retried.
    pub is_error: bool,
    /// What the call spent, where the tool spends.
    pub spend: mote_core::Spend,
}

impl Output {
    /// An answer that cost nothing.
    #[must_use]
    pub fn free(content: impl Into<String>, is_error: bool) -> Self {
        Self { content: content.into(), is_error, spend: mote_core::Spend::default() }
    }
}

/// How far an attempt came.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It is over.
    Answered(Output),
    /// It goes on by itself, or cannot go on before somebody answers: nobody need hold it.
    Suspended(Suspension),
}

impl From<Output> for Progress {
    fn from(output: Output) -> Self {
        Self::Answered(output)
    }
}

/// What a suspended attempt waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A person's yes or no.
    Approval,
    /// A person's answer.
    Input,
    /// The backend's own work.
    Remote,
}

/// An attempt that nobody holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspension {
    /// What it waits for.
    pub wait: Wait,
    /// For a person, when to give up; for work elsewhere, when to ask after it. Without one, never.
    pub until: Option<UnixMs>,
    /// What the backend asks, for the person.
    pub asks: Option<serde_json::Value>,
    /// What the tool needs to go on, on any worker: a remote task's id. It stands in the journal: no secret.
    pub state: serde_json::Value,
}

/// Why a suspended attempt goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumption {
    /// What the tool left when it was suspended.
    pub state: serde_json::Value,
    /// What the person said, where one was asked.
    pub answer: Option<Answer>,
}

/// What a person said to a backend.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Yes.
    Approved,
    /// No, with the reason if one was given.
    Denied(Option<serde_json::Value>),
    /// An answer.
    Said(serde_json::Value),
}

/// What is known of an attempt that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The backend was never reached: nothing happened there.
    NotSent,
    /// The backend said that it did nothing and may be asked again (429, 503 with Retry-After).
    Refused,
    /// The request may have reached the backend (timeout, reset, 5xx): what happened is not known.
    Unknown,
    /// The policy forbids the call (host not allowed, private address): final.
    Forbidden,
}

/// An attempt that gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("failed to call tool {tool}: {message}")]
pub struct Failure {
    /// What is known.
    pub kind: FailureKind,
    /// The tool.
    pub tool: String,
    /// What happened; never contains a secret.
    pub message: String,
    /// How long the backend asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// A tool that an agent is bound to.
#[async_trait]
pub trait Tool: Send + Sync + 'static {
    /// What the model sees.
    fn definition(&self) -> &ToolDefinition;
    /// The effect class.
    fn effect(&self) -> Effect;
    /// Bound on one attempt.
    fn timeout(&self) -> Duration;
    /// How long the backend remembers an idempotency key; `None` is for ever.
    fn key_ttl(&self) -> Option<Duration>;
    /// Whether a person must approve each call.
    fn needs_approval(&self) -> bool;
    /// Digest of the binding (name, version, schema, target, effect): a pending call whose digest changed is not resumed.
    fn digest(&self) -> [u8; 32];
    /// What one attempt may spend at most: reserved before it is made, beside what the model's own calls reserve. Nothing for a
    /// tool that is free.
    fn spends(&self) -> mote_core::Spend {
        mote_core::Spend::default()
    }
    /// Performs one attempt. The caller bounds it by [`Tool::timeout`] and may drop it.
    async fn call(&self, invocation: Invocation) -> Result<Progress, Failure>;
    /// Goes on with an attempt that was suspended, on whatever worker holds the run now.
    async fn resume(&self, invocation: Invocation, resumption: Resumption) -> Result<Progress, Failure> {
        let _ = resumption;
        let tool = self.definition().name.clone();
        let message = format!("attempt {} was suspended, and this tool suspends none", invocation.attempt);
        Err(Failure { kind: FailureKind::Unknown, tool, message, retry_after: None })
    }
}
