//! `mount_setattr`: idmapped mounts, and the attributes and the propagation of mounts that exist.
//!
//! Making and moving mounts is `rustix::mount`'s.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::checked;

/// Attributes of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Nothing can be written.
    pub const READ_ONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    /// Set-user-id bits and file capabilities mean nothing.
    pub const NO_SUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    /// Device nodes cannot be opened.
    pub const NO_DEVICES: Self = Self(libc::MOUNT_ATTR_NODEV);
    /// Nothing can be executed.
    pub const NO_EXECUTION: Self = Self(libc::MOUNT_ATTR_NOEXEC);

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Adds attributes to a mount; with `recursive`, to those below it too.
///
/// # Errors
/// What `mount_setattr` refuses.
pub fn add_attributes(mount: impl AsFd, attributes: Attributes, recursive: bool) -> Result<(), Errno> {
    set(
        mount.as_fd(),
        recursive,
        libc::mount_attr { attr_set: attributes.0, attr_clr: 0, propagation: 0, userns_fd: 0 },
    )
}

/// Maps the ids of a detached mount through a user namespace: what is 0 on disk is what the namespace's 0 is outside.
///
/// # Errors
/// `EINVAL` where the filesystem cannot be idmapped or is already; what `mount_setattr` refuses.
pub fn map_ids(mount: impl AsFd, user_namespace: impl AsFd) -> Result<(), Errno> {
    let userns_fd = u64::try_from(user_namespace.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set(mount.as_fd(), false, attributes)
}

/// Cuts a mount, and those below it, off from events of other namespaces.
///
/// # Errors
/// What `mount_setattr` refuses.
pub fn make_private(mount: impl AsFd) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set(mount.as_fd(), true, attributes)
}

fn set(mount: BorrowedFd<'_>, recursive: bool, attributes: libc::mount_attr) -> Result<(), Errno> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty string with AT_EMPTY_PATH; the structure has the size that is told and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    checked(result).map(|_| ())
}
