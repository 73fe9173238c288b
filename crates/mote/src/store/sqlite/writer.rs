//! The one writer: a thread that takes commands from a bounded queue, applies a group of them in one transaction, each
//! under a savepoint of its own, and answers all of them after the commit.
//!
//! It knows no table but `counts`; what a command does is the command's business.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::checkpoint::{Checkpointer, Demand, end_log};
use super::watch::Watchers;
use super::{Group, GroupObserver, Settings, connection};
use crate::limits::{STORE_GROUP, STORE_LINGER_MAX, STORE_QUEUE, STORE_STACK_BYTES, STORE_WAL_PAGES};
use crate::store::{Announcer, CommitError, Ended, Error, Status};

/// Why a command was not applied: SQLite's reason, or its own.
#[derive(Debug)]
pub(super) enum Fault<E> {
    Sqlite(rusqlite::Error),
    Refused(E),
}

/// What a command gives.
pub(super) type Outcome<T, E = Error> = Result<T, Fault<E>>;

impl<E> From<rusqlite::Error> for Fault<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Fault<Error> {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<CommitError> for Fault<CommitError> {
    fn from(error: CommitError) -> Self {
        Self::Refused(error)
    }
}

impl From<Error> for Fault<CommitError> {
    fn from(error: Error) -> Self {
        Self::Refused(CommitError::Store(error))
    }
}

impl From<Fault<Error>> for Fault<CommitError> {
    fn from(fault: Fault<Error>) -> Self {
        match fault {
            Fault::Sqlite(error) => Self::Sqlite(error),
            Fault::Refused(error) => Self::Refused(CommitError::Store(error)),
        }
    }
}

/// What a command changed, told to the process once it is durable.
#[derive(Debug, Default)]
struct Changes {
    tasks: Vec<String>,
    work: bool,
    scrub: bool,
    counts: [i64; COUNTS.len()],
    ends: Vec<Ended>,
}

impl Changes {
    fn add(&mut self, other: Self) {
        self.tasks.extend(other.tasks);
        self.work |= other.work;
        self.scrub |= other.scrub;
        self.ends.extend(other.ends);
        for (sum, delta) in self.counts.iter_mut().zip(other.counts) {
            *sum += delta;
        }
    }
}

/// Names in the `counts` table.
pub(super) const COUNTS: [&str; 5] = ["queued", "running", "waiting", "dead", "outbox"];

/// The open transaction as a command sees it.
pub(super) struct Tx<'c> {
    /// The connection, inside the group's transaction.
    pub(super) connection: &'c Connection,
    /// Who words what sinks are told, if there are any.
    pub(super) announcer: Option<&'c dyn Announcer>,
    command: Changes,
    group: Changes,
    queued: Option<i64>,
    log: &'c Log,
}

impl<'c> Tx<'c> {
    fn new(connection: &'c Connection, log: &'c Log, announcer: Option<&'c dyn Announcer>) -> Self {
        Self { connection, announcer, command: Changes::default(), group: Changes::default(), queued: None, log }
    }

    /// Whether the last commit that reached the disk is no older.
    pub(super) fn wrote_within(&self, age: Duration) -> bool {
        self.log.wrote_within(age)
    }

    /// Tells subscribers of this task, once durable.
    pub(super) fn changed(&mut self, task: &str) {
        self.command.tasks.push(task.to_owned());
    }

    /// Tells workers that something may be claimable, once durable.
    pub(super) fn work(&mut self) {
        self.command.work = true;
    }

    /// Has the write-ahead log rewritten, once durable, so that erased text is not left in it.
    pub(super) fn scrub(&mut self) {
        self.command.scrub = true;
    }

    /// A task went from one state to another; `None` is not being there.
    pub(super) fn moved(&mut self, from: Option<Status>, to: Option<Status>) {
        for (status, delta) in [(from, -1), (to, 1)] {
            match status {
                Some(Status::Queued) => self.command.counts[0] += delta,
                Some(Status::Running) => self.command.counts[1] += delta,
                Some(Status::Waiting) => self.command.counts[2] += delta,
                _ => {}
            }
        }
    }

    /// Dead letters came or went.
    pub(super) fn dead(&mut self, delta: i64) {
        self.command.counts[3] += delta;
    }

    /// A task ended.
    pub(super) fn ended(&mut self, ended: Ended) {
        self.command.ends.push(ended);
    }

    /// Outbox messages came or went.
    pub(super) fn outbox(&mut self, delta: i64) {
        self.command.counts[4] += delta;
    }

    /// Tasks that are queued, this group's included.
    pub(super) fn queued(&mut self) -> Result<i64, rusqlite::Error> {
        let base = match self.queued {
            Some(base) => base,
            None => {
                let mut query = self.connection.prepare_cached("SELECT n FROM counts WHERE name = 'queued'")?;
                *self.queued.insert(query.query_row([], |row| row.get(0))?)
            }
        };
        Ok(base + self.group.counts[0] + self.command.counts[0])
    }
}

