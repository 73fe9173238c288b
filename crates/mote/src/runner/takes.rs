//! Which tasks a worker takes: every one that is due, or only what was submitted to it.
//!
//! It does not say when to look; the worker does.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::Shared;
use crate::clock::UnixMs;
use crate::store::{Claim, Error, Lease};

/// Which tasks of its store a runner drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Every one that is due: a service's.
    Everything,
    /// Only those that were submitted to it: the store may be a service's, and what waits there is not its business.
    Submitted,
}

/// What was submitted to a runner that takes nothing else.
#[derive(Debug, Default)]
pub(super) struct Submitted(Mutex<HashSet<String>>);

impl Submitted {
    /// What a runner keeps in mind for what it takes.
    pub(super) fn of(takes: Takes) -> Option<Self> {
        (takes == Takes::Submitted).then(Self::default)
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Shared {
    /// A task is about to be submitted here.
    pub(super) fn submitting(&self, task: &str) {
        if let Some(Submitted(tasks)) = &self.submitted {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(task.to_owned());
        }
    }

    /// A task is over: nobody will take it again.
    pub(super) fn over(&self, task: &str) {
        if let Some(Submitted(tasks)) = &self.submitted {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(task);
        }
    }

    /// Claims what is due and this runner's business.
    pub(super) async fn claim_due(&self, lease: Lease, now: UnixMs, limit: usize) -> Result<Vec<Claim>, Error> {
        let Some(submitted) = &self.submitted else { return self.store.claim(lease, now, limit).await };
        let mut claims = Vec::new();
        for task in submitted.all() {
            if claims.len() == limit {
                break;
            }
            claims.extend(self.store.claim_task(&task, lease.clone(), now).await?);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::super::tests::{World, agent, ask, calls, says};
    use super::super::{Parts, Runner};
    use super::*;
    use crate::clock::{Clock, System};
    use crate::model::{self, DeltaSink, Provider, Reply, Request};
    use crate::store::{Mail, NewTask, Owner, Status};
    use crate::tools::registry::Registry;
    use serde_json::json;

    /// Waits for a signal first, whatever it is asked, and then says what it was told.
    struct Waits;

    #[async_trait]
    impl Provider for Waits {
        async fn complete(&self, request: &Request, _: DeltaSink<'_>) -> Result<Reply, model::Error> {
            let first = request.messages.len() == 1;
            if first { calls("wait_for_signal", json!({"name": "go"})) } else { says("went") }
        }
    }

    #[tokio::test]
    async fn a_runner_that_takes_what_is_submitted_leaves_the_rest_alone() {
        let world = World::new(agent(), vec![], &[]);
        world.runner.drain(std::time::Duration::ZERO).await;
        let now = System.now_ms();
        let queued = NewTask {
            id: "another".to_owned(),
            owner: Owner::default(),
            request: String::new(),
            now,
            expires_at: None,
            idempotency: None,
            claim: None,
            first: None,
            turn_within: None,
        };
        let dying = NewTask { id: "dying".to_owned(), ..queued.clone() };
        world.store.submit(dying).await.unwrap();
        // Its worker's lease is over: a service would go on with it.
        assert!(
            world
                .store
                .claim_task("dying", Lease { worker: "dead".to_owned(), until: 0 }, now)
                .await
                .unwrap()
                .is_some()
        );
        world.store.submit(queued).await.unwrap();
        let agent = agent();
        let runner = Runner::start(Parts {
            registry: Registry::build(&[], &agent.builtins).unwrap(),
            agent: Arc::new(agent),
            store: Arc::clone(&world.store),
            clock: Arc::new(System),
            provider: Arc::new(Waits),
            metrics: Arc::new(crate::telemetry::Metrics::new("test", 0)),
            tracer: crate::telemetry::Tracer::off(Arc::new(System)),
            takes: Takes::Submitted,
        })
        .unwrap();
        let own = runner.submit(ask("wait"), false).await.unwrap().task;
        world.reach(&own, |task| task.status == Status::Waiting).await;
        runner.post(&own, Mail::Signal { name: "go".into(), payload: json!(1) }).await.unwrap();
        assert_eq!(world.end(&own).await.result.as_deref(), Some("\"went\""));
        runner.drain(std::time::Duration::ZERO).await;
        for (task, status, epoch) in [("another", Status::Queued, 0), ("dying", Status::Running, 1)] {
            let task = world.store.task(None, task).await.unwrap().unwrap();
            assert_eq!((task.status, task.epoch, task.seq), (status, epoch, 0), "{task:?}");
        }
    }
}
