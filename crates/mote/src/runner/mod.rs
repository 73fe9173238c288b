//! The runner: drives [`mote_core`] and performs the actions that it asks for; journal first, then act.
//!
//! [`Runner`] is the handle that the API and the command line hold. `worker` claims tasks and keeps leases, `drive` takes
//! one run from event to event. It does not decide what a run does next; the core does.

mod account;
mod batch;
mod detail;
mod drive;
mod ending;
mod live;
mod mail;
mod observe;
mod outbox;
mod outcome;
pub mod payload;
mod perform;
mod prepared;
mod recover;
mod request;
mod resume;
mod takes;
mod transcript;
mod turn;
mod waits;
mod worker;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use recover::{Replayed, replay};
pub use resume::ResumeError;
pub use takes::Takes;
pub use waits::PostError;

use crate::clock::{SharedClock, UnixMs, new_id};
use crate::config::Agent;
use crate::context;
use crate::limits::{CALLS_PER_TURN, CONTEXT_UNITS, QUEUED_TASKS_MAX, SESSION_RUNS_MAX};
use crate::message::Message;
use crate::model::{Delta, Provider, ToolDefinition};
use crate::store::{self, IdempotencyKey, NewTask, Owner, Status, Store, Submitted, Task};
use crate::telemetry::{Metrics, Tracer};
use crate::tools::registry::Registry;
use crate::tools::validation;

/// Calls of one turn.
pub(crate) const CALLS: usize = CALLS_PER_TURN;
/// The core's run, with the service's capacities.
pub type Core = mote_core::Run<CONTEXT_UNITS, CALLS>;
/// The core's actions, with the service's capacities.
pub type Actions = mote_core::Actions<CALLS>;
/// The core's events, with the service's capacities.
pub type CoreEvent = mote_core::Event<CALLS>;

/// A task as a client asks for it, already parsed.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose it is.
    pub owner: Owner,
    /// Input, oldest first; not empty.
    pub input: Vec<Message>,
    /// Facts for this run that stand beside the input (JSON), shown to the model.
    pub context: Option<serde_json::Value>,
    /// Narrows the agent's per-run budget; never widens it.
    pub budget: crate::config::Bound,
    /// Narrows working time.
    pub active: Option<Duration>,
    /// Narrows wall time.
    pub expires: Option<Duration>,
    /// The client's idempotency key: route and key.
    pub idempotency: Option<(String, String)>,
    /// W3C trace context that came with the request.
    pub traceparent: Option<String>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The task's id.
    pub task: String,
    /// Whether this was a replay of an earlier request.
    pub replayed: bool,
    /// The task as it was queued, so that answering costs no read; `None` for a replay and for one that runs already.
    pub queued: Option<Box<Task>>,
}

