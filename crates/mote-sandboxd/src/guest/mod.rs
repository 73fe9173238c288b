//! The daemon's side of `mote_sandbox_api::guest`: asks the first process of a sandbox, one connection an operation.
//!
//! It believes nothing that comes back beyond its form: what is too long, of the wrong kind or cut short fails the one
//! operation as `gone`, naming what was wrong. It opens no path of a guest, and it never retries.

mod dial;
mod file;
mod frame;
mod process;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{
    Configuration, Entry, FileTarget, PROTOCOL, Process, RawPath, Reply, Request, Selector, Start, TerminalSize,
};
use mote_sandbox_api::limits::{LIST_DEPTH_MAX, LIST_ENTRIES_MAX};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub use self::dial::Dialled;
pub use self::file::{FileRead, Told, Watching};
pub use self::frame::violation;
pub use self::process::{Event, ProcessInput, ProcessStream};

use self::frame::{Frames, Writer};
use crate::descriptor;
use crate::limits::{
    GUEST_BACKLOG, GUEST_BACKLOG_PAUSE, GUEST_BACKLOG_PAUSE_MAX, GUEST_BACKLOG_TIMEOUT_MS, GUEST_CONNECT_TIMEOUT_MS,
    GUEST_LIST_BYTES_MAX, GUEST_PROCESSES_MAX, GUEST_REPLY_TIMEOUT_MS, GUEST_SYNC_TIMEOUT_MS,
};

/// The first process of one sandbox, by its socket. Clones are cheap; nothing is connected until something is asked.
#[derive(Clone, Debug)]
pub struct Guest {
    socket: Arc<Path>,
}

