//! The embedded store: SQLite in one file, with one writer thread, a few readers, and checkpoints beside them.
//!
//! Every call answers only after what it changed is on the disk. No SQLite call is made on an async worker. Several
//! processes may use the same file. `docs/store.md` explains the tables; it does not run anything.

mod backup;
mod budget;
mod checkpoint;
mod claim;
mod commit;
mod connection;
mod create;
mod ending;
mod hold;
mod list;
mod lives;
mod mail;
mod owner;
mod reader;
mod restore;
mod row;
mod sandbox;
mod schema;
mod session;
mod submit;
mod sweep;
#[cfg(test)]
mod tests;
mod watch;
mod workers;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch as channel};

pub use self::restore::restore;

use self::checkpoint::Checkpointer;
use self::commit::Prepared;
use self::reader::Readers;
use self::submit::Submission;
use self::watch::Watchers;
use self::writer::{WhenFull, Writer};
use super::{
    Amount, Announcer, BudgetLine, Claim, Commit, CommitError, Counts, EffectRow, EndObserver, Entry, Erase, Error,
    Filter, Held, Lease, Letter, MailRow, NewSandbox, NewTask, OutboxMessage, Page, Presence, SandboxChange,
    SandboxRow, SandboxScope, Session, SessionPage, Store, Submitted, Swept, Task,
};
use crate::clock::UnixMs;
use crate::limits::{STORE_GROUP, STORE_LOCK_WAIT_MS, STORE_WRITE_FRESH, STORE_WRITER_CACHE_KIB};

/// One group commit, as it is told to an observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Commands in it.
    pub size: usize,
    /// Commands that waited behind it.
    pub queued: usize,
    /// How long it took, its fsync included.
    pub took: Duration,
}

/// Is told of every group commit, on the writer's thread: it must be quick.
pub type GroupObserver = Arc<dyn Fn(Group) + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// How long to wait for another process that holds the file.
    pub lock_wait: Duration,
    /// Who is told of group commits.
    pub observer: Option<GroupObserver>,
    /// Who is told of the ends of tasks.
    pub ends: Option<EndObserver>,
    /// Who words what sinks are told; they are told nothing, where absent.
    pub announcer: Option<Arc<dyn Announcer>>,
    /// The agent whose store it must be, and becomes where it is nobody's yet; any agent's will do, where absent.
    pub agent: Option<Arc<str>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lock_wait: Duration::from_millis(STORE_LOCK_WAIT_MS),
            observer: None,
            ends: None,
            announcer: None,
            agent: None,
        }
    }
}

/// What every connection is opened with.
struct Settings {
    path: PathBuf,
    lock_wait: Duration,
    ends: Option<EndObserver>,
    announcer: Option<Arc<dyn Announcer>>,
}

/// A store in one SQLite file. Dropping it writes what is queued and joins its threads.
pub struct SqliteStore {
    // In the order in which they end: the last connection to close, which folds the log in, must be one that writes.
    readers: Readers,
    writer: Writer,
    watchers: Arc<Watchers>,
    settings: Arc<Settings>,
}

impl SqliteStore {
    /// Opens the file, or makes it; an older schema is brought up to date.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or not a store, [`Error::SchemaTooNew`], [`Error::Foreign`], [`Error::Locked`],
    /// [`Error::DiskFull`]; the file is then as it was.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        connection::assert_version()?;
        let Options { lock_wait, ends, announcer, .. } = options.clone();
        let settings = Arc::new(Settings { path: path.to_owned(), lock_wait, ends, announcer });
        let agent = options.agent.as_deref();
        let made = create::unless_there(path)?;
        let mut connection = connection::open(&settings, STORE_WRITER_CACHE_KIB)?;
        // Look before anything is changed: the file may be somebody else's.
        schema::found(&connection, path, schema::MIGRATIONS)?;
        agent.map(|agent| owner::check(&connection, path, agent)).transpose()?;
        connection::enter_wal(&connection, &settings)?;
        schema::migrate(&mut connection, path, schema::MIGRATIONS)?;
        agent.map(|agent| owner::take(&connection, path, agent, made.is_some())).transpose()?;
        let watchers = Arc::new(Watchers::default());
        let checkpointer = Checkpointer::start(Arc::clone(&settings))?;
        let readers = Readers::start(Arc::clone(&settings))?;
        let writer =
            Writer::start(connection, Arc::clone(&settings), Arc::clone(&watchers), checkpointer, options.observer)?;
        if let Some(at) = made {
            writer.wrote(at);
        }
        Ok(Self { writer, readers, watchers, settings })
    }

    /// Makes a commit that changes nothing anybody reads. A new write-ahead log takes syncs of its own, which whoever
    /// commits first waits for.
    ///
    /// # Errors
    /// As of any commit.
    pub async fn write_once(&self) -> Result<(), Error> {
        self.write(|_| false).await
    }

    /// Writes, unless `needless` says, once it would be this command's turn, that there is no need.
    async fn write(&self, needless: fn(&writer::Tx<'_>) -> bool) -> Result<(), Error> {
        let work = move |tx: &mut writer::Tx<'_>| {
            if !needless(tx) {
                tx.connection.prepare_cached("UPDATE health SET writes = writes + 1")?.execute([])?;
            }
            Ok(())
        };
        self.writer.run("write the store", WhenFull::Refuse, work).await
    }

    /// Gives the store to an agent, whoever had it: after the agent was renamed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn assign(&self, agent: &str) -> Result<(), Error> {
        let agent = agent.to_owned();
        let work = move |tx: &mut writer::Tx<'_>| Ok(owner::assign(tx.connection, &agent)?);
        self.writer.run("assign the store", WhenFull::Refuse, work).await
    }

    /// What is held since the store was restored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn held(&self) -> Result<Held, Error> {
        self.readers.run("read what is held", |connection| Ok(hold::held(connection)?)).await
    }

    /// Lets go of what is held; says how much it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn let_go(&self) -> Result<Held, Error> {
        self.writer.run("release what is held", WhenFull::Refuse, hold::release).await
    }

    /// Reads the whole file for damage (`PRAGMA quick_check`).
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the first thing found.
    pub async fn check(&self) -> Result<(), Error> {
        let path = self.settings.path.display().to_string();
        self.readers
            .run("check the store", move |connection| {
                let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                if found == "ok" { Ok(()) } else { Err(Error::Corrupt { path, detail: found }.into()) }
            })
            .await
    }
}

