//! Sandboxes from their creation to their end: the one place that knows the order of things.
//!
//! Every operation first takes its transition (`State::after` decides), then makes its intent durable, then acts, then makes
//! the outcome durable (`keep` says what holds where a write fails). It runs in a task of its own: a caller that goes away
//! abandons the answer, not the operation. It knows neither HTTP nor how a substrate works.

pub mod cell;
pub mod check;
pub mod container;
mod create;
mod fork;
pub mod journal;
mod keep;
pub mod key;
pub mod measure;
mod pause;
mod policy;
pub mod pool;
pub mod profiles;
pub mod record;
mod recover;
mod remove;
mod snapshot;
pub mod substrate;
mod timers;
mod transfer;
mod trust;
mod uses;
mod volume;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{Sandbox, Usage};
use mote_sandbox_api::spec::Spec;
use tokio::sync::Semaphore;

use crate::clock::{SharedClock, UnixMs};
use crate::guest::Guest;
use crate::limits::{AWAKE_TIMEOUT, CREATIONS_AT_ONCE, TRANSFERS_MAX};
use crate::state::State as Store;
use cell::Cell;
use journal::Line;
use keep::Unkept;
use measure::{Durations, Refills};
use pool::Pool;
use profiles::Profiles;
use record::later;
use substrate::Substrate;
use timers::Timers;

pub use recover::{Recovered, Recovery};
pub use transfer::Exported;

/// What the lifecycle stands on.
pub struct Parts {
    /// What carries sandboxes.
    pub substrate: Arc<dyn Substrate>,
    /// What is kept.
    pub store: Store,
    /// Wall time.
    pub clock: SharedClock,
    /// Defaults.
    pub profiles: Profiles,
    /// Sandboxes that are not gone, at most.
    pub sandboxes_max: usize,
    /// What is kept warm.
    pub pool: Vec<pool::Entry>,
    /// Bytes of an exported snapshot that is taken in.
    pub import_bytes_max: u64,
}

/// What the handles share.
pub struct Inner {
    substrate: Arc<dyn Substrate>,
    store: Store,
    clock: SharedClock,
    profiles: Profiles,
    sandboxes_max: usize,
    cells: RwLock<HashMap<String, Arc<Cell>>>,
    creations: Semaphore,
    waiting: AtomicUsize,
    stopping: AtomicBool,
    timers: Timers,
    pool: Pool,
    durations: Durations,
    unkept: Unkept,
    refills: Refills,
    /// Exports and imports under way.
    transfers: Arc<Semaphore>,
    uses: uses::Uses,
    /// Images below imported snapshots that are no more, which sandboxes still use.
    left_over: Mutex<HashSet<String>>,
    import_bytes_max: u64,
}

/// The sandboxes of this daemon; clones share them.
#[derive(Clone)]
pub struct Sandboxes(Arc<Inner>);

impl std::fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandboxes").finish_non_exhaustive()
    }
}

impl std::ops::Deref for Sandboxes {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Which sandboxes a list holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those in one of these states; without any, those that are not gone.
    pub states: Vec<State>,
    /// Only those that have all of this metadata.
    pub metadata: BTreeMap<String, String>,
    /// Only those behind this one: the id that ended the page before.
    pub after: Option<String>,
    /// At most this many.
    pub limit: usize,
}

