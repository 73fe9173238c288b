//! One cell from its turn to its end: messages to the caller, the interrupt when its time is over or nobody listens.
//!
//! It does not know how a driver is interrupted: `context` does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use futures_util::Stream;
use mote_sandbox_api::error::{Code, Failure};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Message;
use super::context::{Context, Driver};
use crate::limits::{CODE_CHILDREN_ROUNDS, CODE_INTERRUPT_GRACE, CODE_MESSAGES_HELD, CODE_WAITING_MAX};

/// A cell that runs or waits for its turn: a stream of its messages, the last one [`Message::EndOfExecution`]. Dropping it
/// interrupts the cell.
#[derive(Debug)]
pub struct Execution {
    messages: mpsc::Receiver<Message>,
}

impl Stream for Execution {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Poller<'_>) -> Poll<Option<Message>> {
        self.messages.poll_recv(context)
    }
}

/// Puts a cell in the context's queue.
pub(super) fn begin(
    context: Arc<Context>,
    code: String,
    env: BTreeMap<String, String>,
    timeout: Option<Duration>,
) -> Result<Execution, Failure> {
    let place = Arc::clone(&context.places).try_acquire_owned().map_err(|_| {
        Failure::new(Code::Exhausted, format!("{CODE_WAITING_MAX} cells wait for the context {:?} already", context.id))
            .with("limit", CODE_WAITING_MAX)
            .with("retry_after_s", 1)
    })?;
    let (sender, messages) = mpsc::channel(CODE_MESSAGES_HELD);
    // Ends with the cell: a caller that goes away interrupts it, and what does not listen is killed.
    tokio::spawn(async move {
        let turn = tokio::select! {
            turn = context.turn.lock() => turn,
            () = sender.closed() => return,
        };
        let driver = context.driver();
        let running = Running { driver: &driver, caller: &sender, timeout, timed_out: false };
        running.complete(&code, &env).await;
        drop(turn);
        drop(place);
    });
    Ok(Execution { messages })
}

struct Running<'a> {
    driver: &'a Driver,
    caller: &'a mpsc::Sender<Message>,
    timeout: Option<Duration>,
    timed_out: bool,
}

impl Running<'_> {
    async fn complete(mut self, code: &str, env: &BTreeMap<String, String>) {
        let ended = match self.driver.run(code, env).await {
            Ok((cell, messages)) => self.pass(cell, messages).await,
            Err(_) => false,
        };
        if !ended {
            let why = "the context's process ended; restart the context, or use another one";
            let _ = self.caller.send(Message::error("ContextEnded", why)).await;
        }
        let _ = self.caller.send(Message::EndOfExecution).await;
    }

    /// Passes messages on until the cell ends; false where the process ended first.
    async fn pass(&mut self, cell: u64, mut messages: mpsc::Receiver<Message>) -> bool {
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let since = Instant::now();
        let mut killing: Option<Instant> = None;
        let mut rounds = CODE_CHILDREN_ROUNDS;
        let mut waiting: Option<Message> = None;
        loop {
            tokio::select! {
                message = messages.recv(), if waiting.is_none() => match message {
                    None => return false,
                    Some(Message::EndOfExecution) => return true,
                    Some(_) if self.caller.is_closed() => {}
                    Some(message) => waiting = Some(self.explained(message)),
                },
                place = self.caller.reserve(), if waiting.is_some() => {
                    if let (Ok(place), Some(message)) = (place, waiting.take()) {
                        place.send(message);
                    }
                },
                () = self.caller.closed(), if killing.is_none() => {
                    waiting = None;
                    killing = Some(self.interrupt(cell).await);
                },
                () = until(deadline), if killing.is_none() => {
                    self.timed_out = true;
                    killing = Some(self.interrupt(cell).await);
                },
                // The code does not listen: what it waits for goes first, where that is another process.
                () = until(killing), if killing.is_some() => {
                    if rounds > 0 && self.driver.end_children(since.elapsed()).await {
                        rounds -= 1;
                        killing = Some(Instant::now() + CODE_INTERRUPT_GRACE);
                        continue;
                    }
                    // Then the process itself, and with it what the context held.
                    let _ = self.driver.kill().await;
                    return false;
                },
            }
        }
    }

    async fn interrupt(&self, cell: u64) -> Instant {
        let _ = self.driver.interrupt(Some(cell)).await;
        Instant::now() + CODE_INTERRUPT_GRACE
    }

    /// An interrupt that came of the time limit is told as that.
    fn explained(&self, message: Message) -> Message {
        match (message, self.timeout) {
            (Message::Error { .. }, Some(timeout)) if self.timed_out => Message::error(
                "TimeoutError",
                format!("the execution was interrupted after {} ms", timeout.as_millis()),
            ),
            (message, _) => message,
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
