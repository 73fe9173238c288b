//! Files, in the name of a user: what a path means, and what stands there.
//!
//! The thread has become its user for files before anything here runs: permissions are the kernel's matter, not this
//! module's.

pub(crate) mod change;
pub(crate) mod list;
pub(crate) mod read;
pub(crate) mod sync;
pub(crate) mod watch;
pub(crate) mod write;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::{Entry, EntryKind};
use mote_sandbox_api::limits::PATH_BYTES_MAX;
use rustix::fs::{AtFlags, CWD, FileType, Stat, readlinkat, statat};

use crate::account::{Accounts, User};
use crate::failure::{Result, failed};

/// A path and the user in whose name it is used.
#[derive(Debug)]
pub(crate) struct Place {
    /// Absolute, without empty and `.` components.
    path: String,
    user: User,
    accounts: Accounts,
}

impl Place {
    /// Resolves a path from the user's home. `..` stays: what it means depends on links.
    pub(crate) fn new(path: &str, user: User, accounts: Accounts) -> Result<Self> {
        let path = absolute(path, &user.home)?;
        Ok(Self { path, user, accounts })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Another path of the same user.
    fn sibling(&self, path: &str) -> Result<String> {
        absolute(path, &self.user.home)
    }

    /// What stands there.
    pub(crate) fn entry(&self) -> Result<Entry> {
        self.entry_at(&self.path)
    }

    fn entry_at(&self, path: &str) -> Result<Entry> {
        let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed(format_args!("look at {path:?}"), errno).with("path", path))?;
        Ok(describe(CWD, path, path, &stat, &self.accounts))
    }
}

/// The folder that a path lies in, and its name there.
pub(crate) fn split(path: &str) -> Result<(&str, &str)> {
    match path.rsplit_once('/') {
        Some((folder, name)) if !matches!(name, "" | "..") => Ok((if folder.is_empty() { "/" } else { folder }, name)),
        _ => Err(Failure::invalid("path", format_args!("{path:?} names no entry of a directory"))),
    }
}

/// Describes an entry: `name` as it stands in the directory `at`, `path` as the caller knows it.
pub(crate) fn describe(at: impl std::os::fd::AsFd, name: &str, path: &str, stat: &Stat, accounts: &Accounts) -> Entry {
    let mut link = None;
    let mut shown = *stat;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        link = readlinkat(&at, name, Vec::new()).ok().map(|to| to.to_string_lossy().into_owned());
        if let Ok(target) = statat(&at, name, AtFlags::empty()) {
            shown = target;
        }
    }
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/");
    Entry {
        name: name.to_owned(),
        path: path.to_owned(),
        kind: match FileType::from_raw_mode(shown.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            _ => EntryKind::Other,
        },
        size: u64::try_from(shown.st_size).unwrap_or(0),
        mode: shown.st_mode,
        owner: accounts.user_name(shown.st_uid),
        group: accounts.group_name(shown.st_gid),
        modified_ms: modified_ms(&shown),
        link,
    }
}

fn modified_ms(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}

fn absolute(path: &str, home: &str) -> Result<String> {
    if path.is_empty() || path.contains('\0') {
        return Err(Failure::invalid("path", "empty, or contains a NUL character"));
    }
    let from = if path.starts_with('/') { "" } else { home };
    let mut whole = String::with_capacity(from.len() + path.len() + 1);
    for part in from.split('/').chain(path.split('/')).filter(|part| !matches!(*part, "" | ".")) {
        whole.push('/');
        whole.push_str(part);
    }
    if whole.is_empty() {
        whole.push('/');
    }
    if whole.len() >= PATH_BYTES_MAX {
        return Err(Failure::invalid("path", format_args!("longer than {PATH_BYTES_MAX} bytes")));
    }
    Ok(whole)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_absolute_from_the_home() {
        assert_eq!(absolute("a//./b/", "/home/ana").unwrap(), "/home/ana/a/b");
        assert_eq!(absolute("/a/../b", "/home/ana").unwrap(), "/a/../b");
        assert_eq!(absolute("/", "/x").unwrap(), "/");
        assert_eq!(absolute(".", "/x/").unwrap(), "/x");
        assert!(absolute("", "/x").is_err() && absolute("a\0", "/x").is_err());
        assert!(absolute(&"a/".repeat(PATH_BYTES_MAX), "/").is_err());
    }

    #[test]
    fn a_path_without_a_last_name_has_no_folder() {
        assert_eq!(split("/a/b").unwrap(), ("/a", "b"));
        assert_eq!(split("/a").unwrap(), ("/", "a"));
        assert!(split("/").is_err() && split("/a/..").is_err());
    }
}
