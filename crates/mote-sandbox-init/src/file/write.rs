//! Writing a file: it appears whole under its name, or not at all.
//!
//! What comes is written to a file without a name, where the filesystem has such, so that nothing is left behind even if
//! this process is killed; else to one with a temporary name. It does not force anything to the disk.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::{Entry, Kind};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, linkat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::change::{make_parents, not_a_file};
use super::{Place, split};
use crate::connection::{Connection, unexpected};
use crate::failure::{Result, failed, failed_io};
use crate::limits::TEMPORARY_NAMES_MAX;

/// Permission bits of a new file.
const MODE_NEW: u32 = 0o644;
/// Permission bits that a file keeps; that it runs in its owner's name it does not keep when its contents change.
const MODE_KEPT: u32 = 0o777;

/// Takes the frames that follow; nothing is answered where the connection ends before the last one.
pub(crate) fn write(place: &Place, mode: Option<u32>, connection: &mut Connection) -> Result<Option<Entry>> {
    make_parents(place.path())?;
    let path = follow_link(place.path())?;
    let failed_here = |errno: Errno| failed(format_args!("write {:?}", place.path()), errno).with("path", place.path());
    let (folder, name) = split(&path)?;
    let old = match statat(CWD, path.as_str(), AtFlags::empty()) {
        Ok(stat) => Some(stat),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(failed_here(errno)),
    };
    if let Some(kind) =
        old.map(|stat| FileType::from_raw_mode(stat.st_mode)).filter(|kind| *kind != FileType::RegularFile)
    {
        return Err(not_a_file(&path, kind == FileType::Directory));
    }
    let folder =
        openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed_here)?;
    let mut fresh = Fresh::make(folder, name).map_err(failed_here)?;
    if !fill(&mut fresh.file, place.path(), connection)? {
        return Ok(None);
    }
    fresh.adopt(mode, old.as_ref(), &place.user.identity).map_err(failed_here)?;
    fresh.name(name, old.is_some()).map_err(failed_here)?;
    place.entry().map(Some)
}

/// Where a link leads there is the file to write; one that leads nowhere is followed, too.
fn follow_link(path: &str) -> Result<String> {
    let is_link = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    if !is_link {
        return Ok(path.to_owned());
    }
    match std::fs::canonicalize(path) {
        Ok(real) => Ok(OsString::from(real).to_string_lossy().into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let target =
                std::fs::read_link(path).map_err(|error| failed_io(format_args!("follow {path:?}"), &error))?;
            let target = String::from_utf8(target.into_os_string().into_vec())
                .map_err(|_| Failure::invalid("path", format_args!("the link {path:?} does not lead to UTF-8")))?;
            let (folder, _) = split(path)?;
            super::absolute(&target, folder)
        }
        Err(error) => Err(failed_io(format_args!("follow {path:?}"), &error)),
    }
}

/// Writes what comes; false where the connection ended before its last frame.
fn fill(file: &mut File, path: &str, connection: &mut Connection) -> Result<bool> {
    let mut payload = Vec::new();
    loop {
        match connection.receive(&mut payload)? {
            None => return Ok(false),
            Some(Kind::Data) if payload.is_empty() => return Ok(true),
            Some(Kind::Data) => file
                .write_all(&payload)
                .map_err(|error| failed_io(format_args!("write {path:?}"), &error).with("path", path))?,
            Some(kind) => return Err(unexpected(kind)),
        }
    }
}

/// A file that has not its name yet; it goes away unless it gets one.
struct Fresh {
    file: File,
    folder: rustix::fd::OwnedFd,
    /// Its temporary name, where it has one.
    temporary: Option<String>,
}

impl Fresh {
    fn make(folder: rustix::fd::OwnedFd, name: &str) -> std::result::Result<Self, Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
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

    /// Gives it the mode and, where that is allowed, the owner of what it replaces.
    fn adopt(
        &self,
        mode: Option<u32>,
        old: Option<&Stat>,
        identity: &mote_sandbox_sys::identity::Identity,
    ) -> std::result::Result<(), Errno> {
        if let Some(old) = old.filter(|old| (old.st_uid, old.st_gid) != (identity.uid, identity.gid)) {
            // A user other than root cannot, and then owns the file.
            let _ = fchown(&self.file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)));
        }
        let bits = mode.map_or_else(|| old.map_or(MODE_NEW, |old| old.st_mode & MODE_KEPT), |mode| mode & 0o7777);
        fchmod(&self.file, Mode::from_raw_mode(bits))
    }

    /// Gives it its name, in place of what has it.
    fn name(mut self, name: &str, is_there: bool) -> std::result::Result<(), Errno> {
        if self.temporary.is_none() {
            let own = own_path(&self.file);
            let link = |to: &str| linkat(CWD, own.as_str(), &self.folder, to, AtFlags::SYMLINK_FOLLOW);
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
            renameat(&self.folder, temporary.as_str(), &self.folder, name)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(&self.folder, temporary.as_str(), AtFlags::empty());
        }
    }
}

fn own_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Tries names until one is not taken. Other threads of this process may be at it for the same file.
fn with_temporary_name<T>(
    name: &str,
    attempt: impl Fn(&str) -> std::result::Result<T, Errno>,
) -> std::result::Result<(T, String), Errno> {
    // A name may have 255 bytes.
    let stem: String = name.chars().take(48).collect();
    for number in 0..TEMPORARY_NAMES_MAX {
        let temporary = format!(".{stem}.mote-{number}");
        match attempt(&temporary) {
            Err(Errno::EXIST) => {}
            result => return result.map(|made| (made, temporary)),
        }
    }
    Err(Errno::EXIST)
}
