//! A context: the driver's process inside, what is sent to it, and what it says, sorted by the cell that it belongs to.
//!
//! It does not decide when a cell is interrupted: `execution` does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Selector;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::bash::{self, Piece};
use super::{About, Language, Message};
use crate::clock::{SharedClock, random};
use crate::guest::{Event, Guest, ProcessInput, ProcessStream};
use crate::limits::{
    CODE_BEGIN_GRACE, CODE_MESSAGE_BYTES_MAX, CODE_MESSAGES_HELD, CODE_START_TIMEOUT, CODE_START_WORDS_BYTES,
    CODE_WAITING_MAX,
};

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;

/// A context of one sandbox.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) id: String,
    pub(super) language: Language,
    pub(super) is_default: bool,
    cwd: String,
    clock: SharedClockHandle,
    /// Cells run one after the other.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Cells that run or wait.
    pub(super) places: Arc<tokio::sync::Semaphore>,
    driver: Mutex<Arc<Driver>>,
    restarting: tokio::sync::Mutex<()>,
}

/// A clock that can be shown.
#[derive(Clone)]
pub(super) struct SharedClockHandle(pub(super) SharedClock);

impl std::fmt::Debug for SharedClockHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Context {
    /// Starts a driver.
    pub(super) async fn start(
        guest: &Guest,
        clock: SharedClockHandle,
        (id, language, is_default): (String, Language, bool),
        cwd: Option<String>,
    ) -> Result<Self, Failure> {
        let (driver, cwd) = Driver::start(guest, &clock, &id, language, is_default, cwd).await?;
        Ok(Self::of(id, language, is_default, cwd, clock, driver))
    }

    /// Takes over a driver that a daemon before this one started. What it may be running is interrupted: nobody waits for it.
    pub(super) async fn adopt(
        guest: &Guest,
        clock: SharedClockHandle,
        (id, language, is_default): (String, Language, bool),
        (pid, cwd): (u32, Option<String>),
    ) -> Result<Self, Failure> {
        let stream = guest.attach(Selector::Pid(pid)).await?;
        // It was ready long ago: all that it says is said to somebody.
        let driver = Driver::follow(stream, guest, &clock, (&id, language), None)?;
        match language {
            Language::Bash => driver.signal(SIGINT).await?,
            Language::Python | Language::JavaScript => driver.interrupt(None).await?,
        }
        Ok(Self::of(id, language, is_default, cwd.unwrap_or_default(), clock, driver))
    }

