//! Root filesystems: images, writable roots, snapshots, rollback, forks, volumes; on btrfs, and on overlay where there is none.
//!
//! It does not know what runs in a root, except through the quiescing that overlay needs before a snapshot.

mod charge;
mod fault;
mod host;
pub mod id;
mod images;
pub mod keeper;
mod pool;
pub mod recipe;
mod record;
mod roots;
mod skeleton;
pub mod trees;
mod view;
pub mod volumes;
pub mod work;
pub mod worker;

pub use pool::Backend;

use std::os::fd::OwnedFd;

use mote_sandbox_api::error::{Code, Failure};

use crate::keeper as privileged;
use id::Id;
use keeper::{Description, Kind, Origin, Outcome, Verb};
use recipe::Lower;

/// The daemon's handle on roots, snapshots and volumes; clones share it.
#[derive(Clone, Debug)]
pub struct Filesystem {
    keeper: privileged::client::Client,
}

/// What a root, a snapshot or a volume is charged with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Bytes, where the filesystem can tell.
    pub bytes: Option<u64>,
    /// Bound in bytes, where one is enforced.
    pub bytes_max: Option<u64>,
}

/// An image's trees, made from a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The trees, the topmost first.
    pub lower: Vec<Lower>,
    /// The root must be mounted anew.
    pub remount: bool,
}

impl Filesystem {
    /// A handle that asks this keeper.
    #[must_use]
    pub const fn new(keeper: privileged::client::Client) -> Self {
        Self { keeper }
    }

    /// What the pool can do.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn describe(&self) -> Result<Description, Failure> {
        match self.ask(Verb::Pool).await? {
            Outcome::Pool(description) => Ok(description),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a sandbox's root.
    ///
    /// # Errors
    /// `conflict` where it is there, `not_found` where the origin is not, `no_space` where the pool is full.
    pub async fn root_new(&self, sandbox: &str, origin: Origin, quota_bytes: Option<u64>) -> Result<(), Failure> {
        let sandbox = Id::new("sandbox", sandbox)?;
        done(self.ask(Verb::RootNew { sandbox, origin, quota_bytes }).await?)
    }

    /// Takes a snapshot. `quiet`: no process but init lives inside. Answers whether the root must be mounted anew.
    ///
    /// # Errors
    /// `busy` where the backend needs quiet and has none; `conflict` where the snapshot's id is taken.
    pub async fn snapshot(&self, sandbox: &str, snapshot: &str, quiet: bool) -> Result<bool, Failure> {
        let (sandbox, snapshot) = (Id::new("sandbox", sandbox)?, Id::new("snapshot", snapshot)?);
        taken(self.ask(Verb::Snapshot { sandbox, snapshot, quiet }).await?)
    }

    /// Makes a copy of what the snapshot holds, for [`Self::rollback_end`]; meanwhile the sandbox may live.
    ///
    /// # Errors
    /// `not_found` where there is no such root or snapshot.
    pub async fn rollback_begin(&self, sandbox: &str, snapshot: &str) -> Result<(), Failure> {
        let (sandbox, snapshot) = (Id::new("sandbox", sandbox)?, Id::new("snapshot", snapshot)?);
        done(self.ask(Verb::RollbackBegin { sandbox, snapshot }).await?)
    }

    /// Puts the copy in the place of the sandbox's root. No process may live inside.
    ///
    /// # Errors
    /// `not_found` where there is no such root; `internal` where no copy was made.
    pub async fn rollback_end(&self, sandbox: &str) -> Result<(), Failure> {
        done(self.ask(Verb::RollbackEnd(Id::new("sandbox", sandbox)?)).await?)
    }

    /// Makes another sandbox's root from this one's. Answers whether this one must be mounted anew.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub async fn fork(&self, from: &str, to: &str, quiet: bool) -> Result<bool, Failure> {
        let (from, to) = (Id::new("sandbox", from)?, Id::new("sandbox", to)?);
        taken(self.ask(Verb::Fork { from, to, quiet }).await?)
    }

