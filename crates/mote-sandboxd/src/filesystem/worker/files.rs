//! Single files of a tree that strangers filled: a volume's. Every path is resolved as by a process whose root is the tree, so
//! that no link in it leads out.
//!
//! Contents do not pass through here: an open file is handed over instead.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{EntryKind, RawPath};
use mote_sandbox_api::limits::{LIST_DEPTH_MAX, LIST_ENTRIES_MAX, PATH_BYTES_MAX};
use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{place, walk};
use crate::limits::WORKER_CHANGES_MESSAGE_MAX;

/// Who owns what is made, and its permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// User, as sandboxes number it.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Directories above are made, and what is there is taken or written over.
    pub force: bool,
}

/// What is asked of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// What stands there; a link is not followed.
    Stat,
    /// What a directory holds, to a depth.
    List {
        /// Levels.
        depth: u32,
    },
    /// Opens a file to be read.
    Read,
    /// Opens a file to be written; it is empty.
    Write(Made),
    /// Makes a directory.
    MakeDirectory(Made),
    /// Changes owner and permission bits, where they are given.
    Change {
        /// User.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Permission bits.
        mode: Option<u32>,
    },
    /// Removes what stands there, with all it holds.
    Remove,
}

/// What stands at a path of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Last name of the path; `/` of the top.
    pub name: String,
    /// From the volume's top, beginning with `/`.
    pub path: String,
    /// What it is; a link is one.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access, milliseconds since the epoch.
    pub accessed_ms: i64,
    /// Last modification.
    pub modified_ms: i64,
    /// Last change of its attributes.
    pub changed_ms: i64,
    /// What stands in a link.
    pub target: Option<String>,
}

/// A result: entries, of a list in several pieces, and an open file.
pub(super) type Found = (Vec<Entry>, Option<OwnedFd>);

const OPEN: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Permission bits of directories that are made on the way.
const FOLDER_MODE: u32 = 0o777;

/// Carries out an order. Entries are told in pieces that fit a message; the rest is returned.
pub(super) fn carry_out(
    root: &OwnedFd,
    path: &RawPath,
    order: &Order,
    mut tell: impl FnMut(Vec<Entry>) -> Result<(), Failure>,
) -> Result<Found, Failure> {
    let path = cleaned(path)?;
    let fail = |error: io::Error| failed(&path, &error);
    let one = |entry: Entry| Ok((vec![entry], None));
    match order {
        Order::Stat => one(entry(root, &path).map_err(fail)?),
        Order::List { depth } => {
            if *depth == 0 || *depth > LIST_DEPTH_MAX {
                return Err(Failure::invalid("depth", format_args!("{depth} is not between 1 and {LIST_DEPTH_MAX}")));
            }
            let folder = place::inside(root, &path).map_err(fail)?;
            let mut list = List { left: LIST_ENTRIES_MAX, waiting: Vec::new(), tell: &mut tell };
            list.directory(&folder, &path, *depth)?;
            Ok((list.waiting, None))
        }
        Order::Read => {
            let file = open(root, &path, OFlags::RDONLY, 0).map_err(fail)?;
            let found = regular(&file, &path)?;
            Ok((vec![described(&found, &path, None)], Some(file)))
        }
        Order::Write(made) => {
            let (above, _) = named(&path)?;
            parents(root, above, made).map_err(fail)?;
            let flags = if made.force { OFlags::TRUNC } else { OFlags::EXCL };
            let file = open(root, &path, OFlags::WRONLY | OFlags::CREATE | flags, made.mode).map_err(fail)?;
            regular(&file, &path)?;
            give(&file, made).map_err(fail)?;
            Ok((vec![described(&regular(&file, &path)?, &path, None)], Some(file)))
        }
        Order::MakeDirectory(made) => one(make(root, &path, made)?),
        Order::Change { uid, gid, mode } => {
            let file = open(root, &path, OFlags::RDONLY, 0).map_err(fail)?;
            rustix::fs::fchown(&file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
                .map_err(|error| fail(error.into()))?;
            if let Some(mode) = mode {
                rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode)).map_err(|error| fail(error.into()))?;
            }
            one(entry(root, &path).map_err(fail)?)
        }
        Order::Remove => {
            let (above, name) = named(&path)?;
            let parent = place::inside(root, above).map_err(fail)?;
            if walk::stat(&parent, name).map_err(fail)?.is_none() {
                return Err(fail(Errno::NOENT.into()));
            }
            place::clear(&parent, name).map_err(fail)?;
            Ok((Vec::new(), None))
        }
    }
}

