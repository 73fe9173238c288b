//! The pool: the folder that holds every tree, on btrfs or on whatever the host has.
//!
//! A tree is a subvolume on btrfs, else a directory. It is made under a name that ends in [`NEW`] and gets its final name
//! when it is whole; what a crash left behind is told by that ending. The pool does not know what a tree is for.

mod mount;
mod nested;
mod sweep;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::btrfs;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use super::fault;
use super::id::Id;
pub(super) use mount::Options;

/// Ending of the name of what is not whole yet, or is no longer wanted. No id ends so.
const NEW: &str = ".new";
/// Ending of the name of a whole tree that is about to take the place of the one without the ending.
const NEXT: &str = ".next";

/// How trees are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Subvolumes: snapshots are atomic, whatever is being written.
    Btrfs,
    /// Directories: a snapshot seals what was written, while nothing writes.
    #[serde(rename = "overlay", alias = "plain")]
    Plain,
}

/// What kinds of trees there are; each has its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folder {
    /// Read-only trees of images, and what snapshots and commits sealed.
    Layers,
    /// Writable trees of sandboxes.
    Roots,
    /// What can be rolled back to.
    Snapshots,
    /// What outlives sandboxes.
    Volumes,
    /// Files, not trees: which layers make up an image.
    Images,
    /// Files, not trees: bytes charged to a snapshot.
    Charges,
    /// What is being removed in the background.
    Trash,
    /// An empty directory.
    Empty,
}

impl Folder {
    const ALL: [Self; 8] = [
        Self::Layers,
        Self::Roots,
        Self::Snapshots,
        Self::Volumes,
        Self::Images,
        Self::Charges,
        Self::Trash,
        Self::Empty,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Roots => "roots",
            Self::Snapshots => "snapshots",
            Self::Volumes => "volumes",
            Self::Images => "images",
            Self::Charges => "charges",
            Self::Trash => "trash",
            Self::Empty => "empty",
        }
    }
}

/// The pool, open.
#[derive(Debug)]
pub(super) struct Pool {
    path: PathBuf,
    backend: Backend,
    quota: Option<btrfs::Quota>,
    accounting: PathBuf,
    /// Descriptors of the folders, as in [`Folder::ALL`].
    folders: Vec<OwnedFd>,
    /// What was found half-made and removed, or completed.
    recovered: usize,
    program: PathBuf,
    sweeper: Option<std::process::Child>,
    mounted: bool,
    /// Held shared as long as the pool is open: whoever can lock it alone knows that nothing is under way.
    lock: File,
}

impl Pool {
    /// Opens the pool, which is made where there is none, and removes what a crash left half-made.
    pub(super) fn open(options: &Options) -> Result<Self, Failure> {
        let what = |what: &str| format!("failed to {what} in {}", options.state.display());
        fs::create_dir_all(&options.state).map_err(|error| fault::io(&what("make the state directory"), &error))?;
        let lock = File::create(options.state.join("pool.lock"))
            .map_err(|error| fault::io(&what("open the pool's lock"), &error))?;
        let alone = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if !alone {
            rustix::fs::flock(&lock, FlockOperation::LockShared)
                .map_err(|error| fault::io(&what("lock the pool"), &error.into()))?;
        }
        let found = mount::prepare(options)?;
        let folders = open_folders(&found.path).map_err(|error| fault::io(&what("open the pool"), &error))?;
        let mut pool = Self {
            path: found.path,
            backend: found.backend,
            quota: None,
            accounting: PathBuf::new(),
            folders,
            recovered: 0,
            program: options.program.clone(),
            sweeper: None,
            mounted: found.mounted,
            lock,
        };
        if found.own {
            pool.quota = pool.enable_quota();
            pool.accounting = mount::accounting(pool.folder(Folder::Roots)).unwrap_or_default();
        }
        if alone {
            pool.recover()?;
            rustix::fs::flock(&pool.lock, FlockOperation::LockShared)
                .map_err(|error| fault::io(&what("lock the pool"), &error.into()))?;
        }
        Ok(pool)
    }

    pub(super) const fn backend(&self) -> Backend {
        self.backend
    }

