//! What a root changed: the names that were written, compared with what lies below.
//!
//! It looks only where something was written, so that its cost is that of the changes and not of the image. It reads no
//! content: a file that was written is modified, whatever was written to it.

use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::request::{Change, ChangeKind};
use rustix::fs::{FileType, Stat};

use super::walk::{self, fail, join};
use crate::limits::WORKER_CHANGES_MESSAGE_MAX;

/// Tells the changes in the order of their paths, and answers whether there were more than `changes_max`.
///
/// `upper` is what was written, `lower` what lies below, `merged` both together. A directory that hides what lies below
/// it needs no special case: what is in `lower` and not in `merged` was removed, however overlay notes that.
pub(super) fn compare(
    upper: &OwnedFd,
    lower: &OwnedFd,
    merged: &OwnedFd,
    changes_max: usize,
    tell: impl FnMut(Vec<Change>) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut found = Found { left: changes_max, truncated: false, waiting: Vec::new(), tell };
    let trees = Trees { upper: rustix::io::dup(upper), lower: rustix::io::dup(lower), merged: rustix::io::dup(merged) };
    let (Ok(upper), Ok(lower), Ok(merged)) = (trees.upper, trees.lower, trees.merged) else {
        return Err(fail(b"", std::io::Error::last_os_error()));
    };
    directory(&upper, Some(&lower), &merged, b"", 0, &mut found)?;
    found.flush()?;
    Ok(found.truncated)
}

struct Trees {
    upper: rustix::io::Result<OwnedFd>,
    lower: rustix::io::Result<OwnedFd>,
    merged: rustix::io::Result<OwnedFd>,
}

struct Found<F> {
    left: usize,
    truncated: bool,
    waiting: Vec<Change>,
    tell: F,
}

impl<F: FnMut(Vec<Change>) -> Result<(), Failure>> Found<F> {
    fn add(&mut self, path: &[u8], kind: ChangeKind, stat: &Stat) -> Result<(), Failure> {
        if self.left == 0 {
            self.truncated = true;
            return Ok(());
        }
        self.left -= 1;
        let size = match walk::file_type(stat) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        };
        let path = format!("/{}", String::from_utf8_lossy(path));
        self.waiting.push(Change { path, kind, entry: walk::kind(stat), size });
        if self.waiting.len() >= WORKER_CHANGES_MESSAGE_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.waiting.is_empty() { Ok(()) } else { (self.tell)(std::mem::take(&mut self.waiting)) }
    }
}

fn directory<F: FnMut(Vec<Change>) -> Result<(), Failure>>(
    upper: &OwnedFd,
    lower: Option<&OwnedFd>,
    merged: &OwnedFd,
    path: &[u8],
    depth: usize,
    found: &mut Found<F>,
) -> Result<(), Failure> {
    walk::check_depth(depth, path)?;
    let mut names = walk::names(upper, path)?;
    if let Some(lower) = lower {
        names.extend(walk::names(lower, path)?);
        names.sort_unstable();
        names.dedup();
    }
    for name in names {
        if found.truncated {
            return Ok(());
        }
        let inner = join(path, &name);
        let written = stat(upper, &name, &inner)?;
        let now = stat(merged, &name, &inner)?;
        let before = match lower {
            Some(lower) => stat(lower, &name, &inner)?,
            None => None,
        };
        match (&before, &now) {
            (None, None) => {}
            (None, Some(now)) => found.add(&inner, ChangeKind::Added, now)?,
            (Some(before), None) => found.add(&inner, ChangeKind::Removed, before)?,
            (Some(before), Some(now)) if written.is_some() && differs(before, now) => {
                found.add(&inner, ChangeKind::Modified, now)?;
            }
            (Some(_), Some(_)) => {}
        }
        let goes_on = written.as_ref().is_some_and(is_directory) && now.as_ref().is_some_and(is_directory);
        if goes_on {
            let open = |tree: &OwnedFd| walk::open_directory(tree, &name).map_err(|error| fail(&inner, error));
            let below = match (lower, &before) {
                (Some(lower), Some(before)) if is_directory(before) => Some(open(lower)?),
                _ => None,
            };
            directory(&open(upper)?, below.as_ref(), &open(merged)?, &inner, depth + 1, found)?;
        }
    }
    Ok(())
}

fn stat(directory: impl AsFd, name: &[u8], path: &[u8]) -> Result<Option<Stat>, Failure> {
    walk::stat(directory, name).map_err(|error| fail(path, error))
}

fn is_directory(stat: &Stat) -> bool {
    walk::file_type(stat) == FileType::Directory
}

/// A directory is copied up whenever something below it is written: it counts only where its own attributes differ.
fn differs(before: &Stat, now: &Stat) -> bool {
    if !(is_directory(before) && is_directory(now)) {
        return true;
    }
    before.st_mode != now.st_mode || before.st_uid != now.st_uid || before.st_gid != now.st_gid
}
