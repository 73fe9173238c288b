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
use super::waits::{Standing, Wait};
use super::{Shared, recover};
use crate::clock::{Clock, UnixMs};
use crate::limits::{
    CLAIM_BATCH, RENEWAL_MAIL_MAX, SANDBOX_LAST_RELEASE, SANDBOX_RELEASE_POLL, SWEEP_BATCH, SWEEP_EVERY,
    WIND_DOWN_LOOPS, WORK_POLL,
};
use crate::store::{self, Claim, Lease};
use crate::tools::sandbox::Sandboxes;

/// A task that this process holds.
#[derive(Debug)]
pub(super) struct Held {
    /// Under which epoch.
    pub epoch: u64,
    /// Until when, ms since the epoch: by this everybody else goes.
    pub until: AtomicU64,
    /// The same on the clock that nobody sets.
    pub boot_until: AtomicU64,
    /// Cancelled when the lease is lost, or given up by force.
    pub lost: CancellationToken,
    /// There may be mail.
    pub mail: Notify,
    /// What the run waits for, as far as it is known.
    pub waits: Standing,
}

/// For how long a task is held, by the clock that all share and by the one that nobody sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub until: UnixMs,
    boot_until: u64,
}

impl Held {
    /// Whether the lease is still good: by both clocks, as either may say that it is over.
    pub(super) fn is_good(&self, clock: &dyn Clock) -> bool {
        let (until, boot_until) = (self.until.load(Ordering::Acquire), self.boot_until.load(Ordering::Acquire));
        clock.now_ms() < until && clock.boot_ms() < boot_until
    }

    fn extend(&self, term: Term) {
        self.until.store(term.until, Ordering::Release);
        self.boot_until.store(term.boot_until, Ordering::Release);
    }
}

/// All tasks that this process holds.
#[derive(Debug, Default)]
pub(super) struct Holdings(Mutex<HashMap<String, Arc<Held>>>);

impl Holdings {
    pub(super) fn take(&self, task: &str, epoch: u64, term: Term) -> Arc<Held> {
        let held = Arc::new(Held {
            epoch,
            until: AtomicU64::new(term.until),
            boot_until: AtomicU64::new(term.boot_until),
            lost: CancellationToken::new(),
            mail: Notify::new(),
            waits: Standing::default(),
        });
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

    /// What a run in this process waits for, if it is here and that is known.
    pub(super) fn waits(&self, task: &str) -> Option<Vec<Wait>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(task).cloned();
        held.and_then(|held| held.waits.known())
    }

    fn all(&self) -> Vec<(String, Arc<Held>)> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().map(|(task, held)| (task.clone(), Arc::clone(held))).collect()
    }
}

impl Shared {
    /// A lease from now on.
    pub(super) fn lease(&self) -> (Lease, Term) {
        let length = millis(self.agent.server.lease);
        let until = self.clock.now_ms().saturating_add(length);
        let term = Term { until, boot_until: self.clock.boot_ms().saturating_add(length) };
        (Lease { worker: self.worker.clone(), until }, term)
    }

    /// Gives a task back; whether this process still held it. One that has ended, rests or was given back already is no
    /// longer held, which is no fault.
    pub(super) async fn give_back(&self, task: &str, epoch: u64) -> bool {
        match self.store.release(task, epoch).await {
            Ok(()) => true,
            Err(store::Error::Conflict { .. } | store::Error::NotFound { .. }) => false,
            Err(error) => {
                tracing::warn!(task_id = task, %error, "failed to release a task; its lease runs out instead");
                false
            }
        }
    }

