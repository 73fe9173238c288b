//! Files, in the name of a user: what a path means, and what stands there.
//!
//! The thread has become its user for files before anything here runs, or stays root where the file was reached with root's
//! rights (`reach`): permissions are the kernel's matter, not this module's.

pub(crate) mod change;
pub(crate) mod list;
mod metadata;
pub(crate) mod reach;
pub(crate) mod read;
pub(crate) mod sync;
pub(crate) mod watch;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::{Entry, EntryKind, RawPath, Symlink, base64_unless_text};
use mote_sandbox_api::limits::PATH_BYTES_MAX;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, Stat, readlinkat, statat};
use rustix::io::Errno;

use crate::account::{Accounts, User};
use crate::failure::{Result, failed};
use crate::file::reach::{Aim, Reached};

/// A path and the user in whose name it is used.
#[derive(Debug)]
pub(crate) struct Place {
    /// Absolute, without empty and `.` components.
    path: PathBuf,
    user: User,
    accounts: Accounts,
    /// Where it was found with root's rights, which the thread has then.
    reached: Option<Reached>,
}

impl Place {
    /// Resolves a path from the user's home. `..` stays: what it means depends on links.
    pub(crate) fn new(path: &RawPath, user: User, accounts: Accounts) -> Result<Self> {
        let path = absolute(path.as_bytes(), &user.home)?;
        Ok(Self { path, user, accounts, reached: None })
    }

    /// Takes `..` out of the path, by the names alone.
    pub(crate) fn cleaned(mut self) -> Self {
        self.path = reach::cleaned(&self.path);
        self
    }

    /// Looks for it with root's rights; false where they do not lead there.
    pub(crate) fn reach(&mut self, aim: Aim) -> Result<bool> {
        let reached = reach::reach(&self.path, aim, &self.user.identity);
        self.reached = reached.map_err(|errno| self.failed("reach", errno))?;
        Ok(self.reached.is_some())
    }

    /// It is used with the user's own rights, whatever it was reached with.
    pub(crate) fn leave(&mut self) {
        self.reached = None;
    }

    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    /// As the caller knows it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the kernel is given.
    fn access(&self) -> PathBuf {
        self.reached.as_ref().map_or_else(|| self.path.clone(), Reached::path)
    }

    /// What was reached is no link; one that stands there since is not followed.
    fn flags(&self) -> OFlags {
        if self.reached.is_some() { OFlags::NOFOLLOW } else { OFlags::empty() }
    }

    fn failed(&self, what: &str, errno: Errno) -> Failure {
        failed(format_args!("{what} {:?}", self.path), errno).with("path", self.path.display())
    }

    /// Makes the directories above it, unless reaching it did.
    fn make_parents(&self) -> Result<()> {
        if self.reached.is_some() { Ok(()) } else { change::make_parents(&self.path) }
    }

    /// Makes the user the owner of what was made with root's rights.
    fn give(&self) -> Result<()> {
        match &self.reached {
            Some(reached) => reach::give(CWD, reached.path(), &self.user.identity)
                .map_err(|errno| self.failed("change the owner of", errno)),
            None => Ok(()),
        }
    }

    /// What stands there.
    pub(crate) fn entry(&self) -> Result<Entry> {
        let access = self.access();
        let stat = statat(CWD, &access, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.failed("look at", errno))?;
        Ok(describe(CWD, access.as_os_str(), &access, &self.path, &stat, &self.accounts))
    }
}

/// The folder that a path lies in, and its name there.
pub(crate) fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    let bytes = path.as_os_str().as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b'/');
    match at.map(|at| (&bytes[..at], &bytes[at + 1..])) {
        Some((folder, name)) if !matches!(name, b"" | b"..") => {
            let folder: &[u8] = if folder.is_empty() { b"/" } else { folder };
            Ok((Path::new(OsStr::from_bytes(folder)), OsStr::from_bytes(name)))
        }
        _ => Err(Failure::invalid("path", format_args!("{path:?} names no entry of a directory"))),
    }
}

