//! What comes out of a process: its pipes, or its terminal.
//!
//! It does not decide when to read: whoever reads has room for what is read.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use mote_sandbox_api::guest::Kind;
use rustix::io::{Errno, ioctl_fionread};

/// One output of a process.
#[derive(Debug)]
pub(crate) struct Output {
    pub(super) descriptor: Arc<OwnedFd>,
    pub(super) kind: Kind,
    is_open: bool,
    /// Bytes that still count, once the process has ended and others go on writing.
    left: Option<u64>,
}

impl Output {
    pub(super) fn new(descriptor: Arc<OwnedFd>, kind: Kind) -> Self {
        Self { descriptor, kind, is_open: true, left: None }
    }

    /// Whether there may be more to read.
    pub(super) fn is_live(&self) -> bool {
        self.is_open && self.left != Some(0)
    }

    /// Whether somebody else still holds the other end, as far as is known.
    pub(super) fn is_left(&self) -> bool {
        self.is_open && self.kind != Kind::Terminal
    }

    /// Lets count only what stands in the pipe now: what the process itself wrote is in it.
    pub(super) fn cut(&mut self) {
        if self.left.is_none() {
            self.left = Some(ioctl_fionread(&self.descriptor).unwrap_or(0));
        }
    }

    /// Notes that everyone closed the other end.
    pub(super) fn end(&mut self) {
        self.is_open = false;
    }

    /// Reads what is there, no more than the buffer holds; nothing where nothing is there now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let most = self.left.map_or(buffer.len(), |left| buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        match rustix::io::read(&self.descriptor, &mut buffer[..most]) {
            // A terminal whose last process is gone fails with EIO.
            Ok(0) | Err(Errno::IO) => {
                self.is_open = false;
                0
            }
            Ok(count) => {
                self.left = self.left.map(|left| left.saturating_sub(count as u64));
                count
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.is_open = false;
                0
            }
        }
    }
}
