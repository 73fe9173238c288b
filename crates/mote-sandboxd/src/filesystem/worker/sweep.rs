//! Empties the trash, however deep and wide what lies in it.
//!
//! It follows no link: every name is removed relative to a descriptor of the directory that holds it.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::filesystem::pool::open_directory;
use crate::limits::WORKER_DEPTH_MAX;

/// Empties the folder; what is moved there meanwhile too.
pub(super) fn empty(trash: &OwnedFd) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let names = names(trash)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            remove(trash, trash, &name, 0, &mut moved)?;
        }
    }
}

fn remove(trash: &OwnedFd, parent: &OwnedFd, name: &CString, depth: usize, moved: &mut u64) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY) => {}
        Err(error) => return Err(error.into()),
    }
    if depth >= WORKER_DEPTH_MAX {
        // Deeper than descriptors allow: it goes on from the top.
        loop {
            *moved += 1;
            match rustix::fs::renameat_with(parent, name, trash, format!("deep.{moved}"), RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => return Ok(result?),
            }
        }
    }
    let directory = open_directory(parent, OsStr::from_bytes(name.as_bytes()))?;
    for inner in names(&directory)? {
        remove(trash, &directory, &inner, depth + 1, moved)?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn names(directory: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