impl Guest {
    /// The guest behind a socket, which need not be there yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into().into() }
    }

    /// Its socket on the host.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether it is there and speaks this protocol.
    ///
    /// # Errors
    /// `gone` where it is not there; `unsupported` where it speaks another version.
    pub async fn hello(&self) -> Result<(), Failure> {
        match self.ask(&Request::Hello, GUEST_REPLY_TIMEOUT_MS).await? {
            Reply::Hello { protocol: PROTOCOL } => Ok(()),
            Reply::Hello { protocol } => {
                let message = format!("the sandbox's first process speaks version {protocol}, not {PROTOCOL}");
                Err(Failure::unsupported("guest protocol", message).with("version", protocol))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sets environment, user and working directory of what is started from now on.
    ///
    /// # Errors
    /// `invalid` where the environment cannot be one; `gone`.
    pub async fn configure(&self, configuration: Configuration) -> Result<(), Failure> {
        self.ask_done(&Request::Configure(configuration), GUEST_REPLY_TIMEOUT_MS).await
    }

    /// Starts a process. Dropping the stream ends it, unless it is detached.
    ///
    /// # Errors
    /// `not_found` with `kind` `program`, `cwd` or `user`; `conflict` where the tag is taken; `forbidden`; `exhausted`;
    /// `gone`.
    pub async fn start(&self, start: Start) -> Result<ProcessStream, Failure> {
        self.follow(&Request::Start(start)).await
    }

    /// Follows a process that runs, from now on. Dropping the stream leaves the process alone.
    ///
    /// # Errors
    /// `not_found`; `exhausted` where too many follow it; `gone`.
    pub async fn attach(&self, process: Selector) -> Result<ProcessStream, Failure> {
        self.follow(&Request::Attach(process)).await
    }

    async fn follow(&self, request: &Request) -> Result<ProcessStream, Failure> {
        let (mut frames, writer) = self.open(request).await?;
        match within(GUEST_REPLY_TIMEOUT_MS, "the start of a process", frames.reply()).await? {
            Reply::Started { pid } => Ok(ProcessStream::new(pid, frames, writer)),
            other => Err(unexpected(&other)),
        }
    }

    /// Processes that were started here and live.
    ///
    /// # Errors
    /// `gone`.
    pub async fn processes(&self) -> Result<Vec<Process>, Failure> {
        self.gather(&Request::Processes, GUEST_PROCESSES_MAX, |reply| match reply {
            Reply::Processes(processes) => Ok(processes),
            other => Err(Box::new(other)),
        })
        .await
    }

    /// Sends a signal, by its number, to a process's group.
    ///
    /// # Errors
    /// `not_found`; `invalid` where there is no such signal; `gone`.
    pub async fn signal(&self, process: Selector, signal: i32) -> Result<(), Failure> {
        self.ask_done(&Request::Signal { process, signal }, GUEST_REPLY_TIMEOUT_MS).await
    }

    /// Changes the size of a process's terminal.
    ///
    /// # Errors
    /// `not_found`; `invalid` where it does not run on a terminal; `gone`.
    pub async fn resize(&self, process: Selector, size: TerminalSize) -> Result<(), Failure> {
        self.ask_done(&Request::Resize { process, size }, GUEST_REPLY_TIMEOUT_MS).await
    }

    /// Opens the input of a process that another connection started; [`ProcessInput::finish`] tells when all is written.
    ///
    /// # Errors
    /// `gone`. That there is no such process is told by the writer.
    pub async fn input(&self, process: Selector) -> Result<ProcessInput, Failure> {
        let (frames, writer) = self.open(&Request::Input(process)).await?;
        Ok(ProcessInput::alone(writer, frames))
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `invalid`, `gone`.
    pub async fn stat(&self, target: FileTarget) -> Result<Entry, Failure> {
        self.ask_entry(&Request::Stat(target)).await
    }

    /// What a directory holds, to a depth of 1 to [`LIST_DEPTH_MAX`] levels, each directory's entries sorted by name.
    ///
    /// # Errors
    /// As [`Self::stat`]; `too_large` beyond [`LIST_ENTRIES_MAX`] entries.
    pub async fn list(&self, target: FileTarget, depth: u32) -> Result<Vec<Entry>, Failure> {
        if !(1..=LIST_DEPTH_MAX).contains(&depth) {
            return Err(Failure::invalid("depth", format_args!("{depth} is not between 1 and {LIST_DEPTH_MAX}")));
        }
        self.gather(&Request::List { target, depth }, LIST_ENTRIES_MAX, |reply| match reply {
            Reply::Entries(entries) => Ok(entries),
            other => Err(Box::new(other)),
        })
        .await
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// `conflict` where something is there; `forbidden`, `no_space`, `invalid`, `gone`.
    pub async fn make_directory(&self, target: FileTarget) -> Result<Entry, Failure> {
        self.ask_entry(&Request::MakeDirectory(target)).await
    }

    /// Moves an entry; directories above its new path are made.
    ///
    /// # Errors
    /// As [`Self::make_directory`]; `not_found`; `invalid` where the paths lie on different filesystems.
    pub async fn rename(&self, from: FileTarget, to: impl Into<RawPath>) -> Result<Entry, Failure> {
        self.ask_entry(&Request::Move { from, to: to.into() }).await
    }

    /// Makes a symbolic link; directories above it are made.
    ///
    /// # Errors
    /// As [`Self::make_directory`].
    pub async fn link(&self, target: FileTarget, to: RawPath) -> Result<Entry, Failure> {
        self.ask_entry(&Request::Link { target, to }).await
    }

    /// Removes a file, or a directory with all it holds.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `conflict` where others go on making files in it, `gone`.
    pub async fn remove(&self, target: FileTarget) -> Result<(), Failure> {
        self.ask_done(&Request::Remove(target), GUEST_SYNC_TIMEOUT_MS).await
    }

    /// Writes everything dirty to the sandbox's filesystems.
    ///
    /// # Errors
    /// `internal` where a disk failed; `timeout`; `gone`.
    pub async fn sync(&self) -> Result<(), Failure> {
        self.ask_done(&Request::Sync, GUEST_SYNC_TIMEOUT_MS).await
    }

    /// Ends every process of the sandbox but the first, and returns when they are gone.
    ///
    /// # Errors
    /// `timeout` where some do not end; `gone`.
    pub async fn end_all(&self) -> Result<(), Failure> {
        self.ask_done(&Request::EndAll, GUEST_REPLY_TIMEOUT_MS).await
    }

    /// Connects and sends the request.
    async fn open(&self, request: &Request) -> Result<(Frames, Writer), Failure> {
        let connecting = async {
            let stream = connect(&self.socket).await?;
            let (reader, writer) = stream.into_split();
            let (frames, mut writer) = (Frames::new(reader), Writer::new(writer));
            writer.request(request).await?;
            Ok((frames, writer))
        };
        within(GUEST_CONNECT_TIMEOUT_MS, "a connection", connecting).await
    }

    /// Asks what has one reply.
    async fn ask(&self, request: &Request, timeout_ms: u64) -> Result<Reply, Failure> {
        let (mut frames, _writer) = self.open(request).await?;
        within(timeout_ms, "a reply", frames.reply()).await
    }

    async fn ask_done(&self, request: &Request, timeout_ms: u64) -> Result<(), Failure> {
        match self.ask(request, timeout_ms).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask_entry(&self, request: &Request) -> Result<Entry, Failure> {
        match self.ask(request, GUEST_REPLY_TIMEOUT_MS).await? {
            Reply::Entry(entry) => Ok(*entry),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks what is answered by a list in several frames; the time counts anew for each.
    async fn gather<T: DeserializeOwned>(
        &self,
        request: &Request,
        items_max: usize,
        items: impl Fn(Reply) -> Result<Vec<T>, Box<Reply>>,
    ) -> Result<Vec<T>, Failure> {
        let (mut frames, _writer) = self.open(request).await?;
        let mut all = Vec::new();
        let mut bytes = 0;
        loop {
            let (reply, length) = within(GUEST_REPLY_TIMEOUT_MS, "a reply", frames.reply_sized()).await?;
            bytes += length;
            match items(reply) {
                Ok(some) => all.extend(some),
                Err(other) if *other == Reply::Done => return Ok(all),
                Err(other) => return Err(unexpected(&other)),
            }
            if all.len() > items_max || bytes > GUEST_LIST_BYTES_MAX {
                return Err(violation("a list is longer than it may be"));
            }
        }
    }
}

/// Connects; waits its turn where more connections wait already than the first process has taken, which the kernel tells nobody
/// of when it changes (`unix(7)`). A place that does not come in time is a limit, not an end.
async fn connect(socket: &Path) -> Result<UnixStream, Failure> {
    let bound = Duration::from_millis(GUEST_BACKLOG_TIMEOUT_MS);
    let since = tokio::time::Instant::now();
    let mut pause = GUEST_BACKLOG_PAUSE;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && since.elapsed() < bound => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(GUEST_BACKLOG_PAUSE_MAX);
            }
            result => return result.map_err(|error| gone(&error)),
        }
    }
}

/// Bounds a wait, and names what was waited for.
async fn within<T>(
    timeout_ms: u64,
    what: &str,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(Duration::from_millis(timeout_ms), future).await.unwrap_or_else(|_| {
        let message = format!("the sandbox's first process did not give {what} within {timeout_ms} ms");
        Err(Failure::new(Code::Timeout, message).with("limit_ms", timeout_ms))
    })
}

/// Nobody listens, or the connection broke; or it is the daemon, or the first process's queue, that cannot have one more.
fn gone(error: &std::io::Error) -> Failure {
    if descriptor::are_used_up(error) {
        return descriptor::used_up("failed to reach the sandbox's first process");
    }
    if error.kind() == std::io::ErrorKind::WouldBlock {
        let message = format!("failed to reach the sandbox's first process: {GUEST_BACKLOG} connections wait for it");
        return Failure::new(Code::Exhausted, message).with("limit", GUEST_BACKLOG).with("retry_after_s", 1);
    }
    Failure::new(Code::Gone, format!("failed to reach the sandbox's first process: {error}"))
}

/// A reply that does not answer the request.
fn unexpected(reply: &Reply) -> Failure {
    let name = match reply {
        Reply::Hello { .. } => "hello",
        Reply::Done => "done",
        Reply::Failed(_) => "failed",
        Reply::Started { .. } => "started",
        Reply::Exited { .. } => "exited",
        Reply::Processes(_) => "processes",
        Reply::Entry(_) => "entry",
        Reply::Entries(_) => "entries",
        Reply::Event { .. } => "event",
    };
    violation(format_args!("the reply {name:?} does not answer the request"))
}

#[cfg(test)]
mod tests;
