//! The store's traits for SQLite: each call goes to the writer or to a reader, and what it does is in the module of its name.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch as channel};

use super::commit::Prepared;
use super::reader::Readers;
use super::submit::Submission;
use super::writer::{self, WhenFull};
use super::{
    SqliteStore, backup, budget, claim, commit, connection, encode, list, lives, mail, sandbox, schema, session, sweep,
    workers,
};
use crate::clock::UnixMs;
use crate::limits::{STORE_GROUP, STORE_WRITE_FRESH};
use crate::store::{
    Amount, BudgetLine, Claim, Commit, CommitError, Counts, EffectRow, Entry, Erase, Error, Filter, Journal, Lease,
    Ledger, Letter, MailRow, Mailbox, NewSandbox, NewTask, Notifier, Outbox, OutboxMessage, Page, Presence, Queue,
    Records, SandboxChange, SandboxRow, SandboxScope, Sandboxes, Session, SessionPage, Sessions, Submitted, Swept,
    Task, Upkeep,
};

#[async_trait]
impl Records for SqliteStore {
    async fn task(&self, tenant: Option<&str>, id: &str) -> Result<Option<Task>, Error> {
        let (tenant, id) = (tenant.map(str::to_owned), id.to_owned());
        self.readers.run("read a task", move |connection| list::task(connection, tenant.as_deref(), &id)).await
    }

    async fn list(&self, filter: Filter, cursor: Option<String>, limit: usize) -> Result<Page, Error> {
        self.readers
            .run("list tasks", move |connection| list::list(connection, &filter, cursor.as_deref(), limit))
            .await
    }

    async fn journal(&self, task: &str, after: u64, limit: usize) -> Result<Vec<Entry>, Error> {
        let task = task.to_owned();
        self.readers.run("read a journal", move |connection| list::journal(connection, &task, after, limit)).await
    }

    async fn effects(&self, task: &str) -> Result<Vec<EffectRow>, Error> {
        let task = task.to_owned();
        self.readers.run("read effects", move |connection| lives::effects(connection, &task)).await
    }
}

#[async_trait]
impl Journal for SqliteStore {
    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        let prepared = Prepared::new(&commit.batch)?;
        self.writer.run("commit", WhenFull::Wait, move |tx| commit::apply(tx, &commit, &prepared)).await
    }
}

#[async_trait]
impl Queue for SqliteStore {
    async fn submit(&self, task: NewTask) -> Result<Submitted, Error> {
        let submission = Submission::new(task)?;
        self.writer.run("submit a task", WhenFull::Refuse, move |tx| submission.apply(tx)).await
    }

    async fn claim(&self, lease: Lease, now: UnixMs, limit: usize) -> Result<Vec<Claim>, Error> {
        let limit = limit.min(STORE_GROUP);
        self.writer.run("claim tasks", WhenFull::Wait, move |tx| claim::claim(tx, &lease, now, limit)).await
    }

    async fn claim_task(&self, task: &str, lease: Lease, now: UnixMs) -> Result<Option<Claim>, Error> {
        let task = task.to_owned();
        self.writer.run("claim a task", WhenFull::Wait, move |tx| claim::claim_task(tx, &task, &lease, now)).await
    }

    async fn begin_trial(&self, task: &str, epoch: u64) -> Result<(), Error> {
        let task = task.to_owned();
        self.writer.run("begin a trial", WhenFull::Wait, move |tx| claim::begin_trial(tx, &task, epoch)).await
    }

    async fn attend(&self, worker: &str) -> Result<Presence, Error> {
        const DOING: &str = "note a worker";
        let (folder, worker) = (workers::folder(&self.settings.path), worker.to_owned());
        self.readers.run(DOING, move |_| workers::done(DOING, workers::attend(&folder, &worker))).await
    }

    async fn end_dead_leases(&self, now: UnixMs) -> Result<u64, Error> {
        const DOING: &str = "look for dead workers";
        let folder = workers::folder(&self.settings.path);
        // On a reader's thread, which is there anyway.
        let dead = self.readers.run(DOING, move |_| workers::done(DOING, workers::dead(&folder))).await?;
        if dead.is_empty() {
            return Ok(0);
        }
        let names: Vec<String> = dead.iter().map(|(name, _)| name.clone()).collect();
        let work = move |tx: &mut writer::Tx<'_>| workers::end_leases(tx, &names, now);
        let ended = self.writer.run("end a dead worker's leases", WhenFull::Wait, work).await?;
        // Only now: until the leases have ended, the next look must find it again.
        self.readers.run(DOING, move |_| workers::done(DOING, workers::forget(dead))).await?;
        Ok(ended)
    }

