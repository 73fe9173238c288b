//! One cell from its turn to its end: messages to the caller, the interrupt when its time is over or nobody listens.
//!
//! It does not know how a driver is interrupted: `context` does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Exit;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Message;
use super::context::{Context, Driver};
use super::message::Printed;
use super::reader::{End, Told};
use crate::limits::{CODE_CHILDREN_ROUNDS, CODE_INTERRUPT_GRACE, CODE_MESSAGES_HELD, CODE_WAITING_MAX};

/// A cell that runs or waits for its turn: a stream of its messages, the last one [`Message::EndOfExecution`]; or a failure, where
/// the sandbox ended first. Dropping it interrupts the cell.
#[derive(Debug)]
pub struct Execution {
    messages: mpsc::Receiver<Told>,
    is_whole: bool,
}

impl Stream for Execution {
    type Item = Result<Message, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        match ready!(self.messages.poll_recv(context)) {
            Some(told) => {
                self.is_whole |= told.message.is_end();
                Poll::Ready(Some(Ok(told.message)))
            }
            None if self.is_whole => Poll::Ready(None),
            None => {
                self.is_whole = true;
                Poll::Ready(Some(Err(Failure::new(Code::Gone, "the sandbox ended while the code ran"))))
            }
        }
    }
}

/// How many processes of a sandbox the kernel has ended because memory ran out.
pub(super) type OomKills = Box<dyn Fn() -> u64 + Send + Sync>;

/// Puts a cell in the context's queue.
pub(super) fn begin(
    context: Arc<Context>,
    code: String,
    env: BTreeMap<String, String>,
    timeout: Option<Duration>,
    oom_kills: OomKills,
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
        let before = oom_kills();
        let running =
            Running { driver: &driver, caller: &sender, timeout, timed_out: false, ooms: &|| oom_kills() - before };
        running.complete(&code, &env).await;
        drop(turn);
        drop(place);
    });
    Ok(Execution { messages, is_whole: false })
}

struct Running<'a> {
    driver: &'a Driver,
    caller: &'a mpsc::Sender<Told>,
    timeout: Option<Duration>,
    timed_out: bool,
    /// Processes that were ended for want of memory since the cell began.
    ooms: &'a (dyn Fn() -> u64 + Sync),
}

impl Running<'_> {
    async fn complete(mut self, code: &str, env: &BTreeMap<String, String>) {
        let ended = match self.driver.run(code, env).await {
            Ok((cell, messages)) => self.pass(cell, messages).await,
            Err(_) => false,
        };
        let ooms = (self.ooms)();
        if !ended {
            // Who watches the process's end may be about to note it.
            let _ = tokio::time::timeout(CODE_INTERRUPT_GRACE, self.driver.ended.cancelled()).await;
            let end = self.driver.end().unwrap_or(End::Broken);
            if end == End::WithSandbox {
                // Nothing more is told, not even that this is the end.
                return;
            }
            let _ = self.caller.send(Told::small(self.lost(end, ooms))).await;
        } else if ooms > 0 {
            let text = format!("{}\n", out_of_memory(ooms));
            let printed = Printed { text, timestamp: self.driver.now_ns() };
            let _ = self.caller.send(Told::small(Message::Stderr(printed))).await;
        }
        let _ = self.caller.send(Told::small(Message::EndOfExecution)).await;
    }

    /// The error of a cell whose process ended, by the names that E2B's server has for it.
    fn lost(&self, end: End, ooms: u64) -> Message {
        let how = match end {
            End::Asked => {
                let value = "Connection to the execution was closed before the execution was finished";
                return Message::error("UnexpectedEndOfExecution", value);
            }
            End::Deaf => match self.timeout {
                Some(timeout) if self.timed_out => {
                    let ms = timeout.as_millis();
                    let value = format!(
                        "the execution did not listen to an interrupt after {ms} ms, and its context was restarted"
                    );
                    return Message::error("TimeoutError", value);
                }
                _ => "its cell did not listen to an interrupt".to_owned(),
            },
            End::Exited(_) if ooms > 0 => out_of_memory(ooms),
            End::Exited(Exit::Code(code)) => format!("its process ended with status {code}"),
            End::Exited(Exit::Signal(signal)) => format!("its process was ended by signal {signal}"),
            End::Broken | End::WithSandbox => "what it said could not be read".to_owned(),
        };
        Message::error("ContextRestarting", format!("Context was restarted: {how}. What it held is lost"))
    }

    /// Passes messages on until the cell ends; false where the process ended first.
    async fn pass(&mut self, cell: u64, mut messages: mpsc::Receiver<Told>) -> bool {
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let since = Instant::now();
        let mut killing: Option<Instant> = None;
        let mut rounds = CODE_CHILDREN_ROUNDS;
        let mut waiting: Option<Told> = None;
        loop {
            tokio::select! {
                message = messages.recv(), if waiting.is_none() => match message {
                    None => return false,
                    Some(told) if told.message.is_end() => return true,
                    Some(_) if self.caller.is_closed() => {}
                    Some(told) => waiting = Some(told.map(|message| self.explained(message))),
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
                    let _ = self.driver.kill(End::Deaf).await;
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

fn out_of_memory(ooms: u64) -> String {
    let what = if ooms == 1 { "a process".to_owned() } else { format!("{ooms} processes") };
    format!("memory ran out, and the kernel ended {what} of the sandbox")
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
