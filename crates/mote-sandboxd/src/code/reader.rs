//! What a driver says, sorted by the cell that it belongs to, and how its process ended.
//!
//! A line is held until it is whole; what all lines and messages that wait may take is bounded for each sandbox and for all. It
//! trusts nothing that it reads: the user's code may have written it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use mote_sandbox_api::error::Code;
use mote_sandbox_api::guest::Exit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::bash::{self, Piece};
use super::context::Equipment;
use super::message::Said;
use super::{Language, Message};
use crate::guest::{Event, ProcessStream};
use crate::limits::{CODE_LARGE_BYTES, CODE_MESSAGE_BYTES_MAX, CODE_START_WORDS_BYTES};
use crate::room::Taken;

/// The cell that is running, and where its messages go.
pub(super) type Outbox = Arc<Mutex<Option<(u64, mpsc::Sender<Told>)>>>;

/// How a driver's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, or by another process.
    Exited(Exit),
    /// By a request: the context was restarted or removed.
    Asked,
    /// Because its cell did not listen to an interrupt.
    Deaf,
    /// With the sandbox.
    WithSandbox,
    /// What it said could not be read.
    Broken,
}

/// A message, with the memory that it holds where that is much.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) message: Message,
    large: Option<Large>,
}

/// The memory of a large message, and the turn of its driver: one such message waits at a time.
#[derive(Debug)]
struct Large {
    _memory: Taken<2>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Told {
    /// One that holds little.
    pub(super) const fn small(message: Message) -> Self {
        Self { message, large: None }
    }

    /// The message instead of this one, with its memory.
    pub(super) fn map(self, change: impl FnOnce(Message) -> Message) -> Self {
        Self { message: change(self.message), large: self.large }
    }
}

/// Reads one driver.
pub(super) struct Reader {
    language: Language,
    mark: String,
    equipment: Equipment,
    outbox: Outbox,
    begins: watch::Sender<u64>,
    ready: Option<oneshot::Sender<Result<String, String>>>,
    line: BytesMut,
    /// Memory of the line, where it is long.
    held: Option<Taken<2>>,
    /// The rest of the line is dropped: it is too long, or there is no memory for it.
    is_skipping: bool,
    large: Arc<Semaphore>,
    /// Bash: standard output and error.
    streams: [bash::Stream; 2],
    /// Bash: the last mark of each stream.
    ends: [String; 2],
    /// What it said on standard error before it was ready.
    words: String,
}

impl Reader {
    pub(super) fn new(
        (language, mark): (Language, String),
        equipment: Equipment,
        outbox: Outbox,
        begins: watch::Sender<u64>,
        ready: Option<oneshot::Sender<Result<String, String>>>,
    ) -> Self {
        Self {
            language,
            mark,
            equipment,
            outbox,
            begins,
            ready,
            line: BytesMut::new(),
            held: None,
            is_skipping: false,
            large: Arc::new(Semaphore::new(1)),
            streams: Default::default(),
            ends: Default::default(),
            words: String::new(),
        }
    }

    /// Reads until the process has ended, and notes how.
    pub(super) async fn read(mut self, stream: &mut ProcessStream, end: &OnceLock<End>) {
        let how = loop {
            let read = match stream.next_event().await {
                Ok(Some(Event::Stdout(bytes))) if self.language == Language::Bash => self.printed(0, &bytes).await,
                Ok(Some(Event::Stderr(bytes))) if self.language == Language::Bash => self.printed(1, &bytes).await,
                Ok(Some(Event::Stdout(bytes))) => self.said(bytes).await,
                Ok(Some(Event::Stderr(bytes))) => self.leaked(&bytes).await,
                Ok(Some(Event::Started { .. } | Event::Terminal(_))) => Ok(()),
                Ok(Some(Event::Exited { exit, .. })) => break End::Exited(exit),
                Err(failure) if failure.code == Code::Gone => break End::WithSandbox,
                Ok(None) | Err(_) => break End::Broken,
            };
            if let Err(why) = read {
                tracing::warn!(%why, "a code driver broke its protocol");
                break End::Broken;
            }
        };
        let _ = end.set(how);
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(self.words.trim().to_owned()));
        }
        // The running cell, if there is one, hears that there will be no more.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Lines of JSON.
    async fn said(&mut self, bytes: Bytes) -> Result<(), String> {
        let mut rest = &bytes[..];
        while let Some(at) = memchr::memchr(b'\n', rest) {
            let (now, later) = rest.split_at(at + 1);
            rest = later;
            self.hold(now).await;
            let (line, held) = (self.line.split(), self.held.take());
            if !std::mem::take(&mut self.is_skipping) {
                self.line_said(&line, held).await?;
            }
        }
        self.hold(rest).await;
        Ok(())
    }

