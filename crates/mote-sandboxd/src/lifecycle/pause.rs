//! Pause and resume: frozen with memory kept, or stopped with the filesystem kept.
//!
//! It does not decide when a sandbox pauses by itself: `timers` does.

use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::Transition;
use mote_sandbox_api::request::{PauseKind, Sandbox};

use super::cell::Cell;
use super::measure::Operation;
use super::record::{Record, later};
use super::{Sandboxes, to_the_end};
use crate::crash;
use crate::limits::{FREEZE_ROUND_PAUSE, FREEZE_ROUNDS};

impl Sandboxes {
    /// Pauses a running sandbox; the answer says how.
    ///
    /// # Errors
    /// `not_found`, `illegal_transition`, `gone`, or the substrate's.
    pub async fn pause(&self, id: &str, kind: PauseKind) -> Result<Sandbox, Failure> {
        self.pause_because(id, kind, None).await
    }

    /// The same; the reason is noted where it is paused.
    pub(super) async fn pause_because(
        &self,
        id: &str,
        kind: PauseKind,
        reason: Option<&'static str>,
    ) -> Result<Sandbox, Failure> {
        let (this, cell) = (self.clone(), self.cell(id)?);
        to_the_end(async move {
            let taken = this.durations.start(Operation::Pause);
            // The kind is part of the intent: after a crash it says whether what is not alive was meant to end.
            let intent = |record: &mut Record| record.pause = Some(kind);
            let work = this.rest(&cell, kind);
            this.during(&cell, (Transition::Pause, Transition::PauseDone), intent, work).await?;
            taken.done();
            this.schedule(&cell);
            if let Some(reason) = reason {
                cell.note(this.clock.now_ms(), "info", reason);
            }
            cell.note(this.clock.now_ms(), "info", format!("paused: {}", word(kind)));
            Ok(cell.read(Record::told))
        })
        .await
    }

    /// Resumes a paused sandbox. Its lease runs anew.
    ///
    /// # Errors
    /// `not_found`, `illegal_transition`, `gone`, or the substrate's.
    pub async fn resume(&self, id: &str) -> Result<Sandbox, Failure> {
        self.resume_with(id, |_| {}).await
    }

    /// The same, with the files alone: what a pause kept of the memory is given up, and the first process starts anew.
    ///
    /// # Errors
    /// As [`Self::resume`].
    pub async fn reboot(&self, id: &str) -> Result<Sandbox, Failure> {
        self.resume_with(id, |record| record.pause = Some(PauseKind::Stopped)).await
    }

    async fn resume_with(
        &self,
        id: &str,
        change: impl FnOnce(&mut Record) + Send + 'static,
    ) -> Result<Sandbox, Failure> {
        let (this, cell) = (self.clone(), self.cell(id)?);
        to_the_end(async move {
            let taken = this.durations.start(Operation::Resume);
            let now = this.clock.now_ms();
            // Part of the intent: after a crash it runs with a lease that has not ended.
            let intent = |record: &mut Record| {
                record.lease_ends_ms = record.spec.lease.map(|lease| later(now, lease));
                change(record);
            };
            let work = this.wake(&cell);
            this.during(&cell, (Transition::Resume, Transition::ResumeDone), intent, work).await?;
            taken.done();
            this.schedule(&cell);
            cell.note(this.clock.now_ms(), "info", "resumed");
            Ok(cell.read(Record::told))
        })
        .await
    }

    async fn rest(&self, cell: &Arc<Cell>, kind: PauseKind) -> Result<(), Failure> {
        crash::point("pause.after_intent");
        match kind {
            PauseKind::Frozen => self.freeze(cell).await?,
            PauseKind::Stopped => {
                // A stop is orderly: what was written is in the filesystem before the processes end.
                if let Some(live) = cell.leave()
                    && let Err(error) = self.substrate.sync(&live.guest).await
                {
                    tracing::warn!(sandbox = cell.id(), %error, "failed to write everything before a stop");
                }
                if let Err(failure) = self.substrate.end(cell.id()).await {
                    // Some of it is ended: there is no way back to where it ran.
                    self.fail(cell, format!("its processes could not be ended for a pause: {failure}")).await;
                    return Err(failure);
                }
            }
        }
        crash::point("pause.after_effect");
        Ok(())
    }

    /// Stops the processes where they are. One in a system call takes its time, and on a host that is busy all do.
    async fn freeze(&self, cell: &Cell) -> Result<(), Failure> {
        let mut left = FREEZE_ROUNDS;
        loop {
            left -= 1;
            match self.substrate.freeze(cell.id()).await {
                Err(failure) if failure.code == Code::Busy && left > 0 => tokio::time::sleep(FREEZE_ROUND_PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    async fn wake(&self, cell: &Arc<Cell>) -> Result<(), Failure> {
        match cell.read(|record| record.pause) {
            Some(PauseKind::Stopped) | None => self.boot(cell).await?,
            Some(PauseKind::Frozen) => self.substrate.thaw(cell.id()).await?,
        }
        crash::point("resume.after_effect");
        Ok(())
    }

    /// Starts the first process where the files alone count. Processes that a pause had kept end before.
    async fn boot(&self, cell: &Arc<Cell>) -> Result<(), Failure> {
        let volumes = self.volumes_of(&cell.read(|record| record.spec.clone())).await?;
        if cell.leave().is_some()
            && let Err(failure) = self.substrate.end(cell.id()).await
        {
            self.fail(cell, format!("its processes could not be ended for a reboot: {failure}")).await;
            return Err(failure);
        }
        if let Err(failure) = self.launch(cell, volumes).await {
            cell.leave();
            if let Err(error) = self.substrate.end(cell.id()).await {
                // Half of it may live: it is not what a pause left.
                self.fail(cell, format!("it could not be resumed: {failure}; nor ended: {error}")).await;
            }
            return Err(failure);
        }
        Ok(())
    }
}

fn word(kind: PauseKind) -> &'static str {
    match kind {
        PauseKind::Frozen => "processes are frozen, memory is kept",
        PauseKind::Stopped => "processes were ended, the filesystem is kept",
    }
}