    /// Which accounting bounds what a tree may hold; none where the backend has none.
    pub(super) const fn quota(&self) -> Option<btrfs::Quota> {
        self.quota
    }

    /// How many half-made trees the start found.
    pub(super) const fn recovered(&self) -> usize {
        self.recovered
    }

    /// Folder of the accounting's files in sysfs (`/sys/fs/btrfs/UUID/qgroups`).
    pub(super) fn accounting(&self) -> &Path {
        &self.accounting
    }

    pub(super) fn folder(&self, folder: Folder) -> BorrowedFd<'_> {
        self.folders[folder as usize].as_fd()
    }

    /// Where a tree lies.
    pub(super) fn path(&self, folder: Folder, id: &Id) -> PathBuf {
        self.path.join(folder.name()).join(id.as_str())
    }

    /// Whether no other process has the pool open.
    pub(super) fn is_alone(&self) -> bool {
        let alone = rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        // The exclusive lock, or the shared one that a failed attempt gave up.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::LockShared);
        alone
    }

    /// Where a tree lies that was begun and kept.
    pub(super) fn draft_path(&self, folder: Folder, id: &Id) -> PathBuf {
        self.path.join(folder.name()).join(format!("{id}{NEW}"))
    }

    /// An empty directory.
    pub(super) fn empty(&self) -> PathBuf {
        self.path.join(Folder::Empty.name())
    }

    pub(super) fn exists(&self, folder: Folder, id: &Id) -> bool {
        rustix::fs::accessat(self.folder(folder), id.as_str(), rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Opens a tree's folder.
    pub(super) fn open_tree(&self, folder: Folder, id: &Id) -> Result<OwnedFd, Failure> {
        open_directory(self.folder(folder), id.as_str()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::not_found(kind(folder), id.as_str()),
            _ => fault::io(&format!("failed to open {} {id}", kind(folder)), &error),
        })
    }

    /// Begins an empty tree; it has no final name yet.
    pub(super) fn begin(&self, folder: Folder, id: &Id) -> Result<Draft<'_>, Failure> {
        self.refuse_taken(folder, id)?;
        self.draft(folder, id, NEW, |parent, name| match self.backend {
            Backend::Btrfs => btrfs::create(parent, name),
            Backend::Plain => Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?),
        })
    }

    /// Begins an empty tree that is to take the place of one that is there.
    pub(super) fn begin_next(&self, folder: Folder, id: &Id) -> Result<Draft<'_>, Failure> {
        self.draft(folder, id, NEXT, |parent, name| match self.backend {
            Backend::Btrfs => btrfs::create(parent, name),
            Backend::Plain => Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?),
        })
    }

    /// Begins a copy of another tree, by snapshot: only on btrfs. `next` where it is to take the place of one that is there.
    pub(super) fn begin_copy(
        &self,
        from: (Folder, &Id),
        to: (Folder, &Id),
        read_only: bool,
        next: bool,
    ) -> Result<Draft<'_>, Failure> {
        if self.backend != Backend::Btrfs {
            return Err(Failure::unsupported("snapshot.live", "only btrfs copies a tree while it is written to"));
        }
        let source = self.open_tree(from.0, from.1)?;
        if !next {
            self.refuse_taken(to.0, to.1)?;
        }
        let ending = if next { NEXT } else { NEW };
        self.draft(to.0, to.1, ending, |parent, name| btrfs::snapshot(&source, parent, name, read_only))
    }

    /// Moves a whole tree elsewhere, in one step.
    pub(super) fn move_tree(&self, from: (Folder, &Id), to: (Folder, &Id)) -> Result<(), Failure> {
        rename((self.folder(from.0), from.1.as_str()), (self.folder(to.0), to.1.as_str()), RenameFlags::NOREPLACE)
            .map_err(|error| fault::io(&format!("failed to move {} {}", kind(from.0), from.1), &error))
    }

    /// Removes a tree: at once out of its place, its space in the background. `not_found` where it is not there.
    pub(super) fn remove(&mut self, folder: Folder, id: &Id) -> Result<(), Failure> {
        match self.remove_name(folder, id.as_str()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::not_found(kind(folder), id.as_str())),
            Err(error) => Err(fault::io(&format!("failed to remove {} {id}", kind(folder)), &error)),
        }
    }

    /// Ids of all whole trees of a kind.
    pub(super) fn list(&self, folder: Folder) -> Result<Vec<Id>, Failure> {
        let names = names(self.folder(folder))
            .map_err(|error| fault::io(&format!("failed to list every {}", kind(folder)), &error))?;
        Ok(names
            .into_iter()
            .filter(|name| !is_draft(name))
            .filter_map(|name| Id::new(kind(folder), name).ok())
            .collect())
    }

    fn refuse_taken(&self, folder: Folder, id: &Id) -> Result<(), Failure> {
        if is_draft(id.as_str()) {
            return Err(Failure::invalid(kind(folder), format!("it may not end in {NEW:?} or {NEXT:?}")));
        }
        if self.exists(folder, id) {
            return Err(Failure::new(Code::Conflict, format!("{} {id} is there already", kind(folder))));
        }
        Ok(())
    }

    fn draft(
        &self,
        folder: Folder,
        id: &Id,
        ending: &'static str,
        make: impl Fn(BorrowedFd<'_>, &str) -> io::Result<()>,
    ) -> Result<Draft<'_>, Failure> {
        let name = format!("{id}{ending}");
        let parent = self.folder(folder);
        let made = match make(parent, &name) {
            // An earlier attempt of this very process failed half-way, and so did its removal.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.discard(folder, &name).and_then(|()| make(parent, &name))
            }
            made => made,
        };
        let opened = made.and_then(|()| open_directory(parent, &name));
        match opened {
            Ok(directory) => Ok(Draft { pool: self, folder, id: id.clone(), name, directory, kept: false }),
            Err(error) => {
                let _ = self.discard(folder, &name);
                Err(fault::io(&format!("failed to make {} {id}", kind(folder)), &error))
            }
        }
    }

    fn remove_name(&mut self, folder: Folder, name: &str) -> io::Result<()> {
        self.discard(folder, name)?;
        if self.backend == Backend::Plain {
            self.sweep()?;
        }
        Ok(())
    }

    /// Takes a tree out of its place. On plain directories the rest is [`Self::sweep`]'s.
    fn discard(&self, folder: Folder, name: &str) -> io::Result<()> {
        let parent = self.folder(folder);
        match self.backend {
            Backend::Btrfs => match btrfs::destroy(parent, name) {
                // Not a subvolume: a directory of an earlier, plain pool on the same filesystem.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.to_trash(folder, name),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => nested::destroy(parent, name),
                result => result,
            },
            Backend::Plain => self.to_trash(folder, name),
        }
    }

    fn enable_quota(&self) -> Option<btrfs::Quota> {
        if self.backend != Backend::Btrfs {
            return None;
        }
        let any = self.folder(Folder::Roots);
        [btrfs::Quota::Simple, btrfs::Quota::Full].into_iter().find(|quota| btrfs::enable_quota(any, *quota).is_ok())
    }

    /// Completes what was about to be put in place, and removes what is half-made.
    fn recover(&mut self) -> Result<(), Failure> {
        let mut recover = || {
            for folder in [Folder::Layers, Folder::Roots, Folder::Snapshots, Folder::Volumes] {
                for name in names(self.folder(folder))?.iter().filter(|name| is_draft(name)) {
                    self.recovered += 1;
                    let parent = self.folder(folder);
                    let completed = name
                        .strip_suffix(NEXT)
                        .is_some_and(|place| rename((parent, name), (parent, place), RenameFlags::NOREPLACE).is_ok());
                    if !completed {
                        self.discard(folder, name)?;
                    }
                }
            }
            if self.backend == Backend::Plain || !names(self.folder(Folder::Trash))?.is_empty() {
                self.sweep()?;
            }
            Ok(())
        };
        recover().map_err(|error: io::Error| fault::io("failed to remove what a crash left in the pool", &error))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.folders.clear();
        if let Some(mut sweeper) = self.sweeper.take() {
            // It only removes: what it leaves, the next start finds.
            let _ = sweeper.kill();
            let _ = sweeper.wait();
        }
        if self.mounted {
            mount::release(&self.path);
        }
    }
}

