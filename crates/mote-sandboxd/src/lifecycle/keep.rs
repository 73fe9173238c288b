//! What memory says and what is kept do not part, also where a write fails.
//!
//! An *intent* that cannot be kept is taken back: nothing was done yet. An *outcome* that cannot be kept stands, because the
//! host is so already: its record is written again until it is kept, and after a crash before that recovery finds the intent
//! and comes to the same. Three are told apart: a creation is undone, for recovery would reap it; a rollback is told as not
//! kept, for recovery would do it again; and the intent of a removal is not waited for, because removing makes room. It does
//! not know what the operations do.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::lifecycle::{State, Transition};

use super::cell::Cell;
use super::record::Record;
use super::{Inner, Sandboxes};
use crate::limits::{STATE_RETRY_FIRST, STATE_RETRY_MAX};
use crate::state::Pending;

/// Sandboxes whose record in memory is newer than the one that is kept, by id.
#[derive(Debug, Default)]
pub(super) struct Unkept(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    ids: BTreeSet<String>,
    /// A task writes them.
    is_written: bool,
}

impl Unkept {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandboxes {
    /// Takes `begin`, performs `work`, takes `done`; or undoes the transition where the work did not succeed. `change` goes
    /// with the intent.
    pub(super) async fn during<T>(
        &self,
        cell: &Arc<Cell>,
        (begin, done): (Transition, Transition),
        change: impl FnOnce(&mut Record),
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.intend(cell, begin, change).await?;
        let _work = cell.work.lock().await;
        if matches!(cell.state(), State::Stopping | State::Gone | State::Failed) {
            // It was removed, or broke, before its turn came: there is nothing to work on.
            return Err(cell.unusable());
        }
        match work.await {
            Ok(value) => self.conclude(cell, done, |_| {}).await.map(|()| value),
            Err(failure) => {
                self.undo(cell).await;
                Err(failure)
            }
        }
    }

    /// Takes a transition whose intent has to be kept before anything is done, or takes it back.
    pub(super) async fn intend(
        &self,
        cell: &Arc<Cell>,
        begin: Transition,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), Failure> {
        if let Err(failure) = cell.shift(&self.store, begin, change)?.await {
            self.undo(cell).await;
            return Err(failure);
        }
        Ok(())
    }

    /// The sandbox is as it was before. Where it was stopped or broke meanwhile there is nothing to undo.
    pub(super) async fn undo(&self, cell: &Arc<Cell>) {
        if let Ok(pending) = cell.shift(&self.store, Transition::Undo, |record| record.rolling_back_to = None) {
            let _ = self.kept(cell, pending).await;
        }
    }

    /// Takes a transition that tells of what is so already; it stands where it cannot be kept.
    pub(super) async fn conclude(
        &self,
        cell: &Arc<Cell>,
        transition: Transition,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), Failure> {
        let pending = cell.shift(&self.store, transition, change).map_err(|failure| match cell.state() {
            State::Stopping | State::Gone | State::Failed => cell.unusable(),
            _ => failure,
        })?;
        let _ = self.kept(cell, pending).await;
        Ok(())
    }

    /// The sandbox broke, unless it is being removed already; whether it did.
    pub(super) async fn fail(&self, cell: &Arc<Cell>, reason: impl Into<String>) -> bool {
        let Some(pending) = cell.fail(&self.store, reason) else { return false };
        let _ = self.kept(cell, pending).await;
        true
    }

    /// Waits until a change is kept. Where it could not be, the failure is answered, and the record is written again until
    /// it is kept.
    pub(super) async fn kept(&self, cell: &Arc<Cell>, pending: Pending<()>) -> Result<(), Failure> {
        let Err(failure) = pending.await else { return Ok(()) };
        let state = cell.state();
        tracing::warn!(sandbox = cell.id(), %state, error = %failure, "a change is not kept; it is written again");
        let mut waiting = self.unkept.lock();
        waiting.ids.insert(cell.id().to_owned());
        if !waiting.is_written {
            waiting.is_written = true;
            tokio::spawn(write_until_kept(Arc::downgrade(&self.0)));
        }
        Err(failure)
    }

    /// Writes every record that is not kept; whether none is left.
    async fn write_unkept(&self) -> bool {
        let ids = std::mem::take(&mut self.unkept.lock().ids);
        for id in ids {
            let pending = {
                // While it is known here: what was forgotten is not written anew behind its removal from the store.
                let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
                cells.get(&id).map(|cell| cell.change(&self.store, |_| {}))
            };
            if let Some(pending) = pending
                && pending.await.is_err()
            {
                self.unkept.lock().ids.insert(id);
            }
        }
        let mut waiting = self.unkept.lock();
        waiting.is_written = !waiting.ids.is_empty();
        !waiting.is_written
    }
}

/// Tries until everything is kept, or the daemon has ended.
async fn write_until_kept(inner: Weak<Inner>) {
    let mut pause = STATE_RETRY_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let Some(sandboxes) = inner.upgrade().map(Sandboxes) else { return };
        if sandboxes.write_unkept().await {
            return tracing::info!("what was not kept is kept now");
        }
        pause = (2 * pause).min(STATE_RETRY_MAX);
    }
}
