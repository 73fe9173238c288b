//! Roots of sandboxes that ended, each held mounted a little longer by a descriptor.
//!
//! When an overlay goes, the kernel first writes everything dirty of the filesystem below it, which is the whole pool's, and
//! commits. Whoever ends a sandbox or rolls it back should not wait for that, and ten that go together cost one such write.
//! It loses nothing: what was written is in the pool's page cache, for snapshots and for everybody else.

use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_sys::process::{self, Child, SingleThreaded};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::UnshareFlags;

use crate::keeper::reactor::{Reactor, Token};
use crate::limits::GRAVES_MAX;

/// A root, by the directory that it writes to (device and inode).
type Upper = (u64, u64);

/// What is held, and the child that lets go.
#[derive(Debug, Default)]
pub(super) struct Graves {
    held: Vec<(Upper, OwnedFd)>,
    digger: Option<Digger>,
}

/// A child at work, and what it lets go of.
#[derive(Debug)]
struct Digger {
    token: Token,
    child: Child,
    uppers: Vec<Upper>,
}

/// The root of a process that lives, so that it stays when the process does not.
pub(super) fn root_of(pid: u32) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).ok()
}

impl Graves {
    /// Holds a root.
    pub(super) fn hold(&mut self, upper: Upper, root: OwnedFd) {
        self.held.push((upper, root));
    }

    /// Whether a root is still mounted: it cannot be mounted again yet, for two overlays may not write to one directory.
    pub(super) fn holds(&self, upper: Upper) -> bool {
        self.held.iter().any(|(held, _)| *held == upper)
            || self.digger.as_ref().is_some_and(|digger| digger.uppers.contains(&upper))
    }

    /// For a child that does something else: what it inherited is not its own to hold.
    pub(super) fn let_go(&mut self) {
        self.held.clear();
    }

    /// Whether there is something to let go of, and nobody at it.
    pub(super) const fn is_due(&self) -> bool {
        !self.held.is_empty() && self.digger.is_none()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.held.len() >= GRAVES_MAX && self.digger.is_none()
    }

    /// Lets a child let go of everything: it waits for the disk, which the keeper must not. Where there can be none, it is tried
    /// again later.
    pub(super) fn dig(&mut self, proof: &SingleThreaded, reactor: &mut Reactor) {
        let Ok((reader, writer)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else { return };
        let held = std::mem::take(&mut self.held);
        let child = process::fork(proof, UnshareFlags::empty(), None, || {
            let mut keep: Vec<_> = held.iter().map(|(_, root)| root.as_fd()).collect();
            keep.push(reader.as_fd());
            if process::keep_only(proof, &keep).is_ok() {
                // Ends when the keeper holds none of them any more, so that the last reference is here.
                let _ = rustix::io::read(&reader, &mut [0_u8; 1]);
            }
            0
        });
        let Ok(child) = child else {
            self.held = held;
            return;
        };
        let Ok(token) = reactor.watch(&child.descriptor) else {
            // It ends when it hears that nobody holds anything, and does nothing while the keeper does.
            let _ = rustix::process::pidfd_send_signal(&child.descriptor, Signal::KILL);
            wait(&child);
            self.held = held;
            return;
        };
        let uppers = held.iter().map(|(upper, _)| *upper).collect();
        self.digger = Some(Digger { token, child, uppers });
        drop(held);
        drop(writer);
    }

    /// Whether it was the child that ended; it is then reaped.
    pub(super) fn ready(&mut self, token: Token, reactor: &Reactor) -> bool {
        let ended = self.digger.take_if(|digger| digger.token == token);
        if let Some(digger) = &ended {
            reactor.forget(&digger.child.descriptor);
            wait(&digger.child);
        }
        ended.is_some()
    }

    /// Lets go of everything, and waits until it is gone.
    pub(super) fn close(&mut self) {
        self.held.clear();
        if let Some(digger) = self.digger.take() {
            wait(&digger.child);
        }
    }
}

fn wait(child: &Child) {
    let _ = rustix::process::waitid(WaitId::PidFd(child.descriptor.as_fd()), WaitIdOptions::EXITED);
}
