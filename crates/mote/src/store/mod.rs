//! The store: the only durable writer. Its heart is [`Journal::commit`]: one transaction or a typed refusal.
//!
//! A backend knows rows, epochs and sequence numbers. It does not know what an event means: records and payloads are
//! opaque to it.

mod batch;
mod ending;
mod error;
mod letter;
mod life;
mod listing;
mod presence;
mod sandbox;
pub mod sqlite;
mod traits;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::batch::{
    Account, Amount, Batch, BudgetLine, BudgetOp, Commit, EffectOp, NewEntry, OutboxMessage, SessionTurn, Spender,
    Spending, StatusChange, Totals, Uncertain,
};
pub use self::ending::{Announcer, End, EndObserver, Ended, UnknownEffect};
pub use self::error::{CommitError, Error};
pub use self::letter::{By, Letter};
pub use self::life::{EffectRow, named_life};
pub use self::listing::{Filter, Page, SessionPage};
pub use self::presence::Presence;
pub use self::sandbox::{NewSandbox, SandboxChange, SandboxRow, SandboxScope};
pub use self::traits::{
    Journal, Ledger, Mailbox, Notifier, Outbox, Queue, Records, Sandboxes, Sessions, Store, Upkeep,
};
use crate::clock::UnixMs;
use crate::message::Message;
use crate::usage::Usage;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Durable, not yet claimed.
    Queued,
    /// Under way.
    Running,
    /// Every outstanding call is a wait: for a person, a signal or a time.
    Waiting,
    /// Finished with a result.
    Completed,
    /// Finished with an error.
    Failed,
    /// Cancelled by a client.
    Cancelled,
}

impl Status {
    /// Whether nothing will change any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The status as it stands in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A stable error: a code from `docs/errors.md` and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskError {
    /// Stable, documented.
    pub code: String,
    /// For a person.
    pub message: String,
}

/// Who a task belongs to: columns everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Tenant; empty is the default tenant.
    pub tenant: String,
    /// User within the tenant.
    pub user: Option<String>,
    /// Session: its tasks run one at a time.
    pub session: Option<String>,
    /// Free labels, at most [`crate::limits::LABELS_MAX`].
    pub labels: BTreeMap<String, String>,
}

/// A task to be made durable.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Its id, made by the caller.
    pub id: String,
    /// Whose it is.
    pub owner: Owner,
    /// The request as accepted (JSON): input, context, budget, active, expires.
    pub request: String,
    /// Submission time.
    pub now: UnixMs,
    /// Wall time after which it is no longer worth running.
    pub expires_at: Option<UnixMs>,
    /// Replays of the same request within the key's life answer with the first task.
    pub idempotency: Option<IdempotencyKey>,
    /// Claim it in the same transaction (epoch 1) for this worker, if its session is free.
    pub claim: Option<Lease>,
    /// First commit, in the same transaction; only with `claim`, and only applied if the claim succeeded.
    pub first: Option<Batch>,
    /// Refuse it with [`Error::SessionBusy`] where the task at the head of its session waits, or where so many open tasks
    /// are in the session already. `None` queues it in any case.
    pub turn_within: Option<u64>,
}

/// A client's promise that two requests are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The route, e.g. `POST /tasks`.
    pub route: String,
    /// The key.
    pub key: String,
    /// SHA-256 of the canonical request: the same key with another fingerprint is refused.
    pub fingerprint: [u8; 32],
    /// When the key is forgotten.
    pub expires_at: UnixMs,
}

/// Who holds a task, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The worker.
    pub worker: String,
    /// Wall time at which anybody else may claim it.
    pub until: UnixMs,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// Durable; `epoch` is set if it was claimed at once.
    Created {
        /// Epoch of the claim.
        epoch: Option<u64>,
    },
    /// The key was used before with the same fingerprint: this is that task.
    Replayed {
        /// The first task's id.
        task: String,
    },
}

/// A claimed task.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The task as it stands.
    pub task: Task,
    /// The fencing epoch of this attempt.
    pub epoch: u64,
    /// Whether workers died that held it: it is tried alone, and the worker says so with [`Queue::begin_trial`].
    pub suspect: bool,
}