/// Whether an agent could use the file; nothing in it is changed.
///
/// # Errors
/// [`Error::Corrupt`] if it is not a store, [`Error::SchemaTooNew`], [`Error::Foreign`], and what reading it says.
pub fn probe(path: &Path, agent: &str) -> Result<(), Error> {
    let connection = connection::open_to_read(path)?;
    schema::found(&connection, path, schema::MIGRATIONS)?;
    owner::check(&connection, path, agent).map(|_| ())
}

fn encode<T: serde::Serialize + ?Sized>(operation: &'static str, value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Backend { operation, detail: error.to_string() })
}

#[async_trait]
impl Store for SqliteStore {
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

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        let prepared = Prepared::new(&commit.batch)?;
        self.writer.run("commit", WhenFull::Wait, move |tx| commit::apply(tx, &commit, &prepared)).await
    }

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

    async fn secret(&self, name: &'static str, fresh: Vec<u8>) -> Result<Vec<u8>, Error> {
        let work = move |tx: &mut writer::Tx<'_>| {
            let insert = "INSERT INTO secrets (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            tx.connection.prepare_cached(insert)?.execute((name, &fresh))?;
            let mut query = tx.connection.prepare_cached("SELECT value FROM secrets WHERE name = ?1")?;
            Ok(query.query_row([name], |row| row.get(0))?)
        };
        self.writer.run("make a secret", WhenFull::Refuse, work).await
    }

    async fn requeue(&self, task: &str, now: UnixMs) -> Result<(), Error> {
        let task = task.to_owned();
        self.writer.run("requeue a task", WhenFull::Refuse, move |tx| lives::rerun(tx, &task, now)).await
    }

    async fn resume(&self, task: &str, now: UnixMs) -> Result<(), Error> {
        let task = task.to_owned();
        self.writer.run("resume a task", WhenFull::Refuse, move |tx| lives::resume(tx, &task, now)).await
    }

    async fn effects(&self, task: &str) -> Result<Vec<EffectRow>, Error> {
        let task = task.to_owned();
        self.readers.run("read effects", move |connection| lives::effects(connection, &task)).await
    }

    async fn erase(&self, what: Erase) -> Result<u64, Error> {
        self.writer.run("erase", WhenFull::Refuse, move |tx| sweep::erase(tx, &what)).await
    }

    async fn sweep(&self, before: UnixMs, now: UnixMs, limit: usize) -> Result<Swept, Error> {
        self.writer.run("sweep", WhenFull::Wait, move |tx| sweep::sweep(tx, before, now, limit)).await
    }

    async fn outbox(&self, now: UnixMs, limit: usize) -> Result<Vec<(i64, OutboxMessage)>, Error> {
        self.readers.run("read the outbox", move |connection| mail::outbox(connection, now, limit)).await
    }

    async fn outbox_done(&self, row: i64, retry_at: Option<UnixMs>) -> Result<(), Error> {
        let work = move |tx: &mut writer::Tx<'_>| mail::outbox_done(tx, row, retry_at);
        self.writer.run("update the outbox", WhenFull::Wait, work).await
    }

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

    async fn taken(&self, line: &BudgetLine) -> Result<Option<Amount>, Error> {
        let line = line.clone();
        self.readers.run("read a budget", move |connection| budget::taken(connection, &line).map(Some)).await
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

    fn subscribe(&self, task: &str) -> channel::Receiver<u64> {
        self.watchers.subscribe(task)
    }

    fn work(&self) -> Arc<Notify> {
        Arc::clone(self.watchers.work())
    }
}
