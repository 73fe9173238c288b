//! After a restart: what lives is adopted, what was half-made or half-ended is given back, nothing leaks.
//!
//! Every effect was preceded by a durable record that names it, so that records and what is found on the host are enough. It
//! repeats `end` and `remove` freely: both may be repeated.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::request::PauseKind;
use mote_sandbox_api::spec::OnLeaseEnd;

use super::cell::Cell;
use super::record::Record;
use super::substrate::{Found, Launch};
use super::{Sandboxes, to_the_end};
use crate::image::workshop;
use crate::limits::{GUEST_START_TIMEOUT, RECOVERY_STEP_TIMEOUT};

/// What recovery did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Sandboxes that live on.
    pub adopted: usize,
    /// Sandboxes whose processes are gone and whose filesystem is kept, paused.
    pub rested: usize,
    /// Sandboxes that were given back.
    pub reaped: usize,
    /// Things without a record that were removed.
    pub strays: usize,
}

/// What becomes of a record.
enum Fate {
    Keep,
    Adopt,
    FinishRollback(String),
    Rest,
    Reap(&'static str),
}

/// What is left of something that nobody has a use for.
#[derive(Debug, Clone, Copy)]
enum Remains {
    Processes,
    Root,
    Snapshot,
}

/// Waits for one step of recovery, which goes on where it takes too long.
async fn in_time(step: impl Future<Output = Result<(), Failure>> + Send + 'static) -> Result<(), Failure> {
    tokio::time::timeout(RECOVERY_STEP_TIMEOUT, to_the_end(step)).await.unwrap_or_else(|_| {
        Err(Failure::new(Code::Timeout, "it takes too long").with("limit_ms", RECOVERY_STEP_TIMEOUT.as_millis()))
    })
}

fn fate(record: &Record, found: Option<&Found>) -> Fate {
    match record.state {
        State::Gone => Fate::Keep,
        // Whatever its state: nobody knows of it who could remove it.
        _ if record.pooled => Fate::Reap("it waited in the warm pool of a daemon that ended"),
        State::Failed => Fate::Keep,
        State::Creating => Fate::Reap("the daemon ended while it was being made"),
        State::Stopping => Fate::Reap("the daemon ended while it was being removed"),
        _ => match (&record.rolling_back_to, found) {
            (Some(snapshot), _) => Fate::FinishRollback(snapshot.clone()),
            (None, Some(_)) => Fate::Adopt,
            (None, None) if record.state == State::Paused && record.pause == Some(PauseKind::Stopped) => Fate::Keep,
            // Its processes ended on purpose, or were about to.
            (None, None) if record.pause == Some(PauseKind::Stopped) => Fate::Rest,
            (None, None) if record.spec.on_lease_end == Some(OnLeaseEnd::Pause) => Fate::Rest,
            (None, None) => Fate::Reap("its processes ended while the daemon was away"),
        },
    }
}

impl Sandboxes {
    /// Brings records and host together. Called once, before anything else is asked.
    ///
    /// # Errors
    /// Where the state or the host cannot be read. One sandbox that cannot be mended, or that takes too long, is marked failed
    /// instead, and what cannot be removed is named in the log: neither keeps the others waiting.
    pub async fn recover(&self) -> Result<Recovered, Failure> {
        let mut recovered = Recovered::default();
        let records = self.store.sandboxes().await?;
        let mut living: HashMap<String, Found> =
            self.substrate.living().await?.into_iter().map(|found| (found.id.clone(), found)).collect();
        let (roots, snapshots) = self.substrate.held().await?;
        let roots: HashSet<String> = roots.into_iter().collect();
        let known: HashSet<String> = records.iter().map(|record| record.id.clone()).collect();
        for record in records {
            let found = living.remove(&record.id);
            let has_root = roots.contains(&record.id);
            self.recover_one(record, found, has_root, &mut recovered).await;
        }
        for id in living.into_keys() {
            tracing::warn!(sandbox = id, "a sandbox without a record is ended");
            self.rid(&id, Remains::Processes).await;
            recovered.strays += 1;
        }
        for id in roots.into_iter().filter(|id| !known.contains(id) && !id.starts_with(workshop::PREFIX)) {
            tracing::warn!(sandbox = id, "a root without a record is removed");
            self.rid(&id, Remains::Root).await;
            recovered.strays += 1;
        }
        let (held, mut named): (HashSet<String>, _) = (snapshots.into_iter().collect(), HashSet::new());
        for record in self.store.snapshots().await? {
            let id = record.snapshot.id;
            if !record.complete {
                self.rid(&id, Remains::Snapshot).await;
                recovered.strays += 1;
            } else if !held.contains(&id) {
                // A crash of the host: the row was on the disk before the snapshot was.
                tracing::warn!(snapshot = id, "a snapshot that is not there is forgotten");
                self.rid(&id, Remains::Snapshot).await;
                recovered.strays += 1;
            }
            named.insert(id);
        }
        for id in held.difference(&named) {
            self.rid(id, Remains::Snapshot).await;
        }
        if let Err(error) = self.forget_imports().await {
            tracing::warn!(%error, "failed to forget what imported snapshots started from; it is tried again");
        }
        self.prune().await;
        Ok(recovered)
    }

