//! The host's own root as an image: what of it is hidden.
//!
//! A layer of empty directories and whiteouts lies above the host's root, so that what is private to the host cannot be read
//! inside, whatever its permissions. It does not hide what the operator mounts below directories: overlay shows one
//! filesystem, so that other mounts are empty directories inside.

use std::fs;
use std::path::{Component, Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, XattrFlags};

use super::fault;
use super::id::Id;
use super::keeper::Keeper;
use super::pool::{Backend, Folder};
use super::record::Record;
use super::roots::make_folder;

/// What an image of the host's root hides unless the operator says otherwise: homes, secrets, keys, logs, other services'
/// data. A directory is there and empty; a file is not there.
pub(super) const HIDDEN: [&str; 14] = [
    "/root",
    "/home",
    "/boot",
    "/srv",
    "/var/log",
    "/var/spool",
    "/var/backups",
    "/var/tmp",
    "/tmp",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/ssh",
    "/etc/ssl/private",
];

const MASK: &str = "host.mask";

impl Keeper {
    /// The trees of the host's root: what hides, and the root.
    pub(super) fn host_paths(&self) -> Result<Vec<PathBuf>, Failure> {
        if !self.options.host_root {
            return Err(Failure::new(Code::Forbidden, "the host's own root may not be used as an image")
                .remedy("the administrator can allow it in the daemon's configuration"));
        }
        if self.pool.backend() == Backend::Plain && same_filesystem(&self.options.state) {
            return Err(Failure::unsupported(
                "image.host",
                "overlay cannot keep changes below the very root that lies under them",
            )
            .remedy("give the daemon a btrfs pool, or a state directory on another filesystem than the host's root"));
        }
        let mask = self.existing(Folder::Layers, &mask_id()?)?;
        Ok(vec![mask.join("upper"), PathBuf::from("/")])
    }

    /// Makes the layer that hides. Made anew at every start: the host may have changed, and so may the configuration.
    pub(super) fn make_host_mask(&self) -> Result<(), Failure> {
        let id = mask_id()?;
        let replaces = self.pool.exists(Folder::Layers, &id);
        let draft =
            if replaces { self.pool.begin_next(Folder::Layers, &id)? } else { self.pool.begin(Folder::Layers, &id)? };
        make_folder(draft.directory(), "upper", 0o755)?;
        let ending = if replaces { ".next" } else { ".new" };
        let folder = self.pool.path(Folder::Layers, &id);
        let upper = PathBuf::from(format!("{}{ending}", folder.display())).join("upper");
        let state = fs::canonicalize(&self.options.state).unwrap_or_else(|_| self.options.state.clone());
        for path in self.options.host_hidden.iter().chain([&state]) {
            hide(&upper, path)
                .map_err(|error| fault::io(&format!("failed to hide the host's {}", path.display()), &error))?;
        }
        Record::default().write(draft.directory())?;
        if replaces { draft.replace() } else { draft.publish() }
    }
}

fn same_filesystem(state: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    matches!((fs::metadata(state), fs::metadata("/")), (Ok(state), Ok(root)) if state.dev() == root.dev())
}

pub(super) fn mask_id() -> Result<Id, Failure> {
    Id::new("layer", MASK)
}

/// Makes the directories that lead to `path` with the host's owners and modes, and at its end an opaque, empty directory or
/// a whiteout.
fn hide(upper: &Path, path: &Path) -> std::io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if path == Path::new("/") {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
    }
    let mut host = PathBuf::from("/");
    let mut here = upper.to_path_buf();
    let parts: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let last = parts.len().saturating_sub(1);
    for (at, part) in parts.into_iter().enumerate() {
        host.push(part);
        here.push(part);
        if at == last && !found.is_dir() {
            rustix::fs::mknodat(rustix::fs::CWD, &here, FileType::CharacterDevice, Mode::empty(), 0)?;
            return Ok(());
        }
        let like = fs::symlink_metadata(&host)?;
        if !like.is_dir() {
            // A link on the way: what it leads to is hidden under its own path, or not at all.
            return Ok(());
        }
        match fs::create_dir(&here) {
            Ok(()) => copy_attributes(&here, &like)?,
            // What is above is hidden already.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && is_opaque(&here) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    // Overlay reads one of them, depending on how it is mounted.
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        rustix::fs::setxattr(&here, name, b"y", XattrFlags::empty())?;
    }
    Ok(())
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(path, "user.overlay.opaque", &mut value[..]).is_ok_and(|bytes| bytes == 1 && value == *b"y")
}

fn copy_attributes(path: &Path, like: &fs::Metadata) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = (Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())));
    rustix::fs::chownat(rustix::fs::CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    fs::set_permissions(path, like.permissions())
}
