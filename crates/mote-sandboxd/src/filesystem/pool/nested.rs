//! Removing subvolumes that lie inside a tree: with one of them, the tree itself cannot be removed.
//!
//! Nothing inside a sandbox can make one today (`docs/sandbox-seccomp.md`); trees of before may hold some. It follows ids and
//! opens no path.

use std::io;
use std::os::fd::BorrowedFd;

use mote_sandbox_sys::btrfs;

use super::open_directory;
use crate::limits::{NESTED_SUBVOLUMES_DEPTH_MAX, NESTED_SUBVOLUMES_MAX};

/// Removes a subvolume with all that lie inside it.
///
/// # Errors
/// The kernel's; `FileTooLarge` where they are nested too deep or are too many for one call.
pub(super) fn destroy(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let id = btrfs::subvolume_id(open_directory(parent, name)?)?;
    remove(parent, id)?;
    btrfs::destroy(parent, name)
}

/// Removes every subvolume inside the one with this id, the innermost first. What a bound leaves, the next removal finds.
fn remove(any: BorrowedFd<'_>, tree: u64) -> io::Result<()> {
    let mut path = vec![tree];
    let mut removed = 0;
    while let Some(&last) = path.last() {
        match btrfs::nested(any, last)?.first() {
            Some(_) if path.len() > NESTED_SUBVOLUMES_DEPTH_MAX || removed >= NESTED_SUBVOLUMES_MAX => {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Some(&inner) => path.push(inner),
            None => {
                path.pop();
                if !path.is_empty() {
                    btrfs::destroy_id(any, last)?;
                    removed += 1;
                }
            }
        }
    }
    Ok(())
}
