//! How an ioctl is called: its number from direction, type and size (`asm-generic/ioctl.h`), its argument by reference.
//!
//! It does not know any ioctl.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

pub(crate) const NONE: u32 = 0;
pub(crate) const WRITE: u32 = 1;
pub(crate) const READ: u32 = 2;
pub(crate) const READ_WRITE: u32 = 3;

/// The number of an ioctl whose argument is a `T`.
pub(crate) const fn number<T>(direction: u32, kind: u8, number: u8) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "14 bits hold the size of every structure here")]
    let size = size_of::<T>() as u32;
    (direction << 30) | (size << 16) | ((kind as u32) << 8) | number as u32
}

/// Calls an ioctl that reads and writes a `T`.
pub(crate) fn with<T>(descriptor: impl AsFd, request: u32, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the number carries the size of `T` (or the ioctl is documented to take a `T`), and `argument` is an exclusive
    // reference that lives through the call.
    let result =
        unsafe { libc::ioctl(descriptor.as_fd().as_raw_fd(), request as libc::Ioctl, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls an ioctl without an argument.
pub(crate) fn plain(descriptor: impl AsFd, request: u32) -> io::Result<i32> {
    // SAFETY: the ioctl takes no argument, so that no memory is handed over.
    let result = unsafe { libc::ioctl(descriptor.as_fd().as_raw_fd(), request as libc::Ioctl) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
