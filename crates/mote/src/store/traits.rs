//! The store's traits, one a concern, under one transaction: a backend is all of them. One conformance suite
//! (`crates/system-tests/src/conformance`) holds for every backend.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Amount, BudgetLine, Claim, Commit, CommitError, Counts, EffectRow, Entry, Erase, Error, Filter, Lease, Letter,
    Mail, MailRow, NewSandbox, NewTask, OutboxMessage, Page, Presence, SandboxChange, SandboxRow, SandboxScope,
    Session, SessionPage, Submitted, Swept, Task,
};
use crate::clock::UnixMs;

/// What is read of tasks: all that a replay needs.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// A task, if the tenant may see it (`None` sees all).
    async fn task(&self, tenant: Option<&str>, id: &str) -> Result<Option<Task>, Error>;
    /// A page of tasks without their requests, at most [`crate::limits::PAGE_MAX`] and ended after
    /// [`crate::limits::PAGE_BYTES`] of results; [`Error::Conflict`] for a cursor that no page gave.
    async fn list(&self, filter: Filter, cursor: Option<String>, limit: usize) -> Result<Page, Error>;
    /// Journal entries with `seq > after`, oldest first, at most [`crate::limits::PAGE_MAX`] and ended after
    /// [`crate::limits::PAGE_BYTES`] of payloads: an empty page is the end, a short one is not.
    async fn journal(&self, task: &str, after: u64, limit: usize) -> Result<Vec<Entry>, Error>;
    /// What a task did through tools that change something, oldest first.
    async fn effects(&self, task: &str) -> Result<Vec<EffectRow>, Error>;
}

/// The heart: one transaction of a run, or a typed refusal.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Applies a batch whole, or refuses it whole.
    async fn commit(&self, commit: Commit) -> Result<(), CommitError>;
}

/// Who works on what, and until when.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
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
    /// is dead, its leases end then, see [`Queue::end_dead_leases`]; where it cannot, they run out.
    async fn attend(&self, worker: &str) -> Result<Presence, Error>;
    /// Ends the leases of workers that are known to be dead; returns how many.
    async fn end_dead_leases(&self, now: UnixMs) -> Result<u64, Error>;
    /// Extends leases; returns those tasks that the worker no longer holds.
    async fn renew(&self, worker: &str, held: &[(String, u64)], until: UnixMs) -> Result<Vec<String>, Error>;
    /// Gives a task back at a step boundary: claimable at once, its epoch unchanged until the next claim.
    async fn release(&self, task: &str, epoch: u64) -> Result<(), Error>;
    /// Puts a task that failed or was cancelled back in the queue with a fresh journal; its old journal is kept under
    /// `<id>.<n>`. [`Error::Conflict`] for any other.
    async fn requeue(&self, task: &str, now: UnixMs) -> Result<(), Error>;
    /// Puts a task that failed or was cancelled back in the queue, to go on where its journal ends. [`Error::Conflict`] for any
    /// other.
    async fn resume(&self, task: &str, now: UnixMs) -> Result<(), Error>;
}

/// What clients tell tasks.
#[async_trait]
pub trait Mailbox: Send + Sync + 'static {
    /// Leaves mail for a task; refused with [`Error::Conflict`] if it is terminal, with [`Error::Limit`] if it holds `most`
    /// unread ones of that kind. A queued task that gets [`Mail::Cancel`] becomes cancelled at once.
    async fn deliver(&self, task: &str, letter: Letter, now: UnixMs, most: usize) -> Result<(), Error>;
    /// [`Mailbox::deliver`] of mail whose sender nobody knows.
    async fn post(&self, task: &str, mail: Mail, now: UnixMs, most: usize) -> Result<(), Error> {
        self.deliver(task, mail.into(), now, most).await
    }
    /// Unread mail, oldest first.
    async fn mail(&self, task: &str) -> Result<Vec<MailRow>, Error>;
}

/// Conversations across tasks.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
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
}

/// What tasks tell sinks.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Outbox messages that are due, oldest first.
    async fn outbox(&self, now: UnixMs, limit: usize) -> Result<Vec<(i64, OutboxMessage)>, Error>;
    /// A message was delivered (`retry_at: None`) or is to be tried again.
    async fn outbox_done(&self, row: i64, retry_at: Option<UnixMs>) -> Result<(), Error>;
}

/// What shared budgets have spent.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// What a shared budget has spent and reserved in its window; `None` where the backend does not say.
    async fn taken(&self, line: &BudgetLine) -> Result<Option<Amount>, Error> {
        let _ = line;
        Ok(None)
    }
}

/// The sandboxes that the agent works in: whose they are, and which are to be given back.
#[async_trait]
pub trait Sandboxes: Send + Sync + 'static {
    /// The sandbox of a session or a task.
    async fn sandbox(&self, scope: &SandboxScope) -> Result<Option<SandboxRow>, Error>;
    /// Enters a sandbox before it is made, so that none is made twice or forgotten; where the owner has one that is not to
    /// be replaced, that one is the answer. What ends or erases its owner leaves it to [`Sandboxes::sandboxes_due`].
    async fn enter_sandbox(&self, new: NewSandbox) -> Result<SandboxRow, Error>;
    /// Changes a sandbox's row; one that is no more is left alone.
    async fn change_sandbox(&self, row: i64, change: SandboxChange) -> Result<(), Error>;
    /// Sandboxes that are to be given back by `now`, the longest due first.
    async fn sandboxes_due(&self, now: UnixMs, limit: usize) -> Result<Vec<SandboxRow>, Error>;
}

/// What an operator asks of a store, and the service of itself.
#[async_trait]
pub trait Upkeep: Send + Sync + 'static {
    /// Erases; returns how many tasks went. Refused with [`Error::Conflict`] while one of them runs.
    async fn erase(&self, what: Erase) -> Result<u64, Error>;
    /// Removes terminal tasks finished before `before`, at most `limit`, with the blobs that nobody uses then, and at most
    /// `limit` expired keys; says how many went.
    async fn sweep(&self, before: UnixMs, now: UnixMs, limit: usize) -> Result<Swept, Error>;
    /// The secret of that name, which every process of this store has alike; `fresh` becomes it if there is none yet.
    async fn secret(&self, name: &'static str, fresh: Vec<u8>) -> Result<Vec<u8>, Error>;
    /// Numbers for metrics and admission.
    async fn counts(&self) -> Result<Counts, Error>;
    /// A consistent copy while the store is in use.
    async fn backup(&self, to: &Path) -> Result<(), Error>;
    /// Whether it can be written now; bounded by `timeout`.
    async fn ping(&self, timeout: Duration) -> Result<(), Error>;
}

/// What changed in this process.
pub trait Notifier: Send + Sync + 'static {
    /// Tells when a task changed (commit or mail) in this process. The receiver reads the store from its cursor; another
    /// process's changes are seen only by reading again.
    fn subscribe(&self, task: &str) -> tokio::sync::watch::Receiver<u64>;
    /// Tells when there may be work to claim in this process.
    fn work(&self) -> std::sync::Arc<tokio::sync::Notify>;
}

/// A durable store of runs.
pub trait Store:
    Records + Journal + Queue + Mailbox + Sessions + Outbox + Ledger + Sandboxes + Upkeep + Notifier
{
}

impl<T> Store for T where
    T: Records + Journal + Queue + Mailbox + Sessions + Outbox + Ledger + Sandboxes + Upkeep + Notifier
{
}
