//! The warm pool: sandboxes that run already, waiting for somebody to claim them.
//!
//! What a claim brings (environment, user, folder, metadata, lease, network policy) is bound late, through the guest's
//! `Configure` and the boundary; a request that differs in anything else is made from nothing. A sandbox of the pool was
//! never anybody's, and never returns to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::spec::Spec;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::cell::Cell;
use super::create::{For, configuration};
use super::measure::Kept;
use super::profiles::Profiles;
use super::record::Record;
use super::{Sandboxes, to_the_end};
use crate::limits::{POOL_QUIET, POOL_RETRY, POOL_SIZE_MAX};

/// What is kept warm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// How they are made; what is bound late does not matter.
    #[serde(default)]
    pub spec: Spec,
    /// How many wait.
    pub size: usize,
}

#[derive(Debug)]
struct Shelf {
    /// What every sandbox on it is: late-bound fields empty.
    spec: Spec,
    size: usize,
    ready: Mutex<VecDeque<Arc<Cell>>>,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    shelves: Vec<Shelf>,
    claimed: Notify,
}

/// The part of a specification that cannot be bound late. What a policy says can; that there is a network cannot.
fn fixed(spec: &Spec) -> Spec {
    Spec {
        metadata: BTreeMap::new(),
        env: BTreeMap::new(),
        user: None,
        cwd: None,
        lease: None,
        on_lease_end: None,
        deadline: None,
        auto_resume: None,
        secure: None,
        network: spec.network.as_ref().map(|_| Policy::default()),
        ..spec.clone()
    }
}

impl Pool {
    pub(super) fn new(entries: Vec<Entry>, profiles: &Profiles) -> Self {
        let shelf = |entry: Entry| Shelf {
            spec: fixed(&profiles.complete(entry.spec)),
            size: entry.size.min(POOL_SIZE_MAX),
            ready: Mutex::default(),
        };
        Self { shelves: entries.into_iter().map(shelf).collect(), claimed: Notify::new() }
    }

    /// Leaves the host to those who claimed, until none did for a moment or there is little left to claim.
    async fn quiet(&self) {
        while self.shelves.iter().all(|shelf| 2 * shelf.waiting() >= shelf.size) {
            if tokio::time::timeout(POOL_QUIET, self.claimed.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Sandboxes that wait, and how many should.
    #[must_use]
    pub fn level(&self) -> (usize, usize) {
        let waiting = self.shelves.iter().map(|shelf| shelf.waiting()).sum();
        (waiting, self.shelves.iter().map(|shelf| shelf.size).sum())
    }
}

impl Shelf {
    fn waiting(&self) -> usize {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self) -> Option<Arc<Cell>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Sandboxes {
    /// Sandboxes that wait in the warm pool, and how many should.
    #[must_use]
    pub fn warm(&self) -> (usize, usize) {
        self.pool.level()
    }

    /// A warm sandbox that fits, bound to the request; `None` where there is none and one has to be made.
    pub(super) async fn claim(&self, spec: &Spec, made_under: Option<&String>) -> Option<Record> {
        if self.pool.shelves.is_empty() {
            return None;
        }
        // A policy that is not sound is refused where a sandbox is made, and takes none from the pool.
        if spec.network.as_ref().is_some_and(|policy| self.substrate.check_policy("", policy).is_err()) {
            return None;
        }
        let wanted = fixed(spec);
        let shelf = self.pool.shelves.iter().find(|shelf| shelf.spec == wanted)?;
        while let Some(cell) = shelf.take() {
            self.pool.claimed.notify_one();
            if cell.state() != State::Running {
                // It broke a moment ago: who noticed it discards it.
                continue;
            }
            match self.bind(&cell, spec, made_under).await {
                Ok(record) => return Some(record),
                Err(failure) => {
                    tracing::warn!(sandbox = cell.id(), error = %failure, "a warm sandbox could not be claimed");
                    if let Err(error) = self.remove_with(&cell, "it could not be claimed").await {
                        tracing::error!(sandbox = cell.id(), %error, "failed to remove a sandbox of the warm pool");
                        self.give_back_later(&cell);
                    }
                }
            }
        }
        None
    }

    /// Removes a warm sandbox that broke, and has another one made in its place after a while.
    pub(super) async fn discard(&self, cell: &Arc<Cell>) {
        for shelf in &self.pool.shelves {
            let mut ready = shelf.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.retain(|other| other.id() != cell.id());
        }
        if let Err(error) = self.remove_with(cell, "it broke in the warm pool").await {
            tracing::error!(sandbox = cell.id(), %error, "failed to remove a sandbox of the warm pool");
            self.give_back_later(cell);
        }
        // What breaks by itself would otherwise be made without a rest.
        tokio::time::sleep(POOL_RETRY).await;
        self.pool.claimed.notify_one();
    }

    /// Gives a warm sandbox its environment and its holder. It is the holder's only when the record says so.
    async fn bind(&self, cell: &Arc<Cell>, spec: &Spec, made_under: Option<&String>) -> Result<Record, Failure> {
        let guest = cell.guest().ok_or_else(|| cell.unusable())?;
        // As it was told when it was made.
        let told = configuration(cell.id(), &cell.read(|record| record.spec.clone()), &cell.defaults());
        if let Some(policy) = &spec.network
            && cell.read(|record| record.spec.network.as_ref() != Some(policy))
        {
            self.substrate.policy(cell.id(), policy).await?;
            cell.add_env(self.substrate.prepare_policy(cell.id(), policy, &guest).await?);
        }
        let wanted = configuration(cell.id(), spec, &cell.defaults());
        if wanted != told {
            self.substrate.configure(&guest, wanted).await?;
        }
        let now = self.clock.now_ms();
        let before = cell.read(|record| record.spec.clone());
        let claimed = cell.change(&self.store, |record| {
            record.spec = spec.clone();
            record.pooled = false;
            record.made_under = made_under.cloned();
            record.begin(now);
        });
        let running = || if cell.state() == State::Running { Ok(()) } else { Err(cell.unusable()) };
        if let Err(failure) = claimed.await.and_then(|()| running()) {
            // It is nobody's still.
            let back = cell.change(&self.store, |record| {
                record.spec = before;
                record.pooled = true;
                record.made_under = None;
            });
            let _ = self.kept(cell, back).await;
            return Err(failure);
        }
        self.schedule(cell);
        cell.note(now, "info", "claimed from the warm pool");
        Ok(cell.record())
    }

    /// Keeps the pool full; runs until it is dropped.
    pub async fn keep_warm(&self) {
        loop {
            let mut failed = false;
            for shelf in &self.pool.shelves {
                while shelf.waiting() < shelf.size && !failed {
                    // To its end, also where the daemon stops meanwhile: half of a sandbox has nobody to give it back.
                    let (this, spec) = (self.clone(), shelf.spec.clone());
                    match to_the_end(async move { this.make(spec, For::Pool).await }).await {
                        Ok(record) => {
                            let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
                            let cell = cells.get(&record.id).cloned();
                            drop(cells);
                            let mut ready = shelf.ready.lock().unwrap_or_else(PoisonError::into_inner);
                            // Unless it broke already.
                            ready.extend(cell.filter(|cell| cell.state() == State::Running));
                        }
                        Err(failure) => {
                            tracing::warn!(error = %failure, "failed to fill the warm pool; it is tried again");
                            self.refills.failed(Kept::Sandboxes, 1);
                            failed = true;
                        }
                    }
                }
            }
            if failed {
                tokio::time::sleep(POOL_RETRY).await;
            } else {
                self.pool.claimed.notified().await;
                self.pool.quiet().await;
            }
        }
    }
}
