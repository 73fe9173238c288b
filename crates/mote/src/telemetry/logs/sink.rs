//! Where log lines go: a thread of its own behind a bounded queue, so that a reader who stops reading stops nobody.
//!
//! A full queue drops lines and counts them; a broken pipe ends the writing and nothing else. It does not format.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::limits::{LOG_QUEUE, LOG_WRITE_BYTES};

enum Command {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The handle: cheap to clone.
#[derive(Clone)]
pub struct Sink {
    queue: SyncSender<Command>,
    on_drop: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// Starts the thread that writes to `output`; `on_drop` is called for each line that finds the queue full.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        output: impl Write + Send + 'static,
        on_drop: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (queue, commands) = sync_channel(LOG_QUEUE);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&commands, output))?;
        Ok(Self { queue, on_drop: Arc::new(on_drop) })
    }

    pub(super) fn write(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Command::Line(line)) {
            (self.on_drop)();
        }
    }

    /// Waits until what was queued is written, at most `within`. Blocks: not for an async worker.
    pub fn flush(&self, within: Duration) {
        let (done, written) = sync_channel(1);
        // A full queue means that nobody reads: then there is no use in waiting.
        if self.queue.try_send(Command::Flush(done)).is_ok() {
            let _ = written.recv_timeout(within);
        }
    }
}

/// Writes until every handle is gone. Lines that are queued together are written together.
fn write_all(commands: &Receiver<Command>, mut output: impl Write) {
    let mut buffer = Vec::new();
    let mut open = true;
    let mut waiting = Vec::new();
    while let Ok(first) = commands.recv() {
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Line(line) => buffer.extend_from_slice(&line),
                Command::Flush(done) => waiting.push(done),
            }
            next = if buffer.len() < LOG_WRITE_BYTES { commands.try_recv().ok() } else { None };
        }
        // After a broken pipe the queue is still emptied, so that nobody sees it full.
        if open {
            open = output.write_all(&buffer).and_then(|()| output.flush()).is_ok();
        }
        buffer.clear();
        buffer.shrink_to(LOG_WRITE_BYTES);
        for done in waiting.drain(..) {
            let _ = done.try_send(());
        }
    }
}
