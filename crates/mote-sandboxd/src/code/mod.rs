//! The code interpreter: contexts inside sandboxes that keep their variables from one cell to the next.
//!
//! A context is a process inside the sandbox that runs a small driver of ours; it is found again after a restart of the
//! daemon. The drivers need nothing of the image but the language itself. This module knows no HTTP, and trusts nothing
//! that a driver says: it runs beside the user's code.

mod bash;
mod context;
mod execution;
mod language;
mod message;
mod reader;
mod room;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use serde::{Deserialize, Serialize};

pub use bash::status;
pub use execution::Execution;
pub use language::Language;
pub use message::{Formats, Message};

use crate::clock::SharedClock;
use crate::guest::Guest;
use crate::limits::{CODE_BYTES_MAX, CODE_LARGE_BYTES_ALL_MAX, CODE_LARGE_BYTES_MAX, CODE_TIMEOUT_MAX};
use crate::room::Room as Memory;
use room::Room;

/// Tags of drivers' processes begin with this.
pub const TAG: &str = "mote-code:";

/// A context as it is told to callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct About {
    /// Its id.
    pub id: String,
    /// `python`, `javascript` or `bash`.
    pub language: Language,
    /// Where it began.
    pub cwd: String,
}

/// A cell to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Cell {
    /// The code.
    pub code: String,
    /// The context; the language's default context where absent.
    #[serde(default)]
    pub context_id: Option<String>,
    /// The language of the default context; Python where absent.
    #[serde(default)]
    pub language: Option<String>,
    /// Environment for this cell alone.
    #[serde(default)]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// The cell is interrupted after this many milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// A context to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NewContext {
    /// Its language; Python where absent.
    #[serde(default)]
    pub language: Option<String>,
    /// Where it begins; the user's home where absent.
    #[serde(default)]
    pub cwd: Option<String>,
}

/// The contexts of every sandbox; clones share them.
#[derive(Clone, Debug)]
pub struct Interpreter {
    rooms: Arc<Mutex<HashMap<String, Arc<Room>>>>,
    clock: context::SharedClockHandle,
    /// Memory for what drivers say, of all sandboxes.
    memory: Arc<Memory>,
    oom_kills: Ooms,
}

/// How many processes of a sandbox the kernel has ended because memory ran out.
#[derive(Clone)]
struct Ooms(Arc<dyn Fn(&str) -> u64 + Send + Sync>);

impl std::fmt::Debug for Ooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ooms")
    }
}

/// What becomes of a cell for a context of a caller's own whose process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// The context begins anew, as E2B's do: what it held is lost.
    Revive,
    /// The cell fails.
    Fail,
}

impl Interpreter {
    /// Knows of no context yet; it looks for them where it is asked.
    #[must_use]
    pub fn new(clock: SharedClock, oom_kills: Arc<dyn Fn(&str) -> u64 + Send + Sync>) -> Self {
        Self {
            rooms: Arc::default(),
            clock: context::SharedClockHandle(clock),
            memory: Memory::new(CODE_LARGE_BYTES_ALL_MAX),
            oom_kills: Ooms(oom_kills),
        }
    }

    /// Runs a cell. Its messages come as they happen; a caller that drops them interrupts it.
    ///
    /// # Errors
    /// `invalid`, `not_found` (the context), `unsupported` (the language), `exhausted` (too many wait), `gone`.
    pub async fn execute(&self, sandbox: &str, guest: &Guest, cell: Cell, dead: Dead) -> Result<Execution, Failure> {
        if cell.code.len() > CODE_BYTES_MAX {
            let message = format!("the code is longer than {CODE_BYTES_MAX} bytes");
            return Err(Failure::new(Code::TooLarge, message).with("limit", CODE_BYTES_MAX));
        }
        if cell.context_id.is_some() && cell.language.is_some() {
            return Err(Failure::invalid("context_id", "a context has its own language: give one of the two"));
        }
        let timeout = cell.timeout_ms.map(Duration::from_millis);
        if timeout.is_some_and(|timeout| timeout.is_zero() || timeout > CODE_TIMEOUT_MAX) {
            let limit = CODE_TIMEOUT_MAX.as_millis();
            return Err(Failure::invalid("timeout_ms", format!("it must be 1 to {limit}")).with("limit", limit));
        }
        let room = self.room(sandbox, guest).await?;
        let context = match &cell.context_id {
            Some(id) => room.context_for(guest, id, dead).await?,
            None => room.default_context(guest, Language::named(cell.language.as_deref())?).await?,
        };
        let (oom_kills, sandbox) = (self.oom_kills.clone(), sandbox.to_owned());
        let oom_kills = Box::new(move || (oom_kills.0)(&sandbox));
        execution::begin(context, cell.code, cell.env_vars.unwrap_or_default(), timeout, oom_kills)
    }

    /// Makes a context.
    ///
    /// # Errors
    /// `unsupported` (the language), `not_found` (its program or the directory), `exhausted`, `timeout`, `gone`.
    pub async fn create(&self, sandbox: &str, guest: &Guest, new: NewContext) -> Result<About, Failure> {
        let language = Language::named(new.language.as_deref())?;
        let room = self.room(sandbox, guest).await?;
        Ok(room.create(guest, language, new.cwd).await?.about())
    }

    /// Every context of a sandbox: the default ones first, also those that have not begun because nobody has used them.
    ///
    /// # Errors
    /// `gone`.
    pub async fn list(&self, sandbox: &str, guest: &Guest) -> Result<Vec<About>, Failure> {
        self.room(sandbox, guest).await?.list(guest).await
    }

    /// Ends a context and its processes.
    ///
    /// # Errors
    /// `not_found`, `gone`.
    pub async fn remove(&self, sandbox: &str, guest: &Guest, id: &str) -> Result<(), Failure> {
        let room = self.room(sandbox, guest).await?;
        match room.known(id)? {
            Some(context) => {
                room.forget(id);
                context.kill().await
            }
            None => Ok(()),
        }
    }

    /// Begins a context anew under its id: what it held is gone, a cell that runs ends.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn restart(&self, sandbox: &str, guest: &Guest, id: &str) -> Result<(), Failure> {
        let room = self.room(sandbox, guest).await?;
        match room.known(id)? {
            Some(context) => context.restart(guest).await,
            None => Ok(()),
        }
    }

    /// Interrupts the cell that a context runs, if it runs one.
    ///
    /// # Errors
    /// `not_found`, `gone`.
    pub async fn interrupt(&self, sandbox: &str, guest: &Guest, id: &str) -> Result<(), Failure> {
        let room = self.room(sandbox, guest).await?;
        match room.known(id)? {
            Some(context) => context.interrupt().await,
            None => Ok(()),
        }
    }

    /// The room of a sandbox; contexts that a daemon before this one made are found in it.
    async fn room(&self, sandbox: &str, guest: &Guest) -> Result<Arc<Room>, Failure> {
        let room = {
            let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
            rooms.retain(|id, room| id == sandbox || !room.is_abandoned());
            let memory = [Memory::new(CODE_LARGE_BYTES_MAX), Arc::clone(&self.memory)];
            let new = || Arc::new(Room::new(context::Equipment { clock: self.clock.clone(), memory }));
            Arc::clone(rooms.entry(sandbox.to_owned()).or_insert_with(new))
        };
        room.adopt(guest).await?;
        Ok(room)
    }
}
