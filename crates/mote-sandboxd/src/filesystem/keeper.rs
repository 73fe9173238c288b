//! The part of the keeper that serves `filesystem`: its verbs and how they are carried out, with privilege.
//!
//! It does not decide: whether a verb is due is the daemon's matter. It names nothing by a path that a caller chose, except
//! host directories, which its own configuration must allow.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::btrfs;
use serde::{Deserialize, Serialize};

use super::host::Host;
use super::id::Id;
use super::pool::{self, Backend, Pool};
use super::recipe::Lower;
use super::work::{Source, Workers};
use crate::limits::KEEPER_PAGE_MAX;

/// How the keeper's filesystem part is set up, by the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The state directory: it holds `pool/`, and `pool.img` where the pool is a file.
    pub state: PathBuf,
    /// A backend that must be used; found by trying where absent.
    pub backend: Option<Backend>,
    /// Bytes of the pool's file, where one has to be made; by what the disk has left where absent.
    pub pool_bytes: Option<u64>,
    /// The pool's file survives a crash of the host. Without, snapshots do not wait for the disk, and a crash of the host
    /// may cost the pool: for hosts whose sandboxes are worth nothing by then.
    pub barriers: bool,
    /// Host directories that may be images, with all below them: root inside reads what only the host's root may read there.
    pub allowed: Vec<PathBuf>,
    /// Host directories that may be mounted as data, with all below them: what everybody may read can be read.
    pub data: Vec<PathBuf>,
    /// The host's own programs may be an image.
    pub host_root: bool,
    /// This program, which also is what works on trees without privilege.
    pub program: PathBuf,
}

