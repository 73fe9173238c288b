//! The worker: claims what is due, holds the leases, and winds down in two phases. Deciding what a run does next is the
//! driver's and the core's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::batch::Step;
use super::drive::{self, Driver, Stop};
use super::request::millis;
use super::{Shared, recover};
use crate::clock::UnixMs;
use crate::limits::{CLAIM_BATCH, SANDBOX_LAST_RELEASE, SANDBOX_RELEASE_POLL, SWEEP_BATCH, WIND_DOWN_LOOPS};
use crate::store::{Lease, Task};
use crate::tools::sandbox::Sandboxes;

/// How often an idle worker looks for what other processes left: timers, mail, expired leases.
pub(super) const POLL: Duration = Duration::from_millis(1000);
/// How often finished tasks past their retention are removed.
const SWEEP: Duration = Duration::from_secs(600);
/// Held tasks up to which each renewal also looks for mail that another process left.
const MAIL_POLL_MAX: usize = 256;

/// A task that this process holds.
#[derive(Debug)]
pub(super) struct Held {
    /// Under which epoch.
    pub epoch: u64,
    /// Until when, ms since the epoch.
    pub until: AtomicU64,
    /// Cancelled when the lease is lost, or given up by force.
    pub lost: CancellationToken,
    /// There may be mail.
    pub mail: Notify,
}

/// All tasks that this process holds.
#[derive(Debug, Default)]
pub(super) struct Holdings(Mutex<HashMap<String, Arc<Held>>>);

impl Holdings {
    pub(super) fn take(&self, task: &str, epoch: u64, until: UnixMs) -> Arc<Held> {
        let held =
            Arc::new(Held { epoch, until: AtomicU64::new(until), lost: CancellationToken::new(), mail: Notify::new() });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task.to_owned(), Arc::clone(&held));
        held
    }

    /// Lets go of a task, unless it was taken again under a later epoch meanwhile.
    fn drop(&self, task: &str, epoch: u64) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(task).is_some_and(|held| held.epoch == epoch) {
            held.remove(task);
        }
    }

    /// Tells a task's driver, if it is here, that there is mail.
    pub(super) fn ring(&self, task: &str) {
        if let Some(held) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(task) {
            held.mail.notify_one();
        }
    }

    fn all(&self) -> Vec<(String, Arc<Held>)> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().map(|(task, held)| (task.clone(), Arc::clone(held))).collect()
    }
}

impl Shared {
    /// A lease from now on.
    pub(super) fn lease(&self) -> Lease {
        let until = self.clock.now_ms().saturating_add(millis(self.agent.server.lease));
        Lease { worker: self.worker.clone(), until }
    }

    /// Starts the worker's loops.
    pub(super) fn start(self: &Arc<Self>) {
        self.spawn_loop(claim_loop(Arc::clone(self)));
        self.spawn_loop(renew_loop(Arc::clone(self)));
        self.spawn_loop(sweep_loop(Arc::clone(self)));
        if let Some(sink) = self.agent.events.clone() {
            self.spawn_loop(super::outbox::deliver_loop(Arc::clone(self), sink));
        }
        if let Some(sandboxes) = self.registry.sandboxes() {
            self.spawn_loop(release_loop(Arc::clone(self), Arc::clone(sandboxes)));
        }
    }

    /// A loop ends by itself once the worker winds down, or is cut off.
    fn spawn_loop(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.loops.spawn(self.cut.clone().run_until_cancelled_owned(work));
    }

    /// Drives a claimed task until it ends, rests or is lost.
    pub(super) fn run_claimed(self: &Arc<Self>, task: Task, epoch: u64, until: UnixMs, place: OwnedSemaphorePermit) {
        let shared = Arc::clone(self);
        let active = self.metrics.run_active();
        // Boxed, so that a run that waits does not keep the room of its start.
        let task = Box::new(task);
        self.runs.spawn(async move {
            let _active = active;
            let (id, seq) = (task.id.clone(), task.seq);
            let held = shared.holdings.take(&id, epoch, until);
            // Mail may have come before the claim.
            held.mail.notify_one();
            let stop = match Box::pin(recover::driver(&shared, *task, Arc::clone(&held))).await {
                Ok((driver, first)) => driver.drive(first).await,
                Err(recover::Error::Store(error)) => {
                    tracing::error!(task_id = id, %error, "failed to read a claimed task; it is left to its lease");
                    Stop::Store
                }
                Err(recover::Error::Broken(error)) => {
                    tracing::error!(task_id = id, code = error.code, message = error.message, "a task cannot go on");
                    Box::pin(drive::fail(&shared, &id, epoch, seq, error)).await.unwrap_or(Stop::Store)
                }
            };
            shared.ended(&id, epoch, stop, place);
        });
    }

    /// Drives a task whose first commit came with its submission.
    pub(super) fn run_submitted(self: &Arc<Self>, driver: Box<Driver>, steps: Vec<Step>, place: OwnedSemaphorePermit) {
        let shared = Arc::clone(self);
        let active = self.metrics.run_active();
        self.runs.spawn(async move {
            let _active = active;
            let (id, epoch) = (driver.task.clone(), driver.held.epoch);
            let stop = driver.drive_committed(steps).await;
            shared.ended(&id, epoch, stop, place);
        });
    }

    /// Forgets a task that was taken for a submission that came to nothing.
    pub(super) fn abandoned(&self, driver: &Driver) {
        self.holdings.drop(&driver.task, driver.held.epoch);
        self.live.close(&driver.task, &driver.live);
    }

    fn ended(&self, task: &str, epoch: u64, stop: Stop, place: OwnedSemaphorePermit) {
        tracing::debug!(task_id = task, epoch, ?stop, "a worker lets go of a task");
        self.holdings.drop(task, epoch);
        drop(place);
        if stop == Stop::Finished {
            self.over(task);
            self.finished.notify_one();
            self.vacated.notify_one();
        }
        self.place_free.notify_one();
    }