/// Describes an entry: `name` as it stands in the directory `at`, `access` a path that leads there, `path` as the caller
/// knows it.
pub(crate) fn describe(
    at: impl std::os::fd::AsFd,
    name: &OsStr,
    access: &Path,
    path: &Path,
    stat: &Stat,
    accounts: &Accounts,
) -> Entry {
    let mut link = None;
    let mut symlink = None;
    let mut shown = *stat;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        link = readlinkat(&at, name, Vec::new()).ok().map(std::ffi::CString::into_bytes);
        let resolved = std::fs::canonicalize(access).ok();
        symlink = Some(Symlink {
            resolved: resolved.map(|path| path.to_string_lossy().into_owned()),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            owner: accounts.user_name(stat.st_uid),
            group: accounts.group_name(stat.st_gid),
            modified_ms: modified_ms(stat),
        });
        if let Ok(target) = statat(&at, name, AtFlags::empty()) {
            shown = target;
        }
    }
    let bytes = path.as_os_str().as_bytes();
    let name = bytes.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty()).unwrap_or(b"/");
    let kind = match FileType::from_raw_mode(shown.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let metadata = match kind {
        EntryKind::File | EntryKind::Directory => metadata::read(access),
        EntryKind::Symlink | EntryKind::Other => BTreeMap::new(),
    };
    Entry {
        name: String::from_utf8_lossy(name).into_owned(),
        path: String::from_utf8_lossy(bytes).into_owned(),
        path_base64: base64_unless_text(bytes),
        kind,
        size: u64::try_from(shown.st_size).unwrap_or(0),
        mode: shown.st_mode,
        owner: accounts.user_name(shown.st_uid),
        group: accounts.group_name(shown.st_gid),
        modified_ms: modified_ms(&shown),
        link_base64: link.as_deref().and_then(base64_unless_text),
        link: link.map(|to| String::from_utf8_lossy(&to).into_owned()),
        symlink,
        metadata,
    }
}

fn modified_ms(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}

/// Makes a path absolute, from the home where it is relative. `~` alone, and before a `/`, is the home; another user's is
/// refused, as by E2B's server.
pub(crate) fn absolute(path: &[u8], home: &str) -> Result<PathBuf> {
    if path.is_empty() || path.contains(&0) {
        return Err(Failure::invalid("path", "empty, or contains a NUL character"));
    }
    let (from, path): (&[u8], &[u8]) = match path {
        [b'/', ..] => (b"", path),
        [b'~'] => (home.as_bytes(), b""),
        [b'~', b'/', rest @ ..] => (home.as_bytes(), rest),
        [b'~', ..] => {
            let message = "it begins with another user's home; a file of such a name is ./~NAME";
            return Err(Failure::invalid("path", message));
        }
        _ => (home.as_bytes(), path),
    };
    let parts = from.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/'));
    let mut whole = Vec::with_capacity(from.len() + path.len() + 1);
    for part in parts.filter(|part| !matches!(*part, b"" | b".")) {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    if whole.is_empty() {
        whole.push(b'/');
    }
    if whole.len() >= PATH_BYTES_MAX {
        return Err(Failure::invalid("path", format_args!("longer than {PATH_BYTES_MAX} bytes")));
    }
    Ok(OsString::from_vec(whole).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_absolute_from_the_home() {
        let at = |path: &str, home: &str| absolute(path.as_bytes(), home).unwrap();
        assert_eq!(at("a//./b/", "/home/ana"), Path::new("/home/ana/a/b"));
        assert_eq!(at("/a/../b", "/home/ana"), Path::new("/a/../b"));
        assert_eq!(at("/", "/x"), Path::new("/"));
        assert_eq!(at(".", "/x/"), Path::new("/x"));
        assert!(absolute(b"", "/x").is_err() && absolute(b"a\0", "/x").is_err());
        assert!(absolute("a/".repeat(PATH_BYTES_MAX).as_bytes(), "/").is_err());
        assert_eq!(absolute(b"/a\xff", "/").unwrap().as_os_str().as_bytes(), b"/a\xff");
    }

    #[test]
    fn a_tilde_is_the_users_own_home() {
        let at = |path: &str| absolute(path.as_bytes(), "/home/ana").unwrap();
        assert_eq!(at("~"), Path::new("/home/ana"));
        assert_eq!(at("~/"), Path::new("/home/ana"));
        assert_eq!(at("~/a/~"), Path::new("/home/ana/a/~"));
        assert_eq!(at("~//a"), Path::new("/home/ana/a"));
        assert_eq!(at("./~bob"), Path::new("/home/ana/~bob"));
        assert!(absolute(b"~bob/a", "/home/ana").is_err());
    }

    #[test]
    fn a_path_without_a_last_name_has_no_folder() {
        let parts = |path: &'static str| split(Path::new(path));
        assert_eq!(parts("/a/b").unwrap(), (Path::new("/a"), OsStr::new("b")));
        assert_eq!(parts("/a").unwrap(), (Path::new("/"), OsStr::new("a")));
        assert!(parts("/").is_err() && parts("/a/..").is_err());
    }
}