    /// Makes an image's trees from a root. The caller names the layer, and the image holds it.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub async fn commit(&self, sandbox: &str, layer: &str, quiet: bool) -> Result<Committed, Failure> {
        let (sandbox, layer) = (Id::new("sandbox", sandbox)?, Id::new("layer", layer)?);
        match self.ask(Verb::Commit { sandbox, layer, quiet }).await? {
            Outcome::Committed { lower, remount } => Ok(Committed { lower, remount }),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a snapshot of nothing but these trees, the topmost first.
    ///
    /// # Errors
    /// `not_found` where a tree is not there; `forbidden` where one may not be used; `conflict` where the id is taken.
    pub async fn snapshot_of(&self, snapshot: &str, lower: Vec<Lower>) -> Result<(), Failure> {
        let snapshot = Id::new("snapshot", snapshot)?;
        done(self.ask(Verb::SnapshotOf { snapshot, lower }).await?)
    }

    /// Whether these trees are there and may be used.
    ///
    /// # Errors
    /// As [`Self::snapshot_of`].
    pub async fn usable(&self, lower: Vec<Lower>) -> Result<(), Failure> {
        done(self.ask(Verb::Usable(lower)).await?)
    }

    /// Removes a root. Its space comes back in the background.
    ///
    /// # Errors
    /// `not_found` where it is not there.
    pub async fn remove(&self, sandbox: &str) -> Result<(), Failure> {
        done(self.ask(Verb::RemoveRoot(Id::new("sandbox", sandbox)?)).await?)
    }

    /// Removes a snapshot; what started from it stays.
    ///
    /// # Errors
    /// `not_found` where it is not there.
    pub async fn remove_snapshot(&self, snapshot: &str) -> Result<(), Failure> {
        done(self.ask(Verb::RemoveSnapshot(Id::new("snapshot", snapshot)?)).await?)
    }

    /// The ids of all of a kind, in order: what there is after a crash.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn list(&self, kind: Kind) -> Result<Vec<String>, Failure> {
        Ok(self.ids(kind).await?.into_iter().map(String::from).collect())
    }

    pub(crate) async fn ids(&self, kind: Kind) -> Result<Vec<Id>, Failure> {
        let mut ids: Vec<Id> = Vec::new();
        loop {
            match self.ask(Verb::List { kind, after: ids.last().cloned() }).await? {
                Outcome::Ids(page) if page.is_empty() => return Ok(ids),
                Outcome::Ids(page) => ids.extend(page),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// `conflict` where it is there.
    pub async fn volume_new(&self, name: &str, quota_bytes: Option<u64>) -> Result<(), Failure> {
        done(self.ask(Verb::VolumeNew { volume: Id::new("volume", name)?, quota_bytes }).await?)
    }

    /// Removes a volume with all it holds.
    ///
    /// # Errors
    /// `not_found` where it is not there.
    pub async fn remove_volume(&self, name: &str) -> Result<(), Failure> {
        done(self.ask(Verb::RemoveVolume(Id::new("volume", name)?)).await?)
    }

    /// What a sandbox's root is charged with.
    ///
    /// # Errors
    /// `not_found` where it is not there.
    pub async fn usage(&self, sandbox: &str) -> Result<Charge, Failure> {
        charge(self.ask(Verb::Usage(Id::new("sandbox", sandbox)?)).await?)
    }

    /// What a snapshot alone is charged with.
    ///
    /// # Errors
    /// `not_found` where it is not there.
    pub async fn snapshot_usage(&self, snapshot: &str) -> Result<Charge, Failure> {
        charge(self.ask(Verb::SnapshotUsage(Id::new("snapshot", snapshot)?)).await?)
    }

    pub(crate) async fn ask(&self, verb: Verb) -> Result<Outcome, Failure> {
        Ok(self.ask_with(verb, Vec::new()).await?.0)
    }

    pub(crate) async fn ask_with(
        &self,
        verb: Verb,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        match self.keeper.call_with(privileged::Verb::Filesystem(verb), descriptors).await? {
            (privileged::Outcome::Filesystem(outcome), descriptors) => Ok((outcome, descriptors)),
            _ => Err(Failure::new(Code::Internal, "the keeper answered for another part")),
        }
    }
}

fn done(outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        Outcome::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn taken(outcome: Outcome) -> Result<bool, Failure> {
    match outcome {
        Outcome::Taken { remount } => Ok(remount),
        other => Err(unexpected(&other)),
    }
}

fn charge(outcome: Outcome) -> Result<Charge, Failure> {
    match outcome {
        Outcome::Usage { bytes, bytes_max } => Ok(Charge { bytes, bytes_max }),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn unexpected(outcome: &Outcome) -> Failure {
    Failure::new(Code::Internal, format!("the keeper answered with something else: {outcome:?}"))
}
