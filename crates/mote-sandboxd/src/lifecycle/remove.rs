//! The end of a sandbox: its processes, then its root, then its record after a while.
//!
//! Snapshots that were taken of it stay: they have ends of their own.

use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::{State, Transition};

use super::cell::Cell;
use super::measure::Operation;
use super::{Sandboxes, to_the_end};
use crate::crash;
use crate::limits::{GONE_KEPT_MAX, GONE_KEPT_MS, REMOVE_TIMEOUT};

impl Sandboxes {
    /// Ends a sandbox and gives everything back; returns when it is gone. Asking again while it stops waits for the same end.
    ///
    /// # Errors
    /// `not_found`; `gone` where it is gone already; `timeout` where it takes long, and goes on; the substrate's.
    pub async fn remove(&self, id: &str) -> Result<(), Failure> {
        self.remove_because(id, "it was removed").await
    }

    pub(super) async fn remove_because(&self, id: &str, reason: &'static str) -> Result<(), Failure> {
        let (this, cell) = (self.clone(), self.cell(id)?);
        let removal = to_the_end(async move { this.remove_with(&cell, reason).await });
        tokio::time::timeout(REMOVE_TIMEOUT, removal).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Timeout, format!("the removal of the sandbox {id} is still under way"))
                .with("sandbox", id)
                .with("limit_ms", REMOVE_TIMEOUT.as_millis())
                .remedy("it goes on; ask again to wait for its end"))
        })
    }

    pub(super) async fn remove_with(&self, cell: &Arc<Cell>, reason: &str) -> Result<(), Failure> {
        let taken = self.durations.start(Operation::Remove);
        if cell.state() == State::Stopping {
            return self.until_gone(cell).await;
        }
        let stop = cell.shift(&self.store, Transition::Stop, |record| {
            record.reason.get_or_insert_with(|| reason.to_owned());
        });
        match stop {
            // Removing is how room is made, also for the state: where the intent cannot be kept now it goes on all the same.
            // A crash leaves a record whose processes or root are not there, which recovery reaps.
            Ok(pending) => drop(self.kept(cell, pending).await),
            // Of two that remove at once the other one was first.
            Err(_) if cell.state() == State::Stopping => return self.until_gone(cell).await,
            Err(failure) => return Err(failure),
        }
        self.finish(cell).await?;
        taken.done();
        Ok(())
    }

    /// Carries out the end of a sandbox that is stopping.
    pub(super) async fn finish(&self, cell: &Arc<Cell>) -> Result<(), Failure> {
        crash::point("remove.after_intent");
        cell.leave();
        self.timers.set(cell.id(), None);
        // What is under way comes to its end first: its effects are then there to be undone.
        let _work = cell.work.lock().await;
        // Such as another first process, whose end is no failure either.
        cell.leave();
        let given_back = async {
            self.substrate.end(cell.id()).await?;
            crash::point("remove.after_end");
            self.substrate.remove(cell.id()).await?;
            crash::point("remove.after_root");
            Ok::<_, Failure>(())
        };
        if let Err(failure) = given_back.await {
            cell.note(self.clock.now_ms(), "error", format!("failed to give everything back: {failure}"));
            let reason = failure.to_string();
            self.conclude(cell, Transition::Fail, |record| record.reason = Some(reason)).await?;
            self.schedule(cell);
            return Err(failure);
        }
        let now = self.clock.now_ms();
        self.conclude(cell, Transition::StopDone, |record| {
            record.ended_ms = Some(now);
            record.pause = None;
        })
        .await?;
        if cell.read(|record| record.pooled) {
            self.strike(cell).await;
            return Ok(());
        }
        let (reason, image) = cell.read(|record| (record.reason.clone().unwrap_or_default(), record.image.clone()));
        cell.note(now, "info", format!("gone: {reason}"));
        self.forget_import_of(&image).await;
        self.prune().await;
        Ok(())
    }

    async fn until_gone(&self, cell: &Arc<Cell>) -> Result<(), Failure> {
        let mut states = cell.states();
        loop {
            match *states.borrow_and_update() {
                State::Gone => return Ok(()),
                State::Stopping => {}
                _ => return Err(cell.unusable()),
            }
            if states.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Forgets a sandbox that is gone. A row that cannot be removed now is found, and removed, at the next start.
    pub(super) async fn strike(&self, cell: &Arc<Cell>) {
        self.forget(cell.id());
        if let Err(error) = self.store.remove_sandbox(cell.id()).await {
            tracing::warn!(sandbox = cell.id(), %error, "failed to forget a sandbox that is gone");
        }
    }

    /// Forgets the records of sandboxes that have been gone for long, or that are too many.
    pub(super) async fn prune(&self) {
        let now = self.clock.now_ms();
        let mut gone: Vec<(u64, Arc<Cell>)> = self
            .all()
            .into_iter()
            .filter(|cell| cell.state() == State::Gone)
            .map(|cell| (cell.read(|record| record.ended_ms.unwrap_or(0)), cell))
            .collect();
        gone.sort_by_key(|(ended, _)| std::cmp::Reverse(*ended));
        for (at, (ended, cell)) in gone.iter().enumerate() {
            if at >= GONE_KEPT_MAX || ended.saturating_add(GONE_KEPT_MS) < now {
                self.strike(cell).await;
            }
        }
    }
}
