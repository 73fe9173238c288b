//! Making mounts by descriptor, and putting them inside a root whose content is not to be trusted.
//!
//! It does not decide what a sandbox sees: `cell` does.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::mount::{self, Attributes};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
};

use super::file::failed;

/// Makes a filesystem that stands nowhere yet.
///
/// # Errors
/// `internal` with what the kernel refused.
pub fn make(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let failed = |error: Errno| failed(format_args!("make a {kind} filesystem"), error);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value).map_err(|error| failed_option(kind, name, value, error))?;
    }
    fsconfig_create(&context).map_err(failed)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

fn failed_option(kind: &str, name: &str, value: &str, error: Errno) -> Failure {
    failed(format_args!("make a {kind} filesystem with {name}={value}"), error)
}

/// Bounds a filesystem in memory that is mounted at a path.
///
/// # Errors
/// What the kernel refused.
pub fn resize(path: impl rustix::path::Arg, bytes: u64) -> Result<(), Errno> {
    let context = fspick(CWD, path, FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_string(&context, "size", bytes.to_string())?;
    fsconfig_reconfigure(&context)
}

/// A copy of what is mounted at a path, that stands nowhere yet.
///
/// # Errors
/// What the kernel refused.
pub fn copy(path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW,
    )
}

/// A copy of what is mounted at a path, with ids mapped through a user namespace.
///
/// # Errors
/// `internal` with what the kernel refused; `unsupported` where the filesystem cannot be idmapped.
pub fn copy_mapped(path: &Path, user_namespace: impl AsFd) -> Result<OwnedFd, Failure> {
    let tree = copy(path).map_err(|error| failed(format_args!("open {}", path.display()), error))?;
    mount::map_ids(&tree, user_namespace).map_err(|error| match error {
        Errno::INVAL => Failure::unsupported(
            "idmapped_mounts",
            format!("failed to map the ids of {}: its filesystem cannot be idmapped", path.display()),
        ),
        error => failed(format_args!("map the ids of {}", path.display()), error),
    })?;
    Ok(tree)
}

/// As [`copy_mapped`]; where the filesystem cannot be idmapped, as it is: everything is nobody's then, and what everybody may
/// read can be read.
///
/// # Errors
/// `internal` with what the kernel refused.
pub fn copy_mapped_where_possible(path: &Path, user_namespace: impl AsFd) -> Result<OwnedFd, Failure> {
    match copy_mapped(path, user_namespace) {
        Err(failure) if failure.code == Code::Unsupported => {
            copy(path).map_err(|error| failed(format_args!("open {}", path.display()), error))
        }
        result => result,
    }
}

/// Puts a mount that stands nowhere, or that stands elsewhere in this namespace, at a path.
///
/// # Errors
/// What the kernel refused.
pub fn put(mount: impl AsFd, at: impl rustix::path::Arg) -> Result<(), Errno> {
    move_mount(mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Puts a mount on what a descriptor stands for.
///
/// # Errors
/// What the kernel refused.
pub fn put_on(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// A root whose names are resolved inside it, whatever symbolic links it holds.
#[derive(Debug)]
pub struct Root(OwnedFd);

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Symbolic links that are followed to a name that does not exist yet.
const MISSING_LINKS_MAX: usize = 8;

impl Root {
    /// Opens the root that stands at a path.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(path: impl rustix::path::Arg) -> Result<Self, Errno> {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    /// Opens a directory by its path inside. With `plain`, no symbolic link may be on the way.
    ///
    /// # Errors
    /// What the kernel refused; `ELOOP` for a link.
    pub fn directory(&self, path: &str, plain: bool) -> Result<OwnedFd, Errno> {
        let resolve = if plain { IN_ROOT | ResolveFlags::NO_SYMLINKS } else { IN_ROOT };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)
    }

    /// Opens a directory by its path inside, and makes what is missing on the way.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn directory_made(&self, path: &str, plain: bool) -> Result<OwnedFd, Errno> {
        match self.directory(path, plain) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = self.directory(if so_far.is_empty() { "/" } else { &so_far }, plain)?;
            so_far.push('/');
            so_far.push_str(part);
            if matches!(self.directory(&so_far, plain), Err(Errno::NOENT)) {
                match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.directory(path, plain)
    }

    /// Opens a file by its path inside. Where there is none, or a link that leads nowhere, an empty one is made.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn file_made(&self, folder: &str, name: &str) -> Result<OwnedFd, Errno> {
        let folder = self.directory_made(folder, false)?;
        for _ in 0..MISSING_LINKS_MAX {
            let path = OFlags::PATH | OFlags::CLOEXEC;
            // A link of a file inside is resolved from its own folder; one that leads out ends at the root.
            match rustix::fs::openat2(
                &folder,
                name,
                path,
                Mode::empty(),
                ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
            ) {
                Err(Errno::NOENT) => {}
                // What links elsewhere is replaced by a file of its own.
                Err(Errno::LOOP) => rustix::fs::unlinkat(&folder, name, AtFlags::empty())?,
                result => return result,
            }
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&folder, name, new, Mode::from_raw_mode(0o644)) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::LOOP)
    }
}

/// Makes a mount read-only and deaf to set-user-id bits and devices.
///
/// # Errors
/// What the kernel refused.
pub fn restrict(mount: impl AsFd, read_only: bool) -> Result<(), Errno> {
    let base = Attributes::NO_SUID.and(Attributes::NO_DEVICES);
    mount::add_attributes(mount, if read_only { base.and(Attributes::READ_ONLY) } else { base }, true)
}
