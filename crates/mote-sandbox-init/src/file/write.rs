//! Writing a file: it appears whole under its name, or not at all; or in place, where that is asked for.
//!
//! What comes for a file that appears whole is written to a file without a name, where the filesystem has such, so that nothing is left behind even if
//! this process is killed; else to one with a temporary name. A file that nothing can be put in the place of (one that is a
//! mount, or stands in a directory that its user may not change) is written in place, as an editor would: a write that is cut
//! short is then seen. It does not force anything to the disk.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use mote_sandbox_api::guest::{Entry, Kind, Writing};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, linkat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::change::not_a_file;
use super::{Place, metadata, split};
use crate::connection::{Connection, unexpected};
use crate::failure::{Result, failed_io};
use crate::limits::TEMPORARY_NAMES_MAX;

/// Permission bits of a new file.
const MODE_NEW: u32 = 0o644;
/// Permission bits that a file which is made in place is asked for; the mask of this process takes some away.
const MODE_MADE: u32 = 0o666;
/// Permission bits that a file keeps; that it runs in its owner's name it does not keep when its contents change.
const MODE_KEPT: u32 = 0o777;

/// Takes the frames that follow; nothing is answered where the connection ends before the last one.
pub(crate) fn write(place: &Place, writing: &Writing, connection: &mut Connection) -> Result<Option<Entry>> {
    if let Some(metadata) = &writing.metadata {
        metadata::check(metadata)?;
    }
    split(place.path())?;
    place.make_parents()?;
    let path = if place.reached.is_some() { place.access() } else { follow_link(place.path())? };
    if writing.in_place {
        return in_place(place, &path, writing, connection);
    }
    let mode = writing.mode;
    let failed_here = |errno: Errno| place.failed("write", errno);
    let (folder, name) = split(&path)?;
    let old = match statat(CWD, &path, AtFlags::empty()) {
        Ok(stat) => Some(stat),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(failed_here(errno)),
    };
    if let Some(kind) =
        old.map(|stat| FileType::from_raw_mode(stat.st_mode)).filter(|kind| *kind != FileType::RegularFile)
    {
        return Err(not_a_file(place.path(), kind == FileType::Directory));
    }
    let folder =
        openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed_here)?;
    let mut fresh = match Fresh::make(folder, name) {
        Ok(fresh) => fresh,
        Err(errno) if old.is_some() && is_of_folder(errno) => {
            let mut file = emptied(&path, mode).map_err(failed_here)?;
            return if fill(&mut file, place.path(), connection)? { place.entry().map(Some) } else { Ok(None) };
        }
        Err(errno) => return Err(failed_here(errno)),
    };
    if !fill(&mut fresh.file, place.path(), connection)? {
        return Ok(None);
    }
    if place.reached.is_some() {
        own(&fresh.file, place)?;
    } else {
        fresh.adopt_owner(old.as_ref(), &place.user.identity);
    }
    fresh.adopt_mode(mode, old.as_ref()).map_err(failed_here)?;
    if let Some(metadata) = &writing.metadata {
        metadata::replace(&fresh.file, place.path(), metadata)?;
    }
    match fresh.name(name, old.is_some()) {
        Ok(()) => {}
        Err((mut fresh, errno)) if old.is_some() && is_of_folder(errno) => {
            let copied = fresh.file.rewind().and_then(|()| {
                let mut file = emptied(&path, mode)?;
                std::io::copy(&mut fresh.file, &mut file)
            });
            copied.map_err(|error| {
                failed_io(format_args!("write {path:?}"), &error).with("path", place.path().display())
            })?;
        }
        Err((_, errno)) => return Err(failed_here(errno)),
    }
    place.entry().map(Some)
}

/// Fills a file where it stands, in the steps of E2B's server: watches tell that it was made, that its owner was set, and that
/// it was written.
fn in_place(place: &Place, path: &Path, writing: &Writing, connection: &mut Connection) -> Result<Option<Entry>> {
    let open = |flags: OFlags| {
        let flags = flags | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(CWD, path, flags, Mode::from_raw_mode(MODE_MADE))
    };
    let (opened, is_new) = match open(OFlags::CREATE | OFlags::EXCL) {
        Err(Errno::EXIST) => (open(OFlags::empty()), false),
        made => (made, true),
    };
    let opened = opened.map_err(|errno| match errno {
        Errno::ISDIR => not_a_file(place.path(), true),
        // What a pipe without a reader, or a socket, answers.
        Errno::NXIO => not_a_file(place.path(), false),
        errno => place.failed("write", errno),
    })?;
    let kind = FileType::from_raw_mode(fstat(&opened).map_err(|errno| place.failed("write", errno))?.st_mode);
    if kind != FileType::RegularFile {
        return Err(not_a_file(place.path(), kind == FileType::Directory));
    }
    let mut file = File::from(opened);
    own(&file, place)?;
    if let Some(mode) = writing.mode {
        fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).map_err(|errno| place.failed("write", errno))?;
    }
    if !is_new {
        rustix::fs::ftruncate(&file, 0).map_err(|errno| place.failed("write", errno))?;
    }
    if !fill(&mut file, place.path(), connection)? {
        return Ok(None);
    }
    if let Some(metadata) = &writing.metadata {
        metadata::replace(&file, place.path(), metadata)?;
    }
    place.entry().map(Some)
}

/// Makes the user the owner of a file. With its own rights a user cannot take what is another's, and writes it all the same.
fn own(file: &File, place: &Place) -> Result<()> {
    let identity = &place.user.identity;
    match fchown(file, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid))) {
        Err(Errno::PERM) if place.reached.is_none() => Ok(()),
        result => result.map_err(|errno| place.failed("change the owner of", errno)),
    }
}

