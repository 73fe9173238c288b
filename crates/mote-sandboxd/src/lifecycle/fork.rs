//! Forks: new sandboxes that begin with another one's filesystem as it is now.
//!
//! Memory is not copied on containers: processes of the parent are not in the fork.

use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::Transition;
use mote_sandbox_api::request::{Fork, Sandbox};
use mote_sandbox_api::spec::Spec;

use super::cell::Cell;
use super::create::in_batch;
use super::measure::Operation;
use super::{Sandboxes, check, to_the_end};
use crate::crash;

impl Sandboxes {
    /// Forks a running or paused sandbox, each fork with an outcome of its own.
    ///
    /// # Errors
    /// `not_found`, `illegal_transition`, `invalid`, `gone`; `forbidden` where the parent holds secrets and sharing them was
    /// not asked for. No fork is made then.
    pub async fn fork(&self, id: &str, request: Fork) -> Result<Vec<Result<Sandbox, Failure>>, Failure> {
        let count = request.count.unwrap_or(1);
        in_batch("count", count)?;
        check::spec(&Spec { lease: request.lease, ..Spec::default() })?;
        let (this, parent) = (self.clone(), self.cell(id)?);
        let holds_secrets =
            parent.read(|record| record.spec.network.as_ref().is_some_and(|policy| !policy.secrets.is_empty()));
        if holds_secrets && !request.share_secrets {
            return Err(Failure::new(Code::Forbidden, "the sandbox holds secrets, which a fork would share")
                .with("sandbox", id)
                .remedy("set share_secrets, or take the secrets out of its network policy first"));
        }
        to_the_end(async move {
            let taken = this.durations.start(Operation::Fork);
            let copying = this.copy_many(&parent, &request, count);
            let copies = this.during(&parent, Transition::Fork, Transition::ForkDone, copying).await?;
            let starts = copies.into_iter().map(|copy| async {
                let cell = copy?;
                let volumes = this.volumes_of(&cell.read(|record| record.spec.clone())).await?;
                let _place = this.place().await?;
                let work = cell.work.lock().await;
                let launched = this.launch(&cell, volumes).await;
                drop(work);
                if let Err(failure) = launched {
                    return Err(this.abandon(&cell, failure).await);
                }
                let record = this.arrive(&cell).await?;
                Ok(this.told_with_token(&record))
            });
            let forks = futures_util::future::join_all(starts).await;
            taken.done();
            let made = forks.iter().filter(|fork| fork.is_ok()).count();
            parent.note(this.clock.now_ms(), "info", format!("forked: {made} of {count}"));
            Ok(forks)
        })
        .await
    }

    /// Copies the parent's filesystem as often as was asked; where the first copy fails, all do.
    async fn copy_many(
        &self,
        parent: &Arc<Cell>,
        request: &Fork,
        count: u32,
    ) -> Result<Vec<Result<Arc<Cell>, Failure>>, Failure> {
        let mut copies = vec![Ok(self.copy(parent, request).await?)];
        for _ in 1..count {
            copies.push(self.copy(parent, request).await);
        }
        Ok(copies)
    }

    async fn copy(&self, parent: &Arc<Cell>, request: &Fork) -> Result<Arc<Cell>, Failure> {
        let origin = parent.record();
        let mut spec = origin.spec;
        spec.lease = request.lease.or(spec.lease);
        let mut record = self.blank(spec, origin.image)?;
        record.parent = Some(parent.id().to_owned());
        let cell = self.admit(&record).await?;
        match self.substrate.fork(parent.id(), cell.id(), self.writing(parent).as_ref()).await {
            Ok(taken) => {
                crash::point("fork.after_copy");
                self.remount(parent, taken).await?;
                Ok(cell)
            }
            Err(failure) => Err(self.abandon(&cell, failure).await),
        }
    }
}
