//! Sandboxes' roots in the keeper: made, snapshotted, rolled back, forked, committed, removed.
//!
//! On btrfs a root is a subvolume with `upper/` and `work/`, and its copies are snapshots of it. On plain directories what
//! was written is sealed: the whole tree becomes a layer, and a new, empty one takes its place on top. It does not mount.

use std::os::fd::BorrowedFd;

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{AtFlags, Mode};

use super::fault;
use super::id::Id;
use super::keeper::{Keeper, Origin, Outcome};
use super::pool::{self, Backend, Draft, Folder};
use super::recipe::{Lower, Recipe};
use super::record::Record;
use crate::limits::LOWER_TREES_MAX;

pub(super) const UPPER: &str = "upper";
const WORK: &str = "work";

impl Keeper {
    /// What a sandbox's root is mounted from.
    ///
    /// # Errors
    /// `not_found` where there is no such root, or a tree below it is gone.
    pub fn recipe(&self, sandbox: &str) -> Result<Recipe, Failure> {
        let id = Id::new("sandbox", sandbox)?;
        if !self.pool.exists(Folder::Roots, &id) {
            return Err(Failure::not_found("root", sandbox));
        }
        let path = self.pool.path(Folder::Roots, &id);
        let record = Record::read(&path)?;
        let bound = if record.lower.contains(&Lower::HostPrograms) { self.host_programs()? } else { Vec::new() };
        Ok(Recipe { lower: self.lower_paths(&record.lower)?, bound, upper: path.join(UPPER), work: path.join(WORK) })
    }

    /// The trees with what the host is now in the place of the host.
    fn as_now(&self, lower: &[Lower]) -> Result<Vec<Lower>, Failure> {
        let mut trees = Vec::with_capacity(lower.len() + 1);
        for tree in lower {
            match tree {
                Lower::Host => trees.extend(self.host()?),
                tree => trees.push(tree.clone()),
            }
        }
        Ok(trees)
    }

    /// Where read-only trees lie.
    pub(super) fn lower_paths(&self, lower: &[Lower]) -> Result<Vec<std::path::PathBuf>, Failure> {
        let mut paths = Vec::with_capacity(lower.len() + 1);
        for tree in lower {
            match tree {
                Lower::Layer(layer) if self.pool.exists(Folder::Layers, layer) => {
                    paths.push(self.pool.path(Folder::Layers, layer).join(UPPER));
                }
                Lower::Layer(layer) => return Err(Failure::not_found("layer", layer.as_str())),
                Lower::Directory(path) => paths.push(self.image_directory(path)?),
                Lower::Host => paths.extend(self.lower_paths(&self.host()?)?),
                Lower::HostPrograms => drop(self.host_programs()?),
            }
        }
        Ok(paths)
    }