    /// Removes what nobody has a use for; what cannot be removed now is found again at the next start.
    async fn rid(&self, id: &str, remains: Remains) {
        let (this, owned) = (self.clone(), id.to_owned());
        let removal = in_time(async move {
            match remains {
                Remains::Processes => this.substrate.end(&owned).await,
                Remains::Root => {
                    this.substrate.end(&owned).await?;
                    this.substrate.remove(&owned).await
                }
                Remains::Snapshot => {
                    this.substrate.remove_snapshot(&owned).await?;
                    this.store.remove_snapshot(&owned).await
                }
            }
        });
        if let Err(error) = removal.await {
            tracing::error!(id, ?remains, %error, "failed to remove what nobody has a use for");
        }
    }

    async fn recover_one(&self, mut record: Record, found: Option<Found>, has_root: bool, recovered: &mut Recovered) {
        let mut fate = fate(&record, found.as_ref());
        if !has_root && (matches!(fate, Fate::Rest) || record.state == State::Paused) {
            // Its removal, whose intent could not be kept, came as far as that.
            fate = Fate::Reap("its filesystem is gone");
        }
        let frozen = found.as_ref().is_some_and(|found| found.frozen);
        match &fate {
            // What was under way is over, whichever way it went.
            Fate::Adopt => {
                record.state = if frozen { State::Paused } else { State::Running };
                record.pause = frozen.then_some(PauseKind::Frozen);
            }
            Fate::Rest => {
                record.state = State::Paused;
                record.pause = Some(PauseKind::Stopped);
            }
            // Nothing was made under its key.
            Fate::Reap(_) if record.state == State::Creating => record.made_under = None,
            _ => {}
        }
        match fate {
            Fate::Keep => {}
            Fate::Adopt | Fate::FinishRollback(_) => recovered.adopted += 1,
            Fate::Rest => recovered.rested += 1,
            Fate::Reap(_) => recovered.reaped += 1,
        }
        let cell = Arc::new(Cell::new(record));
        self.insert(&cell);
        let (this, own) = (self.clone(), Arc::clone(&cell));
        let work = in_time(async move { this.meet(&own, fate, found).await });
        if let Err(failure) = work.await {
            tracing::error!(sandbox = cell.id(), error = %failure, "failed to recover a sandbox");
            if self.fail(&cell, format!("it could not be recovered: {failure}")).await {
                self.rid(cell.id(), Remains::Processes).await;
            }
        }
        self.schedule(&cell);
    }

    async fn meet(&self, cell: &Arc<Cell>, fate: Fate, found: Option<Found>) -> Result<(), Failure> {
        match fate {
            Fate::Keep if found.is_none() => Ok(()),
            Fate::Keep => self.substrate.end(cell.id()).await,
            Fate::Adopt => self.adopt(cell, found.is_some_and(|found| found.frozen)).await,
            Fate::FinishRollback(snapshot) => match self.finish_rollback(cell, &snapshot).await {
                // Wherever else it came to, it says so itself.
                Err(failure) if cell.state() == State::Snapshotting => Err(failure),
                _ => Ok(()),
            },
            Fate::Rest => {
                self.substrate.end(cell.id()).await?;
                cell.note(self.clock.now_ms(), "info", "its processes ended, its filesystem is kept: it is paused");
                let _ = self.kept(cell, cell.change(&self.store, |_| {})).await;
                Ok(())
            }
            Fate::Reap(reason) => self.reap(cell, reason).await,
        }
    }

    async fn adopt(&self, cell: &Arc<Cell>, frozen: bool) -> Result<(), Failure> {
        let (spec, image) = cell.read(|record| (record.spec.clone(), record.image.clone()));
        let volumes = self.volumes_of(&spec).await?;
        let alive = self.substrate.adopt(cell.id(), Launch { spec: spec.clone(), image, volumes }).await?;
        if !frozen {
            // It answers, or it is not adopted.
            let configuration = super::create::configuration(&spec, &alive.defaults);
            let answering = self.substrate.configure(&alive.guest, configuration);
            tokio::time::timeout(GUEST_START_TIMEOUT, answering)
                .await
                .unwrap_or_else(|_| Err(Failure::new(Code::Timeout, "its first process does not answer")))?;
        }
        self.follow(cell, alive);
        cell.note(self.clock.now_ms(), "info", "adopted after a restart of the daemon");
        let _ = self.kept(cell, cell.change(&self.store, |_| {})).await;
        Ok(())
    }

    async fn reap(&self, cell: &Arc<Cell>, reason: &'static str) -> Result<(), Failure> {
        if cell.state() == State::Stopping {
            return self.finish(cell).await;
        }
        self.remove_with(cell, reason).await
    }
}