/// A task's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Id.
    pub id: String,
    /// Whose it is.
    pub owner: Owner,
    /// Where it stands.
    pub status: Status,
    /// The request as accepted (JSON); empty in a listing, which does not read it.
    pub request: String,
    /// Fencing epoch of the last claim; 0 before the first.
    pub epoch: u64,
    /// Sequence number of the last journal entry; 0 before the first.
    pub seq: u64,
    /// Result (JSON), once completed.
    pub result: Option<String>,
    /// Error, once failed.
    pub error: Option<TaskError>,
    /// What it waits for, while waiting (JSON: a list of waits; the runner writes it).
    pub waiting: Option<String>,
    /// Whether it stands in the dead letters.
    pub dead: bool,
    /// Tokens so far, of calls whose cost is known.
    pub usage: Usage,
    /// Known cost so far, nano-USD.
    pub cost_nano_usd: u64,
    /// What calls may have cost of which nobody said it.
    pub uncertain: Uncertain,
    /// Times that it was run anew, or resumed, after it had ended.
    pub lives: u32,
    /// Of these, how often it was run anew.
    pub requeues: u32,
    /// Whether it is held back since the store was restored from a backup.
    pub held: bool,
    /// Model steps so far.
    pub steps: u32,
    /// Tool calls so far.
    pub tool_calls: u32,
    /// Submitted.
    pub created_at: UnixMs,
    /// First claimed.
    pub started_at: Option<UnixMs>,
    /// Last commit.
    pub updated_at: UnixMs,
    /// Terminal.
    pub finished_at: Option<UnixMs>,
    /// Wall-time limit.
    pub expires_at: Option<UnixMs>,
}

impl Task {
    /// Whether it waits for a person, a signal or a time: only that ends such a rest. A pause before a model or a tool is
    /// tried again is none.
    #[must_use]
    pub fn rests(&self) -> bool {
        let waits = self.waiting.as_deref().and_then(|json| serde_json::from_str::<Vec<serde_json::Value>>(json).ok());
        let tries_again =
            |wait: &serde_json::Value| matches!(wait["kind"].as_str(), Some("model" | "retry" | "remote"));
        self.status == Status::Waiting && !waits.is_some_and(|all| !all.is_empty() && all.iter().all(tries_again))
    }
}

/// One journal entry as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position, from 1, without gaps.
    pub seq: u64,
    /// Epoch that wrote it.
    pub epoch: u64,
    /// When.
    pub at: UnixMs,
    /// Event kind.
    pub kind: String,
    /// The core's record.
    pub record: Vec<u8>,
    /// Payload (JSON).
    pub payload: Option<String>,
}

/// What a client tells a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mail {
    /// Stop.
    Cancel,
    /// An answer to an approval or to a question.
    Input {
        /// The call that asked; `None` answers the oldest open one.
        call: Option<String>,
        /// For an approval: granted or not.
        approve: Option<bool>,
        /// For a question: the answer (JSON).
        content: Option<serde_json::Value>,
    },
    /// A named signal.
    Signal {
        /// Its name.
        name: String,
        /// What it carries (JSON).
        payload: serde_json::Value,
    },
}

/// Mail as read.
#[derive(Debug, Clone, PartialEq)]
pub struct MailRow {
    /// Row id, consumed by a commit.
    pub id: i64,
    /// When it was posted.
    pub at: UnixMs,
    /// What it says.
    pub mail: Mail,
    /// Who says it, if that is known.
    pub by: Option<By>,
}

/// A session's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Its name.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// User of its first task.
    pub user: Option<String>,
    /// Transcript across turns, oldest first, at most the newest [`crate::limits::CONTEXT_UNITS`] messages.
    pub messages: Vec<Message>,
    /// Finished turns.
    pub turns: u64,
    /// The task under way, if any.
    pub active_task: Option<String>,
    /// Tokens of all its tasks, of calls whose cost is known.
    pub usage: Usage,
    /// Known cost of all its tasks, nano-USD.
    pub cost_nano_usd: u64,
    /// What calls of its tasks may have cost of which nobody said it.
    pub uncertain: Uncertain,
    /// First and last use.
    pub created_at: UnixMs,
    /// Last use.
    pub updated_at: UnixMs,
}

/// What erasure removes: tasks, journals, payloads, and with a session or a user its transcript and ledger rows. The ledger
/// rows of a single task stay, without user, session and labels: what was spent still adds up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erase {
    /// A session of a tenant.
    Session {
        /// Tenant.
        tenant: String,
        /// Session.
        session: String,
    },
    /// A user of a tenant.
    User {
        /// Tenant.
        tenant: String,
        /// User.
        user: String,
    },
    /// One task.
    Task {
        /// Its tenant; `None` is any.
        tenant: Option<String>,
        /// Its id.
        task: String,
        /// When: what stays in the ledger is kept from then on for the retention.
        now: UnixMs,
    },
}

/// What one sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tasks.
    pub tasks: u64,
    /// Idempotency keys.
    pub keys: u64,
}

/// What a store that was restored from a backup holds back: unfinished tasks, and messages that were not sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Tasks that had not begun.
    pub queued: u64,
    /// Tasks that were under way.
    pub running: u64,
    /// Tasks that waited.
    pub waiting: u64,
    /// Messages for sinks.
    pub messages: u64,
}

impl Held {
    /// Tasks in all.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        self.queued + self.running + self.waiting
    }
}

/// Numbers for metrics and for admission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks in each state.
    pub queued: u64,
    /// Running.
    pub running: u64,
    /// Waiting.
    pub waiting: u64,
    /// Dead letters.
    pub dead: u64,
    /// Outbox messages not yet sent.
    pub outbox: u64,
}