    async fn renew(&self, worker: &str, held: &[(String, u64)], until: UnixMs) -> Result<Vec<String>, Error> {
        let mut lost = Vec::new();
        // In pieces, so that ten thousand leases do not hold up everybody's commits.
        for piece in held.chunks(STORE_GROUP) {
            let (worker, piece) = (worker.to_owned(), piece.to_vec());
            let work = move |tx: &mut writer::Tx<'_>| claim::renew(tx, &worker, &piece, until);
            let mut gone: Vec<String> = self.writer.run("renew leases", WhenFull::Wait, work).await?;
            lost.append(&mut gone);
        }
        Ok(lost)
    }

    async fn release(&self, task: &str, epoch: u64) -> Result<(), Error> {
        let task = task.to_owned();
        self.writer.run("release a task", WhenFull::Wait, move |tx| claim::release(tx, &task, epoch)).await
    }

    async fn requeue(&self, task: &str, now: UnixMs) -> Result<(), Error> {
        let task = task.to_owned();
        self.writer.run("requeue a task", WhenFull::Refuse, move |tx| lives::rerun(tx, &task, now)).await
    }

    async fn resume(&self, task: &str, now: UnixMs) -> Result<(), Error> {
        let task = task.to_owned();
        self.writer.run("resume a task", WhenFull::Refuse, move |tx| lives::resume(tx, &task, now)).await
    }
}

#[async_trait]
impl Mailbox for SqliteStore {
    async fn deliver(&self, task: &str, letter: Letter, now: UnixMs, most: usize) -> Result<(), Error> {
        let body = encode("post mail", &letter)?;
        let task = task.to_owned();
        let work = move |tx: &mut writer::Tx<'_>| mail::post(tx, &task, &letter.mail, &body, now, most);
        self.writer.run("post mail", WhenFull::Refuse, work).await
    }

    async fn mail(&self, task: &str) -> Result<Vec<MailRow>, Error> {
        let task = task.to_owned();
        self.readers.run("read mail", move |connection| mail::unread(connection, &task)).await
    }
}

#[async_trait]
impl Sessions for SqliteStore {
    async fn session(&self, tenant: &str, id: &str) -> Result<Option<Session>, Error> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.readers.run("read a session", move |connection| session::read(connection, &tenant, &id)).await
    }

    async fn sessions(
        &self,
        tenant: Option<&str>,
        user: Option<&str>,
        after: Option<(String, String)>,
        limit: usize,
    ) -> Result<SessionPage, Error> {
        let (tenant, user) = (tenant.map(str::to_owned), user.map(str::to_owned));
        let read = move |connection: &_| session::list(connection, tenant.as_deref(), user.as_deref(), after, limit);
        self.readers.run("list sessions", read).await
    }

    async fn session_head(&self, tenant: &str, session: &str) -> Result<Option<Task>, Error> {
        let (tenant, id) = (tenant.to_owned(), session.to_owned());
        self.readers.run("read a session", move |connection| session::head(connection, &tenant, &id)).await
    }
}

#[async_trait]
impl Outbox for SqliteStore {
    async fn outbox(&self, now: UnixMs, limit: usize) -> Result<Vec<(i64, OutboxMessage)>, Error> {
        self.readers.run("read the outbox", move |connection| mail::outbox(connection, now, limit)).await
    }

    async fn outbox_done(&self, row: i64, retry_at: Option<UnixMs>) -> Result<(), Error> {
        let work = move |tx: &mut writer::Tx<'_>| mail::outbox_done(tx, row, retry_at);
        self.writer.run("update the outbox", WhenFull::Wait, work).await
    }
}

#[async_trait]
impl Ledger for SqliteStore {
    async fn taken(&self, line: &BudgetLine) -> Result<Option<Amount>, Error> {
        let line = line.clone();
        self.readers.run("read a budget", move |connection| budget::taken(connection, &line).map(Some)).await
    }
}

#[async_trait]
impl Sandboxes for SqliteStore {
    async fn sandbox(&self, scope: &SandboxScope) -> Result<Option<SandboxRow>, Error> {
        let scope = scope.clone();
        self.readers.run("read a sandbox's row", move |connection| sandbox::of(connection, &scope)).await
    }

    async fn enter_sandbox(&self, new: NewSandbox) -> Result<SandboxRow, Error> {
        self.writer.run("enter a sandbox", WhenFull::Wait, move |tx| sandbox::enter(tx, &new)).await
    }

