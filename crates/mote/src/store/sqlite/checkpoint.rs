//! Checkpoints: a thread that copies the write-ahead log back into the file, so that no commit waits for it.
//!
//! It does not decide when; the writer asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rusqlite::Connection;

use super::{Settings, connection};
use crate::limits::{STORE_READER_CACHE_KIB, STORE_STACK_BYTES, STORE_WAL_PAGES_MAX};
use crate::store::Error;

/// What the writer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Copy what is there beside the writers; once the log is very long, have it start again from its beginning.
    Copy,
    /// Copy everything and cut the log to nothing.
    Truncate,
}

#[derive(Debug, Default)]
struct Flags {
    /// The log is to be cut at the next checkpoint.
    truncate: AtomicBool,
    /// The writer was too busy for the log to be ended: it has to do it itself.
    handed_over: AtomicBool,
    /// And it has to be cut.
    handed_over_truncate: AtomicBool,
}

/// The near end.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    flags: Arc<Flags>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread; its connection is opened at the first demand.
    pub(super) fn start(settings: Arc<Settings>) -> Result<Self, Error> {
        let (wake, woken) = sync_channel(1);
        let flags = Arc::new(Flags::default());
        let shared = Arc::clone(&flags);
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .stack_size(STORE_STACK_BYTES)
            .spawn(move || run(&settings, &woken, &shared))
            .map_err(|error| Error::Backend { operation: "start checkpoints", detail: error.to_string() })?;
        Ok(Self { wake: Some(wake), flags, thread: Some(thread) })
    }

    /// Asks; demands that wait become one.
    pub(super) fn ask(&self, demand: Demand) {
        if demand == Demand::Truncate {
            self.flags.truncate.store(true, Ordering::Release);
        }
        if let Some(wake) = &self.wake {
            let _ = wake.try_send(());
        }
    }

    /// What the writer is to do itself, between two commits, with [`end_log`].
    pub(super) fn take_over(&self) -> Option<Demand> {
        let flags = &self.flags;
        if !flags.handed_over.load(Ordering::Relaxed) || !flags.handed_over.swap(false, Ordering::AcqRel) {
            return None;
        }
        let truncate = flags.handed_over_truncate.swap(false, Ordering::AcqRel);
        Some(if truncate { Demand::Truncate } else { Demand::Copy })
    }

    /// The writer could not do it either, because somebody reads an old snapshot: the next checkpoint tries again.
    pub(super) fn postpone(&self, demand: Demand) {
        if demand == Demand::Truncate {
            self.flags.truncate.store(true, Ordering::Release);
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(settings: &Settings, woken: &Receiver<()>, flags: &Flags) {
    let mut kept: Option<Connection> = None;
    while let Ok(()) = woken.recv() {
        let demand = if flags.truncate.swap(false, Ordering::AcqRel) { Demand::Truncate } else { Demand::Copy };
        let opened = match kept.take() {
            Some(connection) => Ok(connection),
            None => connection::open(settings, STORE_READER_CACHE_KIB),
        };
        let result = opened.and_then(|connection| {
            let result = checkpoint(&connection, demand, flags);
            kept = Some(connection);
            result.map_err(|error| connection::translate_waited("checkpoint the store", settings, error))
        });
        if let Err(error) = result {
            // The log keeps what was committed: nothing is lost, it only grows until a later checkpoint succeeds.
            tracing::warn!(%error, "checkpoint");
        }
    }
}

fn checkpoint(connection: &Connection, demand: Demand, flags: &Flags) -> Result<(), rusqlite::Error> {
    // Most of the work beside the writers, so that cutting the log then stops them only briefly.
    let pages: i64 = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))?;
    if (demand == Demand::Truncate || pages >= i64::from(STORE_WAL_PAGES_MAX)) && !end_log(connection, demand)? {
        // It needs a moment without a writer; one under full load leaves none.
        flags.handed_over_truncate.fetch_or(demand == Demand::Truncate, Ordering::AcqRel);
        flags.handed_over.store(true, Ordering::Release);
    }
    Ok(())
}

/// Copies what is left, so that the log starts again, without waiting for anybody; whether that was possible. The log
/// is cut only on demand: overwriting it is faster than growing it.
pub(super) fn end_log(connection: &Connection, demand: Demand) -> Result<bool, rusqlite::Error> {
    let sql = match demand {
        Demand::Copy => "PRAGMA wal_checkpoint(RESTART)",
        Demand::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let wait: i64 = connection.query_row("PRAGMA busy_timeout", [], |row| row.get(0))?;
    connection.busy_timeout(Duration::ZERO)?;
    let busy = connection.query_row(sql, [], |row| row.get::<_, bool>(0));
    connection.busy_timeout(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))?;
    Ok(!busy?)
}
