//! Snapshots, rollback, diff and commit.
//!
//! A snapshot's row is there before the snapshot is, marked incomplete: one that a crash left half-made is named and removed.

use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::{State, Transition};
use mote_sandbox_api::request::{Change, PauseKind, Sandbox, Snapshot};
use mote_sandbox_api::spec::ImageSource;

use super::cell::Cell;
use super::key::Key;
use super::measure::Operation;
use super::record::{Record, later};
use super::substrate::Taken;
use super::{Sandboxes, check, to_the_end};
use crate::clock::new_id;
use crate::crash;
use crate::guest::Guest;
use crate::state::SnapshotRecord;

/// What begins and ends a snapshot, and whatever else reads the root as a whole.
const SNAPSHOT: (Transition, Transition) = (Transition::Snapshot, Transition::SnapshotDone);

impl Sandboxes {
    /// Takes a snapshot of a running or paused sandbox, whose processes go on.
    ///
    /// # Errors
    /// `not_found`, `illegal_transition`, `busy` (overlay under open writers), `no_space`, `gone`.
    pub async fn snapshot(&self, id: &str, name: Option<String>) -> Result<Snapshot, Failure> {
        self.snapshot_under(id, name, None).await
    }

    /// The same under an idempotency key: what an earlier attempt has taken is answered.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub async fn snapshot_under(&self, id: &str, name: Option<String>, key: Option<Key>) -> Result<Snapshot, Failure> {
        if let Some(name) = &name {
            check::name("name", name)?;
        }
        let (this, cell) = (self.clone(), self.cell(id)?);
        if let Some(taken) = self.taken_under(key.as_ref()).await? {
            return Ok(taken);
        }
        to_the_end(async move {
            let taken = this.durations.start(Operation::Snapshot);
            let work = this.take_snapshot(&cell, name, Key::mark(key.as_ref()));
            let snapshot = this.during(&cell, SNAPSHOT, |_| {}, work).await?;
            taken.done();
            cell.note(this.clock.now_ms(), "info", format!("snapshot {}", snapshot.id));
            Ok(snapshot)
        })
        .await
    }

    async fn take_snapshot(
        &self,
        cell: &Arc<Cell>,
        name: Option<String>,
        made_under: Option<String>,
    ) -> Result<Snapshot, Failure> {
        let (image, source) = cell.read(|record| (record.image.clone(), record.told().image));
        let source = match source {
            ImageSource::Snapshot(_) => ImageSource::Name(image.clone()),
            source => source,
        };
        let snapshot = Snapshot {
            id: new_id("sn")?,
            name,
            sandbox: cell.id().to_owned(),
            image: source,
            created_ms: self.clock.now_ms(),
            memory: false,
            exclusive_bytes: None,
            digest: None,
        };
        let mut record = SnapshotRecord { snapshot: snapshot.clone(), image, complete: false, made_under };
        self.store.put_snapshot(&record).await?;
        crash::point("snapshot.after_intent");
        let taking = async {
            let taken = self.substrate.snapshot(cell.id(), &snapshot.id, self.writing(cell).as_ref()).await?;
            crash::point("snapshot.after_effect");
            record.complete = true;
            // One that is not kept as complete would be removed at the next start.
            let kept = self.store.put_snapshot(&record).await;
            Ok::<_, Failure>((taken, kept))
        };
        let (taken, kept) = match taking.await {
            Ok(outcome) => outcome,
            Err(failure) => {
                self.drop_snapshot(&snapshot.id).await;
                return Err(failure);
            }
        };
        let remounted = self.remount(cell, taken).await;
        if let Err(failure) = kept {
            self.drop_snapshot(&snapshot.id).await;
            return Err(failure);
        }
        remounted.map(|()| snapshot)
    }

    /// Removes a snapshot that came to nothing. Where that fails its row names it as incomplete, and the next start does.
    async fn drop_snapshot(&self, id: &str) {
        let dropped = async {
            self.substrate.remove_snapshot(id).await?;
            self.store.remove_snapshot(id).await
        };
        if let Err(error) = dropped.await {
            tracing::error!(snapshot = id, %error, "failed to remove a snapshot that came to nothing");
        }
    }

    /// Brings a sandbox back to a snapshot, under the same id: its processes end, what the image declares starts again, and
    /// its lease runs anew.
    ///
    /// # Errors
    /// `not_found`; `invalid` where the snapshot is not of this sandbox or of one that it was forked from;
    /// `illegal_transition`, `gone`.
    pub async fn rollback(&self, id: &str, snapshot: &str) -> Result<Sandbox, Failure> {
        let (this, cell) = (self.clone(), self.cell(id)?);
        let snapshot = self.snapshot_record(snapshot).await?;
        if !self.line_of(&cell).contains(&snapshot.snapshot.sandbox) {
            return Err(Failure::invalid(
                "snapshot",
                format!("{:?} is neither of this sandbox nor of one that it was forked from", snapshot.snapshot.id),
            )
            .remedy("create a sandbox from the snapshot instead"));
        }
        to_the_end(async move {
            let taken = this.durations.start(Operation::Rollback);
            this.roll(&cell, snapshot.snapshot.id.clone()).await?;
            taken.done();
            cell.note(this.clock.now_ms(), "info", format!("rolled back to {}", snapshot.snapshot.id));
            Ok(cell.read(Record::told))
        })
        .await
    }

    async fn roll(&self, cell: &Arc<Cell>, snapshot: String) -> Result<(), Failure> {
        let to = Some(snapshot.clone());
        self.intend(cell, Transition::Snapshot, move |record| record.rolling_back_to = to).await?;
        self.finish_rollback(cell, &snapshot).await
    }

    /// From the moment at which the intent is durable: recovery comes in here too.
    pub(super) async fn finish_rollback(&self, cell: &Arc<Cell>, snapshot: &str) -> Result<(), Failure> {
        let _work = cell.work.lock().await;
        if cell.state() != State::Snapshotting {
            // It was removed before its turn came, or broke.
            return Err(cell.unusable());
        }
        let resting = cell.read(|record| record.resting);
        crash::point("rollback.after_intent");
        cell.leave();
        // Side by side: the one waits for processes, the other for the disk.
        let (ended, begun) =
            tokio::join!(self.substrate.end(cell.id()), self.substrate.rollback_begin(cell.id(), snapshot));
        if let Err(failure) = ended {
            return Err(self.lost(cell, snapshot, failure).await);
        }
        if let Err(failure) = begun {
            // The root of before is whole; its processes are not there any more.
            return Err(self.stranded(cell, snapshot, failure).await);
        }
        crash::point("rollback.after_end");
        if let Err(failure) = self.substrate.rollback(cell.id(), snapshot).await {
            return Err(self.lost(cell, snapshot, failure).await);
        }
        crash::point("rollback.after_root");
        if !resting && let Err(failure) = self.relaunch(cell).await {
            cell.leave();
            return Err(match self.substrate.end(cell.id()).await {
                Ok(()) => self.stranded(cell, snapshot, failure).await,
                Err(_) => self.lost(cell, snapshot, failure).await,
            });
        }
        let now = self.clock.now_ms();
        let done = cell.shift(&self.store, Transition::SnapshotDone, |record| {
            record.rolling_back_to = None;
            if resting {
                // What was frozen has ended: the filesystem alone is there.
                record.pause = Some(PauseKind::Stopped);
            } else {
                // Another episode begins.
                record.lease_ends_ms = record.spec.lease.map(|lease| later(now, lease));
            }
        });
        let done = done.map_err(|_| cell.unusable())?;
        self.schedule(cell);
        // Until it is kept a crash would do it again, over what is written from now on: whoever asked is told.
        self.kept(cell, done).await
    }

    async fn relaunch(&self, cell: &Arc<Cell>) -> Result<(), Failure> {
        let volumes = self.volumes_of(&cell.read(|record| record.spec.clone())).await?;
        self.launch(cell, volumes).await
    }

    /// A rollback whose end is not known has cost the sandbox: there is no way back.
    async fn lost(&self, cell: &Arc<Cell>, snapshot: &str, failure: Failure) -> Failure {
        self.fail(cell, format!("the rollback to {snapshot} did not succeed: {failure}")).await;
        cell.leave();
        if let Err(error) = self.substrate.end(cell.id()).await {
            tracing::error!(sandbox = cell.id(), %error, "failed to end a sandbox after its rollback failed");
        }
        failure
    }

    /// A rollback that came to nothing, or whose first process does not start: the root is whole and nothing runs, as after a
    /// pause that keeps the filesystem.
    async fn stranded(&self, cell: &Arc<Cell>, snapshot: &str, failure: Failure) -> Failure {
        drop(cell.change(&self.store, |record| {
            record.resting = true;
            record.pause = Some(PauseKind::Stopped);
        }));
        self.undo(cell).await;
        self.schedule(cell);
        let told =
            format!("the rollback to {snapshot} did not succeed; its filesystem is whole, and it is paused: {failure}");
        cell.note(self.clock.now_ms(), "error", told);
        failure.remedy(format!("POST /v1/sandboxes/{}/resume, or roll back again", cell.id()))
    }

    /// Mounts the root anew where a copy of it asks for that: nothing but the first process lived then, and it starts again.
    pub(super) async fn remount(&self, cell: &Arc<Cell>, taken: Taken) -> Result<(), Failure> {
        if !taken.remount || cell.guest().is_none() {
            return Ok(());
        }
        let frozen = cell.read(|record| record.resting && record.pause == Some(PauseKind::Frozen));
        cell.leave();
        self.substrate.end(cell.id()).await?;
        if frozen {
            let pending = cell.change(&self.store, |record| record.pause = Some(PauseKind::Stopped));
            let _ = self.kept(cell, pending).await;
            return Ok(());
        }
        if let Err(failure) = self.relaunch(cell).await {
            self.fail(cell, format!("its first process could not be started again: {failure}")).await;
            cell.leave();
            self.substrate.end(cell.id()).await?;
            return Err(failure);
        }
        Ok(())
    }

    /// What differs from the image, by path.
    ///
    /// # Errors
    /// `not_found`, `illegal_transition`, `gone`.
    pub async fn diff(&self, id: &str) -> Result<Vec<Change>, Failure> {
        let (this, cell) = (self.clone(), self.cell(id)?);
        to_the_end(async move {
            let work = this.substrate.diff(cell.id());
            this.during(&cell, SNAPSHOT, |_| {}, work).await
        })
        .await
    }

    /// Makes an image of the sandbox's root as it is; answers with the image's id. A name that is taken stands for this one
    /// from then on.
    ///
    /// # Errors
    /// `not_found`, `illegal_transition`, `gone`.
    pub async fn commit(&self, id: &str, name: &str) -> Result<String, Failure> {
        check::name("name", name)?;
        let (this, cell, name) = (self.clone(), self.cell(id)?, name.to_owned());
        to_the_end(async move {
            let taken = this.durations.start(Operation::Commit);
            let below = cell.read(|record| record.image.clone());
            let work = async {
                let (image, taken) = this.substrate.commit(cell.id(), &name, &below).await?;
                this.remount(&cell, taken).await?;
                Ok(image)
            };
            let image = this.during(&cell, SNAPSHOT, |_| {}, work).await?;
            taken.done();
            cell.note(this.clock.now_ms(), "info", format!("committed as {name}"));
            Ok(image)
        })
        .await
    }

    /// Every snapshot, newest first; those of one sandbox where it is given.
    ///
    /// # Errors
    /// `internal`.
    pub async fn snapshots(&self, sandbox: Option<&str>) -> Result<Vec<Snapshot>, Failure> {
        let mut snapshots: Vec<Snapshot> = self
            .store
            .snapshots()
            .await?
            .into_iter()
            .filter(|record| record.complete && sandbox.is_none_or(|id| record.snapshot.sandbox == id))
            .map(|record| record.snapshot)
            .collect();
        snapshots.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        Ok(snapshots)
    }

    /// Removes a snapshot. Sandboxes that were made of it keep what they have.
    ///
    /// # Errors
    /// `not_found`; `busy` while a rollback to it or an export of it is under way.
    pub async fn remove_snapshot(&self, id: &str) -> Result<(), Failure> {
        let (this, mut record) = (self.clone(), self.snapshot_record(id).await?);
        let id = record.snapshot.id.clone();
        let used = |cell: &Arc<Cell>| cell.read(|record| record.rolling_back_to.as_ref() == Some(&id));
        if let Some(cell) = self.all().iter().find(|cell| used(cell)) {
            return Err(Failure::new(Code::Busy, "a rollback to the snapshot is under way").with("sandbox", cell.id()));
        }
        let Some(held) = self.uses.remove(&id) else {
            return Err(Failure::new(Code::Busy, "the snapshot is being exported or removed").with("snapshot", id));
        };
        to_the_end(async move {
            let _held = held;
            record.complete = false;
            this.store.put_snapshot(&record).await?;
            this.substrate.remove_snapshot(&record.snapshot.id).await?;
            this.store.remove_snapshot(&record.snapshot.id).await?;
            if record.snapshot.digest.is_some() {
                this.forget_imports().await?;
            }
            Ok(())
        })
        .await
    }

    /// A complete snapshot by id, or the newest of a name, which is what its holder means.
    pub(super) async fn snapshot_record(&self, wanted: &str) -> Result<SnapshotRecord, Failure> {
        let found = self.store.snapshot(wanted).await?;
        let complete = found.into_iter().filter(|record| record.complete);
        let best = complete.max_by_key(|record| (record.snapshot.id == wanted, record.snapshot.created_ms));
        best.ok_or_else(|| Failure::not_found("snapshot", wanted))
    }

    /// The sandbox and those that it was forked from.
    fn line_of(&self, cell: &Arc<Cell>) -> Vec<String> {
        let mut line = vec![cell.id().to_owned()];
        let mut parent = cell.read(|record| record.parent.clone());
        while let Some(id) = parent {
            parent = self.cell(&id).ok().and_then(|cell| cell.read(|record| record.parent.clone()));
            if line.contains(&id) {
                break;
            }
            line.push(id);
        }
        line
    }

    /// The way to the processes, where they live and can answer.
    pub(super) fn writing(&self, cell: &Cell) -> Option<Guest> {
        let frozen = cell.read(|record| {
            record.pause.is_some() && (record.resting || matches!(record.state, State::Paused | State::Pausing))
        });
        if frozen { None } else { cell.guest() }
    }
}