    async fn change_sandbox(&self, row: i64, change: SandboxChange) -> Result<(), Error> {
        self.writer.run("update a sandbox", WhenFull::Wait, move |tx| sandbox::change(tx, row, &change)).await
    }

    async fn sandboxes_due(&self, now: UnixMs, limit: usize) -> Result<Vec<SandboxRow>, Error> {
        self.readers.run("read sandboxes", move |connection| sandbox::due(connection, now, limit)).await
    }
}

#[async_trait]
impl Upkeep for SqliteStore {
    async fn erase(&self, what: Erase) -> Result<u64, Error> {
        self.writer.run("erase", WhenFull::Refuse, move |tx| sweep::erase(tx, &what)).await
    }

    async fn sweep(&self, before: UnixMs, now: UnixMs, limit: usize) -> Result<Swept, Error> {
        self.writer.run("sweep", WhenFull::Wait, move |tx| sweep::sweep(tx, before, now, limit)).await
    }

    async fn secret(&self, name: &'static str, fresh: Vec<u8>) -> Result<Vec<u8>, Error> {
        let work = move |tx: &mut writer::Tx<'_>| {
            let insert = "INSERT INTO secrets (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            tx.connection.prepare_cached(insert)?.execute((name, &fresh))?;
            let mut query = tx.connection.prepare_cached("SELECT value FROM secrets WHERE name = ?1")?;
            Ok(query.query_row([name], |row| row.get(0))?)
        };
        self.writer.run("make a secret", WhenFull::Refuse, work).await
    }

    async fn counts(&self) -> Result<Counts, Error> {
        self.readers.run("read counts", list::counts).await
    }

    async fn backup(&self, to: &Path) -> Result<(), Error> {
        let (settings, to) = (Arc::clone(&self.settings), to.to_owned());
        let copied = tokio::task::spawn_blocking(move || backup::copy(&settings, &to)).await;
        copied.map_err(|error| Error::Backend { operation: "back up the store", detail: error.to_string() })?
    }

    async fn ping(&self, timeout: Duration) -> Result<(), Error> {
        // What has just reached the disk shows the same: a commit, or the store itself where it is new.
        if self.writer.wrote_within(STORE_WRITE_FRESH) {
            return Ok(());
        }
        let written = self.write(|tx| tx.wrote_within(STORE_WRITE_FRESH));
        tokio::time::timeout(timeout, written).await.unwrap_or_else(|_| {
            let detail = format!("it took longer than {} ms", timeout.as_millis());
            Err(Error::Backend { operation: "write the store", detail })
        })
    }
}

impl Notifier for SqliteStore {
    fn subscribe(&self, task: &str) -> channel::Receiver<u64> {
        self.watchers.subscribe(task)
    }

    fn work(&self) -> Arc<Notify> {
        Arc::clone(self.watchers.work())
    }
}

/// A store's file that is looked at and not changed: it is neither brought up to date nor written, whoever uses it meanwhile.
pub struct ReadOnly {
    readers: Readers,
}

impl ReadOnly {
    /// Opens the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not a store, [`Error::SchemaTooNew`], and [`Error::Backend`] where an older mote wrote it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let found = schema::found(&connection::open_to_read(path)?, path, schema::MIGRATIONS)?;
        if found < schema::MIGRATIONS.len() {
            let detail = format!(
                "an older mote wrote {} (schema {found}, this mote reads {}); open it with `mote serve` or `mote run` once",
                path.display(),
                schema::MIGRATIONS.len()
            );
            return Err(Error::Backend { operation: "read the store", detail });
        }
        Ok(Self { readers: Readers::looking(path)? })
    }
}

#[async_trait]
impl Records for ReadOnly {
    async fn task(&self, tenant: Option<&str>, id: &str) -> Result<Option<Task>, Error> {
        let (tenant, id) = (tenant.map(str::to_owned), id.to_owned());
        self.readers.run("read a task", move |connection| list::task(connection, tenant.as_deref(), &id)).await
    }

    async fn list(&self, filter: Filter, cursor: Option<String>, limit: usize) -> Result<Page, Error> {
        self.readers
            .run("list tasks", move |connection| list::list(connection, &filter, cursor.as_deref(), limit))
            .await
    }

    async fn journal(&self, task: &str, after: u64, limit: usize) -> Result<Vec<Entry>, Error> {
        let task = task.to_owned();
        self.readers.run("read a journal", move |connection| list::journal(connection, &task, after, limit)).await
    }

    async fn effects(&self, task: &str) -> Result<Vec<EffectRow>, Error> {
        let task = task.to_owned();
        self.readers.run("read effects", move |connection| lives::effects(connection, &task)).await
    }
}
