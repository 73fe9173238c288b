//! The ids that a thread uses for files alone (`setfsuid`), which the creation of an idmapped overlay needs.
//!
//! All other credentials are `rustix::thread`'s and `rustix::process`'s.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::checked;

/// Sets user and group for access to files. Capabilities over files leave the effective set where the user was 0 before:
/// callers that keep them permitted raise them again.
///
/// # Errors
/// `EPERM` where the kernel kept the old ids: these calls report no errors themselves.
pub fn set_file_ids(user: Uid, group: Gid) -> Result<(), Errno> {
    // SAFETY: only numbers go in; the ids are this thread's own.
    unsafe { libc::syscall(libc::SYS_setfsgid, group.as_raw()) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_setfsuid, user.as_raw()) };
    // Asking for an id that is no id changes nothing and tells what stands now.
    // SAFETY: as above.
    let now = checked(unsafe { libc::syscall(libc::SYS_setfsuid, u32::MAX) })?;
    if u32::try_from(now) == Ok(user.as_raw()) { Ok(()) } else { Err(Errno::PERM) }
}
