//! Signals as a descriptor, and waiting for children of one thread: what a first process needs to reap.
//!
//! It installs no handler.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use crate::last_error;

/// `__WNOTHREAD` of `linux/wait.h`: only children of the calling thread.
const OWN_CHILDREN_ONLY: u32 = 0x2000_0000;

/// Blocks every signal in the calling thread and those that it starts from now on.
pub fn block_all() {
    let mut all = MaybeUninit::uninit();
    // SAFETY: it fills the set that it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set is filled; the call cannot fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()) };
}

/// A descriptor that does not block, from which these (blocked) signals are read.
///
/// # Errors
/// The kernel's: no descriptors, no memory.
pub fn descriptor(signals: &[i32]) -> Result<OwnedFd, Errno> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: it empties the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was emptied above; a number that is no signal is refused.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: the set is complete; -1 asks for a new descriptor.
    let descriptor = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(last_error());
    }
    // SAFETY: it is new, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Reads the number of one signal that came; nothing where none is left.
///
/// # Errors
/// The kernel's.
pub fn take(descriptor: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    let mut information = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is as large as it is said to be.
    let read = unsafe { libc::read(descriptor.as_raw_fd(), information.as_mut_ptr().cast(), size) };
    if usize::try_from(read).is_ok_and(|read| read == size) {
        // SAFETY: the kernel filled all of it.
        let information = unsafe { information.assume_init() };
        return Ok(i32::try_from(information.ssi_signo).ok());
    }
    match last_error() {
        Errno::AGAIN => Ok(None),
        errno => Err(errno),
    }
}

/// Reaps children that ended and that are the calling thread's own: what it started, and, in the first thread of a first
/// process, what was orphaned. Children that other threads started are theirs to wait for, and stay.
pub fn reap_own_children() {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | own_children();
    while let Ok(Some(_)) = rustix::process::waitid(WaitId::All, options) {}
}

/// The option of `waitid` that leaves other threads' children alone.
#[must_use]
pub fn own_children() -> WaitIdOptions {
    WaitIdOptions::from_bits_retain(OWN_CHILDREN_ONLY)
}