    fn of(
        id: String,
        language: Language,
        is_default: bool,
        cwd: String,
        clock: SharedClockHandle,
        driver: Driver,
    ) -> Self {
        Self {
            id,
            language,
            is_default,
            cwd,
            clock,
            turn: tokio::sync::Mutex::default(),
            places: Arc::new(tokio::sync::Semaphore::new(CODE_WAITING_MAX)),
            driver: Mutex::new(Arc::new(driver)),
            restarting: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn about(&self) -> About {
        About { id: self.id.clone(), language: self.language, cwd: self.cwd.clone() }
    }

    pub(super) fn driver(&self) -> Arc<Driver> {
        Arc::clone(&self.driver.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.driver().ended.is_cancelled()
    }

    /// Ends the driver and starts another one under the same id.
    pub(super) async fn restart(&self, guest: &Guest) -> Result<(), Failure> {
        let _restarting = self.restarting.lock().await;
        self.kill().await?;
        let cwd = (!self.cwd.is_empty()).then(|| self.cwd.clone());
        let (driver, _) = Driver::start(guest, &self.clock, &self.id, self.language, self.is_default, cwd).await?;
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(driver);
        Ok(())
    }

    /// A living driver, for a context that nobody ended on purpose.
    pub(super) async fn revive(&self, guest: &Guest) -> Result<(), Failure> {
        if self.is_alive() { Ok(()) } else { self.restart(guest).await }
    }

    pub(super) async fn interrupt(&self) -> Result<(), Failure> {
        self.driver().interrupt(None).await
    }

    pub(super) async fn kill(&self) -> Result<(), Failure> {
        self.driver().kill().await
    }
}

/// The cell that is running, and where its messages go.
type Outbox = Arc<Mutex<Option<(u64, mpsc::Sender<Message>)>>>;

/// A driver's process.
#[derive(Debug)]
pub(super) struct Driver {
    pid: u32,
    language: Language,
    mark: String,
    guest: Guest,
    input: tokio::sync::Mutex<ProcessInput>,
    outbox: Outbox,
    cells: AtomicU64,
    /// Bash: the last cell that it has read to its end.
    begun: watch::Receiver<u64>,
    /// Cancelled when the process is gone.
    pub(super) ended: CancellationToken,
}

impl Driver {
    async fn start(
        guest: &Guest,
        clock: &SharedClockHandle,
        id: &str,
        language: Language,
        is_default: bool,
        cwd: Option<String>,
    ) -> Result<(Self, String), Failure> {
        let stream = guest.start(language.start(language.tag(id, is_default), cwd)).await.map_err(|failure| {
            if failure.code == Code::NotFound && failure.context.get("kind").is_some_and(|kind| kind == "program") {
                return failure.remedy(format!("use an image that has {}", language.name()));
            }
            failure
        })?;
        let (sender, ready) = oneshot::channel();
        let driver = Self::follow(stream, guest, clock, (id, language), Some(sender))?;
        {
            let mut input = driver.input.lock().await;
            input.write(language.source().as_bytes()).await?;
            if language == Language::Bash {
                input.write(bash::greeting(&driver.mark).as_bytes()).await?;
            }
        }
        match tokio::time::timeout(CODE_START_TIMEOUT, ready).await {
            Ok(Ok(Ok(cwd))) => Ok((driver, cwd)),
            Ok(Ok(Err(words))) => Err(Failure::new(
                Code::Unsupported,
                format!("failed to start the driver for {}: {words}", language.name()),
            )
            .with("feature", format!("code.{}", language.name()))),
            Ok(Err(_)) => Err(Failure::new(Code::Gone, "the sandbox ended while a driver started")),
            Err(_) => {
                driver.kill().await?;
                Err(Failure::new(Code::Timeout, format!("the driver for {} did not start in time", language.name()))
                    .with("limit_ms", CODE_START_TIMEOUT.as_millis()))
            }
        }
    }

    /// Reads what a driver says from now on. Where it has yet to start, `ready` gets the directory it is in, or its last words.
    fn follow(
        mut stream: ProcessStream,
        guest: &Guest,
        clock: &SharedClockHandle,
        (id, language): (&str, Language),
        ready: Option<oneshot::Sender<Result<String, String>>>,
    ) -> Result<Self, Failure> {
        let outbox = Outbox::default();
        let (begins, begun) = watch::channel(0);
        let ended = CancellationToken::new();
        let gone = || Failure::new(Code::Internal, "a process's input was taken already");
        let driver = Self {
            pid: stream.pid(),
            language,
            mark: format!("mote-{id}"),
            guest: guest.clone(),
            input: tokio::sync::Mutex::new(stream.take_input().ok_or_else(gone)?),
            outbox: Arc::clone(&outbox),
            // An adopted driver has run cells with small numbers: what it still says of them is nobody's.
            cells: AtomicU64::new(u64::from(u32::from_le_bytes(random()?)) << 8),
            begun,
            ended: ended.clone(),
        };
        let reader = Reader {
            language,
            mark: driver.mark.clone(),
            clock: clock.clone(),
            outbox,
            begins,
            ready,
            line: BytesMut::new(),
            streams: Default::default(),
            ends: Default::default(),
            words: String::new(),
        };
        // Ends with the process, at the latest with the sandbox.
        tokio::spawn(async move {
            reader.read(stream).await;
            ended.cancel();
        });
        Ok(driver)
    }

    /// Sends a cell to the driver; its messages come through the receiver, which ends early where the process does.
    pub(super) async fn run(
        &self,
        code: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<(u64, mpsc::Receiver<Message>), Failure> {
        let cell = self.cells.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = mpsc::channel(CODE_MESSAGES_HELD);
        *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = Some((cell, sender));
        let command = match self.language {
            Language::Bash => bash::command(&self.mark, cell, code, env),
            Language::Python | Language::JavaScript => {
                let command = serde_json::json!({ "op": "execute", "cell": cell, "code": code, "env": env });
                format!("{command}\n")
            }
        };
        self.input.lock().await.write(command.as_bytes()).await?;
        Ok((cell, receiver))
    }

    /// Interrupts a cell, or whichever runs.
    pub(super) async fn interrupt(&self, cell: Option<u64>) -> Result<(), Failure> {
        match self.language {
            Language::Python => self.signal(SIGINT).await,
            Language::Bash => self.interrupt_bash().await,
            // Node's main thread would not hear a signal within a loop; the driver has another ear.
            Language::JavaScript => {
                let command = format!("{}\n", serde_json::json!({ "op": "interrupt", "cell": cell }));
                self.input.lock().await.write(command.as_bytes()).await
            }
        }
    }

    /// A signal that comes while bash reads a cell would cut it, and the rest would be run as if it were one: it waits for the
    /// cell to begin, and nothing is sent where none is under way.
    async fn interrupt_bash(&self) -> Result<(), Failure> {
        let running = || self.outbox.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(cell, _)| *cell);
        let Some(cell) = running() else { return Ok(()) };
        let mut begun = self.begun.clone();
        // What keeps bash from reading it for so long is what has to be interrupted.
        let _ = tokio::time::timeout(CODE_BEGIN_GRACE, begun.wait_for(|begun| *begun == cell)).await;
        if running() == Some(cell) { self.signal(SIGINT).await } else { Ok(()) }
    }

    /// Ends the process; one that is gone already is fine.
    pub(super) async fn kill(&self) -> Result<(), Failure> {
        if self.ended.is_cancelled() {
            return Ok(());
        }
        match self.signal(SIGKILL).await {
            Err(failure) if failure.code != Code::NotFound => return Err(failure),
            _ => {}
        }
        // So that its tag is free again.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.ended.cancelled()).await;
        Ok(())
    }

    async fn signal(&self, signal: i32) -> Result<(), Failure> {
        self.guest.signal(Selector::Pid(self.pid), signal).await
    }
}

/// Reads one driver.
struct Reader {
    language: Language,
    mark: String,
    clock: SharedClockHandle,
    outbox: Outbox,
    begins: watch::Sender<u64>,
    ready: Option<oneshot::Sender<Result<String, String>>>,
    line: BytesMut,
    /// Bash: standard output and error.
    streams: [bash::Stream; 2],
    /// Bash: the last mark of each stream.
    ends: [String; 2],
    /// What it said on standard error before it was ready.
    words: String,
}

impl Reader {
    async fn read(mut self, mut stream: ProcessStream) {
        loop {
            let read = match stream.next_event().await {
                Ok(Some(Event::Stdout(bytes))) if self.language == Language::Bash => self.printed(0, &bytes).await,
                Ok(Some(Event::Stderr(bytes))) if self.language == Language::Bash => self.printed(1, &bytes).await,
                Ok(Some(Event::Stdout(bytes))) => self.said(bytes).await,
                Ok(Some(Event::Stderr(bytes))) => self.leaked(&bytes).await,
                Ok(Some(Event::Started { .. } | Event::Terminal(_))) => Ok(()),
                Ok(Some(Event::Exited { .. }) | None) | Err(_) => break,
            };
            if let Err(why) = read {
                tracing::warn!(%why, "a code driver broke its protocol");
                break;
            }
        }
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(self.words.trim().to_owned()));
        }
        // The running cell, if there is one, hears that there will be no more.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Lines of JSON.
    async fn said(&mut self, bytes: Bytes) -> Result<(), String> {
        let mut from = self.line.len();
        self.line.extend_from_slice(&bytes);
        while let Some(at) = self.line[from..].iter().position(|byte| *byte == b'\n') {
            let line = self.line.split_to(from + at + 1);
            from = 0;
            // The first line after an adoption may be the end of one.
            let Ok(mut message) = serde_json::from_slice::<Map<String, Value>>(&line) else { continue };
            if message.get("type").is_some_and(|kind| kind == "ready") {
                let cwd = message.get("cwd").and_then(Value::as_str).unwrap_or_default().to_owned();
                self.is_ready(cwd);
                continue;
            }
            let cell = message.remove("cell").and_then(|cell| cell.as_u64());
            match serde_json::from_value(Value::Object(message)) {
                Ok(message) => self.pass(cell, message).await,
                Err(error) => return Err(format!("a message cannot be read: {error}")),
            }
        }
        if self.line.len() > CODE_MESSAGE_BYTES_MAX {
            return Err(format!("a message is longer than {CODE_MESSAGE_BYTES_MAX} bytes"));
        }
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
            let message = bash::printed(true, text, self.now_ns());
            self.pass(None, message).await;
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
                    let message = bash::printed(stream == 1, text, self.now_ns());
                    self.pass(None, message).await;
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
            self.pass(cell, verdict).await;
        }
        self.pass(cell, Message::EndOfExecution).await;
        self.ends = Default::default();
    }

    fn is_ready(&mut self, cwd: String) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(cwd));
        }
    }

    fn now_ns(&self) -> u64 {
        self.clock.0.now_ms().saturating_mul(1_000_000)
    }

    /// Gives a message to the cell that runs; one of another cell is nobody's. Waits where the caller is slow.
    async fn pass(&self, cell: Option<u64>, message: Message) {
        let receiver = {
            let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
            let is_last = message == Message::EndOfExecution;
            match &*outbox {
                Some((running, _)) if cell.is_some_and(|cell| cell != *running) => None,
                Some(_) if is_last => outbox.take().map(|(_, sender)| sender),
                Some((_, sender)) => Some(sender.clone()),
                None => None,
            }
        };
        if let Some(receiver) = receiver {
            let _ = receiver.send(message).await;
        }
    }
}
