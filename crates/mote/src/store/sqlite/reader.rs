//! Readers: a few threads, each with a connection of its own that cannot write.
//!
//! A read sees the newest commit at its start. Nothing here waits for the writer.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::writer::{Fault, Outcome};
use super::{Settings, connection};
use crate::limits::{STORE_READ_QUEUE, STORE_READER_CACHE_KIB, STORE_READERS, STORE_STACK_BYTES};
use crate::store::Error;

type Read = Box<dyn FnOnce(Result<&Connection, Error>) + Send>;

/// The pool's near end.
pub(super) struct Readers {
    queue: Option<SyncSender<Read>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    settings: Arc<Settings>,
}

impl Readers {
    /// Starts the threads; each opens its connection at its first read.
    pub(super) fn start(settings: Arc<Settings>) -> Result<Self, Error> {
        let (queue, reads) = sync_channel(STORE_READ_QUEUE);
        let reads = Arc::new(Mutex::new(reads));
        let mut readers = Self { queue: Some(queue), threads: Vec::new(), settings };
        for _ in 0..STORE_READERS {
            let (reads, settings) = (Arc::clone(&reads), Arc::clone(&readers.settings));
            let thread = std::thread::Builder::new()
                .name("store-reader".to_owned())
                .stack_size(STORE_STACK_BYTES)
                .spawn(move || run(&settings, &reads))
                .map_err(|error| Error::Backend {
                    operation: "start the store's readers",
                    detail: error.to_string(),
                })?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// The same for a file that is looked at and not changed.
    pub(super) fn looking(path: &std::path::Path) -> Result<Self, Error> {
        let settings = Settings {
            path: path.to_owned(),
            lock_wait: std::time::Duration::from_millis(crate::limits::STORE_LOCK_WAIT_MS),
            ends: None,
            announcer: None,
            is_read_only: true,
        };
        Self::start(Arc::new(settings))
    }

    /// Runs a read.
    pub(super) async fn run<T, F>(&self, operation: &'static str, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let settings = Arc::clone(&self.settings);
        let job: Read = Box::new(move |opened| {
            let result = opened.and_then(|connection| {
                read(connection).map_err(|fault| match fault {
                    Fault::Refused(error) => error,
                    Fault::Sqlite(error) => connection::translate_waited(operation, &settings, error),
                })
            });
            let _ = reply.send(result);
        });
        let closed = || Error::Backend { operation, detail: "the store is closed".to_owned() };
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Error::Overloaded { queued: STORE_READ_QUEUE },
            TrySendError::Disconnected(_) => closed(),
        })?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(settings: &Settings, reads: &Mutex<Receiver<Read>>) {
    let mut kept: Option<Connection> = None;
    loop {
        let next = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = next else { return };
        let opened = match kept.take() {
            Some(connection) => Ok(connection),
            None => open(settings),
        };
        match opened {
            Ok(connection) => {
                read(Ok(&connection));
                kept = Some(connection);
            }
            Err(error) => read(Err(error)),
        }
    }
}

fn open(settings: &Settings) -> Result<Connection, Error> {
    if settings.is_read_only {
        return connection::open_to_read(&settings.path);
    }
    let connection = connection::open(settings, STORE_READER_CACHE_KIB)?;
    connection
        .execute_batch("PRAGMA query_only = ON")
        .map_err(|error| connection::translate("open the store", &settings.path, error))?;
    Ok(connection)
}