impl Options {
    /// Defaults for a state directory: the backend as found, no host directory allowed.
    #[must_use]
    pub fn new(state: PathBuf) -> Self {
        Self {
            state,
            backend: None,
            pool_bytes: None,
            barriers: true,
            allowed: Vec::new(),
            data: Vec::new(),
            host_root: false,
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// What a new root starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// These read-only trees, the topmost first.
    Image(Vec<Lower>),
    /// What a snapshot holds.
    Snapshot(Id),
}

/// A kind of thing that the pool holds and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Sandboxes that have a root.
    Roots,
    /// Snapshots.
    Snapshots,
    /// Volumes.
    Volumes,
    /// Keys of images' records.
    Images,
}

/// What the daemon can ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// What the pool can do: one [`Outcome::Pool`].
    Pool,
    /// Makes a sandbox's root.
    RootNew {
        /// The sandbox.
        sandbox: Id,
        /// What it starts from.
        origin: Origin,
        /// Bytes that it may be charged with.
        quota_bytes: Option<u64>,
    },
    /// Takes a snapshot of a root: one [`Outcome::Taken`].
    Snapshot {
        /// The sandbox.
        sandbox: Id,
        /// Id of the snapshot.
        snapshot: Id,
        /// No process but init lives in the sandbox; on plain directories a snapshot needs that.
        quiet: bool,
    },
    /// Makes a copy of what a snapshot holds, which [`Verb::RollbackEnd`] puts in the place of a root. The sandbox may live.
    RollbackBegin {
        /// The sandbox.
        sandbox: Id,
        /// The snapshot.
        snapshot: Id,
    },
    /// Puts the copy in the place of the root. No process may live in the sandbox.
    RollbackEnd(Id),
    /// Makes another sandbox's root from what a root holds: one [`Outcome::Taken`].
    Fork {
        /// The sandbox that is there.
        from: Id,
        /// The sandbox that is to be.
        to: Id,
        /// No process but init lives in `from`; on plain directories a fork needs that.
        quiet: bool,
    },
    /// Makes a layer of what a root holds: one [`Outcome::Committed`].
    Commit {
        /// The sandbox.
        sandbox: Id,
        /// Id of the layer, where the root holds anything of its own.
        layer: Id,
        /// No process but init lives in the sandbox; on plain directories a commit needs that.
        quiet: bool,
    },
    /// Removes a root.
    RemoveRoot(Id),
    /// Removes a snapshot. Roots that started from it keep what they have.
    RemoveSnapshot(Id),
    /// Makes a volume; `conflict` where it is there.
    VolumeNew {
        /// Its name.
        volume: Id,
        /// Bytes that it may be charged with.
        quota_bytes: Option<u64>,
    },
    /// Removes a volume with all it holds.
    RemoveVolume(Id),
    /// What a root is charged with: one [`Outcome::Usage`].
    Usage(Id),
    /// What a snapshot is charged with alone: one [`Outcome::Usage`].
    SnapshotUsage(Id),
    /// Begins a layer that a worker fills: one [`Outcome::Working`].
    Unpack {
        /// Id of the layer.
        layer: Id,
        /// A layer that it starts from; only on btrfs.
        base: Option<Id>,
    },
    /// Begins to compare a root or a snapshot with what lies below it: one [`Outcome::Working`].
    Diff(Source),
    /// Begins to write a tree as a stream: one [`Outcome::Working`].
    Pack(Source),
    /// Begins to work on single files of a volume: one [`Outcome::Working`].
    Files(Id),
    /// Whether a layer is there: one [`Outcome::Present`].
    HasLayer(Id),
    /// The ids of all of a kind in order, a page: one [`Outcome::Ids`].
    List {
        /// What is listed.
        kind: Kind,
        /// The last id of the page before.
        after: Option<Id>,
    },
    /// Writes an image's record; the one that was there is replaced.
    ImageWrite {
        /// Its key.
        key: Id,
        /// JSON; of it the keeper reads `lower`, a list of [`Lower`].
        text: String,
    },
    /// Reads an image's record: one [`Outcome::Image`].
    ImageRead(Id),
    /// Removes an image's record.
    ImageRemove(Id),
    /// Removes an image's record, unless a root or a snapshot is made of its trees: one that lost its last name.
    ImageRetire(Id),
    /// Removes layers that nothing refers to: one [`Outcome::Collected`].
    Collect,
    /// Makes a snapshot of nothing but these read-only trees, the topmost first.
    SnapshotOf {
        /// Id of the snapshot.
        snapshot: Id,
        /// Layers, and the host's programs.
        lower: Vec<Lower>,
    },
    /// Whether these trees are there and may be used.
    Usable(Vec<Lower>),
    /// Ends a worker that did its work; a layer that it filled gets its name.
    Finish(u64),
    /// The same under another name than the one that was said at the beginning.
    FinishAs {
        /// The worker.
        number: u64,
        /// Id of the layer.
        layer: Id,
    },
    /// Ends a worker whatever it is doing; what it made is removed.
    Abandon(u64),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done; there is nothing to tell.
    Done,
    /// Of [`Verb::Pool`].
    Pool(Description),
    /// Of [`Verb::Snapshot`] and [`Verb::Fork`].
    Taken {
        /// The sandbox's root is now made up of other trees: it must be mounted anew, else what it writes is lost.
        remount: bool,
    },
    /// Of [`Verb::Commit`].
    Committed {
        /// The trees that make up the image, the topmost first.
        lower: Vec<Lower>,
        /// As in [`Outcome::Taken`].
        remount: bool,
    },
    /// Of [`Verb::List`]: none where there are no more.
    Ids(Vec<Id>),
    /// Of [`Verb::HasLayer`].
    Present(bool),
    /// Of [`Verb::ImageRead`].
    Image(Option<String>),
    /// Of [`Verb::Collect`]: how many layers.
    Collected(u64),
    /// A worker is at work; its socket is the one descriptor.
    Working {
        /// For [`Verb::Finish`] and [`Verb::Abandon`].
        number: u64,
    },
    /// Of [`Verb::Usage`] and [`Verb::SnapshotUsage`].
    Usage {
        /// Bytes, where the filesystem can tell.
        bytes: Option<u64>,
        /// Bound in bytes, where there is one that is enforced.
        bytes_max: Option<u64>,
    },
}

