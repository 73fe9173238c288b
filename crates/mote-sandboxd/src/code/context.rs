//! A context: the driver's process inside, and what is sent to it.
//!
//! It does not decide when a cell is interrupted: `execution` does. What the driver says is read in `reader`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Selector, Start};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::reader::{End, Outbox, Reader, Told};
use super::{About, Language, bash};
use crate::clock::{SharedClock, random};
use crate::guest::{Guest, ProcessInput, ProcessStream};
use crate::limits::{CODE_BEGIN_GRACE, CODE_INTERRUPT_GRACE, CODE_MESSAGES_HELD, CODE_START_TIMEOUT, CODE_WAITING_MAX};
use crate::room::Room as Memory;

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;

/// A context of one sandbox.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) id: String,
    pub(super) language: Language,
    pub(super) is_default: bool,
    cwd: String,
    equipment: Equipment,
    /// Cells run one after the other.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Cells that run or wait.
    pub(super) places: Arc<tokio::sync::Semaphore>,
    driver: Mutex<Arc<Driver>>,
    restarting: tokio::sync::Mutex<()>,
}

/// What the contexts of a sandbox have in common.
#[derive(Clone, Debug)]
pub(super) struct Equipment {
    pub(super) clock: SharedClockHandle,
    /// Memory for lines that are being read and messages that wait: of this sandbox, and of all.
    pub(super) memory: [Arc<Memory>; 2],
}

impl Equipment {
    pub(super) fn now_ns(&self) -> u64 {
        self.clock.0.now_ms().saturating_mul(1_000_000)
    }
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
        equipment: Equipment,
        (id, language, is_default): (String, Language, bool),
        cwd: Option<String>,
    ) -> Result<Self, Failure> {
        let (driver, cwd) = Driver::start(guest, &equipment, &id, language, is_default, cwd).await?;
        Ok(Self::of(id, language, is_default, cwd, equipment, driver))
    }

    /// Takes over a driver that a daemon before this one started. What it may be running is interrupted: nobody waits for it.
    pub(super) async fn adopt(
        guest: &Guest,
        equipment: Equipment,
        (id, language, is_default): (String, Language, bool),
        (pid, cwd): (u32, Option<String>),
    ) -> Result<Self, Failure> {
        let stream = guest.attach(Selector::Pid(pid)).await?;
        // It was ready long ago: all that it says is said to somebody.
        let driver = Driver::follow(stream, guest, &equipment, (&id, language), None)?;
        match language {
            Language::Bash => driver.signal(SIGINT).await?,
            Language::Python | Language::JavaScript => driver.interrupt(None).await?,
        }
        Ok(Self::of(id, language, is_default, cwd.unwrap_or_default(), equipment, driver))
    }

    fn of(id: String, language: Language, is_default: bool, cwd: String, equipment: Equipment, driver: Driver) -> Self {
        Self {
            id,
            language,
            is_default,
            cwd,
            equipment,
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
        let (driver, _) = Driver::start(guest, &self.equipment, &self.id, self.language, self.is_default, cwd).await?;
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
        self.driver().kill(End::Asked).await
    }
}

/// A driver's process.
#[derive(Debug)]
pub(super) struct Driver {
    pid: u32,
    language: Language,
    mark: String,
    guest: Guest,
    equipment: Equipment,
    input: tokio::sync::Mutex<ProcessInput>,
    outbox: Outbox,
    cells: AtomicU64,
    /// Bash: the last cell that it has read to its end.
    begun: watch::Receiver<u64>,
    /// Cancelled when the process is gone.
    pub(super) ended: CancellationToken,
    /// How it ended, once it has; why it is being ended, before.
    end: Arc<OnceLock<End>>,
}

impl Driver {
    async fn start(
        guest: &Guest,
        equipment: &Equipment,
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
        let driver = Self::follow(stream, guest, equipment, (id, language), Some(sender))?;
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
                driver.kill(End::Asked).await?;
                Err(Failure::new(Code::Timeout, format!("the driver for {} did not start in time", language.name()))
                    .with("limit_ms", CODE_START_TIMEOUT.as_millis()))
            }
        }
    }

    /// Reads what a driver says from now on. Where it has yet to start, `ready` gets the directory it is in, or its last words.
    fn follow(
        mut stream: ProcessStream,
        guest: &Guest,
        equipment: &Equipment,
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
            // What code prints is not taken for one by accident.
            mark: format!("mote-{id}-{:016x}", u64::from_le_bytes(random()?)),
            guest: guest.clone(),
            equipment: equipment.clone(),
            input: tokio::sync::Mutex::new(stream.take_input().ok_or_else(gone)?),
            outbox: Arc::clone(&outbox),
            // An adopted driver has run cells with small numbers: what it still says of them is nobody's.
            cells: AtomicU64::new(u64::from(u32::from_le_bytes(random()?)) << 8),
            begun,
            ended: ended.clone(),
            end: Arc::default(),
        };
        let outlet = Arc::clone(&driver.end);
        let reader = Reader::new((language, driver.mark.clone()), equipment.clone(), outbox, begins, ready);
        // Ends with the process, at the latest with the sandbox.
        let (guest, pid) = (guest.clone(), driver.pid);
        tokio::spawn(async move {
            reader.read(&mut stream, &outlet).await;
            if outlet.get() == Some(&End::Broken) && guest.signal(Selector::Pid(pid), SIGKILL).await.is_ok() {
                // Its tag is free when it is gone.
                while let Ok(Some(_)) = stream.next_event().await {}
            }
            ended.cancel();
        });
        Ok(driver)
    }

    /// Sends a cell to the driver; its messages come through the receiver, which ends early where the process does.
    pub(super) async fn run(
        &self,
        code: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<(u64, mpsc::Receiver<Told>), Failure> {
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

    /// Ends what bash waits for where that does not listen to an interrupt, and keeps the shell: `age` is the cell's. Whether
    /// there is anything that can be done.
    pub(super) async fn end_children(&self, age: Duration) -> bool {
        if self.language != Language::Bash {
            return false;
        }
        let age = (age.as_millis() / 10).to_string();
        let argv = ["/bin/sh", "-c", bash::END_CHILDREN, "sh", &self.pid.to_string(), &age].map(str::to_owned).to_vec();
        let start = Start { argv, cwd: Some("/".to_owned()), ..Start::default() };
        let ending = async {
            let mut helper = self.guest.start(start).await?;
            while helper.next_event().await?.is_some() {}
            Ok::<(), Failure>(())
        };
        matches!(tokio::time::timeout(CODE_INTERRUPT_GRACE, ending).await, Ok(Ok(())))
    }

    /// The time, for a message of the daemon's own.
    pub(super) fn now_ns(&self) -> u64 {
        self.equipment.now_ns()
    }

    /// How the process ended, where it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// Ends the process, for a reason that its cell is told; one that is gone already is fine.
    pub(super) async fn kill(&self, why: End) -> Result<(), Failure> {
        if self.ended.is_cancelled() {
            return Ok(());
        }
        let _ = self.end.set(why);
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