    /// Starts the worker's loops.
    pub(super) fn start(self: &Arc<Self>) {
        self.spawn_loop(claim_loop(Arc::clone(self)));
        self.spawn_loop(renew_loop(Arc::clone(self)));
        self.spawn_loop(sweep_loop(Arc::clone(self)));
        self.spawn_loop(count_loop(Arc::clone(self)));
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
    pub(super) fn run_claimed(self: &Arc<Self>, claim: Claim, term: Term, place: OwnedSemaphorePermit) {
        let Claim { task, epoch, suspect } = claim;
        let shared = Arc::clone(self);
        let active = self.metrics.run_active();
        // Held before anything else: from here on the lease is renewed.
        let held = self.holdings.take(&task.id, epoch, term);
        // Mail may have come before the claim.
        held.mail.notify_one();
        // Boxed, so that a run that waits does not keep the room of its start.
        let task = Box::new(task);
        self.runs.spawn(async move {
            let _active = active;
            let (id, seq) = (task.id.clone(), task.seq);
            if suspect && let Err(error) = shared.store.begin_trial(&id, epoch).await {
                tracing::warn!(task_id = id, %error, "failed to note the trial of a task on which workers died");
            }
            let stop = match Box::pin(recover::driver(&shared, *task, Arc::clone(&held))).await {
                Ok((driver, first)) => driver.drive(first).await,
                Err(recover::Error::Store(error)) => {
                    tracing::error!(task_id = id, %error, "failed to read a claimed task; it is left to its lease");
                    Stop::Store
                }
                Err(recover::Error::Broken(error)) => {
                    let (code, cause) = (&error.code, &error.message);
                    tracing::error!(task_id = id, code, cause, dead = true, status = "failed", "a task failed");
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
    }

    /// A place for a run that begins at once, if one is free. A look for work holds places that it may not need; its end
    /// is waited for.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let _look = self.look.lock().await;
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    fn free_places(&self, most: usize) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| Arc::clone(&self.places).try_acquire_owned().ok()).take(most).collect()
    }

    /// Removes what has outlived its retention, a batch at a time, until nothing is left of it.
    pub(super) async fn sweep(&self) {
        let now = self.clock.now_ms();
        let before = now.saturating_sub(millis(self.agent.server.retention));
        let (mut tasks, mut keys) = (0, 0);
        while !self.drain.is_cancelled() {
            match self.store.sweep(before, now, SWEEP_BATCH).await {
                Ok(gone) => {
                    tasks += gone.tasks;
                    keys += gone.keys;
                    if gone.tasks.max(gone.keys) < SWEEP_BATCH as u64 {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to sweep; trying again later");
                    break;
                }
            }
        }
        if tasks + keys > 0 {
            tracing::info!(tasks, keys, "removed finished tasks past their retention and expired keys");
        }
    }

    /// Phase one: no new work, runs are given back at their next step boundary. Phase two, at `deadline`: whatever is
    /// still under way is given up; the next worker finds in the journal what that means.
    pub(super) async fn wind_down(&self, deadline: Duration) {
        self.drain.cancel();
        self.runs.close();
        if tokio::time::timeout(deadline, self.runs.wait()).await.is_err() {
            let mut given_up = 0;
            for (task, held) in &self.holdings.all() {
                held.lost.cancel();
                if self.give_back(task, held.epoch).await {
                    given_up += 1;
                    tracing::info!(
                        task_id = task,
                        "a run was given up at the drain's deadline; the next worker goes on"
                    );
                }
            }
            if given_up > 0 {
                tracing::warn!(runs = given_up, "the drain's deadline has come; what was under way is given up");
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

/// Says to the store that this worker is alive, and keeps that said until the process ends.
async fn attend(shared: &Shared) {
    match shared.store.attend(&shared.worker).await {
        // It cannot be set already: this runs once.
        Ok(presence) => drop(shared.presence.set(presence)),
        Err(error) => tracing::warn!(%error, "failed to note this worker; if it dies, its leases run out instead"),
    }
}

/// Ends the leases of workers that are dead, where this one takes their tasks.
async fn end_dead_leases(shared: &Shared) {
    if shared.submitted.is_some() || shared.drain.is_cancelled() {
        return;
    }
    match shared.store.end_dead_leases(shared.clock.now_ms()).await {
        Ok(0) => {}
        Ok(ended) => tracing::info!(ended, "tasks of a worker that is dead are taken up at once"),
        Err(error) => tracing::warn!(%error, "failed to look for dead workers; their leases run out instead"),
    }
}

async fn claim_loop(shared: Arc<Shared>) {
    let work = shared.store.work();
    attend(&shared).await;
    end_dead_leases(&shared).await;
    let mut by_clock = false;
    loop {
        if by_clock {
            end_dead_leases(&shared).await;
        }
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
            () = tokio::time::sleep(WORK_POLL) => by_clock = true,
        }
    }
}

/// Claims what is due, for places that are held before the claim; returns whether there may be more. A task that is
/// claimed begins at once: its lease must not run while it waits for a place.
async fn claim(shared: &Arc<Shared>) -> bool {
    if shared.drain.is_cancelled() {
        return false;
    }
    let mut look = shared.look.lock().await;
    let mut places = shared.free_places(CLAIM_BATCH);
    if places.is_empty() {
        drop(look);
        // In line for the next place: `POST /run`, which does not wait, must not take each before the queue does.
        let first = tokio::select! {
            () = shared.drain.cancelled() => return false,
            first = Arc::clone(&shared.places).acquire_owned() => first,
        };
        let Ok(first) = first else { return false };
        look = shared.look.lock().await;
        places = shared.free_places(CLAIM_BATCH - 1);
        places.push(first);
    }
    let limit = places.len();
    let (lease, term) = shared.lease();
    let claims = match shared.claim_due(lease, shared.clock.now_ms(), limit).await {
        Ok(claims) => claims,
        Err(error) => {
            tracing::warn!(%error, "failed to look for work; trying again");
            drop((places, look));
            tokio::time::sleep(WORK_POLL).await;
            return false;
        }
    };
    if !claims.is_empty() {
        crate::crash::point("claim.after");
    }
    let full = claims.len() == limit;
    for (claim, place) in claims.into_iter().zip(places.drain(..)) {
        shared.run_claimed(claim, term, place);
    }
    drop(look);
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
        let (lease, term) = shared.lease();
        let leases: Vec<(String, u64)> = held.iter().map(|(task, held)| (task.clone(), held.epoch)).collect();
        match shared.store.renew(&lease.worker, &leases, lease.until).await {
            Ok(lost) => {
                for (task, held) in &held {
                    if lost.contains(task) {
                        super::observe::lease_lost(&shared);
                        held.lost.cancel();
                    } else {
                        held.extend(term);
                        if leases.len() <= RENEWAL_MAIL_MAX {
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

/// Removes what has outlived its retention, now and then. On its own, because there may be much of it.
async fn sweep_loop(shared: Arc<Shared>) {
    loop {
        shared.sweep().await;
        tokio::select! {
            () = shared.drain.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

/// Keeps the numbers that admission and metrics go by.
async fn count_loop(shared: Arc<Shared>) {
    loop {
        match shared.store.counts().await {
            Ok(counts) => {
                shared.backlog.store(counts.queued, Ordering::Relaxed);
                shared.metrics.set_counts(&counts);
            }
            Err(error) => tracing::debug!(%error, "failed to count tasks"),
        }
        // Every five seconds, together with a look for work if the process is idle: one awakening instead of two.
        let pause = async {
            tokio::time::sleep(WORK_POLL * 9 / 2).await;
            let _ = tokio::time::timeout(WORK_POLL, shared.looked.notified()).await;
        };
        tokio::select! {
            () = shared.drain.cancelled() => return,
            () = pause => {}
        }
    }
}
