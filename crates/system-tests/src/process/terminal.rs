//! A process on a pseudo-terminal, as a person has it: what it shows is read, what it asks is answered.
//!
//! It interprets no escapes.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::limits::PATIENCE;

/// A running process. Dropping it kills it.
pub struct Terminal {
    child: Child,
    master: std::fs::File,
    shown: Arc<Mutex<String>>,
    grown: watch::Receiver<usize>,
    /// How much of it was waited for already.
    seen: usize,
}

impl Terminal {
    /// Starts a command on a terminal of its own.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the command cannot be started.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("failed to open a terminal")?;
        grantpt(&master).and_then(|()| unlockpt(&master)).context("failed to unlock the terminal")?;
        let name = ptsname(&master, Vec::new()).context("failed to name the terminal")?;
        let name = name.into_string().context("the terminal's name is no text")?;
        let side = || -> anyhow::Result<Stdio> {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&name);
            Ok(Stdio::from(OwnedFd::from(file.context("failed to open the terminal's other side")?)))
        };
        command.stdin(side()?).stdout(side()?).stderr(side()?).kill_on_drop(true);
        let child = command.spawn().context("failed to start")?;
        // The command holds the other side; once nobody else does, its end is the terminal's.
        drop(command);
        let master = std::fs::File::from(master);
        let (grow, grown) = watch::channel(0);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reading, text) = (master.try_clone().context("failed to share the terminal")?, Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO once the last one has left the other side.
            while let Ok(read @ 1..) = reading.read(&mut bytes) {
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&String::from_utf8_lossy(&bytes[..read]));
                grow.send_replace(text.len());
            }
        });
        Ok(Self { child, master, shown, grown, seen: 0 })
    }

    /// Everything that it has shown.
    #[must_use]
    pub fn text(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it shows a text behind what was waited for before; gives what it showed up to there.
    ///
    /// # Errors
    /// When it never does; the message has what it shows.
    pub async fn shows(&mut self, wanted: &str) -> anyhow::Result<String> {
        let search = async {
            loop {
                self.grown.mark_unchanged();
                let text = self.text();
                if let Some(at) = text[self.seen..].find(wanted) {
                    let end = self.seen + at + wanted.len();
                    return Ok(text[std::mem::replace(&mut self.seen, end)..end].to_owned());
                }
                if self.grown.changed().await.is_err() {
                    bail!("it ended first");
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| Err(anyhow!("it never does")));
        found.map_err(|error| anyhow!("failed to see {wanted:?}: {error}; it shows:\n{}", self.text()))
    }

    /// Types a line.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn types(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.master, "{line}").context("failed to type")
    }

    /// Waits for its end and for the rest of what it shows.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.map_err(|_| anyhow!("it does not end; it shows:\n{}", self.text()))??;
        let rest = async { while self.grown.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(PATIENCE, rest).await;
        Ok(status)
    }
}