/// A command in the queue.
trait Job: Send {
    /// Applies it; whether it succeeded.
    fn apply(&mut self, tx: &mut Tx<'_>) -> bool;
    /// The SQLite error that it met, if it did.
    fn error(&self) -> Option<rusqlite::ffi::Error>;
    /// Answers its submitter; `failure` is what befell the whole group.
    fn answer(self: Box<Self>, failure: Option<&Error>, settings: &Settings);
}

struct Command<T, E, F> {
    operation: &'static str,
    work: Option<F>,
    outcome: Option<Outcome<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Job for Command<T, E, F>
where
    T: Send,
    E: From<Error> + Send,
    F: FnOnce(&mut Tx<'_>) -> Outcome<T, E> + Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> bool {
        let Some(work) = self.work.take() else { return false };
        self.outcome.insert(work(tx)).is_ok()
    }

    fn error(&self) -> Option<rusqlite::ffi::Error> {
        match &self.outcome {
            Some(Err(Fault::Sqlite(error))) => error.sqlite_error().copied(),
            _ => None,
        }
    }

    fn answer(self: Box<Self>, failure: Option<&Error>, settings: &Settings) {
        let result = match (self.outcome, failure) {
            (Some(Err(Fault::Refused(error))), _) => Err(error),
            (Some(Err(Fault::Sqlite(error))), _) => {
                Err(connection::translate_waited(self.operation, settings, error).into())
            }
            (_, Some(failure)) => Err(failure.clone().into()),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(closed(self.operation).into()),
        };
        // Nobody may be listening any more: the command is durable all the same.
        let _ = self.reply.send(result);
    }
}

fn closed(operation: &'static str) -> Error {
    Error::Backend { operation, detail: "the store is closed".to_owned() }
}

/// What to do when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// Refuse: a client asks for something new.
    Refuse,
    /// Wait: something under way wants to end.
    Wait,
}

/// The queue's near end.
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<std::thread::JoinHandle<()>>,
    log: Arc<Log>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        connection: Connection,
        settings: Arc<Settings>,
        watchers: Arc<Watchers>,
        checkpointer: Checkpointer,
        observer: Option<GroupObserver>,
    ) -> Result<Self, Error> {
        let (queue, commands) = mpsc::channel(STORE_QUEUE);
        let log = Arc::<Log>::default();
        let mut state = State {
            connection,
            settings,
            watchers,
            checkpointer,
            observer,
            log: Arc::clone(&log),
            wal_next: 0,
            group: 1,
            linger: Duration::ZERO,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .stack_size(STORE_STACK_BYTES)
            .spawn(move || state.run(commands))
            .map_err(|error| Error::Backend { operation: "start the store's writer", detail: error.to_string() })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), log })
    }

    /// Whether what reached the disk last is no older.
    pub(super) fn wrote_within(&self, age: Duration) -> bool {
        self.log.wrote_within(age)
    }

    /// The store was written otherwise than by a commit.
    pub(super) fn wrote(&self, at: Instant) {
        self.log.wrote(at);
    }

    /// Runs a command in the next group; returns once it is durable.
    pub(super) async fn run<T, E, F>(&self, operation: &'static str, full: WhenFull, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Outcome<T, E> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Command { operation, work: Some(work), outcome: None, reply });
        let Some(queue) = &self.queue else { return Err(closed(operation).into()) };
        match full {
            WhenFull::Refuse => queue.try_send(job).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded { queued: STORE_QUEUE },
                mpsc::error::TrySendError::Closed(_) => closed(operation),
            })?,
            WhenFull::Wait => queue.send(job).await.map_err(|_| closed(operation))?,
        }
        answer.await.unwrap_or_else(|_| Err(closed(operation).into()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // What is queued is still written.
            let _ = thread.join();
        }
    }
}

/// What the last commit said of the write-ahead log.
#[derive(Debug, Default)]
struct Log {
    /// Its length, pages.
    pages: AtomicU32,
    /// When that commit, or the new store, was on the disk.
    written: Mutex<Option<Instant>>,
}

impl Log {
    fn wrote(&self, at: Instant) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn wrote_within(&self, age: Duration) -> bool {
        let last = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() <= age)
    }
}

struct State {
    connection: Connection,
    settings: Arc<Settings>,
    watchers: Arc<Watchers>,
    checkpointer: Checkpointer,
    observer: Option<GroupObserver>,
    log: Arc<Log>,
    wal_next: u32,
    /// Commands in the last group.
    group: usize,
    /// How long the next group may wait to become as large.
    linger: Duration,
}