    pub(super) fn root_new(&self, sandbox: &Id, origin: &Origin, quota_bytes: Option<u64>) -> Result<Outcome, Failure> {
        match origin {
            Origin::Image(lower) => {
                if lower.is_empty() || lower.len() > LOWER_TREES_MAX {
                    return Err(Failure::invalid("image", format!("1 to {LOWER_TREES_MAX} trees are needed")));
                }
                let lower = self.as_now(lower)?;
                self.lower_paths(&lower)?;
                let draft = self.pool.begin(Folder::Roots, sandbox)?;
                make_empty(&draft, &Record { lower, quota_bytes, ..Record::default() })?;
                draft.limit(quota_bytes)?;
                draft.publish()?;
            }
            Origin::Snapshot(snapshot) => {
                let draft = self.copy_of_snapshot(snapshot, sandbox, quota_bytes, false)?;
                draft.publish()?;
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn snapshot(&mut self, sandbox: &Id, snapshot: &Id, quiet: bool) -> Result<Outcome, Failure> {
        match self.pool.backend() {
            Backend::Btrfs => {
                self.pool
                    .begin_copy((Folder::Roots, sandbox), (Folder::Snapshots, snapshot), true, false)?
                    .publish()?;
                // After the copy: its commit is what makes the accounting exact.
                if let Some(bytes) = self.charged(sandbox)? {
                    self.write_charge(snapshot, bytes)?;
                }
                Ok(Outcome::Taken { remount: false })
            }
            Backend::Plain => {
                let layer = Id::new("layer", format!("{snapshot}.sealed"))?;
                let seal = self.prepare_seal(sandbox, &layer, quiet)?;
                let draft = self.pool.begin(Folder::Snapshots, snapshot)?;
                Record { lower: seal.lower.clone(), sealed: true, ..Record::default() }.write(draft.directory())?;
                draft.publish()?;
                let sealed = seal.carry_out();
                self.or_take_back(Folder::Snapshots, snapshot, sealed)
            }
        }
    }

    /// Makes a snapshot that holds what these trees hold: of content that came from elsewhere.
    pub(super) fn snapshot_of(&self, snapshot: &Id, lower: Vec<Lower>) -> Result<Outcome, Failure> {
        if lower.is_empty() || lower.len() > LOWER_TREES_MAX {
            return Err(Failure::invalid("snapshot", format!("1 to {LOWER_TREES_MAX} trees are needed")));
        }
        self.lower_paths(&lower)?;
        let draft = self.pool.begin(Folder::Snapshots, snapshot)?;
        Record { lower, sealed: true, ..Record::default() }.write(draft.directory())?;
        draft.publish()?;
        Ok(Outcome::Done)
    }

    pub(super) fn rollback_begin(&self, sandbox: &Id, snapshot: &Id) -> Result<Outcome, Failure> {
        let quota_bytes = Record::read(&self.existing(Folder::Roots, sandbox)?)?.quota_bytes;
        self.copy_of_snapshot(snapshot, sandbox, quota_bytes, true)?.keep();
        Ok(Outcome::Done)
    }

    pub(super) fn rollback_end(&self, sandbox: &Id) -> Result<Outcome, Failure> {
        self.existing(Folder::Roots, sandbox)?;
        self.pool.adopt_next(Folder::Roots, sandbox)?.replace()?;
        Ok(Outcome::Done)
    }

    /// Which directory is written to by whom mounts a root: its device and inode. None where nothing is gained by knowing.
    #[must_use]
    pub fn upper_of(&self, sandbox: &str) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        if self.pool.backend() != Backend::Btrfs {
            return None;
        }
        let id = Id::new("sandbox", sandbox).ok()?;
        let upper = std::fs::metadata(self.pool.path(Folder::Roots, &id).join(UPPER)).ok()?;
        Some((upper.dev(), upper.ino()))
    }

    pub(super) fn fork(&mut self, from: &Id, to: &Id, quiet: bool) -> Result<Outcome, Failure> {
        let mut record = Record::read(&self.existing(Folder::Roots, from)?)?;
        match self.pool.backend() {
            Backend::Btrfs => {
                let draft = self.pool.begin_copy((Folder::Roots, from), (Folder::Roots, to), false, false)?;
                record.inherited_bytes = self.charged(from)?.unwrap_or(0);
                record.write(draft.directory())?;
                draft.limit(remaining(&record))?;
                draft.publish()?;
                Ok(Outcome::Taken { remount: false })
            }
            Backend::Plain => {
                let layer = Id::new("layer", format!("{to}.forked"))?;
                let seal = self.prepare_seal(from, &layer, quiet)?;
                let draft = self.pool.begin(Folder::Roots, to)?;
                make_empty(&draft, &Record { lower: seal.lower.clone(), ..record })?;
                draft.publish()?;
                let sealed = seal.carry_out();
                self.or_take_back(Folder::Roots, to, sealed)
            }
        }
    }

    pub(super) fn commit(&self, sandbox: &Id, layer: &Id, quiet: bool) -> Result<Outcome, Failure> {
        match self.pool.backend() {
            Backend::Btrfs => {
                let record = Record::read(&self.existing(Folder::Roots, sandbox)?)?;
                self.pool.begin_copy((Folder::Roots, sandbox), (Folder::Layers, layer), true, false)?.publish()?;
                let lower = std::iter::once(Lower::Layer(layer.clone())).chain(record.lower).collect();
                Ok(Outcome::Committed { lower, remount: false })
            }
            Backend::Plain => {
                let seal = self.prepare_seal(sandbox, layer, quiet)?;
                let lower = seal.lower.clone();
                Ok(Outcome::Committed { lower, remount: seal.carry_out()? })
            }
        }
    }

    pub(super) fn remove_root(&mut self, sandbox: &Id) -> Result<Outcome, Failure> {
        self.pool.remove(Folder::Roots, sandbox)?;
        Ok(Outcome::Done)
    }

    pub(super) fn remove_snapshot(&mut self, snapshot: &Id) -> Result<Outcome, Failure> {
        self.pool.remove(Folder::Snapshots, snapshot)?;
        let _ = rustix::fs::unlinkat(self.pool.folder(Folder::Charges), snapshot.as_str(), AtFlags::empty());
        Ok(Outcome::Done)
    }

    /// A tree with what a snapshot holds, not in place yet.
    fn copy_of_snapshot(
        &self,
        snapshot: &Id,
        sandbox: &Id,
        quota_bytes: Option<u64>,
        next: bool,
    ) -> Result<Draft<'_>, Failure> {
        let path = self.existing(Folder::Snapshots, snapshot)?;
        let record = Record::read(&path)?;
        if record.sealed {
            let draft = if next {
                self.pool.begin_next(Folder::Roots, sandbox)?
            } else {
                self.pool.begin(Folder::Roots, sandbox)?
            };
            make_empty(&draft, &Record { lower: record.lower, quota_bytes, ..Record::default() })?;
            return Ok(draft);
        }
        let from = (Folder::Snapshots, snapshot);
        let draft = self.pool.begin_copy(from, (Folder::Roots, sandbox), false, next)?;
        let inherited_bytes = self.read_charge(snapshot).unwrap_or(record.inherited_bytes);
        let record = Record { inherited_bytes, quota_bytes, ..record };
        record.write(draft.directory())?;
        draft.limit(remaining(&record))?;
        Ok(draft)
    }

    /// What came of a seal that a published tree counts on. Where it failed, that tree goes: the root is as it was.
    fn or_take_back(&mut self, folder: Folder, id: &Id, sealed: Result<bool, Failure>) -> Result<Outcome, Failure> {
        match sealed {
            Ok(remount) => Ok(Outcome::Taken { remount }),
            Err(failure) => {
                let _ = self.pool.remove(folder, id);
                Err(failure)
            }
        }
    }

    /// Gets ready to make a layer of what a plain root holds, with an empty tree on top in its place. All that can run out of
    /// space is done here: who writes into a root that is a layer already writes for nobody. A root without anything of
    /// its own is left as it is.
    fn prepare_seal<'a>(&'a self, sandbox: &'a Id, layer: &'a Id, quiet: bool) -> Result<Seal<'a>, Failure> {
        let path = self.existing(Folder::Roots, sandbox)?;
        let record = Record::read(&path)?;
        let untouched = std::fs::read_dir(path.join(UPPER))
            .map_err(|error| fault::io(&format!("failed to read the root of {sandbox}"), &error))?
            .next()
            .is_none();
        if untouched {
            return Ok(Seal { pool: &self.pool, sandbox, layer, lower: record.lower, next: None });
        }
        if !quiet {
            return Err(Failure::new(Code::Busy, "a snapshot on plain directories needs that no process runs inside")
                .with("sandbox", sandbox)
                .with("backend", "overlay")
                .remedy("end the processes inside first, or give the daemon a btrfs pool"));
        }
        if record.lower.len() >= LOWER_TREES_MAX {
            return Err(Failure::new(
                Code::Exhausted,
                format!("the root is made up of {LOWER_TREES_MAX} trees already"),
            )
            .with("limit", LOWER_TREES_MAX)
            .remedy("commit it to an image and start from that"));
        }
        let lower: Vec<_> = std::iter::once(Lower::Layer(layer.clone())).chain(record.lower.iter().cloned()).collect();
        let next = self.pool.begin_next(Folder::Roots, sandbox)?;
        make_empty(&next, &Record { lower: lower.clone(), ..record })?;
        Ok(Seal { pool: &self.pool, sandbox, layer, lower, next: Some(next) })
    }

    /// Where a tree lies, or `not_found`.
    pub(super) fn existing(&self, folder: Folder, id: &Id) -> Result<std::path::PathBuf, Failure> {
        if self.pool.exists(folder, id) {
            Ok(self.pool.path(folder, id))
        } else {
            Err(Failure::not_found(pool::kind(folder), id.as_str()))
        }
    }
}

