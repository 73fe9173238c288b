//! After a restart: what lives is adopted, what was half-made or half-ended is given back, nothing leaks.
//!
//! First every record is taken into memory, which asks no sandbox; then the daemon serves, and sandboxes are met side by side.
//! Every effect was preceded by a durable record that names it, so that records and what is found on the host are enough. It
//! repeats `end` and `remove` freely: both may be repeated.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::request::PauseKind;
use mote_sandbox_api::spec::OnLeaseEnd;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::cell::Cell;
use super::record::Record;
use super::substrate::{Found, Launch};
use super::{Sandboxes, to_the_end};
use crate::image::workshop;
use crate::limits::{RECOVERIES_AT_ONCE, RECOVERY_HELLO_TIMEOUT, RECOVERY_STEP_TIMEOUT};

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
#[derive(Debug)]
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
            (None, None) if record.spec.on_lease_end.is_some_and(OnLeaseEnd::keeps) => Fate::Rest,
            (None, None) => Fate::Reap("its processes ended while the daemon was away"),
        },
    }
}

/// What recovery has yet to do, once every sandbox is known by its record. The daemon serves meanwhile: what a sandbox's first
/// process does, or does not, keeps nobody but its own callers waiting.
#[derive(Debug)]
pub struct Recovery {
    sandboxes: Sandboxes,
    meetings: Vec<Meeting>,
    remains: Vec<(String, Remains)>,
}

/// A sandbox of a record that is to be brought together with what was found.
#[derive(Debug)]
struct Meeting {
    cell: Arc<Cell>,
    fate: Fate,
    found: Option<Found>,
    /// Of a sandbox that is adopted: what is asked of it waits for that.
    work: Option<OwnedMutexGuard<()>>,
}

impl Recovery {
    /// Meets every sandbox, side by side, and removes what nobody has a use for. One sandbox that cannot be mended, or that takes
    /// too long, is marked failed, and what cannot be removed is named in the log. `settled` is told when all is done but for
    /// the sandboxes that are adopted: only these are asked for an answer.
    pub async fn complete(self, settled: oneshot::Sender<()>) {
        let Self { sandboxes, meetings, remains } = self;
        let (adoptions, others): (Vec<_>, Vec<_>) = meetings.into_iter().partition(|meeting| meeting.work.is_some());
        let settle = async {
            meet(sandboxes.clone(), others).await;
            let this = sandboxes.clone();
            let rid = move |(id, remains): (String, Remains)| {
                let this = this.clone();
                async move { this.rid(&id, remains).await }
            };
            stream::iter(remains).for_each_concurrent(RECOVERIES_AT_ONCE, rid).await;
            if let Err(error) = sandboxes.forget_imports().await {
                tracing::warn!(%error, "failed to forget what imported snapshots started from; it is tried again");
            }
            sandboxes.prune().await;
            // Who started this may not wait any more.
            let _ = settled.send(());
        };
        tokio::join!(settle, meet(sandboxes.clone(), adoptions));
    }
}

async fn meet(sandboxes: Sandboxes, meetings: Vec<Meeting>) {
    let meet = move |meeting| {
        let sandboxes = sandboxes.clone();
        async move { sandboxes.recover_one(meeting).await }
    };
    stream::iter(meetings).for_each_concurrent(RECOVERIES_AT_ONCE, meet).await;
}

impl Sandboxes {
    /// Brings records and host together, to the end.
    ///
    /// # Errors
    /// As [`Self::remember`].
    pub async fn recover(&self) -> Result<Recovered, Failure> {
        let (recovered, rest) = self.remember().await?;
        rest.complete(oneshot::channel().0).await;
        Ok(recovered)
    }

    /// Takes records and what is found on the host into memory: from then on every sandbox is known. Called once, before anything
    /// else is asked. It asks no sandbox.
    ///
    /// # Errors
    /// Where the state or the host cannot be read.
    pub async fn remember(&self) -> Result<(Recovered, Recovery), Failure> {
        let mut recovered = Recovered::default();
        let records = self.store.sandboxes().await?;
        let mut living: HashMap<String, Found> =
            self.substrate.living().await?.into_iter().map(|found| (found.id.clone(), found)).collect();
        let (roots, snapshots) = self.substrate.held().await?;
        let roots: HashSet<String> = roots.into_iter().collect();
        let known: HashSet<String> = records.iter().map(|record| record.id.clone()).collect();
        let mut meetings = Vec::with_capacity(records.len());
        for record in records {
            let found = living.remove(&record.id);
            let has_root = roots.contains(&record.id);
            meetings.push(self.remember_one(record, found, has_root, &mut recovered));
        }
        let mut remains = Vec::new();
        for id in living.into_keys() {
            tracing::warn!(sandbox = id, "a sandbox without a record is ended");
            remains.push((id, Remains::Processes));
        }
        for id in roots.into_iter().filter(|id| !known.contains(id) && !id.starts_with(workshop::PREFIX)) {
            tracing::warn!(sandbox = id, "a root without a record is removed");
            remains.push((id, Remains::Root));
        }
        let (held, mut named): (HashSet<String>, _) = (snapshots.into_iter().collect(), HashSet::new());
        for record in self.store.snapshots().await? {
            let id = record.snapshot.id;
            if !record.complete || !held.contains(&id) {
                if record.complete {
                    // A crash of the host: the row was on the disk before the snapshot was.
                    tracing::warn!(snapshot = id, "a snapshot that is not there is forgotten");
                }
                remains.push((id.clone(), Remains::Snapshot));
            }
            named.insert(id);
        }
        recovered.strays = remains.len();
        remains.extend(held.difference(&named).map(|id| (id.clone(), Remains::Snapshot)));
        Ok((recovered, Recovery { sandboxes: self.clone(), meetings, remains }))
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

    fn remember_one(
        &self,
        mut record: Record,
        found: Option<Found>,
        has_root: bool,
        recovered: &mut Recovered,
    ) -> Meeting {
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
        // Nobody knows it yet: the lock is free.
        let work = matches!(fate, Fate::Adopt).then(|| Arc::clone(&cell.work).try_lock_owned().ok()).flatten();
        self.insert(&cell);
        Meeting { cell, fate, found, work }
    }

    async fn recover_one(&self, meeting: Meeting) {
        let Meeting { cell, fate, found, work } = meeting;
        let (this, own) = (self.clone(), Arc::clone(&cell));
        let done = in_time(async move {
            let _work = work;
            this.meet(&own, fate, found).await
        });
        if let Err(failure) = done.await {
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
        let answering = async {
            let launch = Launch { spec: spec.clone(), image, volumes };
            let alive = self.substrate.adopt(cell.id(), launch).await?;
            if !frozen {
                // It answers, or it is not adopted.
                let configuration = super::create::configuration(cell.id(), &spec, &alive.defaults);
                self.substrate.configure(&alive.guest, configuration).await?;
            }
            Ok(alive)
        };
        let alive = tokio::time::timeout(RECOVERY_HELLO_TIMEOUT, answering).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Timeout, "its first process does not answer")
                .with("limit_ms", RECOVERY_HELLO_TIMEOUT.as_millis()))
        })?;
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
