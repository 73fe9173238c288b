//! Processes under test: started, watched, signalled and always ended.
//!
//! [`binary`] finds or builds the programs, [`service`] is `mote serve`, [`terminal`] has a person before it. It does not parse what a program says beyond
//! its lines.

pub mod binary;
pub mod service;
pub mod terminal;

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::limits::{OUTPUT_LINES_MAX, PATIENCE, POLL};

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

type Lines = Arc<Mutex<Vec<(Stream, String)>>>;

/// A running process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    lines: Lines,
    grown: watch::Receiver<usize>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Process {
    /// Starts a command and captures its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = id.with_context(|| format!("{name} has no process id"))?;
        let lines = Lines::default();
        let (grow, grown) = watch::channel(0);
        let grow = Arc::new(grow);
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(tokio::spawn(collect(out, Stream::Out, Arc::clone(&lines), Arc::clone(&grow))));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(tokio::spawn(collect(err, Stream::Err, Arc::clone(&lines), grow)));
        }
        Ok(Self { name, child, pid, lines, grown, readers })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Everything it wrote, both streams.
    #[must_use]
    pub fn output(&self) -> String {
        self.text(|_| true)
    }

    /// What it wrote to standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.text(|stream| stream == Stream::Out)
    }

    fn text(&self, wanted: impl Fn(Stream) -> bool) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = lines.iter().filter(|(stream, _)| wanted(*stream));
        chosen.fold(String::new(), |text, (_, line)| text + line + "\n")
    }

    /// Waits for a line from which `find` makes something; lines already written count.
    ///
    /// # Errors
    /// When the process ends or stays silent before that; the message has its output.
    pub async fn line<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let name = self.name.clone();
        let lines = Arc::clone(&self.lines);
        let mut grown = self.grown.clone();
        let search = async {
            let mut seen = 0;
            loop {
                grown.mark_unchanged();
                {
                    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(found) = lines[seen..].iter().find_map(|(_, line)| find(line)) {
                        return Ok(found);
                    }
                    seen = lines.len();
                }
                if grown.changed().await.is_err() {
                    bail!("{name} ended first");
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| bail!("{} did not say it in time", self.name)).map_err(|error| self.blame(error))
    }

    fn blame(&self, error: anyhow::Error) -> anyhow::Error {
        anyhow!("{error}; it wrote:\n{}", self.output())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        rustix::process::kill_process(self.pid, signal).with_context(|| format!("failed to signal {}", self.name))
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("failed to kill {}", self.name))
    }

    /// Stops it where it stands (SIGSTOP).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Waits until it stands still, after [`Process::pause`] or because it stopped itself.
    ///
    /// # Errors
    /// When it does not in time, or is gone.
    pub async fn stopped(&self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/stat", self.pid());
        let standing = async {
            loop {
                let stat = std::fs::read_to_string(&path).with_context(|| format!("{} is gone", self.name))?;
                // `pid (name) state …`: proc_pid_stat(5).
                if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, standing).await;
        waited.unwrap_or_else(|_| Err(self.blame(anyhow!("{} does not stop", self.name))))
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn wake(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it is still there.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end and for the rest of its output.
    ///
    /// # Errors
    /// When it does not end in time; the message has its output.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => {
                for reader in self.readers.drain(..) {
                    let _ = tokio::time::timeout(PATIENCE, reader).await;
                }
                Ok(status?)
            }
            Err(_) => Err(self.blame(anyhow!("{} did not end in time", self.name))),
        }
    }
}

async fn collect(from: impl AsyncRead + Unpin, stream: Stream, lines: Lines, grow: Arc<watch::Sender<usize>>) {
    let mut reader = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = reader.next_segment().await {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < OUTPUT_LINES_MAX {
            lines.push((stream, String::from_utf8_lossy(&line).into_owned()));
        }
        grow.send_replace(lines.len());
    }
}

/// Lets this process open as many files as the system allows: thousands of connections need it.
///
/// # Errors
/// When the limit cannot be set.
pub fn raise_file_limit() -> anyhow::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).context("failed to raise the limit of open files")
}