/// A path from the top without `.` and `..`, which take names away, and without the `/` before it. The top is empty.
fn cleaned(path: &RawPath) -> Result<Vec<u8>, Failure> {
    if path.len() >= PATH_BYTES_MAX || path.as_bytes().contains(&0) {
        return Err(Failure::invalid("path", format_args!("it has a NUL character or {PATH_BYTES_MAX} bytes")));
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.as_bytes().split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    Ok(names.join(&b'/'))
}

/// The path above and the name; `invalid` of the top, which has none.
fn named(path: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    if path.is_empty() {
        return Err(Failure::invalid("path", "it is the volume's top"));
    }
    Ok(place::split(path))
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

fn failed(path: &[u8], error: &io::Error) -> Failure {
    let code = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => Code::NotFound,
        Some(Errno::EXIST | Errno::NOTEMPTY) => Code::Conflict,
        Some(Errno::NOSPC | Errno::DQUOT) => Code::NoSpace,
        Some(Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::INVAL) => {
            Code::Invalid
        }
        _ => Code::Internal,
    };
    let path = shown(path);
    Failure::new(code, format!("{path}: {error}")).with("path", path)
}

fn open(root: &OwnedFd, path: &[u8], flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b".".as_slice() } else { path };
    Ok(rustix::fs::openat2(root, path, flags | OPEN, Mode::from_raw_mode(mode), INSIDE)?)
}

fn regular(file: &OwnedFd, path: &[u8]) -> Result<Stat, Failure> {
    let stat = rustix::fs::fstat(file).map_err(|error| failed(path, &error.into()))?;
    if walk::file_type(&stat) == FileType::RegularFile {
        return Ok(stat);
    }
    Err(Failure::invalid("path", format_args!("{} is no regular file", shown(path))))
}

fn give(made: impl AsFd, owner: &Made) -> io::Result<()> {
    rustix::fs::fchown(&made, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    // After the owner, whose change takes bits away.
    Ok(rustix::fs::fchmod(&made, Mode::from_raw_mode(owner.mode))?)
}

/// The directory at a path; made, with those above, where `force`.
fn parents(root: &OwnedFd, path: &[u8], made: &Made) -> io::Result<OwnedFd> {
    match place::inside(root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && made.force && !path.is_empty() => {}
        result => return result,
    }
    let (above, name) = place::split(path);
    let parent = parents(root, above, made)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(FOLDER_MODE)) {
        Ok(()) => give(walk::open_directory(&parent, name)?, &Made { mode: FOLDER_MODE, ..*made })?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    place::inside(root, path)
}

fn make(root: &OwnedFd, path: &[u8], made: &Made) -> Result<Entry, Failure> {
    let fail = |error: io::Error| failed(path, &error);
    let (above, name) = named(path)?;
    let parent = parents(root, above, made).map_err(fail)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(made.mode)) {
        Ok(()) => {
            give(walk::open_directory(&parent, name).map_err(fail)?, made).map_err(fail)?;
        }
        Err(Errno::EXIST) if made.force && place::is_directory(&parent, name).map_err(fail)? => {}
        Err(error) => return Err(fail(error.into())),
    }
    entry(root, path).map_err(fail)
}

/// What stands at a path, not followed.
fn entry(root: &OwnedFd, path: &[u8]) -> io::Result<Entry> {
    if path.is_empty() {
        return Ok(described(&rustix::fs::fstat(root)?, path, None));
    }
    let (above, name) = place::split(path);
    let parent = place::inside(root, above)?;
    told(&parent, name, path)
}

