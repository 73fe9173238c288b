//! What goes into a process: a pipe or a terminal, and the bytes that wait for it.
//!
//! It reads no connection: it takes bytes only when none wait, so that senders feel the back-pressure.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

/// The character that ends input on a terminal, `VEOF` by default (`termios(3)`).
const END_OF_TRANSMISSION: u8 = 4;

/// The input of a process.
#[derive(Debug)]
pub(crate) struct Input {
    descriptor: Option<Arc<OwnedFd>>,
    is_terminal: bool,
    waiting: Vec<u8>,
    written: usize,
    /// Bytes that anyone ever gave to it.
    offered: u64,
    /// How many of them the process's end took. Once it takes no more, this lags behind for good.
    taken: u64,
    /// To be closed when nothing waits.
    is_ending: bool,
}

impl Input {
    pub(super) fn new(descriptor: Option<Arc<OwnedFd>>, is_terminal: bool) -> Self {
        Self { descriptor, is_terminal, waiting: Vec::new(), written: 0, offered: 0, taken: 0, is_ending: false }
    }

    /// Whether bytes can still be given to it.
    pub(super) fn is_open(&self) -> bool {
        self.descriptor.is_some() && !self.is_ending
    }

    /// Whether bytes wait for it to be written to.
    pub(super) fn is_waiting(&self) -> bool {
        self.written < self.waiting.len()
    }

    /// The descriptor to wait for until it can be written to.
    pub(super) fn blocked_on(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().filter(|_| self.is_waiting()).map(|descriptor| descriptor.as_fd())
    }

    /// How many bytes were given to it so far.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    /// Whether the first `bytes` that were given to it have all gone on to the process.
    pub(super) fn has_taken(&self, bytes: u64) -> bool {
        self.taken >= bytes
    }

    /// Takes bytes; they are dropped where the process has closed its input, and then never count as taken.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.offered += bytes.len() as u64;
        if self.is_open() {
            self.waiting.extend_from_slice(bytes);
            self.write();
        }
    }

    /// Ends the input after what waits. On a terminal that is a character, and more may follow it.
    pub(super) fn end(&mut self) {
        if self.is_terminal {
            self.push(&[END_OF_TRANSMISSION]);
        } else {
            self.is_ending = true;
            self.write();
        }
    }

    /// Drops what waits, and takes nothing more.
    pub(super) fn close(&mut self) {
        self.descriptor = None;
        self.waiting = Vec::new();
        self.written = 0;
    }

    /// Writes what can be written now.
    pub(super) fn write(&mut self) {
        let Some(descriptor) = &self.descriptor else { return };
        while self.written < self.waiting.len() {
            match rustix::io::write(descriptor, &self.waiting[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    self.taken += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The process closed its end: it does not want more.
                Err(_) => return self.close(),
            }
        }
        self.waiting.clear();
        self.written = 0;
        if self.is_ending {
            self.descriptor = None;
        }
    }
}
