//! Checkpoints: a thread that copies the write-ahead log back into the file, so that no commit waits for it.
//!
//! It does not decide when; the writer asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::Connection;

use super::{Settings, connection};
use crate::limits::{STORE_READER_CACHE_KIB, STORE_STACK_BYTES, STORE_WAL_PAGES_MAX};
use crate::store::Error;

/// What the writer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Copy what is there beside the writers; once the log is very long, make it start again.
    Copy,
    /// Copy everything and cut the log to nothing.
    Truncate,
}

/// The near end.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    truncate: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread; its connection is opened at the first demand.
    pub(super) fn start(settings: Arc<Settings>) -> Result<Self, Error> {
        let (wake, woken) = sync_channel(1);
        let truncate = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&truncate);
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .stack_size(STORE_STACK_BYTES)
            .spawn(move || run(&settings, &woken, &asked))
            .map_err(|error| Error::Backend { operation: "start checkpoints", detail: error.to_string() })?;
        Ok(Self { wake: Some(wake), truncate, thread: Some(thread) })
    }

    /// Asks; demands that wait become one.
    pub(super) fn ask(&self, demand: Demand) {
        if demand == Demand::Truncate {
            self.truncate.store(true, Ordering::Release);
        }
        if let Some(wake) = &self.wake {
            let _ = wake.try_send(());
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

fn run(settings: &Settings, woken: &Receiver<()>, asked: &AtomicBool) {
    let mut kept: Option<Connection> = None;
    while let Ok(()) = woken.recv() {
        let demand = if asked.swap(false, Ordering::AcqRel) { Demand::Truncate } else { Demand::Copy };
        let opened = match kept.take() {
            Some(connection) => Ok(connection),
            None => connection::open(settings, STORE_READER_CACHE_KIB),
        };
        let result = opened.and_then(|connection| {
            let result = checkpoint(&connection, demand);
            kept = Some(connection);
            result.map_err(|error| connection::translate_waited("checkpoint the store", settings, error))
        });
        if let Err(error) = result {
            // The log keeps what was committed: nothing is lost, it only grows until a later checkpoint succeeds.
            tracing::warn!(%error, "checkpoint");
        }
    }
}

fn checkpoint(connection: &Connection, demand: Demand) -> Result<(), rusqlite::Error> {
    let run = |mode: &str| {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(1))
    };
    // Most of the work beside the writers, so that the rest of it blocks them only briefly.
    let pages = run("PASSIVE")?;
    if demand == Demand::Truncate || pages >= i64::from(STORE_WAL_PAGES_MAX) {
        run("TRUNCATE")?;
    }
    Ok(())
}