fn told(parent: &OwnedFd, name: &[u8], path: &[u8]) -> io::Result<Entry> {
    let stat = rustix::fs::statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    let target = match walk::file_type(&stat) {
        FileType::Symlink => rustix::fs::readlinkat(parent, name, Vec::new()).ok(),
        _ => None,
    };
    Ok(described(&stat, path, target.map(|target| target.to_string_lossy().into_owned())))
}

fn described(stat: &Stat, path: &[u8], target: Option<String>) -> Entry {
    let (_, name) = place::split(path);
    let name = if name.is_empty() { b"/".as_slice() } else { name };
    let ms = |seconds: i64, nanoseconds: u64| {
        seconds.saturating_mul(1000).saturating_add(i64::try_from(nanoseconds / 1_000_000).unwrap_or(0))
    };
    Entry {
        name: String::from_utf8_lossy(name).into_owned(),
        path: shown(path),
        kind: walk::kind(stat),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        accessed_ms: ms(stat.st_atime, stat.st_atime_nsec),
        modified_ms: ms(stat.st_mtime, stat.st_mtime_nsec),
        changed_ms: ms(stat.st_ctime, stat.st_ctime_nsec),
        target,
    }
}

struct List<'a, T> {
    left: usize,
    waiting: Vec<Entry>,
    tell: &'a mut T,
}

