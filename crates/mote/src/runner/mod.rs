//! The runner: drives [`mote_core`] and performs the actions that it asks for; journal first, then act.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::clock::{SharedClock, UnixMs};
use crate::config::Agent;
use crate::message::Message;
use crate::model::Delta;
use crate::store::{self, Owner, Store};

/// A task as a client asks for it, already parsed.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose it is.
    pub owner: Owner,
    /// Input, oldest first; not empty.
    pub input: Vec<Message>,
    /// Facts for this run that stand beside the input (JSON), shown to the model.
    pub context: Option<serde_json::Value>,
    /// Narrows the agent's per-run budget; never widens it.
    pub budget: crate::config::Bound,
    /// Narrows working time.
    pub active: Option<Duration>,
    /// Narrows wall time.
    pub expires: Option<Duration>,
    /// The client's idempotency key: route and key.
    pub idempotency: Option<(String, String)>,
    /// W3C trace context that came with the request.
    pub traceparent: Option<String>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The task's id.
    pub task: String,
    /// Whether this was a replay of an earlier request.
    pub replayed: bool,
}

/// Why a submission was refused.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too much to do: 503 with Retry-After.
    #[error("overloaded: {reason}")]
    Overloaded {
        /// Which limit.
        reason: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The process is shutting down: 503.
    #[error("the service is draining")]
    Draining,
    /// The request cannot be run as it is: 422 naming the field.
    #[error("{field}: {message}")]
    Invalid {
        /// JSON path of the field.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A live piece of a reply.
#[derive(Debug, Clone)]
pub struct Live {
    /// Model step.
    pub step: u32,
    /// Attempt within it.
    pub attempt: u32,
    /// The piece.
    pub delta: Delta,
}

/// A view of a run under way in this process.
pub struct LiveView {
    /// Step and attempt of the current text.
    pub step: u32,
    /// Attempt.
    pub attempt: u32,
    /// Text of the current attempt so far.
    pub text: String,
    /// What follows it.
    pub deltas: broadcast::Receiver<Live>,
}

/// The runner's handle: cheap to clone, shared by the API and the command line.
#[derive(Clone)]
pub struct Runner {
    agent: Arc<Agent>,
    store: Arc<dyn Store>,
    clock: SharedClock,
}

impl Runner {
    /// A stand-in until the driver lands: submits without running.
    #[must_use]
    pub fn new(agent: Arc<Agent>, store: Arc<dyn Store>, clock: SharedClock) -> Self {
        Self { agent, store, clock }
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        self.clock.now_ms()
    }

    /// Makes a task durable; it runs as soon as a place is free. With `at_once`, refuses as overloaded rather than queue
    /// (for `POST /run`).
    pub async fn submit(&self, submission: Submission, at_once: bool) -> Result<Accepted, SubmitError> {
        let _ = (submission, at_once);
        Err(SubmitError::Draining)
    }

    /// Cancels, answers or signals a task: durable when this returns.
    pub async fn post(&self, task: &str, mail: store::Mail) -> Result<(), store::Error> {
        self.store.post(task, mail, self.now()).await
    }

    /// The run's current text and the deltas that follow, if it is under way in this process.
    #[must_use]
    pub fn live(&self, task: &str) -> Option<LiveView> {
        let _ = task;
        None
    }

    /// Whether new work is refused because the process shuts down.
    #[must_use]
    pub fn draining(&self) -> bool {
        false
    }
}