/// A tree without its final name. Dropped without [`Draft::publish`] or its like, it is removed.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pool: &'a Pool,
    folder: Folder,
    id: Id,
    name: String,
    directory: OwnedFd,
    kept: bool,
}

impl Draft<'_> {
    /// The tree's folder.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Bounds what the tree may be charged with; without effect where there is no accounting.
    pub(super) fn limit(&self, bytes_max: Option<u64>) -> Result<(), Failure> {
        match self.pool.quota {
            Some(_) if bytes_max.is_some() => btrfs::limit(&self.directory, bytes_max)
                .map_err(|error| fault::io(&format!("failed to bound {} {}", kind(self.folder), self.id), &error)),
            _ => Ok(()),
        }
    }

    /// Gives the tree its final name.
    pub(super) fn publish(mut self) -> Result<(), Failure> {
        self.rename(RenameFlags::NOREPLACE)?;
        self.kept = true;
        Ok(())
    }

    /// Gives the tree another name than the one it was begun for.
    pub(super) fn publish_as(mut self, id: &Id) -> Result<(), Failure> {
        self.id = id.clone();
        self.publish()
    }

    /// Puts the tree in the place of the one that is there. The other one is then under the draft's name and is removed.
    pub(super) fn replace(self) -> Result<(), Failure> {
        // Dropping removes what now has the draft's name: the old tree.
        self.rename(RenameFlags::EXCHANGE)
    }

    /// Leaves the tree as it is: its maker goes on in another call, which ends with [`Pool::adopt`].
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    fn rename(&self, flags: RenameFlags) -> Result<(), Failure> {
        let parent = self.pool.folder(self.folder);
        rename((parent, &self.name), (parent, self.id.as_str()), flags)
            .map_err(|error| fault::io(&format!("failed to put {} {} in place", kind(self.folder), self.id), &error))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is found at the next start by its name.
            let _ = self.pool.discard(self.folder, &self.name);
        }
    }
}