impl<T: FnMut(Vec<Entry>) -> Result<(), Failure>> List<'_, T> {
    fn directory(&mut self, folder: &OwnedFd, path: &[u8], depth: u32) -> Result<(), Failure> {
        for name in walk::names(folder, path)? {
            let path = walk::join(path, &name);
            self.left = self.left.checked_sub(1).ok_or_else(|| {
                let message = format!("the list has more than {LIST_ENTRIES_MAX} entries");
                Failure::new(Code::TooLarge, message).with("limit", LIST_ENTRIES_MAX)
            })?;
            let entry = match told(folder, &name, &path) {
                Ok(entry) => entry,
                // It went away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path, &error)),
            };
            let is_folder = entry.kind == EntryKind::Directory;
            self.waiting.push(entry);
            if self.waiting.len() >= WORKER_CHANGES_MESSAGE_MAX {
                (self.tell)(std::mem::take(&mut self.waiting))?;
            }
            if is_folder && depth > 1 {
                let below = walk::open_directory(folder, &name).map_err(|error| failed(&path, &error))?;
                self.directory(&below, &path, depth - 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    struct Tree {
        folder: tempfile::TempDir,
        root: OwnedFd,
    }

    fn tree() -> Tree {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("top")).unwrap();
        std::fs::write(folder.path().join("outside"), "kept").unwrap();
        let root = std::fs::File::open(folder.path().join("top")).unwrap().into();
        Tree { folder, root }
    }

    impl Tree {
        fn ask(&self, path: &str, order: &Order) -> Result<(Vec<Entry>, Option<OwnedFd>), Failure> {
            let mut all = Vec::new();
            let (last, file) = carry_out(&self.root, &path.into(), order, |some| {
                all.extend(some);
                Ok(())
            })?;
            all.extend(last);
            Ok((all, file))
        }

        fn write(&self, path: &str, text: &str, force: bool) -> Result<Entry, Failure> {
            let (mut entries, file) = self.ask(path, &Order::Write(made(0o640, force)))?;
            std::fs::File::from(file.unwrap()).write_all(text.as_bytes()).unwrap();
            Ok(entries.remove(0))
        }

        fn read(&self, path: &str) -> Result<String, Failure> {
            let (_, file) = self.ask(path, &Order::Read)?;
            let mut text = String::new();
            std::fs::File::from(file.unwrap()).read_to_string(&mut text).unwrap();
            Ok(text)
        }
    }

    fn made(mode: u32, force: bool) -> Made {
        // The tests' own: another owner needs root.
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Made { uid, gid, mode, force }
    }

    #[test]
    fn files_and_directories_are_made_and_removed() {
        let tree = tree();
        assert_eq!(tree.write("/a/b", "x", false).unwrap_err().code, Code::NotFound);
        let entry = tree.write("/a/b", "one", true).unwrap();
        assert_eq!((entry.path.as_str(), entry.mode, entry.kind), ("/a/b", 0o640, EntryKind::File));
        assert_eq!(tree.write("a/b", "two", false).unwrap_err().code, Code::Conflict);
        tree.write("a/../a/b", "two", true).unwrap();
        assert_eq!(tree.read("/a/b").unwrap(), "two");
        assert_eq!(tree.ask("/a", &Order::Stat).unwrap().0[0].mode, 0o777, "as E2B's server makes them");
        assert_eq!(tree.ask("/a", &Order::MakeDirectory(made(0o755, false))).unwrap_err().code, Code::Conflict);
        assert_eq!(tree.ask("/a", &Order::MakeDirectory(made(0o755, true))).unwrap().0[0].mode, 0o777);
        assert_eq!(tree.ask("/x/y/z", &Order::MakeDirectory(made(0o700, true))).unwrap().0[0].mode, 0o700);
        let change = Order::Change { uid: None, gid: None, mode: Some(0o600) };
        assert_eq!(tree.ask("/a/b", &change).unwrap().0[0].mode, 0o600);
        let list = |depth| {
            let (entries, _) = tree.ask("/", &Order::List { depth }).unwrap();
            entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>()
        };
        assert_eq!(list(1), ["/a", "/x"]);
        assert_eq!(list(3), ["/a", "/a/b", "/x", "/x/y", "/x/y/z"]);
        tree.ask("/x", &Order::Remove).unwrap();
        assert_eq!(tree.ask("/x", &Order::Remove).unwrap_err().code, Code::NotFound);
        assert_eq!(tree.ask("/", &Order::Remove).unwrap_err().code, Code::Invalid);
        assert_eq!(tree.ask("/a/b", &Order::List { depth: 1 }).unwrap_err().code, Code::Invalid);
        assert_eq!(tree.ask("/a", &Order::Read).unwrap_err().code, Code::Invalid);
    }

    #[test]
    fn no_link_leads_out_of_the_tree() {
        let tree = tree();
        let top = tree.folder.path().join("top");
        let outside = tree.folder.path().join("outside");
        symlink(&outside, top.join("absolute")).unwrap();
        symlink("../outside", top.join("relative")).unwrap();
        symlink("..", top.join("up")).unwrap();
        symlink("/", top.join("slash")).unwrap();
        for path in ["absolute", "relative", "up/outside", "../outside"] {
            assert_eq!(tree.read(path).unwrap_err().code, Code::NotFound, "{path}");
        }
        // Where a link would lead out it leads to a place inside.
        tree.write("relative", "inside", true).unwrap();
        tree.write("up/other", "inside", true).unwrap();
        assert_eq!(std::fs::read_to_string(top.join("outside")).unwrap(), "inside");
        assert_eq!(std::fs::read_to_string(top.join("other")).unwrap(), "inside");
        assert_eq!(tree.ask("slash/up", &Order::Stat).unwrap().0[0].target.as_deref(), Some(".."));
        tree.ask("up", &Order::Remove).unwrap();
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "kept");
        assert_eq!(std::fs::metadata(&outside).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_long_list_comes_in_pieces() {
        let tree = tree();
        for number in 0..100 {
            std::fs::write(tree.folder.path().join(format!("top/{number:03}")), "").unwrap();
        }
        let mut pieces = 0;
        let list = Order::List { depth: 1 };
        carry_out(&tree.root, &"/".into(), &list, |some| {
            pieces += usize::from(some.len() <= WORKER_CHANGES_MESSAGE_MAX);
            Ok(())
        })
        .unwrap();
        assert_eq!(pieces, 100 / WORKER_CHANGES_MESSAGE_MAX);
        assert_eq!(tree.ask("/", &list).unwrap().0.len(), 100);
    }
}
