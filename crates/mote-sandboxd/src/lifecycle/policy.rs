//! Another network policy for a sandbox that lives.
//!
//! It does not enforce one: the substrate's boundary does.

use std::sync::Arc;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::network::Policy;
use tokio::sync::MutexGuard;

use super::cell::Cell;
use super::{Sandboxes, check, create};
use crate::guest::Guest;

fn must_be_there(cell: &Cell) -> Result<(), Failure> {
    if matches!(cell.state(), State::Gone | State::Stopping | State::Failed) {
        return Err(cell.unusable());
    }
    Ok(())
}

/// Its turn to work on a sandbox that nobody is about to pause or to resume.
async fn turn(cell: &Cell) -> Result<MutexGuard<'_, ()>, Failure> {
    let mut states = cell.states();
    loop {
        let work = cell.work.lock().await;
        let state = *states.borrow_and_update();
        if !matches!(state, State::Pausing | State::Resuming) {
            // What was under way may have been its end.
            return must_be_there(cell).map(|()| work);
        }
        // Whoever begins a pause, or its end, has yet to take its turn.
        drop(work);
        if states.changed().await.is_err() {
            return Err(cell.unusable());
        }
    }
}

impl Sandboxes {
    /// Another network policy, from now on and after a resume. Nothing inside can keep it from holding: what has to be written
    /// there for it comes last, and is told in the journal where it cannot be.
    ///
    /// # Errors
    /// `not_found`, `gone`, `invalid`; `unsupported` where the sandbox was made without a network.
    pub async fn set_policy(&self, id: &str, policy: Policy) -> Result<(), Failure> {
        let cell = self.cell(id)?;
        check::network("network", &policy)?;
        must_be_there(&cell)?;
        if cell.read(|record| record.spec.network.is_none()) {
            return Err(Failure::unsupported("network", "the sandbox was made without a network")
                .remedy("create it with a network policy, an empty one where nothing may be reached yet"));
        }
        let _work = turn(&cell).await?;
        self.substrate.check_policy(id, &policy)?;
        let guest = cell.guest();
        if guest.is_some() {
            if cell.read(|record| record.pause.is_some()) {
                return Err(cell.unusable());
            }
            self.substrate.policy(id, &policy).await?;
        }
        self.record_policy(&cell, &policy, guest.is_some()).await?;
        cell.note(self.clock.now_ms(), "info", "the network policy was replaced");
        if let Some(guest) = guest
            && let Err(failure) = self.ready_for(&cell, &policy, &guest).await
        {
            let message = format!("what the network policy needs inside could not be written there: {failure}");
            cell.note(self.clock.now_ms(), "warn", message);
        }
        Ok(())
    }

    /// Records a policy that holds; where that fails, the one before holds again.
    async fn record_policy(&self, cell: &Arc<Cell>, policy: &Policy, holds: bool) -> Result<(), Failure> {
        let before = cell.read(|record| record.spec.network.clone());
        let Err(failure) = cell.change(&self.store, |record| record.spec.network = Some(policy.clone())).await else {
            return Ok(());
        };
        let back = cell.change(&self.store, |record| record.spec.network.clone_from(&before));
        let _ = self.kept(cell, back).await;
        if let Some(before) = before.filter(|_| holds) {
            self.substrate.policy(cell.id(), &before).await?;
        }
        Err(failure)
    }

    /// Writes inside what a policy needs there: what is started from now on finds its placeholders and whom to trust.
    async fn ready_for(&self, cell: &Cell, policy: &Policy, guest: &Guest) -> Result<(), Failure> {
        cell.add_env(self.substrate.prepare_policy(cell.id(), policy, guest).await?);
        let spec = cell.read(|record| record.spec.clone());
        self.substrate.configure(guest, create::configuration(cell.id(), &spec, &cell.defaults())).await
    }
}