impl Sandboxes {
    /// Begins with no sandbox; [`Self::remember`] brings back what was kept.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let pool = Pool::new(parts.pool, &parts.profiles);
        Self(Arc::new(Inner {
            substrate: parts.substrate,
            store: parts.store,
            clock: parts.clock,
            profiles: parts.profiles,
            sandboxes_max: parts.sandboxes_max,
            cells: RwLock::default(),
            creations: Semaphore::new(CREATIONS_AT_ONCE),
            waiting: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            timers: Timers::default(),
            pool,
            durations: Durations::default(),
            unkept: Unkept::default(),
            refills: Refills::default(),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            uses: uses::Uses::default(),
            left_over: Mutex::default(),
            import_bytes_max: parts.import_bytes_max,
        }))
    }

    /// What is kept.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Wall time.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// The defaults.
    #[must_use]
    pub fn profiles(&self) -> &Profiles {
        &self.0.profiles
    }

    /// What carries the sandboxes.
    #[must_use]
    pub fn substrate(&self) -> &Arc<dyn Substrate> {
        &self.0.substrate
    }

    /// How long each kind of operation took.
    #[must_use]
    pub fn durations(&self) -> &Durations {
        &self.0.durations
    }

    /// How often something could not be got ready.
    #[must_use]
    pub fn refills(&self) -> &Refills {
        &self.0.refills
    }

    /// Bytes of an exported snapshot that is taken in.
    #[must_use]
    pub fn import_bytes_max(&self) -> u64 {
        self.0.import_bytes_max
    }

    /// A sandbox as it is now; one that is gone is told of for a while.
    ///
    /// # Errors
    /// `not_found`.
    pub fn get(&self, id: &str) -> Result<Sandbox, Failure> {
        Ok(self.cell(id)?.read(record::Record::told))
    }

    /// The complete specification of a sandbox.
    ///
    /// # Errors
    /// `not_found`.
    pub fn spec(&self, id: &str) -> Result<Spec, Failure> {
        Ok(self.cell(id)?.read(|record| record.spec.clone()))
    }

    /// The network policy of a sandbox as it is recorded; `None` where it was made without one.
    ///
    /// # Errors
    /// `not_found`.
    pub fn network_policy(&self, id: &str) -> Result<Option<Policy>, Failure> {
        Ok(self.cell(id)?.read(|record| record.spec.network.clone()))
    }

    /// The token of a sandbox's data plane.
    #[must_use]
    pub fn access_token(&self, id: &str) -> String {
        self.store.vault().token("access", id)
    }

    /// The token of a sandbox's previews.
    #[must_use]
    pub fn traffic_token(&self, id: &str) -> String {
        self.store.vault().token("traffic", id)
    }

    /// Ids of the sandboxes that are not gone.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        let is_there = |cell: &&Arc<Cell>| cell.read(|record| !record.pooled && record.state != State::Gone);
        cells.values().filter(is_there).map(|cell| cell.id().to_owned()).collect()
    }

    /// A page of sandboxes, newest first, and whether more follow.
    #[must_use]
    pub fn list(&self, filter: &Filter) -> (Vec<Sandbox>, bool) {
        let wanted = |record: &record::Record| {
            let in_state = match filter.states.as_slice() {
                [] => record.state != State::Gone,
                states => states.contains(&record.state),
            };
            in_state
                && !record.pooled
                && filter.metadata.iter().all(|(key, value)| record.spec.metadata.get(key) == Some(value))
        };
        let mut found: Vec<Sandbox> =
            self.all().iter().filter_map(|cell| cell.read(|record| wanted(record).then(|| record.told()))).collect();
        found.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        if let Some(after) = &filter.after {
            // The cursor names the last one seen by time and id: it need not be there any more.
            let (ms, id) = after.split_once('-').unwrap_or(("0", ""));
            let last = (ms.parse::<u64>().unwrap_or(0), id);
            found.retain(|sandbox| (sandbox.created_ms, sandbox.id.as_str()) < last);
        }
        let more = found.len() > filter.limit;
        found.truncate(filter.limit);
        (found, more)
    }

    /// How many sandboxes are in each state, those of the warm pool apart.
    #[must_use]
    pub fn counts(&self) -> HashMap<State, usize> {
        let mut states = HashMap::new();
        for cell in self.all() {
            if let Some(state) = cell.read(|record| (!record.pooled).then_some(record.state)) {
                *states.entry(state).or_default() += 1;
            }
        }
        states
    }

    /// Lines of a sandbox's journal behind a number.
    ///
    /// # Errors
    /// `not_found`.
    pub fn logs(&self, id: &str, after: u64) -> Result<Vec<Line>, Failure> {
        // Whoever reads it learns what happened until now.
        let _ = self.oom_kills(id);
        Ok(self.cell(id)?.journal().after(after))
    }

    /// Adds a line to a sandbox's journal, where it still is.
    pub fn note(&self, id: &str, level: &str, message: impl Into<String>) {
        if let Ok(cell) = self.cell(id) {
            cell.note(self.clock.now_ms(), level, message);
        }
    }

    /// How many processes of a sandbox the kernel has ended for want of memory since it was started last. Those that its
    /// journal has not told of are told there.
    #[must_use]
    pub fn oom_kills(&self, id: &str) -> u64 {
        let ooms = self.substrate.oom_kills(id);
        if let Ok(cell) = self.cell(id) {
            let new = cell.ooms_new(ooms);
            if new > 0 {
                let bound = cell.read(|record| record.spec.resources.memory);
                let bound =
                    bound.map_or_else(|| "its memory".to_owned(), |bytes| format!("its {bytes} bytes of memory"));
                let message = format!("out of memory: the kernel ended {new} of its processes, {bound} being used up");
                cell.note(self.clock.now_ms(), "warn", message);
            }
        }
        ooms
    }

    /// What a sandbox uses.
    ///
    /// # Errors
    /// `not_found`, `gone`, or the substrate's.
    pub async fn usage(&self, id: &str) -> Result<Usage, Failure> {
        let cell = self.cell(id)?;
        if matches!(cell.state(), State::Gone | State::Stopping) {
            return Err(cell.unusable());
        }
        self.substrate.usage(id).await
    }

    /// The lease runs anew from now, `lease` long (or as long as before); the deadline stays.
    ///
    /// # Errors
    /// `not_found`, `gone`, `invalid`.
    pub async fn renew(&self, id: &str, lease: Option<std::time::Duration>) -> Result<Sandbox, Failure> {
        check::spec(&Spec { lease, ..Spec::default() })?;
        self.change_lease(id, |record, now| {
            record.spec.lease = lease.or(record.spec.lease);
            record.lease_ends_ms = record.spec.lease.map(|lease| later(now, lease));
        })
        .await
    }

    /// The lease that runs ends `span` from now. The next one, after a resume, is as long as it would have been.
    ///
    /// # Errors
    /// `not_found`, `gone`, `invalid`.
    pub async fn end_lease_in(&self, id: &str, span: std::time::Duration) -> Result<Sandbox, Failure> {
        check::spec(&Spec { lease: Some(span), ..Spec::default() })?;
        self.change_lease(id, |record, now| record.lease_ends_ms = Some(later(now, span))).await
    }

    async fn change_lease(
        &self,
        id: &str,
        change: impl FnOnce(&mut record::Record, UnixMs),
    ) -> Result<Sandbox, Failure> {
        let cell = self.cell(id)?;
        if matches!(cell.state(), State::Gone | State::Stopping | State::Failed) {
            return Err(cell.unusable());
        }
        let now = self.clock.now_ms();
        let before = cell.read(|record| (record.spec.lease, record.lease_ends_ms));
        let pending = cell.change(&self.store, |record| change(record, now));
        if let Err(failure) = pending.await {
            let back = cell.change(&self.store, |record| (record.spec.lease, record.lease_ends_ms) = before);
            let _ = self.kept(&cell, back).await;
            return Err(failure);
        }
        self.schedule(&cell);
        Ok(cell.read(record::Record::told))
    }

    /// The way into a sandbox for a request that needs it awake: waits where it is on its way, resumes it where it is paused
    /// and the specification allows that.
    ///
    /// # Errors
    /// `not_found`; `illegal_transition` where it is paused and does not resume by itself; `gone`; `timeout`.
    pub async fn awake(&self, id: &str) -> Result<Guest, Failure> {
        let cell = self.cell(id)?;
        let mut states = cell.states();
        let waiting = async {
            loop {
                let state = *states.borrow_and_update();
                match state {
                    state if state.is_usable() => {
                        // At rest it has no process that could answer, and a rollback has yet to start one.
                        let rests = state != State::Running && cell.read(|record| record.resting);
                        if !rests && let Some(guest) = cell.guest() {
                            return Ok(guest);
                        }
                    }
                    State::Paused if cell.read(|record| record.spec.auto_resume == Some(true)) => {
                        match self.resume(id).await {
                            Err(failure) if failure.code != Code::IllegalTransition => return Err(failure),
                            // Somebody else resumed it first.
                            _ => continue,
                        }
                    }
                    State::Creating | State::Resuming | State::Pausing => {}
                    _ => return Err(cell.unusable()),
                }
                if states.changed().await.is_err() {
                    return Err(cell.unusable());
                }
            }
        };
        tokio::time::timeout(AWAKE_TIMEOUT, waiting).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Timeout, format!("the sandbox {id} did not become usable in time"))
                .with("limit_ms", AWAKE_TIMEOUT.as_millis()))
        })
    }

    /// From now on nothing new is made: the daemon is stopping.
    pub fn close(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.creations.close();
    }

    fn refuse_when_stopping(&self) -> Result<(), Failure> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Failure::new(Code::Exhausted, "the daemon is stopping").with("retry_after_s", 5));
        }
        Ok(())
    }

    /// Ends every sandbox, those of the warm pool included: for a daemon that stops for good.
    pub async fn remove_all(&self) {
        let ends = self.all().into_iter().filter(|cell| cell.state() != State::Gone).map(|cell| async move {
            if let Err(error) = self.remove_with(&cell, "the daemon stopped").await {
                tracing::error!(sandbox = cell.id(), %error, "failed to end a sandbox");
            }
        });
        futures_util::future::join_all(ends).await;
    }

    fn cell(&self, id: &str) -> Result<Arc<Cell>, Failure> {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        let cell = cells.get(id).filter(|cell| cell.read(|record| !record.pooled));
        cell.cloned().ok_or_else(|| Failure::not_found("sandbox", id))
    }

    fn all(&self) -> Vec<Arc<Cell>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn insert(&self, cell: &Arc<Cell>) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        cells.insert(cell.id().to_owned(), Arc::clone(cell));
    }

    fn forget(&self, id: &str) {
        self.cells.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn schedule(&self, cell: &Cell) {
        self.timers.set(cell.id(), cell.read(record::Record::due_ms));
    }
}

/// Runs an operation to its end, whether or not its caller waits for it.
async fn to_the_end<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    use tracing::Instrument as _;

    match tokio::spawn(operation.in_current_span()).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(Code::Internal, format!("an operation of the lifecycle broke: {error}"))),
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