/// What the pool can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Snapshots are atomic whatever is being written.
    pub live_snapshots: bool,
    /// `simple` or `full`; quotas are not enforced where absent.
    pub quota: Option<String>,
    /// Half-made trees that the start found and removed or completed.
    pub recovered: usize,
    /// How it is kept, for people.
    pub detail: String,
}

/// The keeper's filesystem part.
#[derive(Debug)]
pub struct Keeper {
    pub(super) pool: Pool,
    pub(super) options: Options,
    pub(super) workers: Workers,
    /// The host as an image, where it may be one.
    pub(super) host: Option<Host>,
}

impl Verb {
    /// Whether it copies a tree, which on btrfs waits for the disk. Several that wait share one transaction.
    const fn copies(&self) -> bool {
        matches!(
            self,
            Self::Snapshot { .. }
                | Self::RollbackBegin { .. }
                | Self::Fork { .. }
                | Self::Commit { .. }
                | Self::RootNew { origin: Origin::Snapshot(_), .. }
        )
    }
}

impl Keeper {
    /// Whether a verb takes so long that others should not wait for it.
    #[must_use]
    pub fn takes_long(&self, verb: &Verb) -> bool {
        self.pool.backend() == Backend::Btrfs && verb.copies()
    }

    /// Opens the pool: made where there is none, mounted where it is a file, cleaned of what a crash left half-made. Where
    /// the caller has a mount namespace of its own, the pool is mounted in it and goes with it.
    ///
    /// # Errors
    /// Where the pool cannot be made or mounted, with what is missing.
    pub fn open(options: Options) -> Result<Self, Failure> {
        let pool = Pool::open(&pool::Options {
            state: options.state.clone(),
            backend: options.backend,
            bytes: options.pool_bytes,
            barriers: options.barriers,
            program: options.program.clone(),
        })?;
        let mut keeper = Self { pool, options, workers: Workers::default(), host: None };
        if keeper.options.host_root {
            keeper.host = Some(keeper.find_host()?);
        }
        Ok(keeper)
    }

