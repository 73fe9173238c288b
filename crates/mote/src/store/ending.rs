//! The one way in which a task ends, whoever ends it: a worker that drove its run to the end, a client that cancels one that
//! never ran, or a backend that gives one up. Status and error of an end are decided here or by the core's outcome; what else
//! an end brings about is one function of each backend.
//!
//! It writes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::{OutboxMessage, Owner, Status, Task, TaskError};
use crate::clock::UnixMs;
use crate::limits::TRIALS_MAX;

/// How a task ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Completed, failed or cancelled.
    pub status: Status,
    /// Result (JSON).
    pub result: Option<String>,
    /// Error.
    pub error: Option<TaskError>,
    /// Whether it goes to the dead letters.
    pub dead: bool,
}

impl End {
    /// A client cancels a task that never ran.
    #[must_use]
    pub fn cancelled_in_queue() -> Self {
        Self { status: Status::Cancelled, result: None, error: None, dead: false }
    }

    /// Too many workers died on a task that had nothing else to do.
    #[must_use]
    pub fn dead_letter() -> Self {
        let message = format!(
            "{TRIALS_MAX} workers in a row took the task up alone and ended before they had got on with it (limit TRIALS_MAX); \
             resume it, or run it anew"
        );
        Self::broken(TaskError { code: "dead_letter".to_owned(), message })
    }

    /// A task that cannot go on, for a reason that is not its run's.
    #[must_use]
    pub fn broken(error: TaskError) -> Self {
        Self { status: Status::Failed, result: None, error: Some(error), dead: true }
    }
}

/// What an end comes to, told once it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Completed, failed or cancelled.
    pub status: Status,
    /// Whether it went to the dead letters.
    pub dead: bool,
    /// From submission to end.
    pub lived: Duration,
}

/// Is told of every end that this process made durable, on the writer's thread: it must be quick.
pub type EndObserver = Arc<dyn Fn(Ended) + Send + Sync>;

/// A call of which nobody knows whether it was performed, of a task that is given up.
#[derive(Debug)]
pub struct UnknownEffect<'a> {
    /// The task.
    pub task: &'a str,
    /// Whose it is.
    pub owner: &'a Owner,
    /// Times that the task was run anew or resumed before.
    pub lives: u32,
    /// The model step that asked for it.
    pub step: u32,
    /// The call's id, as the model gave it.
    pub call: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// Payloads of the journal's replies, the newest first.
    pub replies: &'a [String],
}

/// Words what sinks are told. A backend asks it in the transaction of what it tells, and keeps the message in its outbox.
pub trait Announcer: Send + Sync + 'static {
    /// A task ended.
    fn ended(&self, task: &Task, now: UnixMs) -> OutboxMessage;
    /// The outcome of a call is not known.
    fn outcome_unknown(&self, unknown: &UnknownEffect<'_>, now: UnixMs) -> OutboxMessage;
}
