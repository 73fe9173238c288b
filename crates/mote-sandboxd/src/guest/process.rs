//! A process inside: what comes out of it, and what goes in.
//!
//! It buffers one frame: a reader that stalls stops the process, not the daemon's memory.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Exit, Kind, Reply};

use super::frame::{Frames, Writer, decode};
use super::{unexpected, violation, within};
use crate::limits::GUEST_REPLY_TIMEOUT_MS;

/// What happens with a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It runs, under this id inside the sandbox. Always the first.
    Started {
        /// Process id inside the sandbox.
        pid: u32,
    },
    /// Bytes of its standard output.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// Bytes of its terminal.
    Terminal(Bytes),
    /// It ended and all its output came before this. Always the last.
    Exited {
        /// How.
        exit: Exit,
        /// Because its time was over.
        timed_out: bool,
    },
}

/// A process that is followed. Dropping it ends a process that was started by it and is not detached; a process that was
/// attached to is left alone.
#[derive(Debug)]
pub struct ProcessStream {
    pid: u32,
    is_told: bool,
    is_over: bool,
    frames: Frames,
    /// Keeps the connection whole: the process ends with its writing side, too.
    writer: Option<Writer>,
}

impl ProcessStream {
    pub(super) fn new(pid: u32, frames: Frames, writer: Writer) -> Self {
        Self { pid, is_told: false, is_over: false, frames, writer: Some(writer) }
    }

    /// Process id inside the sandbox.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next event; nothing after [`Event::Exited`]. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `gone` where the sandbox or its first process ended; the stream is over then.
    pub async fn next_event(&mut self) -> Result<Option<Event>, Failure> {
        self.next().await.transpose()
    }

    /// The process's input, once. It may be dropped before the stream: the input stays open then.
    pub fn take_input(&mut self) -> Option<ProcessInput> {
        self.writer.take().map(|writer| ProcessInput { writer, frames: None })
    }

    fn translate(&mut self, kind: Kind, payload: Bytes) -> Result<Event, Failure> {
        match kind {
            Kind::Stdout => Ok(Event::Stdout(payload)),
            Kind::Stderr => Ok(Event::Stderr(payload)),
            Kind::Terminal => Ok(Event::Terminal(payload)),
            Kind::Reply => match decode(&payload)? {
                Reply::Exited { exit, timed_out } => {
                    self.is_over = true;
                    Ok(Event::Exited { exit, timed_out })
                }
                other => Err(unexpected(&other)),
            },
            other => Err(violation(format_args!("a frame of kind {other:?} among a process's output"))),
        }
    }
}

impl Stream for ProcessStream {
    type Item = Result<Event, Failure>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        if !this.is_told {
            this.is_told = true;
            return Poll::Ready(Some(Ok(Event::Started { pid: this.pid })));
        }
        let event = match ready!(Pin::new(&mut this.frames).poll_next(context)) {
            Some(Ok((kind, payload))) => this.translate(kind, payload),
            Some(Err(failure)) => Err(failure),
            None => Err(Failure::new(Code::Gone, "the sandbox ended while the process ran")),
        };
        this.is_over |= event.is_err();
        Poll::Ready(Some(event))
    }
}

/// The input of a process.
#[derive(Debug)]
pub struct ProcessInput {
    writer: Writer,
    /// Where this is a connection of its own.
    frames: Option<Frames>,
}

impl ProcessInput {
    pub(super) fn alone(writer: Writer, frames: Frames) -> Self {
        Self { writer, frames: Some(frames) }
    }

    /// Writes to the process. Waits while it takes nothing.
    ///
    /// # Errors
    /// `gone` where the process or the sandbox ended.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.writer.send_all(Kind::Stdin, bytes).await;
        self.explain(written).await
    }

    /// Ends the process's input; on a terminal, sends the character for it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn close(&mut self) -> Result<(), Failure> {
        let written = self.writer.send(Kind::Stdin, &[]).await;
        self.explain(written).await
    }

    /// Ends this connection; where it is one of its own, returns when the process took everything.
    ///
    /// # Errors
    /// `not_found`, `conflict` where the process takes no input, `gone`.
    pub async fn finish(mut self) -> Result<(), Failure> {
        let Some(mut frames) = self.frames.take() else { return Ok(()) };
        // The guest may have refused already and closed; its reply says more than this error would.
        let _ = self.writer.shut().await;
        match frames.reply().await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Where writing fails on a connection of its own, the guest has said why.
    async fn explain(&mut self, written: Result<(), Failure>) -> Result<(), Failure> {
        match (written, self.frames.take()) {
            (Err(failure), Some(mut frames)) => {
                Err(within(GUEST_REPLY_TIMEOUT_MS, "a reply", frames.reply()).await.err().unwrap_or(failure))
            }
            (written, frames) => {
                self.frames = frames;
                written
            }
        }
    }
}
