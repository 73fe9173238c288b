//! The one thread that talks to SQLite, behind a bounded queue.
//!
//! It knows no table: it runs what it is given, one after the other, each in its own transaction.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::task::{Context, Poll};

use mote_sandbox_api::error::{Code, Failure};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::limits::STATE_QUEUE_MAX;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: SyncSender<Job>,
}

/// The end of a write that is queued already. Dropping it does not take the write back.
#[derive(Debug)]
pub struct Pending<T> {
    operation: &'static str,
    answer: Result<oneshot::Receiver<rusqlite::Result<T>>, Option<Failure>>,
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let operation = self.operation;
        match &mut self.answer {
            Err(failure) => Poll::Ready(Err(failure.take().unwrap_or_else(|| gone(operation)))),
            Ok(answer) => Pin::new(answer).poll(context).map(|answer| match answer {
                Ok(result) => result.map_err(|error| failed(operation, &error)),
                Err(_) => Err(gone(operation)),
            }),
        }
    }
}

impl Writer {
    pub(super) fn start(mut connection: Connection) -> std::io::Result<Self> {
        let (queue, jobs): (_, Receiver<Job>) = std::sync::mpsc::sync_channel(STATE_QUEUE_MAX);
        std::thread::Builder::new().name("state".to_owned()).spawn(move || {
            for job in jobs {
                job(&mut connection);
            }
        })?;
        Ok(Self { queue })
    }

    /// Queues `work`; where the queue is full, the answer says so at once.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Pending<T> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits for it any more: it was done all the same.
            let _ = sender.send(work(connection));
        });
        let answer = match self.queue.try_send(job) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => Err(Some(
                Failure::new(Code::Exhausted, format!("failed to {operation}: too many writes wait for the state"))
                    .with("limit", STATE_QUEUE_MAX)
                    .with("retry_after_s", 1),
            )),
            Err(TrySendError::Disconnected(_)) => Err(None),
        };
        Pending { operation, answer }
    }
}

fn gone(operation: &str) -> Failure {
    Failure::new(Code::Internal, format!("failed to {operation}: the state's writer is gone"))
}

fn failed(operation: &str, error: &rusqlite::Error) -> Failure {
    let code = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => Code::Conflict,
        Some(rusqlite::ErrorCode::DiskFull) => Code::NoSpace,
        _ => Code::Internal,
    };
    Failure::new(code, format!("failed to {operation}: {error}"))
}
