//! After a restart: what lives is adopted, what was half-made or half-ended is given back, nothing leaks.
//!
//! Every effect was preceded by a durable record that names it, so that records and what is found on the host are enough. It
//! repeats `end` and `remove` freely: both may be repeated.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::request::PauseKind;
use mote_sandbox_api::spec::OnLeaseEnd;

use super::Sandboxes;
use super::cell::Cell;
use super::record::Record;
use super::substrate::{Found, Launch};
use crate::image::workshop;
use crate::limits::GUEST_START_TIMEOUT;

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

fn fate(record: &Record, found: Option<&Found>) -> Fate {
    match record.state {
        State::Gone => Fate::Keep,
        State::Failed => Fate::Keep,
        _ if record.pooled => Fate::Reap("it waited in the warm pool of a daemon that ended"),
        State::Creating => Fate::Reap("the daemon ended while it was being made"),
        State::Stopping => Fate::Reap("the daemon ended while it was being removed"),
        _ => match (&record.rolling_back_to, found) {
            (Some(snapshot), _) => Fate::FinishRollback(snapshot.clone()),
            (None, Some(_)) => Fate::Adopt,
            (None, None) if record.state == State::Paused && record.pause == Some(PauseKind::Stopped) => Fate::Keep,
            (None, None) if record.spec.on_lease_end == Some(OnLeaseEnd::Pause) => Fate::Rest,
            (None, None) => Fate::Reap("its processes ended while the daemon was away"),
        },
    }
}

impl Sandboxes {
    /// Brings records and host together. Called once, before anything else is asked.
    ///
    /// # Errors
    /// Where the state or the host cannot be read; one sandbox that cannot be mended is marked failed instead.
    pub async fn recover(&self) -> Result<Recovered, Failure> {
        let mut recovered = Recovered::default();
        let records = self.store.sandboxes().await?;
        let mut living: HashMap<String, Found> =
            self.substrate.living().await?.into_iter().map(|found| (found.id.clone(), found)).collect();
        let known: HashSet<String> = records.iter().map(|record| record.id.clone()).collect();
        for record in records {
            let found = living.remove(&record.id);
            self.recover_one(record, found, &mut recovered).await?;
        }
        for id in living.into_keys() {
            tracing::warn!(sandbox = id, "a sandbox without a record is ended");
            self.substrate.end(&id).await?;
            recovered.strays += 1;
        }
        let (roots, snapshots) = self.substrate.held().await?;
        for id in roots.into_iter().filter(|id| !known.contains(id) && !id.starts_with(workshop::PREFIX)) {
            tracing::warn!(sandbox = id, "a root without a record is removed");
            self.substrate.end(&id).await?;
            self.substrate.remove(&id).await?;
            recovered.strays += 1;
        }
        for snapshot in self.store.snapshots().await?.into_iter().filter(|record| !record.complete) {
            self.substrate.remove_snapshot(&snapshot.snapshot.id).await?;
            self.store.remove_snapshot(&snapshot.snapshot.id).await?;
            recovered.strays += 1;
        }
        let named: HashSet<String> =
            self.store.snapshots().await?.into_iter().map(|record| record.snapshot.id).collect();
        for id in snapshots.into_iter().filter(|id| !named.contains(id)) {
            self.substrate.remove_snapshot(&id).await?;
        }
        self.prune().await?;
        Ok(recovered)
    }

    async fn recover_one(
        &self,
        mut record: Record,
        found: Option<Found>,
        recovered: &mut Recovered,
    ) -> Result<(), Failure> {
        let fate = fate(&record, found.as_ref());
        let frozen = found.as_ref().is_some_and(|found| found.frozen);
        if matches!(fate, Fate::Adopt | Fate::Rest) {
            // What was under way is over, whichever way it went.
            record.state = if frozen || matches!(fate, Fate::Rest) { State::Paused } else { State::Running };
            record.pause = match (&fate, frozen) {
                (Fate::Rest, _) => Some(PauseKind::Stopped),
                (_, true) => Some(PauseKind::Frozen),
                _ => None,
            };
        }
        let cell = Arc::new(Cell::new(record));
        self.insert(&cell);
        let outcome = match fate {
            Fate::Keep => {
                if found.is_some() {
                    self.substrate.end(cell.id()).await?;
                }
                Ok(())
            }
            Fate::Adopt => {
                recovered.adopted += 1;
                self.adopt(&cell, frozen).await
            }
            Fate::FinishRollback(snapshot) => {
                recovered.adopted += 1;
                self.finish_rollback(&cell, &snapshot).await
            }
            Fate::Rest => {
                recovered.rested += 1;
                self.substrate.end(cell.id()).await?;
                cell.note(self.clock.now_ms(), "warn", "its processes ended while the daemon was away; it is paused");
                cell.change(&self.store, |_| {}).await
            }
            Fate::Reap(reason) => {
                recovered.reaped += 1;
                self.reap(&cell, reason).await
            }
        };
        if let Err(failure) = outcome {
            tracing::error!(sandbox = cell.id(), error = %failure, "failed to recover a sandbox");
            let reason = format!("it could not be recovered: {failure}");
            if let Ok(pending) = cell.shift(&self.store, mote_sandbox_api::lifecycle::Transition::Fail, |record| {
                record.reason = Some(reason)
            }) {
                pending.await?;
            }
            self.substrate.end(cell.id()).await?;
        }
        self.schedule(&cell);
        Ok(())
    }

    async fn adopt(&self, cell: &Arc<Cell>, frozen: bool) -> Result<(), Failure> {
        let (spec, image) = cell.read(|record| (record.spec.clone(), record.image.clone()));
        let volumes = self.volumes_of(&spec).await?;
        let alive = self.substrate.adopt(cell.id(), Launch { spec: spec.clone(), image, volumes }).await?;
        if !frozen {
            // It answers, or it is not adopted.
            let configuration = super::create::configuration(&spec, &alive.defaults);
            let answering = self.substrate.configure(&alive.guest, configuration);
            tokio::time::timeout(GUEST_START_TIMEOUT, answering).await.unwrap_or_else(|_| {
                Err(Failure::new(mote_sandbox_api::error::Code::Timeout, "its first process does not answer"))
            })?;
        }
        self.follow(cell, alive);
        cell.note(self.clock.now_ms(), "info", "adopted after a restart of the daemon");
        cell.change(&self.store, |_| {}).await
    }

    async fn reap(&self, cell: &Arc<Cell>, reason: &'static str) -> Result<(), Failure> {
        if cell.state() == State::Stopping {
            return self.finish(cell).await;
        }
        self.remove_with(cell, reason).await
    }
}