/// Whether it is the directory that refuses, or the name: the file itself may be written all the same.
fn is_of_folder(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::BUSY | Errno::XDEV)
}

/// The file that is there, for writing, with nothing in it.
fn emptied(path: &Path, mode: Option<u32>) -> std::result::Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    // It may be another one by now.
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    if let Some(mode) = mode {
        fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
    }
    rustix::fs::ftruncate(&file, 0)?;
    Ok(file.into())
}

/// Where a link leads there is the file to write; one that leads nowhere is followed, too.
fn follow_link(path: &Path) -> Result<PathBuf> {
    let is_link = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    if !is_link {
        return Ok(path.to_owned());
    }
    match std::fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let target =
                std::fs::read_link(path).map_err(|error| failed_io(format_args!("follow {path:?}"), &error))?;
            let (folder, _) = split(path)?;
            Ok(folder.join(target))
        }
        Err(error) => Err(failed_io(format_args!("follow {path:?}"), &error)),
    }
}

/// Writes what comes; false where the connection ended before its last frame.
fn fill(file: &mut File, path: &Path, connection: &mut Connection) -> Result<bool> {
    let mut payload = Vec::new();
    loop {
        match connection.receive(&mut payload)? {
            None => return Ok(false),
            Some(Kind::Data) if payload.is_empty() => return Ok(true),
            Some(Kind::Data) => file
                .write_all(&payload)
                .map_err(|error| failed_io(format_args!("write {path:?}"), &error).with("path", path.display()))?,
            Some(kind) => return Err(unexpected(kind)),
        }
    }
}

/// A file that has not its name yet; it goes away unless it gets one.
struct Fresh {
    file: File,
    folder: rustix::fd::OwnedFd,
    /// Its temporary name, where it has one.
    temporary: Option<OsString>,
}

impl Fresh {
    fn make(folder: rustix::fd::OwnedFd, name: &OsStr) -> std::result::Result<Self, Errno> {
        // Read again where it cannot get its name.
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        // Without /proc a file without a name could not be given one.
        if let Ok(file) = openat(&folder, ".", flags | OFlags::TMPFILE, mode)
            && statat(CWD, own_path(&file).as_str(), AtFlags::empty()).is_ok()
        {
            return Ok(Self { file: file.into(), folder, temporary: None });
        }
        let (file, temporary) = with_temporary_name(name, |temporary| {
            openat(&folder, temporary, flags | OFlags::CREATE | OFlags::EXCL, mode)
        })?;
        Ok(Self { file: file.into(), folder, temporary: Some(temporary) })
    }

    /// Gives it, where that is allowed, the owner of what it replaces.
    fn adopt_owner(&self, old: Option<&Stat>, identity: &mote_sandbox_sys::identity::Identity) {
        if let Some(old) = old.filter(|old| (old.st_uid, old.st_gid) != (identity.uid, identity.gid)) {
            // A user other than root cannot, and then owns the file.
            let _ = fchown(&self.file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)));
        }
    }

    fn adopt_mode(&self, mode: Option<u32>, old: Option<&Stat>) -> std::result::Result<(), Errno> {
        let bits = mode.map_or_else(|| old.map_or(MODE_NEW, |old| old.st_mode & MODE_KEPT), |mode| mode & 0o7777);
        fchmod(&self.file, Mode::from_raw_mode(bits))
    }

    /// Gives it its name, in place of what has it; gives itself back where that fails.
    fn name(mut self, name: &OsStr, is_there: bool) -> std::result::Result<(), (Self, Errno)> {
        self.named(name, is_there).map_err(|errno| (self, errno))
    }

    fn named(&mut self, name: &OsStr, is_there: bool) -> std::result::Result<(), Errno> {
        if self.temporary.is_none() {
            let own = own_path(&self.file);
            let link = |to: &OsStr| linkat(CWD, own.as_str(), &self.folder, to, AtFlags::SYMLINK_FOLLOW);
            if !is_there {
                match link(name) {
                    Err(Errno::EXIST) => {}
                    result => return result,
                }
            }
            let ((), temporary) = with_temporary_name(name, link)?;
            self.temporary = Some(temporary);
        }
        if let Some(temporary) = &self.temporary {
            renameat(&self.folder, temporary, &self.folder, name)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(&self.folder, temporary, AtFlags::empty());
        }
    }
}

fn own_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Between the name of a file and a number in its temporary name.
const TEMPORARY: &str = ".mote-";

/// Whether a name is a temporary one.
pub(super) fn is_temporary(name: &str) -> bool {
    let Some((stem, number)) = name.rsplit_once(TEMPORARY) else { return false };
    stem.starts_with('.') && number.parse::<u32>().is_ok_and(|number| number < TEMPORARY_NAMES_MAX)
}

/// Tries names until one is not taken. Other threads of this process may be at it for the same file.
fn with_temporary_name<T>(
    name: &OsStr,
    attempt: impl Fn(&OsStr) -> std::result::Result<T, Errno>,
) -> std::result::Result<(T, OsString), Errno> {
    // A name may have 255 bytes.
    let stem: String = name.to_string_lossy().chars().take(48).collect();
    for number in 0..TEMPORARY_NAMES_MAX {
        let temporary = OsString::from(format!(".{stem}{TEMPORARY}{number}"));
        match attempt(&temporary) {
            Err(Errno::EXIST) => {}
            result => return result.map(|made| (made, temporary)),
        }
    }
    Err(Errno::EXIST)
}
