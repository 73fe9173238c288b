//! Trees as descriptors for workers: detached mounts, from which no path leads elsewhere.
//!
//! They are mounted nowhere and are gone with their last descriptor. They are read-only, except the one that is to be filled.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};

/// The tree as it lies there.
pub(super) fn plain(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// The folder that the descriptor leads to, to be filled.
pub(super) fn to_fill(folder: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(open_tree(folder, name, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// Trees on top of each other as a sandbox would see them, the topmost first; `empty` is an empty directory, which overlay
/// needs below a single tree.
pub(super) fn merged(trees: &[PathBuf], empty: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let all: Vec<&Path> = trees.iter().map(PathBuf::as_path).chain([empty]).collect();
    if !set_one_by_one(&context, &all)? {
        let joined: Vec<String> = all.iter().map(|path| escape(path)).collect();
        fsconfig_set_string(&context, "lowerdir", joined.join(":"))?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Needs no escaping, from Linux 6.5 on; `false` where the kernel is older.
fn set_one_by_one(context: &OwnedFd, all: &[&Path]) -> io::Result<bool> {
    for (at, path) in all.iter().enumerate() {
        match fsconfig_set_string(context, "lowerdir+", *path) {
            Ok(()) => {}
            Err(Errno::INVAL) if at == 0 => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn escape(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace(':', "\\:")
}
