//! Making, moving and removing.
//!
//! Removing follows no link and goes by open directories, never by a path twice: what is swapped meanwhile is not reached
//! through.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Entry, RawPath};
use mote_sandbox_api::limits::PATH_BYTES_MAX;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdir, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::{Place, split};
use crate::failure::{Result, failed};
use crate::limits::{REMOVE_DEPTH_MAX, REMOVE_ROUNDS_MAX};

/// Makes a directory and those above it.
pub(crate) fn make_directory(place: &Place) -> Result<Entry> {
    place.make_parents()?;
    mkdir(place.access(), Mode::from_raw_mode(0o777)).map_err(|errno| place.failed("make the directory", errno))?;
    place.give()?;
    place.entry()
}

/// Makes the directories above a path.
pub(super) fn make_parents(path: &Path) -> Result<()> {
    let Ok((folder, _)) = split(path) else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|error| {
        // Something is there that is no directory, or that leads where the user may not look: that is the reason.
        let errno = match Errno::from_io_error(&error) {
            Some(Errno::EXIST) => statat(CWD, folder, AtFlags::empty()).err().unwrap_or(Errno::NOTDIR),
            Some(errno) => errno,
            None => Errno::IO,
        };
        failed(format_args!("make the directory {folder:?}"), errno).with("path", folder.display())
    })
}

/// Moves an entry to another path, in place of what stands there if both are files or it is an empty directory.
pub(crate) fn rename(from: &Place, to: &Place) -> Result<Entry> {
    split(from.path())?;
    // Before directories are made for nothing.
    from.entry()?;
    to.make_parents()?;
    renameat(CWD, from.access(), CWD, to.access()).map_err(|errno| {
        let failure = failed(format_args!("move {:?} to {:?}", from.path(), to.path()), errno);
        if errno == Errno::XDEV {
            failure.remedy("copy it: the two paths lie on different filesystems")
        } else {
            failure
        }
    })?;
    to.entry()
}

/// Makes a symbolic link.
pub(crate) fn link(place: &Place, to: &RawPath) -> Result<Entry> {
    if to.is_empty() || to.as_bytes().contains(&0) || to.len() >= PATH_BYTES_MAX {
        let message = format_args!("it must have 1 to {} bytes, none of them zero", PATH_BYTES_MAX - 1);
        return Err(Failure::invalid("to", message));
    }
    split(place.path())?;
    place.make_parents()?;
    rustix::fs::symlink(to.as_bytes(), place.access()).map_err(|errno| place.failed("make the link", errno))?;
    place.give()?;
    place.entry()
}

/// Removes a file, a link, or a directory with all it holds.
pub(crate) fn remove(place: &Place) -> Result<()> {
    split(place.path())?;
    let access = place.access();
    let (folder, name) = split(&access)?;
    let failed = |errno| place.failed("remove", errno);
    let folder = openat(CWD, folder, DIRECTORY, Mode::empty()).map_err(failed)?;
    let name = CString::new(name.as_bytes()).map_err(|_| failed(Errno::INVAL))?;
    remove_at(folder.as_fd(), &name).map_err(failed)
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory that is being emptied.
struct Level {
    folder: OwnedFd,
    name: CString,
    entries: Dir,
    rounds: usize,
}

fn remove_at(base: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno> {
    let Some(top) = unlink_or_open(base, name)? else { return Ok(()) };
    let mut levels = vec![top];
    let mut moved = 0_u32;
    while let Some(level) = levels.last_mut() {
        match level.entries.next() {
            Some(entry) => {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let Some(below) = unlink_or_open(level.folder.as_fd(), name)? else { continue };
                if levels.len() < REMOVE_DEPTH_MAX {
                    levels.push(below);
                } else {
                    // As deep as descriptors reach: it goes up to the top, whose next round finds it.
                    move_up(&mut levels, &below, &mut moved)?;
                }
            }
            None => close(base, &mut levels)?,
        }
    }
    Ok(())
}

/// Removes what is no directory; opens what is one. Nothing is left to do where it is not there.
fn unlink_or_open(at: BorrowedFd<'_>, name: &CStr) -> std::result::Result<Option<Level>, Errno> {
    match unlinkat(at, name, AtFlags::empty()) {
        Ok(()) => return Ok(None),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    let folder = openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let entries = Dir::read_from(&folder)?;
    Ok(Some(Level { folder, name: name.to_owned(), entries, rounds: 0 }))
}

fn move_up(levels: &mut [Level], below: &Level, moved: &mut u32) -> std::result::Result<(), Errno> {
    let (Some(top), Some(last)) = (levels.first(), levels.last()) else { return Ok(()) };
    loop {
        *moved += 1;
        let fresh = format!(".mote-remove-{moved}");
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&last.folder, &below.name, &top.folder, fresh.as_str(), flags) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
    }
}

/// Removes the deepest directory, which was read to its end; reads it again where something stands in it.
fn close(base: BorrowedFd<'_>, levels: &mut Vec<Level>) -> std::result::Result<(), Errno> {
    let Some(mut level) = levels.pop() else { return Ok(()) };
    let above = levels.last().map_or(base, |above| above.folder.as_fd());
    match unlinkat(above, &level.name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) if level.rounds < REMOVE_ROUNDS_MAX => {
            level.rounds += 1;
            level.entries.rewind();
            levels.push(level);
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// The failure of an operation that needs a regular file.
pub(super) fn not_a_file(path: &Path, is_directory: bool) -> Failure {
    let what = if is_directory { "a directory" } else { "no regular file" };
    let kind = if is_directory { "directory" } else { "other" };
    Failure::new(Code::Invalid, format!("failed to open {path:?}: it is {what}"))
        .with("path", path.display())
        .with("kind", kind)
}
