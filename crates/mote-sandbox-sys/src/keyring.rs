//! Leaves the session keyring that was inherited.
//!
//! Nothing else about keys: sandboxes may not use the kernel's keyrings.

use rustix::io::Errno;

use crate::checked;

/// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Joins a new, empty, anonymous session keyring. A kernel without keyrings has nothing to leave.
///
/// # Errors
/// What the kernel refused.
pub fn join_new_session() -> Result<(), Errno> {
    let nobody: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring; nothing is written.
    match checked(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, nobody) }) {
        Ok(_) | Err(Errno::NOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}