    /// Keeps a part of a line. Where there is no memory for it, the line is dropped, and its cell is told.
    async fn hold(&mut self, part: &[u8]) {
        if self.is_skipping {
            return;
        }
        let length = self.line.len() + part.len();
        let why = if length > CODE_MESSAGE_BYTES_MAX {
            format!("it is larger than {CODE_MESSAGE_BYTES_MAX} bytes")
        } else if length > CODE_LARGE_BYTES && !self.grow(part.len()) {
            "there is no memory left for it: others that are as large wait to be read".to_owned()
        } else {
            self.line.extend_from_slice(part);
            return;
        };
        self.is_skipping = true;
        self.line = BytesMut::new();
        self.held = None;
        let message = Message::error("OutputTooLarge", format!("a part of the output was dropped: {why}"));
        self.pass(None, Told::small(message)).await;
    }

    fn grow(&mut self, bytes: usize) -> bool {
        match &mut self.held {
            Some(held) => held.grow(bytes),
            None => {
                let held = self.held.insert(Taken::new(self.equipment.memory.clone()));
                held.grow(self.line.len() + bytes)
            }
        }
    }

    async fn line_said(&mut self, line: &[u8], held: Option<Taken<2>>) -> Result<(), String> {
        let (cell, message) = match Said::parse(line) {
            None => return Ok(()),
            Some(Ok(Said::Ready(cwd))) => {
                self.is_ready(cwd);
                return Ok(());
            }
            Some(Ok(Said::Message(cell, message))) => (cell, message),
            Some(Err(error)) => return Err(format!("a message cannot be read: {error}")),
        };
        let large = match held {
            None => None,
            // Waits until the one before has gone on its way.
            Some(memory) => Some(Large { _memory: memory, _turn: Arc::clone(&self.large).acquire_owned().await.ok() }),
        };
        self.pass(cell, Told { message, large }).await;
        Ok(())
    }

    /// What did not come through the driver: words before it was ready, and what children of Node print.
    async fn leaked(&mut self, bytes: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if self.ready.is_some() {
            if self.words.len() < CODE_START_WORDS_BYTES {
                self.words.push_str(&text);
            }
        } else {
            let message = bash::printed(true, text, self.equipment.now_ns());
            self.pass(None, Told::small(message)).await;
        }
        Ok(())
    }

    /// Bash: text, and marks that end a cell once both streams have shown them.
    async fn printed(&mut self, stream: usize, bytes: &[u8]) -> Result<(), String> {
        for piece in self.streams[stream].feed(&self.mark, bytes) {
            match piece {
                // What an interactive shell says while it starts.
                Piece::Text(_) if self.ready.is_some() => {}
                Piece::Text(text) => {
                    let message = bash::printed(stream == 1, text, self.equipment.now_ns());
                    self.pass(None, Told::small(message)).await;
                }
                Piece::Mark(said) => {
                    let (what, rest) = said.split_once(' ').unwrap_or((&said, ""));
                    if what == "ready" {
                        // Only the greeting says it; after that it is code that does.
                        if self.ready.is_none() {
                            continue;
                        }
                        self.ends[stream] = if stream == 0 { rest.to_owned() } else { ".".to_owned() };
                        if !self.ends[0].is_empty() && !self.ends[1].is_empty() {
                            let cwd = std::mem::take(&mut self.ends[0]);
                            self.ends[1].clear();
                            self.is_ready(cwd);
                        }
                        continue;
                    }
                    if rest == bash::BEGUN {
                        // Whoever waits for it may have gone.
                        self.begins.send_replace(what.parse().unwrap_or_default());
                        continue;
                    }
                    self.ends[stream] = said.clone();
                    self.maybe_end().await;
                }
            }
        }
        Ok(())
    }

    async fn maybe_end(&mut self) {
        let Some((cell, status)) = self.ends[0].split_once(' ') else { return };
        if self.ends[1] != cell {
            return;
        }
        let (cell, verdict) = (cell.parse().ok(), bash::verdict(status));
        if let Some(verdict) = verdict {
            self.pass(cell, Told::small(verdict)).await;
        }
        self.pass(cell, Told::small(Message::EndOfExecution)).await;
        self.ends = Default::default();
    }

    fn is_ready(&mut self, cwd: String) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(cwd));
        }
    }

    /// Gives a message to the cell that runs; one of another cell is nobody's. Waits where the caller is slow.
    async fn pass(&self, cell: Option<u64>, told: Told) {
        let receiver = {
            let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
            let is_last = told.message.is_end();
            match &*outbox {
                Some((running, _)) if cell.is_some_and(|cell| cell != *running) => None,
                Some(_) if is_last => outbox.take().map(|(_, sender)| sender),
                Some((_, sender)) => Some(sender.clone()),
                None => None,
            }
        };
        if let Some(receiver) = receiver {
            let _ = receiver.send(told).await;
        }
    }
}
