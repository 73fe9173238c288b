//! Which of the keeper's descriptors is ready: a thin layer over epoll, by token.
//!
//! It does not own the descriptors; closing one ends its watch.

use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// Names a watched descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

/// The descriptors that are watched.
#[derive(Debug)]
pub struct Reactor {
    epoll: OwnedFd,
    next: u64,
}

impl Reactor {
    /// Watches nothing.
    ///
    /// # Errors
    /// Where the kernel gives no epoll instance.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, next: 0 })
    }

    /// Watches until the descriptor is readable or its other end is closed.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn watch(&mut self, descriptor: impl AsFd) -> Result<Token, Errno> {
        self.next += 1;
        let token = Token(self.next);
        epoll::add(&self.epoll, descriptor, EventData::new_u64(token.0), EventFlags::IN)?;
        Ok(token)
    }

    /// Says whether readiness for writing matters too.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn watch_writing(&self, descriptor: impl AsFd, token: Token, writing: bool) -> Result<(), Errno> {
        let flags = if writing { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.epoll, descriptor, EventData::new_u64(token.0), flags)
    }

    /// No longer watches.
    pub fn forget(&self, descriptor: impl AsFd) {
        // Gone already where the descriptor was closed: nothing is lost.
        let _ = epoll::delete(&self.epoll, descriptor);
    }

    /// Waits until something is ready, or the time (milliseconds) is over.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn wait(&self, timeout_ms: Option<u32>) -> Result<Vec<Token>, Errno> {
        let mut events = Vec::with_capacity(64);
        let timeout =
            timeout_ms.map(|ms| Timespec { tv_sec: i64::from(ms / 1000), tv_nsec: i64::from(ms % 1000) * 1_000_000 });
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(events.iter().map(|event| Token(event.data.u64())).collect())
    }
}
