//! Descriptors that this process was given by number when it was started.
//!
//! It does not say which ones there are: both programs agree on the numbers.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::last_error;

/// A close-on-exec copy of an inherited descriptor; the inherited one stays, close-on-exec as well, so that no other owner
/// of that number can be surprised.
///
/// # Errors
/// `BADF` where nothing is open under that number.
pub fn copy(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: takes numbers; nothing is closed.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(last_error());
    }
    // SAFETY: takes numbers; nothing is closed.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(last_error());
    }
    // SAFETY: it is new, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
