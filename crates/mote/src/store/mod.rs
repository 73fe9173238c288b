//! The store: the only durable writer. Its heart is [`Store::commit`]: one transaction or a typed refusal.
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

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
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
    /// Whether workers died that held it: it is tried alone, and the worker says so with [`Store::begin_trial`].
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
        let tries_again = |wait: &serde_json::Value| matches!(wait["kind"].as_str(), Some("model" | "retry"));
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

/// A durable store of runs. One conformance suite (`crates/system-tests/src/conformance`) holds for every backend.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes a task durable. With a known idempotency key it returns the first task instead.
    async fn submit(&self, task: NewTask) -> Result<Submitted, Error>;
    /// Claims up to `limit` tasks that are due: queued, woken (timer or mail) or with an expired lease; oldest first, never
    /// two of one session. Each claim raises the epoch. A task that was claimed [`crate::limits::CLAIMS_TOGETHER_MAX`] times
    /// without a commit is a suspect: it is handed out alone. One whose trials ended [`crate::limits::TRIALS_MAX`] times
    /// without a commit becomes a dead letter instead.
    async fn claim(&self, lease: Lease, now: UnixMs, limit: usize) -> Result<Vec<Claim>, Error>;
    /// The same for one task; nothing if it is not due.
    async fn claim_task(&self, task: &str, lease: Lease, now: UnixMs) -> Result<Option<Claim>, Error>;
    /// The worker begins with a suspect that it has claimed: if it ends before it commits, that counts against the task.
    async fn begin_trial(&self, task: &str, epoch: u64) -> Result<(), Error>;
    /// Says that this process is the worker, for as long as what is returned lives. Where the store can tell that a worker
    /// is dead, its leases end then, see [`Store::end_dead_leases`]; where it cannot, they run out.
    async fn attend(&self, worker: &str) -> Result<Presence, Error>;
    /// Ends the leases of workers that are known to be dead; returns how many.
    async fn end_dead_leases(&self, now: UnixMs) -> Result<u64, Error>;
    /// Extends leases; returns those tasks that the worker no longer holds.
    async fn renew(&self, worker: &str, held: &[(String, u64)], until: UnixMs) -> Result<Vec<String>, Error>;
    /// Gives a task back at a step boundary: claimable at once, its epoch unchanged until the next claim.
    async fn release(&self, task: &str, epoch: u64) -> Result<(), Error>;
    /// Applies a batch whole, or refuses it whole.
    async fn commit(&self, commit: Commit) -> Result<(), CommitError>;
    /// A task, if the tenant may see it (`None` sees all).
    async fn task(&self, tenant: Option<&str>, id: &str) -> Result<Option<Task>, Error>;
    /// A page of tasks without their requests, at most [`crate::limits::PAGE_MAX`] and ended after
    /// [`crate::limits::PAGE_BYTES`] of results; [`Error::Conflict`] for a cursor that no page gave.
    async fn list(&self, filter: Filter, cursor: Option<String>, limit: usize) -> Result<Page, Error>;
    /// Journal entries with `seq > after`, oldest first, at most [`crate::limits::PAGE_MAX`] and ended after
    /// [`crate::limits::PAGE_BYTES`] of payloads: an empty page is the end, a short one is not.
    async fn journal(&self, task: &str, after: u64, limit: usize) -> Result<Vec<Entry>, Error>;
    /// Leaves mail for a task; refused with [`Error::Conflict`] if it is terminal, with [`Error::Limit`] if it holds `most`
    /// unread ones of that kind. A queued task that gets [`Mail::Cancel`] becomes cancelled at once.
    async fn deliver(&self, task: &str, letter: Letter, now: UnixMs, most: usize) -> Result<(), Error>;
    /// [`Store::deliver`] of mail whose sender nobody knows.
    async fn post(&self, task: &str, mail: Mail, now: UnixMs, most: usize) -> Result<(), Error> {
        self.deliver(task, mail.into(), now, most).await
    }
    /// Unread mail, oldest first.
    async fn mail(&self, task: &str) -> Result<Vec<MailRow>, Error>;
    /// A session, if it exists.
    async fn session(&self, tenant: &str, id: &str) -> Result<Option<Session>, Error>;
    /// A page of sessions behind `after` (tenant and name), at most [`crate::limits::PAGE_MAX`].
    async fn sessions(
        &self,
        tenant: Option<&str>,
        user: Option<&str>,
        after: Option<(String, String)>,
        limit: usize,
    ) -> Result<SessionPage, Error>;
    /// The task at the head of a session: the oldest one that has not ended.
    async fn session_head(&self, tenant: &str, session: &str) -> Result<Option<Task>, Error>;
    /// The secret of that name, which every process of this store has alike; `fresh` becomes it if there is none yet.
    async fn secret(&self, name: &'static str, fresh: Vec<u8>) -> Result<Vec<u8>, Error>;
    /// Puts a task that failed or was cancelled back in the queue with a fresh journal; its old journal is kept under
    /// `<id>.<n>`. [`Error::Conflict`] for any other.
    async fn requeue(&self, task: &str, now: UnixMs) -> Result<(), Error>;
    /// Puts a task that failed or was cancelled back in the queue, to go on where its journal ends. [`Error::Conflict`] for any
    /// other.
    async fn resume(&self, task: &str, now: UnixMs) -> Result<(), Error>;
    /// What a task did through tools that change something, oldest first.
    async fn effects(&self, task: &str) -> Result<Vec<EffectRow>, Error>;
    /// Erases; returns how many tasks went. Refused with [`Error::Conflict`] while one of them runs.
    async fn erase(&self, what: Erase) -> Result<u64, Error>;
    /// Removes terminal tasks finished before `before`, at most `limit`, with the blobs that nobody uses then, and at most
    /// `limit` expired keys; says how many went.
    async fn sweep(&self, before: UnixMs, now: UnixMs, limit: usize) -> Result<Swept, Error>;
    /// Outbox messages that are due, oldest first.
    async fn outbox(&self, now: UnixMs, limit: usize) -> Result<Vec<(i64, OutboxMessage)>, Error>;
    /// A message was delivered (`retry_at: None`) or is to be tried again.
    async fn outbox_done(&self, row: i64, retry_at: Option<UnixMs>) -> Result<(), Error>;
    /// The sandbox of a session or a task.
    async fn sandbox(&self, scope: &SandboxScope) -> Result<Option<SandboxRow>, Error>;
    /// Enters a sandbox before it is made, so that none is made twice or forgotten; where the owner has one that is not to
    /// be replaced, that one is the answer. What ends or erases its owner leaves it to [`Store::sandboxes_due`].
    async fn enter_sandbox(&self, new: NewSandbox) -> Result<SandboxRow, Error>;
    /// Changes a sandbox's row; one that is no more is left alone.
    async fn change_sandbox(&self, row: i64, change: SandboxChange) -> Result<(), Error>;
    /// Sandboxes that are to be given back by `now`, the longest due first.
    async fn sandboxes_due(&self, now: UnixMs, limit: usize) -> Result<Vec<SandboxRow>, Error>;
    /// What a shared budget has spent and reserved in its window; `None` where the backend does not say.
    async fn taken(&self, line: &BudgetLine) -> Result<Option<Amount>, Error> {
        let _ = line;
        Ok(None)
    }
    /// Numbers for metrics and admission.
    async fn counts(&self) -> Result<Counts, Error>;
    /// A consistent copy while the store is in use.
    async fn backup(&self, to: &Path) -> Result<(), Error>;
    /// Whether it can be written now; bounded by `timeout`.
    async fn ping(&self, timeout: Duration) -> Result<(), Error>;
    /// Tells when a task changed (commit or mail) in this process. The receiver reads the store from its cursor; another
    /// process's changes are seen only by reading again.
    fn subscribe(&self, task: &str) -> tokio::sync::watch::Receiver<u64>;
    /// Tells when there may be work to claim in this process.
    fn work(&self) -> std::sync::Arc<tokio::sync::Notify>;
}
