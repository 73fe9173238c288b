//! Reading trees that strangers filled: names in order, attributes, extended attributes, never through a link.
//!
//! It does not keep what it reads: callers bound that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::EntryKind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::filesystem::fault;
use crate::limits::{WORKER_DEPTH_MAX, WORKER_DIRECTORY_ENTRIES_MAX};

/// Nothing leads out of the tree and no link is followed.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

pub(super) fn fail(path: &[u8], error: io::Error) -> Failure {
    fault::io(&format!("failed to read /{}", String::from_utf8_lossy(path)), &error)
}

/// What stands under the name, not followed; none where nothing does.
pub(super) fn stat(directory: impl AsFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn open_directory(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(parent, name, flags, Mode::empty(), BENEATH)?)
}

/// Opens a file to be read. It does not wait for a writer where the name has become a pipe.
pub(super) fn open_file(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(parent, name, flags, Mode::empty(), BENEATH)?)
}

/// Names in a directory, in the order of their bytes.
pub(super) fn names(directory: impl AsFd, path: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut names = Vec::new();
    let entries = rustix::fs::Dir::read_from(directory).map_err(|error| fail(path, error.into()))?;
    for entry in entries {
        let entry = entry.map_err(|error| fail(path, error.into()))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_owned());
        }
        if names.len() > WORKER_DIRECTORY_ENTRIES_MAX {
            let message =
                format!("/{} holds more than {WORKER_DIRECTORY_ENTRIES_MAX} entries", String::from_utf8_lossy(path));
            return Err(Failure::new(Code::TooLarge, message).with("limit", WORKER_DIRECTORY_ENTRIES_MAX));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Refuses a depth beyond what descriptors allow.
pub(super) fn check_depth(depth: usize, path: &[u8]) -> Result<(), Failure> {
    if depth < WORKER_DEPTH_MAX {
        return Ok(());
    }
    let message = format!("/{} is deeper than {WORKER_DEPTH_MAX} directories", String::from_utf8_lossy(path));
    Err(Failure::new(Code::TooLarge, message).with("limit", WORKER_DEPTH_MAX))
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn kind(stat: &Stat) -> EntryKind {
    match file_type(stat) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + name.len() + 1);
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
