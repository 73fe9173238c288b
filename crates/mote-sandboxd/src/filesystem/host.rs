//! The host as an image: its programs, bound read-only, and a small tree of the image's own around them.
//!
//! What is shown is a list ([`PROGRAMS`], and [`super::skeleton`]); nothing else of the host is there, also where it is made
//! after the sandbox was. It does not show what the operator mounts below these directories.

use std::fs;
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};

use super::fault;
use super::id::Id;
use super::keeper::Keeper;
use super::pool::Folder;
use super::recipe::Lower;
use super::record::Record;
use super::roots::{UPPER, make_folder};
use super::skeleton::{Node, Skeleton};
use crate::limits::{HOST_SKELETON_POLL, HOST_SKELETON_WAIT};

/// Directories of programs, where they are directories and not links to another one.
const PROGRAMS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// The host's programs and settings, as they were found at start.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// The layer of the settings. Its name tells what it holds, so that it is never changed under those who use it.
    pub(super) skeleton: Id,
    /// Directories that are bound, absolute, the same outside and inside.
    programs: Vec<PathBuf>,
}

impl Keeper {
    /// What the image of the host is made of: its settings as they are now, and its programs.
    pub(super) fn host(&self) -> Result<Vec<Lower>, Failure> {
        let host = self.shown()?;
        Ok(vec![Lower::Layer(host.skeleton.clone()), Lower::HostPrograms])
    }

    /// The directories of the host's programs.
    pub(super) fn host_programs(&self) -> Result<Vec<PathBuf>, Failure> {
        Ok(self.shown()?.programs.clone())
    }

    fn shown(&self) -> Result<&Host, Failure> {
        self.host.as_ref().ok_or_else(|| {
            Failure::new(Code::Forbidden, "the host's own programs may not be used as an image")
                .remedy("the administrator can allow it in the daemon's configuration (host_root), or build an image")
        })
    }

    /// Looks at the host, and makes the layer of its settings where there is none that holds the same.
    pub(super) fn find_host(&self) -> Result<Host, Failure> {
        let what = |error| fault::io("failed to read the host's settings", &error);
        let (mut programs, mut links) = (Vec::new(), Vec::new());
        for name in PROGRAMS {
            let path = Path::new("/").join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => programs.push(name.to_owned()),
                Ok(found) if found.is_symlink() => {
                    let to = fs::read_link(&path).map_err(what)?.into_os_string();
                    links.push((name.to_owned(), std::os::unix::ffi::OsStringExt::into_vec(to)));
                }
                _ => {}
            }
        }
        let tree = Skeleton::of(Path::new("/"), &programs, &links).map_err(what)?;
        let skeleton = Id::new("layer", format!("host.{}", &tree.digest()[..32]))?;
        self.make_skeleton(&skeleton, &tree)?;
        let programs = programs.into_iter().map(|name| Path::new("/").join(name)).collect();
        Ok(Host { skeleton, programs })
    }

    fn make_skeleton(&self, id: &Id, tree: &Skeleton) -> Result<(), Failure> {
        let mut waited = std::time::Duration::ZERO;
        let draft = loop {
            if self.pool.exists(Folder::Layers, id) {
                return Ok(());
            }
            match self.pool.begin(Folder::Layers, id) {
                Ok(draft) => break draft,
                // Another keeper on the same pool makes it just now.
                Err(_) if waited < HOST_SKELETON_WAIT => {
                    std::thread::sleep(HOST_SKELETON_POLL);
                    waited += HOST_SKELETON_POLL;
                }
                Err(failure) => return Err(failure),
            }
        };
        make_folder(draft.directory(), UPPER, 0o755)?;
        let top = self.pool.draft_path(Folder::Layers, id).join(UPPER);
        tree.write(&top).map_err(|error| fault::io("failed to write the host's settings", &error))?;
        Record::default().write(draft.directory())?;
        draft.publish()
    }
}

impl Skeleton {
    /// Writes the tree into an empty directory.
    fn write(&self, top: &Path) -> std::io::Result<()> {
        for (path, entry) in &self.entries {
            let path = top.join(path);
            match &entry.node {
                Node::Folder => fs::create_dir(&path)?,
                Node::File(bytes) => fs::write(&path, bytes)?,
                Node::Link(to) => rustix::fs::symlink(to.as_slice(), &path)?,
            }
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            if !matches!(entry.node, Node::Link(_)) {
                rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
            }
        }
        Ok(())
    }
}