    /// Phase one: no new work, runs are given back at their next step boundary. Phase two, at `deadline`: whatever is
    /// still under way is given up; the next worker finds in the journal what that means.
    pub(super) async fn wind_down(&self, deadline: Duration) {
        self.drain.cancel();
        self.runs.close();
        if tokio::time::timeout(deadline, self.runs.wait()).await.is_err() {
            let held = self.holdings.all();
            tracing::warn!(runs = held.len(), "the drain's deadline has come; giving up what is under way");
            for (task, held) in &held {
                held.lost.cancel();
                if let Err(error) = self.store.release(task, held.epoch).await {
                    tracing::warn!(task_id = task, %error, "failed to release a task; its lease runs out instead");
                }
            }
            self.runs.wait().await;
        }
        self.loops.close();
        if tokio::time::timeout(WIND_DOWN_LOOPS, self.loops.wait()).await.is_err() {
            tracing::warn!("what the worker does beside the runs is cut off; the next process goes on with it");
            self.cut.cancel();
            self.loops.wait().await;
        }
    }
}

async fn claim_loop(shared: Arc<Shared>) {
    let work = shared.store.work();
    let mut by_clock = false;
    loop {
        let more = claim(&shared).await;
        if by_clock {
            shared.looked.notify_waiters();
        }
        if more && !shared.drain.is_cancelled() {
            continue;
        }
        by_clock = false;
        tokio::select! {
            () = shared.drain.cancelled() => return,
            () = work.notified() => {}
            () = shared.place_free.notified() => {}
            () = tokio::time::sleep(POLL) => by_clock = true,
        }
    }
}

/// Claims what is due and fits; returns whether there may be more.
async fn claim(shared: &Arc<Shared>) -> bool {
    let limit = shared.places.available_permits().min(CLAIM_BATCH);
    if limit == 0 || shared.drain.is_cancelled() {
        return false;
    }
    let lease = shared.lease();
    let until = lease.until;
    let claims = match shared.claim_due(lease, shared.clock.now_ms(), limit).await {
        Ok(claims) => claims,
        Err(error) => {
            tracing::warn!(%error, "failed to look for work; trying again");
            tokio::time::sleep(POLL).await;
            return false;
        }
    };
    if !claims.is_empty() {
        crate::crash::point("claim.after");
    }
    let full = claims.len() == limit;
    for claim in claims {
        // The permits were free a moment ago and only this loop and `POST /run` take them: waiting is short.
        let Ok(place) = Arc::clone(&shared.places).acquire_owned().await else { return false };
        shared.run_claimed(claim.task, claim.epoch, until, place);
    }
    full
}

async fn renew_loop(shared: Arc<Shared>) {
    let every = shared.agent.server.lease / 3;
    loop {
        tokio::select! {
            // Leases are renewed while runs wind down; the loop ends with the last of them.
            () = async { shared.drain.cancelled().await; shared.runs.wait().await } => return,
            () = tokio::time::sleep(every) => {}
        }
        let held = shared.holdings.all();
        if held.is_empty() {
            continue;
        }
        let lease = shared.lease();
        let leases: Vec<(String, u64)> = held.iter().map(|(task, held)| (task.clone(), held.epoch)).collect();
        match shared.store.renew(&lease.worker, &leases, lease.until).await {
            Ok(lost) => {
                for (task, held) in &held {
                    if lost.contains(task) {
                        super::observe::lease_lost(&shared);
                        held.lost.cancel();
                    } else {
                        held.until.store(lease.until, Ordering::Release);
                        if leases.len() <= MAIL_POLL_MAX {
                            held.mail.notify_one();
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, held = leases.len(), "failed to renew leases; trying again"),
        }
    }
}

/// Gives sandboxes back; at the end those of the last runs too, for a while.
async fn release_loop(shared: Arc<Shared>, sandboxes: Arc<Sandboxes>) {
    loop {
        if sandboxes.release().await {
            continue;
        }
        tokio::select! {
            () = async { shared.drain.cancelled().await; shared.runs.wait().await } => break,
            () = shared.vacated.notified() => {}
            () = tokio::time::sleep(SANDBOX_RELEASE_POLL) => {}
        }
    }
    let last = async { while sandboxes.release().await {} };
    if tokio::time::timeout(SANDBOX_LAST_RELEASE, last).await.is_err() {
        tracing::warn!("there was no time to give every sandbox back; the next process does");
    }
}

async fn sweep_loop(shared: Arc<Shared>) {
    loop {
        match shared.store.counts().await {
            Ok(counts) => {
                shared.backlog.store(counts.queued, Ordering::Relaxed);
                shared.metrics.set_counts(&counts);
            }
            Err(error) => tracing::debug!(%error, "failed to count tasks"),
        }
        let now = shared.clock.now_ms();
        let last = shared.swept.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= millis(SWEEP) {
            shared.swept.store(now, Ordering::Relaxed);
            let before = now.saturating_sub(millis(shared.agent.server.retention));
            match shared.store.sweep(before, now, SWEEP_BATCH).await {
                Ok(0) => {}
                Ok(gone) => tracing::info!(gone, "removed finished tasks past their retention"),
                Err(error) => tracing::warn!(%error, "failed to sweep; trying again later"),
            }
        }
        // Every five seconds, together with a look for work if the process is idle: one awakening instead of two.
        let pause = async {
            tokio::time::sleep(POLL * 9 / 2).await;
            let _ = tokio::time::timeout(POLL, shared.looked.notified()).await;
        };
        tokio::select! {
            () = shared.drain.cancelled() => return,
            () = pause => {}
        }
    }
}
