//! Safe functions over the system calls that `rustix` does not offer safely: `clone3`, `mount_setattr`, btrfs' ioctls.
//!
//! It holds no policy: what is called, in which order and with which limits is its callers' matter. Every `unsafe` block of
//! the sandbox runtime stands here.

pub mod btrfs;
pub mod credentials;
pub mod filter;
pub mod identity;
pub mod inherited;
mod ioctl;
pub mod keyring;
pub mod loop_device;
pub mod mount;
pub mod process;
pub mod signal;
pub mod spawn;

use rustix::io::Errno;

/// What a raw system call returned, or the error that it left.
fn checked(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
