//! Who a sandbox is on the host: a private range of ids, and a user namespace that maps it.
//!
//! It does not decide who is who inside; the image's `/etc/passwd` does.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::process::{self, SingleThreaded};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, Uid, WaitId, WaitIdOptions};
use rustix::thread::UnshareFlags;

use super::capability;
use super::file::{failed, write};
use crate::limits::{RANGE_IDS, SLOTS_MAX};

/// Number of a range of ids.
pub type Slot = u32;

/// Which ranges are in use. A range that was given back comes again as late as possible.
#[derive(Debug, Default)]
pub struct Slots {
    used: BTreeSet<Slot>,
    next: Slot,
}

impl Slots {
    /// Marks a range as used by a sandbox that was found.
    pub fn keep(&mut self, slot: Slot) {
        self.used.insert(slot);
    }

    /// Takes a free range.
    ///
    /// # Errors
    /// `exhausted` where every range is in use.
    pub fn take(&mut self) -> Result<Slot, Failure> {
        let free = (0..SLOTS_MAX).map(|step| (self.next + step) % SLOTS_MAX).find(|slot| !self.used.contains(slot));
        let Some(slot) = free else {
            return Err(Failure::new(Code::Exhausted, "every range of ids is in use").with("limit", SLOTS_MAX));
        };
        self.used.insert(slot);
        self.next = (slot + 1) % SLOTS_MAX;
        Ok(slot)
    }

    /// Gives a range back.
    pub fn give_back(&mut self, slot: Slot) {
        self.used.remove(&slot);
    }
}

/// First host id of a range.
#[must_use]
pub const fn first_id(uid_base: u32, slot: Slot) -> u32 {
    uid_base + slot * RANGE_IDS
}

/// Makes a user namespace in which 0 to 65,535 are the host's ids from `first` on. It lives as long as it is held.
///
/// Its creator is `first`, and not the host's root: what the kernel counts for each user (inotify instances, pending signals,
/// message queues, locked memory) it counts for the creator of the namespace, too, so that sandboxes of one creator would
/// use up each other's share and the host's.
///
/// # Errors
/// `internal` with what the kernel refused.
pub fn user_namespace(proof: &SingleThreaded, first: u32) -> Result<OwnedFd, Failure> {
    let failed = |error| failed("make a user namespace", error);
    let (made, ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    // Holds the namespace until its descriptor is open; it has nothing else to do.
    let holder = process::fork(proof, UnshareFlags::empty(), None, || {
        if make_as(Uid::from_raw(first)).is_err() || rustix::io::write(&ready, &[0]).is_err() {
            return 1;
        }
        let _ = rustix::event::poll(&mut [], None);
        0
    })
    .map_err(failed)?;
    drop(ready);
    let namespace = match rustix::io::retry_on_intr(|| rustix::io::read(&made, &mut [0_u8; 1])) {
        Ok(1) => map(holder.pid.as_raw_nonzero().get(), first),
        Ok(_) => Err(failed(Errno::PERM)),
        Err(error) => Err(failed(error)),
    };
    let _ = rustix::process::pidfd_send_signal(&holder.descriptor, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::PidFd(holder.descriptor.as_fd()), WaitIdOptions::EXITED);
    namespace
}

/// Enters a new user namespace whose creator is this user. The real user stays root, by whom the kernel decides whether
/// processes of the namespace are counted against a limit of its creator's (`RLIMIT_NPROC`): the cgroup bounds them.
fn make_as(creator: Uid) -> Result<(), Errno> {
    rustix::thread::set_thread_res_uid(Uid::ROOT, creator, Uid::ROOT)?;
    // Hosts may let only an administrator make user namespaces.
    capability::raise_all()?;
    process::unshare(UnshareFlags::NEWUSER)
}

fn map(pid: i32, first: u32) -> Result<OwnedFd, Failure> {
    let process = std::path::PathBuf::from(format!("/proc/{pid}"));
    let map = format!("0 {first} {RANGE_IDS}");
    write(&process.join("uid_map"), &map)?;
    write(&process.join("gid_map"), &map)?;
    rustix::fs::open(process.join("ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open a user namespace", error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_range_in_use_is_not_given_twice_and_one_given_back_comes_last() {
        let mut slots = Slots::default();
        slots.keep(1);
        assert_eq!([slots.take().unwrap(), slots.take().unwrap()], [0, 2]);
        slots.give_back(0);
        assert_eq!(slots.take().unwrap(), 3);
        for _ in 0..SLOTS_MAX - 3 {
            slots.take().unwrap();
        }
        assert_eq!(slots.take().unwrap_err().code, Code::Exhausted);
    }

    #[test]
    fn no_range_reaches_the_daemons_own_id() {
        use crate::keeper::settings::{DAEMON_ID, UID_BASE};
        assert!(first_id(UID_BASE, SLOTS_MAX - 1) + (RANGE_IDS - 1) < DAEMON_ID);
    }
}