impl Pool {
    /// A tree that was begun and kept in an earlier call.
    pub(super) fn adopt(&self, folder: Folder, id: &Id) -> Result<Draft<'_>, Failure> {
        self.adopt_named(folder, id, NEW)
    }

    /// The same of one that is to take the place of another.
    pub(super) fn adopt_next(&self, folder: Folder, id: &Id) -> Result<Draft<'_>, Failure> {
        self.adopt_named(folder, id, NEXT)
    }

    fn adopt_named(&self, folder: Folder, id: &Id, ending: &str) -> Result<Draft<'_>, Failure> {
        let name = format!("{id}{ending}");
        let directory = open_directory(self.folder(folder), &name)
            .map_err(|error| fault::io(&format!("failed to open the unfinished {} {id}", kind(folder)), &error))?;
        Ok(Draft { pool: self, folder, id: id.clone(), name, directory, kept: false })
    }
}

/// What a tree is called in messages.
pub(super) const fn kind(folder: Folder) -> &'static str {
    match folder {
        Folder::Layers => "layer",
        Folder::Roots => "root",
        Folder::Snapshots => "snapshot",
        Folder::Volumes => "volume",
        Folder::Images => "image",
        Folder::Charges => "charge",
        Folder::Trash => "removed tree",
        Folder::Empty => "empty directory",
    }
}

fn is_draft(name: &str) -> bool {
    name.ends_with(NEW) || name.ends_with(NEXT)
}

fn rename(from: (BorrowedFd<'_>, &str), to: (BorrowedFd<'_>, &str), flags: RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)?)
}

pub(super) fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn open_folders(pool: &Path) -> io::Result<Vec<OwnedFd>> {
    let pool = rustix::fs::open(pool, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let open = |folder: Folder| match rustix::fs::mkdirat(&pool, folder.name(), Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => open_directory(&pool, folder.name()),
        Err(error) => Err(error.into()),
    };
    Folder::ALL.into_iter().map(open).collect()
}

pub(super) fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
