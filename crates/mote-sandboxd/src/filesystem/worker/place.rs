//! Making entries in a tree that strangers filled: every name is resolved inside the tree, whatever links stand in it.
//!
//! A link on the way to a name is followed as a process whose root is the tree would follow it, so that nothing leads out;
//! the name itself is never followed. It does not read archives.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::walk;
use crate::limits::{WORKER_ATTRIBUTE_BYTES_MAX, WORKER_ATTRIBUTES_MAX, WORKER_DEPTH_MAX};

/// Before the name of an extended attribute in a pax record (as GNU tar and libarchive write it).
pub(super) const PAX_ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// Owner, mode, time and extended attributes of an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since the epoch.
    pub(super) modified: i64,
    pub(super) extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    /// Sets them on an open file or directory. The mode last: a change of owner clears the bits that lend rights.
    pub(super) fn apply(&self, open: impl AsFd) -> io::Result<()> {
        let open = open.as_fd();
        rustix::fs::fchown(open, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        rustix::fs::fchmod(open, Mode::from_raw_mode(self.mode & 0o7777))?;
        for (name, value) in &self.extended {
            if is_kept(name) {
                rustix::fs::fsetxattr(open, name.as_slice(), value, XattrFlags::empty())?;
            }
        }
        rustix::fs::futimens(open, &self.times())?;
        Ok(())
    }

    /// Sets owner and time of a name that is not followed.
    pub(super) fn apply_to_name(&self, parent: impl AsFd, name: &[u8]) -> io::Result<()> {
        let owner = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(&parent, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    pub(super) fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.modified, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// Extended attributes that mean something elsewhere: file capabilities and the user's own, except overlay's.
fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Extended attributes of an open file or directory that [`Attributes::apply`] would set.
pub(super) fn attributes(open: impl AsFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = Vec::with_capacity(WORKER_ATTRIBUTE_BYTES_MAX);
    match rustix::fs::flistxattr(&open, rustix::buffer::spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    }
    let names = list.split(|byte| *byte == 0).filter(|name| is_kept(name));
    let mut found = BTreeMap::new();
    for name in names.take(WORKER_ATTRIBUTES_MAX) {
        let mut value = Vec::with_capacity(WORKER_ATTRIBUTE_BYTES_MAX);
        match rustix::fs::fgetxattr(&open, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => {
                found.insert(name.to_owned(), value);
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Opens the directory at the path inside the tree; made, with those above it, where it is not there.
pub(super) fn directory(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    match inside(root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let (above, name) = split(path);
    let parent = directory(root, above)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::fs::chownat(&parent, name, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW)?;
    inside(root, path)
}

/// Opens the directory at the path inside the tree.
pub(super) fn inside(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path.is_empty() { b".".as_slice() } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// The path above the last name, and that name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Makes the name free: whatever stands there goes, a directory with all it holds.
pub(super) fn clear(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    clear_deep(parent, name, 0)
}

fn clear_deep(parent: &OwnedFd, name: &[u8], depth: usize) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    if depth > WORKER_DEPTH_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    let directory = walk::open_directory(parent, name)?;
    let names = walk::names(&directory, name).map_err(io::Error::other)?;
    for inner in names {
        clear_deep(&directory, &inner, depth + 1)?;
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Whether a directory stands under the name, not followed.
pub(super) fn is_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    Ok(walk::stat(parent, name)?.is_some_and(|stat| walk::file_type(&stat) == FileType::Directory))
}
