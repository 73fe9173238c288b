//! Finding a file with root's rights on behalf of a user: name by name, through open directories.
//!
//! Links that are root's are followed, inside the sandbox as everything here. A link that is anybody else's ends it: root's
//! rights never follow where another user points. What is found is named by an open directory, so that nothing that is swapped
//! afterwards changes what it is.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use mote_sandbox_sys::identity::Identity;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::limits::LINKS_MAX;

/// Permission bits of a directory that is made on the way.
const FOLDER_MODE: u32 = 0o755;
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is done at the end of a path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aim {
    /// A link at its end is followed.
    pub(crate) follow: bool,
    /// Directories above it are made; they are the user's.
    pub(crate) make: bool,
}

/// A name in an open directory.
#[derive(Debug)]
pub(crate) struct Reached {
    folder: OwnedFd,
    name: OsString,
}

impl Reached {
    /// A path that leads to it, whatever happens to the directories above.
    pub(crate) fn path(&self) -> PathBuf {
        let mut path = format!("/proc/self/fd/{}/", self.folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.as_bytes());
        OsString::from_vec(path).into()
    }
}

/// Where an absolute path leads; nothing where it leads through a link that is not root's. The calling thread is root.
pub(crate) fn reach(path: &Path, aim: Aim, owner: &Identity) -> Result<Option<Reached>, Errno> {
    let root = || openat(CWD, "/", FOLDER, Mode::empty());
    let mut folder = root()?;
    let mut left: VecDeque<OsString> = names(path.as_os_str().as_bytes()).collect();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            folder = openat(&folder, "..", FOLDER, Mode::empty())?;
            continue;
        }
        let is_last = left.is_empty();
        let found = match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if is_last => return Ok(Some(Reached { folder, name })),
            Err(Errno::NOENT) if aim.make => {
                folder = make(&folder, &name, owner)?;
                continue;
            }
            Err(errno) => return Err(errno),
        };
        let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
        if is_link && (!is_last || aim.follow) {
            if found.st_uid != 0 {
                return Ok(None);
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            let to = readlinkat(&folder, &name, Vec::new())?.into_bytes();
            if to.first() == Some(&b'/') {
                folder = root()?;
            }
            for name in names(&to).collect::<Vec<_>>().into_iter().rev() {
                left.push_front(name);
            }
        } else if is_last {
            return Ok(Some(Reached { folder, name }));
        } else {
            folder = openat(&folder, &name, FOLDER, Mode::empty())?;
        }
    }
    Ok(Some(Reached { folder, name: ".".into() }))
}

fn names(path: &[u8]) -> impl Iterator<Item = OsString> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.map(|name| OsStr::from_bytes(name).to_owned())
}

fn make(above: &OwnedFd, name: &OsStr, owner: &Identity) -> Result<OwnedFd, Errno> {
    match mkdirat(above, name, Mode::from_raw_mode(FOLDER_MODE)) {
        Ok(()) => give(above, name, owner)?,
        // Others may be at it, too.
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(above, name, FOLDER, Mode::empty())
}

/// Makes a user the owner of what was made at a path, without following a link there.
pub(crate) fn give(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg, owner: &Identity) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(at, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// A path without `..`: each takes the name before it away, as E2B's server has it.
pub(crate) fn cleaned(path: &Path) -> PathBuf {
    let mut kept: Vec<OsString> = Vec::new();
    for name in names(path.as_os_str().as_bytes()) {
        if name == ".." {
            kept.pop();
        } else {
            kept.push(name);
        }
    }
    std::iter::once(OsString::from("/")).chain(kept).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const USER: u32 = 65_534;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mote-reach-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn link(&self, to: &str, name: &str, uid: u32) {
            symlink(to, self.0.join(name)).unwrap();
            give(CWD, self.0.join(name), &Identity { uid, gid: uid, groups: vec![] }).unwrap();
        }

        fn reach(&self, path: &str, aim: Aim) -> Result<Option<PathBuf>, Errno> {
            let owner = Identity { uid: USER, gid: USER, groups: vec![] };
            // The real path is read while the directory is open.
            Ok(reach(&self.0.join(path), aim, &owner)?.map(|reached| {
                let folder = std::fs::read_link(format!("/proc/self/fd/{}", reached.folder.as_raw_fd())).unwrap();
                folder.strip_prefix(&self.0).map_or(folder.clone(), Path::to_owned).join(&reached.name)
            }))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn roots_links_are_followed_and_nobody_elses() {
        let folder = Folder::new("links");
        std::fs::create_dir_all(folder.0.join("a/b")).unwrap();
        folder.link("a", "root-link", 0);
        folder.link("a", "user-link", USER);
        folder.link("loop", "loop", 0);
        folder.link("../user-link/b", "a/chained", 0);
        let (stay, follow) = (Aim::default(), Aim { follow: true, make: false });
        assert_eq!(folder.reach("root-link/b/file", stay), Ok(Some("a/b/file".into())));
        assert_eq!(folder.reach("root-link", stay), Ok(Some("root-link".into())));
        assert_eq!(folder.reach("root-link", follow), Ok(Some("a".into())));
        assert_eq!(folder.reach("user-link/b", stay), Ok(None));
        assert_eq!(folder.reach("user-link", follow), Ok(None));
        assert_eq!(folder.reach("user-link", stay), Ok(Some("user-link".into())), "the link itself is nobody's way");
        assert_eq!(folder.reach("a/chained", follow), Ok(None));
        assert_eq!(folder.reach("loop", follow), Err(Errno::LOOP));
        assert_eq!(folder.reach("a/none/x", follow), Err(Errno::NOENT));
    }

    #[test]
    fn a_link_of_proc_leads_nowhere_but_by_its_text() {
        let open = std::fs::File::open("/dev/null").unwrap();
        let follow = Aim { follow: true, make: false };
        let path = format!("/proc/self/fd/{}", open.as_raw_fd());
        let reached = reach(Path::new(&path), follow, &Identity::default()).unwrap().unwrap();
        assert_eq!(
            std::fs::read_link(format!("/proc/self/fd/{}", reached.folder.as_raw_fd())).unwrap(),
            Path::new("/dev")
        );
    }

    #[test]
    fn directories_on_the_way_are_made_and_are_the_users() {
        let folder = Folder::new("made");
        let make = Aim { follow: true, make: true };
        assert_eq!(folder.reach("x/y/z", make), Ok(Some("x/y/z".into())));
        let made = std::fs::metadata(folder.0.join("x/y")).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (USER, USER, 0o755));
        assert!(!folder.0.join("x/y/z").exists());
        std::fs::write(folder.0.join("x/file"), "").unwrap();
        assert_eq!(folder.reach("x/file/below", make), Err(Errno::NOTDIR));
    }

    #[test]
    fn two_dots_take_a_name_away() {
        assert_eq!(cleaned(Path::new("/a/../../b/./c")), Path::new("/b/c"));
        assert_eq!(cleaned(Path::new("/..")), Path::new("/"));
    }
}
