//! Listing directories: sorted, to a depth, sent as it is found.
//!
//! It follows no link below the directory that was asked for, so that there is an end to it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::limits::{LIST_DEPTH_MAX, LIST_ENTRIES_MAX};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::{Place, describe};
use crate::connection::{Connection, List};
use crate::failure::{Result, failed};

/// Sends what a directory holds.
pub(crate) fn list(place: &Place, depth: u32, connection: &mut Connection) -> Result<()> {
    if depth == 0 || depth > LIST_DEPTH_MAX {
        return Err(Failure::invalid("depth", format_args!("{depth} is not between 1 and {LIST_DEPTH_MAX}")));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | place.flags();
    let folder = openat(CWD, place.access(), flags, Mode::empty()).map_err(|errno| place.failed("list", errno))?;
    let mut listing = Listing { place, connection, list: List::new("entries"), entries: 0 };
    listing.descend(folder.as_fd(), place.path(), depth)?;
    let list = listing.list;
    connection.reply_list(list)
}

struct Listing<'a> {
    place: &'a Place,
    connection: &'a mut Connection,
    list: List,
    entries: usize,
}

impl Listing<'_> {
    fn descend(&mut self, folder: BorrowedFd<'_>, path: &Path, depth: u32) -> Result<()> {
        for name in self.names(folder, path)? {
            let stat = match statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It went away meanwhile.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed(format_args!("look at {:?}", path.join(&name)), errno)),
            };
            let path = path.join(&name);
            let access = within(folder, &name);
            let entry = describe(folder, &name, &access, &path, &stat, &self.place.accounts);
            self.list.push(&entry, self.connection)?;
            if depth > 1 && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // One that may not be read, or is no directory any more, is listed without what it holds.
                if let Ok(below) = openat(folder, &name, flags, Mode::empty()) {
                    self.descend(below.as_fd(), &path, depth - 1)?;
                }
            }
        }
        Ok(())
    }

    fn names(&mut self, folder: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>> {
        let failed = |errno| failed(format_args!("list {path:?}"), errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.entries += 1;
                if self.entries > LIST_ENTRIES_MAX {
                    let message = format!("failed to list {path:?}: more than {LIST_ENTRIES_MAX} entries");
                    return Err(Failure::new(Code::TooLarge, message).with("limit", LIST_ENTRIES_MAX));
                }
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// A path to a name in an open directory.
fn within(folder: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)
}