    /// Carries out a verb.
    ///
    /// # Errors
    /// What the daemon, and then the caller, is told.
    pub fn carry_out(&mut self, verb: Verb, descriptors: Vec<OwnedFd>) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        drop(descriptors);
        let outcome = match verb {
            Verb::Pool => Outcome::Pool(self.describe()),
            Verb::RootNew { sandbox, origin, quota_bytes } => self.root_new(&sandbox, &origin, quota_bytes)?,
            Verb::Snapshot { sandbox, snapshot, quiet } => self.snapshot(&sandbox, &snapshot, quiet)?,
            Verb::RollbackBegin { sandbox, snapshot } => self.rollback_begin(&sandbox, &snapshot)?,
            Verb::RollbackEnd(sandbox) => self.rollback_end(&sandbox)?,
            Verb::Fork { from, to, quiet } => self.fork(&from, &to, quiet)?,
            Verb::Commit { sandbox, layer, quiet } => self.commit(&sandbox, &layer, quiet)?,
            Verb::RemoveRoot(sandbox) => self.remove_root(&sandbox)?,
            Verb::RemoveSnapshot(snapshot) => self.remove_snapshot(&snapshot)?,
            Verb::VolumeNew { volume, quota_bytes } => self.volume_new(&volume, quota_bytes)?,
            Verb::RemoveVolume(volume) => {
                self.pool.remove(pool::Folder::Volumes, &volume)?;
                Outcome::Done
            }
            Verb::Usage(sandbox) => self.usage(&sandbox)?,
            Verb::SnapshotUsage(snapshot) => self.snapshot_usage(&snapshot)?,
            Verb::Unpack { layer, base } => return self.unpack(&layer, base.as_ref()),
            Verb::Diff(source) => return self.diff(&source),
            Verb::Pack(source) => return self.pack(&source),
            Verb::Files(volume) => return self.files(&volume),
            Verb::HasLayer(layer) => self.has_layer(&layer),
            Verb::ImageWrite { key, text } => self.image_write(&key, &text)?,
            Verb::ImageRead(key) => self.image_read(&key)?,
            Verb::List { kind, after } => self.list(kind, after.as_ref())?,
            Verb::ImageRemove(key) => self.image_remove(&key)?,
            Verb::ImageRetire(key) => self.image_retire(&key)?,
            Verb::Collect => self.collect()?,
            Verb::SnapshotOf { snapshot, lower } => self.snapshot_of(&snapshot, lower)?,
            Verb::Usable(lower) => {
                self.lower_paths(&lower)?;
                Outcome::Done
            }
            Verb::Finish(worker) => self.finish(worker, None)?,
            Verb::FinishAs { number, layer } => self.finish(number, Some(&layer))?,
            Verb::Abandon(worker) => self.abandon(worker)?,
        };
        Ok((outcome, Vec::new()))
    }

    fn list(&self, kind: Kind, after: Option<&Id>) -> Result<Outcome, Failure> {
        let mut ids = self.pool.list(match kind {
            Kind::Roots => pool::Folder::Roots,
            Kind::Snapshots => pool::Folder::Snapshots,
            Kind::Volumes => pool::Folder::Volumes,
            Kind::Images => pool::Folder::Images,
        })?;
        ids.retain(|id| after.is_none_or(|after| id > after));
        ids.sort_unstable();
        ids.truncate(KEEPER_PAGE_MAX);
        Ok(Outcome::Ids(ids))
    }

    /// Where a host directory of an image lies, its links resolved.
    ///
    /// # Errors
    /// `forbidden` where the configuration does not allow it; `not_found` where it is not there.
    pub fn image_directory(&self, path: &Path) -> Result<PathBuf, Failure> {
        self.host_directory(path, &self.options.allowed, ("an image", "image_directories"))
    }

    /// Where a host directory lies that is mounted as data, its links resolved.
    ///
    /// # Errors
    /// As [`Self::image_directory`].
    pub fn data_directory(&self, path: &Path) -> Result<PathBuf, Failure> {
        self.host_directory(path, &self.options.data, ("data", "directories"))
    }

    fn host_directory(&self, path: &Path, list: &[PathBuf], (what, field): (&str, &str)) -> Result<PathBuf, Failure> {
        let shown = path.display();
        let real = std::fs::canonicalize(path).map_err(|_| Failure::not_found("directory", &shown.to_string()))?;
        let allowed = list.iter().filter_map(|allowed| std::fs::canonicalize(allowed).ok());
        if !allowed.into_iter().any(|allowed| real.starts_with(allowed)) {
            return Err(Failure::new(Code::Forbidden, format!("the host's {shown} may not be used as {what}"))
                .with("path", shown)
                .remedy(format!(
                    "the administrator can allow the directory in the daemon's configuration: `{field}`"
                )));
        }
        let state = std::fs::canonicalize(&self.options.state).unwrap_or_else(|_| self.options.state.clone());
        if state.starts_with(&real) || real.starts_with(&state) {
            return Err(Failure::new(Code::Forbidden, format!("the host's {shown} holds the daemon's own state")));
        }
        if !real.is_dir() {
            return Err(Failure::invalid("path", format!("{shown} is not a directory")));
        }
        Ok(real)
    }

    fn describe(&self) -> Description {
        let backend = self.pool.backend();
        let detail = match backend {
            Backend::Btrfs => "btrfs subvolumes",
            Backend::Plain => "plain directories: a snapshot needs that no process but init lives",
        };
        let quota = self.pool.quota().map(|quota| match quota {
            btrfs::Quota::Simple => "simple".to_owned(),
            btrfs::Quota::Full => "full".to_owned(),
        });
        Description {
            live_snapshots: backend == Backend::Btrfs,
            quota,
            recovered: self.pool.recovered(),
            detail: detail.to_owned(),
        }
    }
}