impl State {
    fn run(&mut self, mut commands: mpsc::Receiver<Box<dyn Job>>) {
        let log = Arc::clone(&self.log);
        let hook = move |_: &mut rusqlite::hooks::Wal, count: i32| {
            log.pages.store(u32::try_from(count).unwrap_or(0), Ordering::Relaxed);
            log.wrote(Instant::now());
            Ok(())
        };
        if let Err(error) = self.connection.wal_hook(Some(hook)) {
            tracing::warn!(%error, "failed to watch the length of the write-ahead log");
        }
        while let Some(first) = commands.blocking_recv() {
            let mut group = self.gather(first, &mut commands);
            let started = Instant::now();
            let result = self.commit(&mut group);
            let took = started.elapsed();
            self.linger = (took / 8).min(STORE_LINGER_MAX);
            if let Some(observer) = &self.observer {
                observer(Group { size: group.len(), queued: commands.len(), took });
            }
            let failure = match result {
                Ok(changes) => {
                    self.tell(changes);
                    None
                }
                Err(error) => Some(connection::translate_waited("commit to the store", &self.settings, error)),
            };
            for job in group {
                job.answer(failure.as_ref(), &self.settings);
            }
            self.tend_log();
        }
    }

    /// Takes what waits, after `first`. When clients came in step before, those that were just answered are given a
    /// moment to come again: an eighth of what the commit costs, to save them a whole one.
    fn gather(&mut self, first: Box<dyn Job>, commands: &mut mpsc::Receiver<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
        let mut group = vec![first];
        let until = Instant::now() + self.linger;
        loop {
            while group.len() < STORE_GROUP
                && let Ok(next) = commands.try_recv()
            {
                group.push(next);
            }
            if group.len() >= self.group.min(STORE_GROUP) || Instant::now() >= until {
                self.group = group.len();
                return group;
            }
            std::thread::sleep(STORE_LINGER_MAX / 20);
        }
    }

    fn tend_log(&mut self) {
        let Some(demand) = self.checkpointer.take_over() else { return };
        match end_log(&self.connection, demand) {
            Ok(true) => {}
            Ok(false) => self.checkpointer.postpone(demand),
            Err(error) => tracing::warn!(%error, "failed to end the write-ahead log; trying again later"),
        }
    }

    /// Applies a group: on success everything that its commands changed is on the disk.
    fn commit(&self, group: &mut [Box<dyn Job>]) -> Result<Changes, rusqlite::Error> {
        let run = |sql: &str| self.connection.prepare_cached(sql)?.execute([]);
        run("BEGIN IMMEDIATE")?;
        let mut tx = Tx::new(&self.connection, &self.log, self.settings.announcer.as_deref());
        let applied = apply(group, &mut tx).and_then(|()| {
            keep_counts(&self.connection, &tx.group.counts)?;
            crate::crash::point("store.before_commit");
            run("COMMIT")?;
            crate::crash::point("store.after_commit");
            Ok(())
        });
        match applied {
            Ok(()) => Ok(tx.group),
            Err(error) => {
                // SQLite may have rolled back already.
                if !self.connection.is_autocommit()
                    && let Err(error) = run("ROLLBACK")
                {
                    tracing::error!(%error, "failed to roll back");
                }
                Err(error)
            }
        }
    }

    fn tell(&mut self, changes: Changes) {
        for task in &changes.tasks {
            self.watchers.bump(task);
        }
        if let Some(ends) = &self.settings.ends {
            changes.ends.iter().for_each(|ended| ends(*ended));
        }
        if changes.work {
            self.watchers.work().notify_one();
        }
        let pages = self.log.pages.load(Ordering::Relaxed);
        if changes.scrub {
            self.checkpointer.ask(Demand::Truncate);
        } else if pages >= self.wal_next.max(STORE_WAL_PAGES) {
            self.wal_next = pages + STORE_WAL_PAGES;
            self.checkpointer.ask(Demand::Copy);
        } else if pages < STORE_WAL_PAGES {
            self.wal_next = 0;
        }
    }
}

fn apply(group: &mut [Box<dyn Job>], tx: &mut Tx<'_>) -> Result<(), rusqlite::Error> {
    let connection = tx.connection;
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([]);
    for job in group {
        run("SAVEPOINT command")?;
        if job.apply(tx) {
            run("RELEASE command")?;
            let changes = std::mem::take(&mut tx.command);
            tx.group.add(changes);
        } else {
            tx.command = Changes::default();
            // After some errors (a full disk, I/O) SQLite has ended the whole transaction, and with it the group.
            if connection.is_autocommit() {
                let error = job.error().unwrap_or_else(|| rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT));
                return Err(rusqlite::Error::SqliteFailure(error, None));
            }
            run("ROLLBACK TO command")?;
            run("RELEASE command")?;
        }
    }
    Ok(())
}

fn keep_counts(connection: &Connection, deltas: &[i64; COUNTS.len()]) -> Result<(), rusqlite::Error> {
    for (name, delta) in COUNTS.iter().zip(deltas).filter(|(_, delta)| **delta != 0) {
        connection.prepare_cached("UPDATE counts SET n = n + ?2 WHERE name = ?1")?.execute((name, delta))?;
    }
    Ok(())
}