/// Why a submission was refused.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too much to do: 503 with Retry-After.
    #[error("overloaded: {reason}")]
    Overloaded {
        /// Which limit.
        reason: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The process is shutting down: 503.
    #[error("the service is draining")]
    Draining,
    /// The request cannot be run as it is: 422 naming the field.
    #[error("{field}: {message}")]
    Invalid {
        /// JSON path of the field.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A shared budget does not carry the first call: 429.
    #[error("budget {scope} is exhausted{}{short}", if short.is_empty() { "" } else { ": " })]
    Budget {
        /// Which.
        scope: String,
        /// What the call needs and what is left; empty where the store does not say.
        short: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A live piece of a reply.
#[derive(Debug, Clone)]
pub struct Live {
    /// Model step.
    pub step: u32,
    /// Attempt within it.
    pub attempt: u32,
    /// The piece.
    pub delta: Delta,
}

/// A view of a run under way in this process.
pub struct LiveView {
    /// Step and attempt of the current text.
    pub step: u32,
    /// Attempt.
    pub attempt: u32,
    /// Text of the current attempt so far.
    pub text: String,
    /// What follows it.
    pub deltas: broadcast::Receiver<Live>,
}

/// What a runner is made of.
pub struct Parts {
    /// The agent.
    pub agent: Arc<Agent>,
    /// Where runs are durable.
    pub store: Arc<dyn Store>,
    /// Time and entropy.
    pub clock: SharedClock,
    /// The agent's model, with its fallbacks.
    pub provider: Arc<dyn Provider>,
    /// The agent's tools.
    pub registry: Registry,
    /// Where work is counted.
    pub metrics: Arc<Metrics>,
    /// Where work is traced.
    pub tracer: Tracer,
    /// Which tasks of the store are its business.
    pub takes: Takes,
}

/// What every part of the runner shares.
struct Shared {
    agent: Arc<Agent>,
    store: Arc<dyn Store>,
    clock: SharedClock,
    provider: Arc<dyn Provider>,
    registry: Registry,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    prompt: Arc<str>,
    definitions: Arc<[ToolDefinition]>,
    output: Option<validation::Schema>,
    output_schema: Option<Arc<serde_json::Value>>,
    fixed_tokens: u32,
    worker: String,
    /// That this worker is alive, as others may see it.
    presence: OnceLock<store::Presence>,
    live: live::LiveRuns,
    holdings: worker::Holdings,
    places: Arc<Semaphore>,
    /// Held during a look for work, which holds the places that it looks for.
    look: tokio::sync::Mutex<()>,
    /// Told after each look for work that the clock brought about.
    looked: Notify,
    finished: Notify,
    /// There may be sandboxes to give back.
    vacated: Notify,
    drain: CancellationToken,
    /// The loops have had their time.
    cut: CancellationToken,
    runs: TaskTracker,
    loops: TaskTracker,
    /// What was submitted here, where nothing else is taken.
    submitted: Option<takes::Submitted>,
    backlog: AtomicU64,
}

/// The runner's handle: cheap to clone, shared by the API and the command line.
#[derive(Clone)]
pub struct Runner {
    shared: Arc<Shared>,
}

impl Runner {
    /// Sets the runner up and starts its worker. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the agent's output schema does not compile.
    pub fn start(parts: Parts) -> Result<Self, validation::Error> {
        let Parts { agent, store, clock, provider, registry, metrics, tracer, takes } = parts;
        let output = agent.output.clone().map(validation::Schema::new).transpose()?;
        let shared = Arc::new(Shared {
            fixed_tokens: context::fixed_tokens(&agent, registry.definitions()),
            worker: new_id("worker", &*clock),
            presence: OnceLock::new(),
            places: Arc::new(Semaphore::new(agent.server.runs.min(Semaphore::MAX_PERMITS))),
            prompt: agent.prompt.as_str().into(),
            output_schema: agent.output.clone().map(Arc::new),
            definitions: registry.definitions().into(),
            output,
            agent,
            store,
            clock,
            provider,
            registry,
            metrics,
            tracer,
            live: live::LiveRuns::default(),
            holdings: worker::Holdings::default(),
            look: tokio::sync::Mutex::new(()),
            looked: Notify::new(),
            finished: Notify::new(),
            vacated: Notify::new(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            submitted: takes::Submitted::of(takes),
            runs: TaskTracker::new(),
            loops: TaskTracker::new(),
            backlog: AtomicU64::new(0),
        });
        shared.start();
        Ok(Self { shared })
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Arc<Agent> {
        &self.shared.agent
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.shared.clock
    }

    /// The agent's tools.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Erases a session or a user; returns how many tasks went. Sandboxes of theirs are given back soon.
    ///
    /// # Errors
    /// The store's: one of the tasks runs.
    pub async fn erase(&self, what: store::Erase) -> Result<u64, store::Error> {
        let erased = self.shared.store.erase(what).await?;
        self.shared.vacated.notify_one();
        Ok(erased)
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        self.shared.clock.now_ms()
    }

    /// Makes a task durable; it runs as soon as a place is free. With `at_once`, it begins in this very call, or is
    /// refused as overloaded rather than queued (for `POST /run`).
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then.
    pub async fn submit(&self, submission: Submission, at_once: bool) -> Result<Accepted, SubmitError> {
        let turn_within = at_once.then_some(SESSION_RUNS_MAX);
        self.submit_in_turn(submission, at_once, turn_within).await
    }

    /// [`Self::submit`] that says how long the queue of its session may be: `None` takes any place in it.
    ///
    /// # Errors
    /// [`SubmitError`], with [`store::Error::SessionBusy`] among them; nothing was submitted then.
    pub async fn submit_in_turn(
        &self,
        submission: Submission,
        at_once: bool,
        turn_within: Option<u64>,
    ) -> Result<Accepted, SubmitError> {
        let shared = &self.shared;
        self.admit(&submission)?;
        let place = if at_once { Some(self.place().await?) } else { None };
        let now = self.now();
        let stored = request::Stored::new(&submission);
        let task = self.task(&submission, &stored, now)?;
        let (mut claim, mut prepared) = (None, None);
        if place.is_some() {
            let (lease, term) = shared.lease();
            // A session's history is read after the claim, when no other task can change it.
            prepared = submission
                .owner
                .session
                .is_none()
                .then(|| prepared::first_commit(shared, &task, &stored, term))
                .flatten();
            claim = Some((lease, term));
        }
        let term = claim.as_ref().map(|(_, term)| *term);
        let new = NewTask {
            id: task.id.clone(),
            owner: task.owner.clone(),
            request: task.request.clone(),
            now,
            expires_at: task.expires_at,
            idempotency: self.idempotency(&submission, now),
            claim: claim.map(|(lease, _)| lease),
            first: prepared.as_ref().map(|prepared| prepared.batch.clone()),
            turn_within,
        };
        shared.submitting(&new.id);
        crate::crash::point("submit.before");
        let submitted = shared.store.submit(new).await;
        crate::crash::point("submit.after");
        match submitted {
            Ok(Submitted::Replayed { task: first }) => {
                prepared.iter().for_each(|prepared| prepared.abandon(shared));
                Ok(Accepted { task: first, replayed: true, queued: None })
            }
            Ok(Submitted::Created { epoch }) => {
                if let (Some(epoch), Some(place), Some(term)) = (epoch, place, term) {
                    match prepared {
                        Some(prepared) => shared.run_submitted(prepared.driver, prepared.steps, place),
                        None => {
                            let task = Task { epoch, ..task.clone() };
                            shared.run_claimed(store::Claim { task, epoch, suspect: false }, term, place);
                        }
                    }
                }
                shared.metrics.task_submitted();
                let id = task.id.clone();
                Ok(Accepted { task: id, replayed: false, queued: epoch.is_none().then(|| Box::new(task)) })
            }
            Err(error) => {
                prepared.iter().for_each(|prepared| prepared.abandon(shared));
                let needs =
                    prepared.as_ref().and_then(|prepared| detail::reserved(&prepared.steps, mote_core::Spender::Model));
                drop(prepared);
                let store::Error::Budget { scope } = error else { return Err(error.into()) };
                let short = detail::short(shared, &submission.owner, needs, &scope).await.unwrap_or_default();
                Err(SubmitError::Budget { scope, short })
            }
        }
    }

    /// A place for a run that begins at once.
    async fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, SubmitError> {
        self.shared.place().await.ok_or_else(|| {
            let reason = format!("all {} places for runs are taken", self.shared.agent.server.runs);
            self.overloaded("runs", reason, Duration::from_secs(1))
        })
    }

    fn admit(&self, submission: &Submission) -> Result<(), SubmitError> {
        if self.draining() {
            return Err(SubmitError::Draining);
        }
        if submission.input.is_empty() {
            return Err(SubmitError::Invalid { field: "input".into(), message: "it is empty".into() });
        }
        if let (Some(_), Some(model)) = (submission.budget.nano_usd, self.shared.agent.unpriced()) {
            let message = format!(
                "would bound nothing: the price of the model {} is not known, its cost counts as 0; bound `tokens`",
                model.name
            );
            return Err(SubmitError::Invalid { field: "budget.usd".into(), message });
        }
        let queued = self.shared.backlog.load(Ordering::Relaxed);
        if queued >= QUEUED_TASKS_MAX {
            let reason = format!("{queued} tasks are queued, the limit is {QUEUED_TASKS_MAX}");
            return Err(self.overloaded("queued_tasks", reason, Duration::from_secs(5)));
        }
        Ok(())
    }

    fn overloaded(&self, limit: &'static str, reason: String, retry_after: Duration) -> SubmitError {
        self.shared.metrics.overloaded(limit);
        SubmitError::Overloaded { reason, retry_after }
    }

    fn task(&self, submission: &Submission, stored: &request::Stored, now: UnixMs) -> Result<Task, SubmitError> {
        let request = serde_json::to_string(stored)
            .map_err(|error| SubmitError::Invalid { field: "input".into(), message: error.to_string() })?;
        Ok(Task {
            id: new_id("task", &*self.shared.clock),
            owner: submission.owner.clone(),
            status: Status::Queued,
            request,
            epoch: 0,
            seq: 0,
            result: None,
            error: None,
            waiting: None,
            dead: false,
            usage: crate::usage::Usage::default(),
            cost_nano_usd: 0,
            uncertain: store::Uncertain::default(),
            lives: 0,
            requeues: 0,
            held: false,
            steps: 0,
            tool_calls: 0,
            created_at: now,
            started_at: None,
            updated_at: now,
            finished_at: None,
            expires_at: Some(request::expires_at(&self.shared.agent, submission, now)),
        })
    }

    fn idempotency(&self, submission: &Submission, now: UnixMs) -> Option<IdempotencyKey> {
        let (route, key) = submission.idempotency.clone()?;
        let ttl = request::millis(self.shared.agent.server.idempotency_ttl);
        let fingerprint = request::fingerprint(submission);
        Some(IdempotencyKey { route, key, fingerprint, expires_at: now.saturating_add(ttl) })
    }

    /// The run's current text and the deltas that follow, if it is under way in this process.
    #[must_use]
    pub fn live(&self, task: &str) -> Option<LiveView> {
        self.shared.live.view(task)
    }

    /// Whether new work is refused because the process shuts down.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.shared.drain.is_cancelled()
    }

    /// Whether a model call may be tried now.
    #[must_use]
    pub fn model_available(&self) -> bool {
        self.shared.provider.is_reachable()
    }

    /// Runs under way in this process.
    #[must_use]
    pub fn active(&self) -> usize {
        self.shared.runs.len()
    }

    /// Returns after the next look for work that nothing but the clock brought about: once a second while idle.
    pub async fn looked(&self) {
        self.shared.looked.notified().await;
    }

    /// Winds down in two phases: no new work and every run given back at its next step boundary; at `deadline`, whatever is
    /// still under way is given up. Nothing is lost either way.
    pub async fn drain(&self, deadline: Duration) {
        self.shared.wind_down(deadline).await;
    }
}
