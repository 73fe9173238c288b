//! Forks: new sandboxes that begin with another one's filesystem as it is now.
//!
//! Memory is not copied on containers: processes of the parent are not in the fork.

use std::sync::{Arc, Mutex, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::{State, Transition};
use mote_sandbox_api::request::{Fork, Sandbox};
use mote_sandbox_api::spec::Spec;

use super::cell::Cell;
use super::create::in_batch;
use super::key::Key;
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
        self.fork_under(id, request, None).await
    }

    /// The same under an idempotency key: forks that an earlier attempt has made are answered, the others are made.
    ///
    /// # Errors
    /// As [`Self::fork`].
    pub async fn fork_under(
        &self,
        id: &str,
        request: Fork,
        key: Option<Key>,
    ) -> Result<Vec<Result<Sandbox, Failure>>, Failure> {
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
        let mut forks: Vec<_> =
            self.made_under(key.as_ref()).iter().map(|record| Ok(self.told_with_token(record))).collect();
        let missing = (count as usize).saturating_sub(forks.len());
        if missing == 0 {
            return Ok(forks);
        }
        to_the_end(async move {
            let taken = this.durations.start(Operation::Fork);
            // Beside the operation, which may come to nothing after it has copied.
            let copied = Mutex::new(Vec::with_capacity(missing));
            let copying = this.copy_many(&parent, &request, Key::mark(key.as_ref()), missing, &copied);
            let transitions = (Transition::Fork, Transition::ForkDone);
            let forking = this.during(&parent, transitions, |_| {}, copying).await;
            let copied = copied.into_inner().unwrap_or_else(PoisonError::into_inner);
            let failures = match forking {
                Ok(failures) => failures,
                Err(failure) => {
                    for cell in copied {
                        this.abandon(&cell, failure.clone()).await;
                    }
                    return Err(failure);
                }
            };
            forks.extend(futures_util::future::join_all(copied.iter().map(|cell| this.begin(cell))).await);
            forks.extend(failures.into_iter().map(Err));
            taken.done();
            let made = forks.iter().filter(|fork| fork.is_ok()).count();
            parent.note(this.clock.now_ms(), "info", format!("forked: {made} of {count}"));
            Ok(forks)
        })
        .await
    }

    /// Starts a copy, or gives it back.
    async fn begin(&self, cell: &Arc<Cell>) -> Result<Sandbox, Failure> {
        let starting = async {
            let volumes = self.volumes_of(&cell.read(|record| record.spec.clone())).await?;
            let _place = self.place().await?;
            let _work = cell.work.lock().await;
            if cell.state() != State::Creating {
                return Err(cell.unusable());
            }
            self.launch(cell, volumes).await
        };
        if let Err(failure) = starting.await {
            return Err(self.abandon(cell, failure).await);
        }
        let record = self.arrive(cell).await?;
        Ok(self.told_with_token(&record))
    }

    /// Copies the parent's filesystem as often as was asked into `copied`; where the first copy fails, all do. Answers with
    /// the failures of the others.
    async fn copy_many(
        &self,
        parent: &Arc<Cell>,
        request: &Fork,
        made_under: Option<String>,
        count: usize,
        copied: &Mutex<Vec<Arc<Cell>>>,
    ) -> Result<Vec<Failure>, Failure> {
        let mut failures = Vec::new();
        for at in 0..count {
            match self.copy(parent, request, made_under.clone()).await {
                Ok(cell) => copied.lock().unwrap_or_else(PoisonError::into_inner).push(cell),
                Err(failure) if at == 0 => return Err(failure),
                Err(failure) => failures.push(failure),
            }
        }
        Ok(failures)
    }

    async fn copy(&self, parent: &Arc<Cell>, request: &Fork, made_under: Option<String>) -> Result<Arc<Cell>, Failure> {
        let origin = parent.record();
        let mut spec = origin.spec;
        spec.lease = request.lease.or(spec.lease);
        let mut record = self.blank(spec, origin.image)?;
        record.parent = Some(parent.id().to_owned());
        record.made_under = made_under;
        let cell = self.admit(&record).await?;
        let copying = async {
            let taken = self.substrate.fork(parent.id(), cell.id(), self.writing(parent).as_ref()).await?;
            crash::point("fork.after_copy");
            self.remount(parent, taken).await
        };
        match copying.await {
            Ok(()) => Ok(cell),
            Err(failure) => Err(self.abandon(&cell, failure).await),
        }
    }
}