/// A root that is about to become a layer.
struct Seal<'a> {
    pool: &'a pool::Pool,
    sandbox: &'a Id,
    layer: &'a Id,
    /// The trees that hold what the root holds.
    lower: Vec<Lower>,
    /// What takes the root's place; none where it stays.
    next: Option<Draft<'a>>,
}

impl Seal<'_> {
    /// Answers whether the root changed, and must be mounted anew. Where it fails the root is as it was.
    fn carry_out(self) -> Result<bool, Failure> {
        let Some(next) = self.next else { return Ok(false) };
        let (root, layer) = ((Folder::Roots, self.sandbox), (Folder::Layers, self.layer));
        // Between these two steps the root is not there; the next start would complete the second one.
        self.pool.move_tree(root, layer)?;
        next.publish().inspect_err(|_| drop(self.pool.move_tree(layer, root)))?;
        Ok(true)
    }
}

/// Fills a tree with what an empty root has.
fn make_empty(draft: &Draft<'_>, record: &Record) -> Result<(), Failure> {
    make_folder(draft.directory(), UPPER, 0o755)?;
    make_folder(draft.directory(), WORK, 0o700)?;
    record.write(draft.directory())
}

pub(super) fn make_folder(parent: BorrowedFd<'_>, name: &str, mode: u32) -> Result<(), Failure> {
    let make = || {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
        // Past the process's umask.
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
    };
    make().map_err(|error| fault::io(&format!("failed to make {name}"), &error.into()))
}

/// What is left of a quota: what a tree inherited counts.
fn remaining(record: &Record) -> Option<u64> {
    record.quota_bytes.map(|quota| quota.saturating_sub(record.inherited_bytes))
}
