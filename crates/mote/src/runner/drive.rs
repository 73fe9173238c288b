//! Drives one run: takes what happened to the core, makes the step durable, and only then performs what the core asked
//! for. One driver holds one task under one epoch; what it may not commit, it does not perform.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mote_core::{Action, CallKind, Event, Phase};
use serde_json::Value;
use tracing::Instrument;

use super::batch::{Occurrence, Step, empty};
use super::ending::ModelSaid;
use super::live::LiveRun;
use super::outcome::Seen;
use super::payload::Payload;
use super::perform::{self, Done, Observer};
use super::transcript::Transcript;
use super::worker::Held;
use super::{Core, Shared, account, detail, ending, observe, outcome};
use crate::arguments;
use crate::clock::UnixMs;
use crate::context;
use crate::limits::COMMIT_RETRIES_MAX;
use crate::model::Request;
use crate::store::{self, Account, Commit, CommitError, End, MailRow, Owner, StatusChange};
use crate::telemetry::traces::{RunSpan, ToolStart};
use crate::tools::registry::Target;
use crate::tools::{Invocation, LeaseGuard, Resumption, key};

/// Why a driver stopped. In every case but `Finished` the journal tells the next worker how to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The run is over.
    Finished,
    /// Nothing but waits is under way; the store wakes the task.
    Suspended,
    /// Given back at a step boundary, because the process shuts down.
    Released,
    /// Another worker holds the task.
    Fenced,
    /// The store cannot be written; the lease runs out and another worker tries.
    Store,
}

/// One run under one epoch. It lives in a box, and what it does in passing is boxed for as long as it takes: thousands of
/// runs wait at once, and a future is as large as the largest thing that it may come to do.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) task: String,
    pub(super) owner: Owner,
    pub(super) held: Arc<Held>,
    pub(super) seq: u64,
    pub(super) run: Box<Core>,
    pub(super) transcript: Transcript,
    pub(super) account: Account,
    /// Times that the task was run anew or resumed before.
    pub(super) lives: u32,
    pub(super) failure: Option<ModelSaid>,
    /// Newest mail that was read.
    pub(super) mail_seen: i64,
    /// Signals that came before anybody waited for them.
    pub(super) early: Vec<MailRow>,
    /// Mail that fits nothing; the next commit removes it.
    pub(super) dropped: Vec<i64>,
    /// When the present turn of calls began.
    pub(super) turn_began: UnixMs,
    /// This worker's stretch of the run, in the trace.
    pub(super) span: RunSpan,
    pub(super) live: Arc<LiveRun>,
    pub(super) under_way: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Driver {
    /// Goes on until the run ends, rests or is lost.
    pub(super) async fn drive(mut self: Box<Self>, first: Vec<Occurrence>) -> Stop {
        let span = self.span.log_span();
        async move {
            self.held.waits.are(self.waits());
            let stop = if first.is_empty() { self.resting() } else { self.happen(first).await };
            self.go_on(stop).await
        }
        .instrument(span)
        .await
    }

    /// Performs what a first commit, made with the submission, already asked for.
    pub(super) async fn drive_committed(mut self: Box<Self>, steps: Vec<Step>) -> Stop {
        let span = self.span.log_span();
        async move {
            let stop = Box::pin(self.settle_in(steps)).await;
            self.go_on(stop).await
        }
        .instrument(span)
        .await
    }

    async fn go_on(mut self: Box<Self>, mut stop: Option<Stop>) -> Stop {
        let stop = loop {
            match stop {
                Some(stop) => break stop,
                None => stop = self.next().await,
            }
        };
        self.shared.live.close(&self.task, &self.live);
        observe::ended(*self, stop);
        stop
    }

    /// Waits for the next thing to happen, and takes it.
    async fn next(&mut self) -> Option<Stop> {
        let deadline = self.run.poll_at();
        let now = self.shared.clock.now_ms();
        let sleep = deadline.map(|at| Duration::from_millis(at.saturating_sub(now)));
        let held = Arc::clone(&self.held);
        tokio::select! {
            biased;
            () = held.lost.cancelled() => Some(Stop::Fenced),
            () = held.mail.notified() => Box::pin(self.read_mail()).await,
            Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.take(done)?.await,
            () = sleep_for(sleep), if sleep.is_some() => {
                self.happen(vec![Occurrence::new(Event::TimerFired, Payload::TimerFired)]).await
            }
            () = self.shared.drain.cancelled(), if self.under_way.is_empty() => self.release().await,
        }
    }

    fn take(&mut self, done: Done) -> Option<BoxFuture<'_, Option<Stop>>> {
        let occurrence = match done {
            Done::Model { attempt, result, streamed, began, took } => {
                let occurrence = outcome::of_model(self, attempt, result, &Seen { streamed, began }, took);
                self.live.end();
                occurrence
            }
            Done::Call { call, attempt, result, took } => outcome::of_call(self, call, attempt, result, took)?,
            Done::Compaction => outcome::no_summary(),
        };
        Some(self.happen(vec![occurrence]))
    }

    /// Steps the core through what happened, commits, and performs what follows.
    pub(super) fn happen(&mut self, occurrences: Vec<Occurrence>) -> BoxFuture<'_, Option<Stop>> {
        Box::pin(self.take_in(occurrences))
    }

    async fn take_in(&mut self, occurrences: Vec<Occurrence>) -> Option<Stop> {
        let now = self.shared.clock.now_ms();
        let mut steps = match self.step_all(occurrences, &[], now) {
            Ok(steps) => steps,
            Err(refusal) => return self.refused(refusal).await,
        };
        if steps.is_empty() {
            return None;
        }
        match self.commit(&steps, now).await {
            Ok(()) => {}
            Err(CommitError::Budget { scope, spender }) => {
                match Box::pin(self.refuse(steps, scope, spender, now)).await {
                    Ok(committed) => steps = committed,
                    Err(stop) => return stop,
                }
            }
            Err(error) => return Some(self.lost(&error)),
        }
        self.settle_in(steps).await
    }

    /// A shared budget refused: the same again, with a refusal in the place of the grant that it does not carry. Each round
    /// refuses one more.
    async fn refuse(
        &mut self,
        mut steps: Vec<Step>,
        mut scope: String,
        mut spender: store::Spender,
        now: UnixMs,
    ) -> Result<Vec<Step>, Option<Stop>> {
        let mut refused = Vec::new();
        loop {
            let whose = account::of_store(spender);
            let needs = detail::reserved(&steps, whose);
            let short = detail::short(&self.shared, &self.owner, needs, &scope).await;
            let told = (spender != store::Spender::Model).then_some(spender);
            refused.push((whose, Payload::BudgetRefused { scope, short, spender: told }));
            // What came of the grants is not true: they end here, and what happened is stepped anew.
            let asked = |step: &Step| {
                matches!(step.occurrence.event, Event::BudgetGranted { .. } | Event::BudgetRefused { .. })
            };
            let occurrences = steps.into_iter().filter(|step| !asked(step)).map(|step| step.occurrence).collect();
            steps = match self.step_all(occurrences, &refused, now) {
                Ok(steps) => steps,
                Err(refusal) => return Err(self.refused(refusal).await),
            };
            match self.commit(&steps, now).await {
                Ok(()) => return Ok(steps),
                Err(CommitError::Budget { scope: again, spender: whom }) => (scope, spender) = (again, whom),
                Err(error) => return Err(Some(self.lost(&error))),
            }
        }
    }

    /// Steps through `occurrences`, through early signals that a new wait takes, and through the grants of reservations,
    /// which the commit itself makes true or refuses; `refused` are those of which that is known.
    pub(super) fn step_all(
        &self,
        occurrences: Vec<Occurrence>,
        refused: &[(mote_core::Spender, Payload)],
        now: UnixMs,
    ) -> Result<Vec<Step>, mote_core::Refusal> {
        let mut steps = step_from(*self.run, occurrences, now)?;
        while let Some(occurrence) = self.early_signal(&steps) {
            let run = steps.last().map_or(*self.run, |step| step.run);
            steps.extend(step_from(run, vec![occurrence], now)?);
        }
        while let Some(spender) = self.asks(&steps) {
            let last = steps.last().map_or(*self.run, |step| step.run);
            let answer = match refused.iter().find(|(whose, _)| *whose == spender) {
                Some((_, payload)) => Occurrence::new(Event::BudgetRefused { spender }, payload.clone()),
                None => {
                    let available = self.shared.provider.available();
                    let told = (spender != mote_core::Spender::Model).then_some(account::stored(spender));
                    let payload = Payload::BudgetGranted { spender: told };
                    Occurrence::new(Event::BudgetGranted { spender, available }, payload)
                }
            };
            steps.extend(step_from(last, vec![answer], now)?);
        }
        Ok(steps)
    }

    /// Whose reservation `steps` leave to be granted; none where what it is for is left to the next worker.
    fn asks(&self, steps: &[Step]) -> Option<mote_core::Spender> {
        let run = steps.last().map_or(&*self.run, |step| &step.run);
        if self.holds_back() || matches!(run.phase(), Phase::Finished(_)) {
            return None;
        }
        run.reservations_asked().next()
    }

    /// Whether the next model call is left to the next worker.
    pub(super) fn holds_back(&self) -> bool {
        self.shared.drain.is_cancelled()
    }

    async fn commit(&mut self, steps: &[Step], now: UnixMs) -> Result<(), CommitError> {
        let batch = self.batch(steps, now);
        // Until this is settled in, nobody else can know what the run waits for.
        self.held.waits.unknown();
        let finishes = matches!(batch.status, StatusChange::Finished(_));
        crate::crash::point(if finishes { "finish.before_commit" } else { "run.before_commit" });
        let began = tokio::time::Instant::now();
        let commit = Commit { task: self.task.clone(), epoch: self.held.epoch, expected_seq: self.seq, now, batch };
        let mut tries = 0;
        loop {
            match self.shared.store.commit(commit.clone()).await {
                Err(CommitError::Store(error)) if tries < COMMIT_RETRIES_MAX && is_passing(&error) => {
                    tries += 1;
                    tracing::warn!(task_id = self.task, %error, tries, "the store is busy; trying again");
                    tokio::time::sleep(Duration::from_millis(50 << tries)).await;
                }
                Ok(()) => {
                    self.dropped.clear();
                    observe::committed(&self.shared, began.elapsed());
                    crate::crash::point(if finishes { "finish.after_commit" } else { "run.after_commit" });
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The steps are durable: takes them over and performs what they asked for.
    async fn settle_in(&mut self, steps: Vec<Step>) -> Option<Stop> {
        self.seq += u64::try_from(steps.len()).unwrap_or(u64::MAX);
        for step in steps {
            step.spending.iter().for_each(|spending| self.account.book(spending));
            // Before the transcript closes the turn: what is told names the calls of it.
            observe::step(self, &step);
            *self.run = step.run;
            self.transcript.apply(&step.occurrence.event, &step.occurrence.payload, &step.actions, &self.run);
            self.note(&step.occurrence.event, &step.occurrence.payload, step.run.now());
            self.early.retain(|row| step.occurrence.mail != Some(row.id));
            for action in step.actions.iter() {
                if let Some(stop) = self.perform(action) {
                    return Some(stop);
                }
            }
        }
        if self.run.is_suspended() {
            return Some(Stop::Suspended);
        }
        self.held.waits.are(self.waits());
        if self.holds_back() && self.under_way.is_empty() { self.release().await } else { None }
    }

    fn perform(&mut self, action: Action) -> Option<Stop> {
        let acts = matches!(action, Action::CallModel { .. } | Action::CallTool { .. } | Action::ResumeCall { .. });
        if acts && !self.lease_holds() {
            return Some(Stop::Fenced);
        }
        match action {
            Action::CallModel { step, attempt, endpoint, from, output } => {
                self.call_model(step, attempt, endpoint, from, output);
            }
            Action::CallTool { call, attempt } => self.call_tool(call, attempt, None),
            Action::ResumeCall { call, attempt } => {
                let resumption = self.transcript.resumption(call);
                self.call_tool(call, attempt, resumption);
            }
            Action::Compact { from, through, attempt, output: _ } => self.compact(from, through, attempt),
            Action::Finish { .. } => return Some(Stop::Finished),
            // The commit itself carried these out, or a client does; a rest may be over by the batch's last step.
            Action::Settle { .. }
            | Action::Conclude { .. }
            | Action::Ask { .. }
            | Action::Reserve { .. }
            | Action::Suspend { .. } => {}
        }
        None
    }

    /// Whether this worker's lease is still good: one that was paused must not act on what it once committed.
    fn lease_holds(&self) -> bool {
        self.held.is_good(&*self.shared.clock)
    }

    /// The same question, for whoever is about to send a request.
    fn lease_guard(&self) -> LeaseGuard {
        let (held, clock) = (Arc::clone(&self.held), Arc::clone(&self.shared.clock));
        LeaseGuard::new(move || held.is_good(&*clock))
    }

    fn call_model(&mut self, step: u32, attempt: u16, endpoint: u8, from: u32, output: u32) {
        let agent = &self.shared.agent;
        let request = Request {
            system: context::system(&self.shared.prompt, self.run.context().folded_units()),
            messages: self.transcript.packet(from),
            tools: Arc::clone(&self.shared.definitions),
            output_schema: self.shared.output_schema.clone(),
            output_tokens_max: output,
            task: self.task.clone(),
            step,
            attempt: attempt.into(),
            endpoint,
            traceparent: None,
        };
        let model = agent.models.get(usize::from(endpoint)).unwrap_or(&agent.models[0]);
        let span = self.span.model_call(model.provider.kind(), &model.name, &model.base_url, &request);
        let request = Request { traceparent: span.traceparent(), ..request };
        let observer = self.observer(span);
        let provider = Arc::clone(&self.shared.provider);
        self.under_way.push(perform::model_call(provider, request, attempt, Arc::clone(&self.live), observer));
    }

    /// Nothing summarises yet: the run's bounds ask for no summary, and one that is asked for all the same has failed.
    fn compact(&mut self, from: u32, through: u32, attempt: u16) {
        tracing::warn!(from, through, attempt, "there is no summariser; the context is trimmed");
        self.under_way.push(Box::pin(std::future::ready(Done::Compaction)));
    }

    fn call_tool(&mut self, call: u16, attempt: u16, resumption: Option<Resumption>) {
        let Some(named) = self.transcript.call(call) else { return };
        let Some(Target::Tool(tool)) = self.shared.registry.get(&named.name).map(|binding| &binding.target) else {
            return;
        };
        let Some(key) = self.key(call) else { return };
        let arguments = arguments::read(&named.arguments).map(Value::Object).unwrap_or_default();
        let definition = tool.definition();
        let span = self.span.tool_call(&ToolStart {
            name: &definition.name,
            description: &definition.description,
            call_id: &named.id,
            step: self.run.steps(),
            attempt: attempt.into(),
            effect: tool.effect(),
            arguments: &arguments,
        });
        let invocation = Invocation {
            task: self.task.clone(),
            tenant: self.owner.tenant.clone(),
            session: self.owner.session.clone(),
            call_id: named.id.clone(),
            key,
            arguments,
            attempt: attempt.into(),
            traceparent: span.traceparent(),
            lease: self.lease_guard(),
        };
        let observer = self.observer(span);
        self.under_way.push(perform::tool_call(Arc::clone(tool), invocation, resumption, call, observer));
    }

    fn observer<S>(&self, span: S) -> Observer<S> {
        let provider = self.shared.agent.models[0].provider.kind();
        let content = self.shared.agent.telemetry.content;
        Observer { span, metrics: Arc::clone(&self.shared.metrics), provider, content }
    }

    /// Idempotency key of a call of the present turn; none for a built-in.
    pub(super) fn key(&self, call: u16) -> Option<String> {
        let spec = self.run.calls().get(usize::from(call))?.spec;
        let named = self.transcript.call(call)?;
        matches!(spec.kind, CallKind::Tool { .. })
            .then(|| self.call_key(self.run.steps(), call, &named.name, &named.arguments))
            .flatten()
    }

    pub(super) fn call_key(&self, step: u32, call: u16, name: &str, arguments: &str) -> Option<String> {
        let arguments = Value::Object(arguments::read(arguments).ok()?);
        Some(key::idempotency_key(&self.task, step, call.into(), name, &arguments))
    }

    /// What a driver does that begins with nothing to say: a run that rests stays at rest.
    fn resting(&self) -> Option<Stop> {
        matches!(self.run.phase(), Phase::Finished(_)).then_some(Stop::Finished)
    }

    /// Goes back to rest: what woke the task was nothing that it waits for.
    pub(super) async fn rest(&mut self) -> Option<Stop> {
        let now = self.shared.clock.now_ms();
        match self.commit(&[], now).await {
            Ok(()) => Some(Stop::Suspended),
            Err(error) => Some(self.lost(&error)),
        }
    }

    /// Removes mail that fits nothing while the run goes on.
    pub(super) async fn forget_dropped(&mut self) -> Option<Stop> {
        let now = self.shared.clock.now_ms();
        match self.commit(&[], now).await {
            Ok(()) => {
                self.held.waits.are(self.waits());
                None
            }
            Err(error) => Some(self.lost(&error)),
        }
    }

    /// Gives the task back at a step boundary.
    async fn release(&mut self) -> Option<Stop> {
        self.shared.give_back(&self.task, self.held.epoch).await;
        Some(Stop::Released)
    }

    /// The core refused an event: nothing of it happened. That is an error of ours, and the run does not guess on.
    async fn refused(&mut self, refusal: mote_core::Refusal) -> Option<Stop> {
        tracing::error!(task_id = self.task, %refusal, "the core refused an event; the task fails");
        let error = ending::error("internal", format!("the core refused an event: {refusal}"));
        fail(&self.shared, &self.task, self.held.epoch, self.seq, error).await
    }

    fn lost(&self, error: &CommitError) -> Stop {
        match error {
            // At the drain's deadline this process gave the task up itself.
            CommitError::Fenced { .. } if self.held.lost.is_cancelled() => Stop::Fenced,
            CommitError::Fenced { .. } | CommitError::Sequence { .. } => {
                observe::lease_lost(&self.shared);
                tracing::warn!(task_id = self.task, %error, "another worker holds the task; nothing was committed");
                Stop::Fenced
            }
            CommitError::Budget { .. } | CommitError::Store(_) => {
                tracing::error!(task_id = self.task, %error, "failed to commit; the task is left to its lease");
                Stop::Store
            }
        }
    }
}

/// Steps a copy of the run through `occurrences`.
pub(super) fn step_from(
    mut run: Core,
    occurrences: Vec<Occurrence>,
    now: UnixMs,
) -> Result<Vec<Step>, mote_core::Refusal> {
    let step = |occurrence: Occurrence| {
        let before = run;
        let actions = run.step(now, &occurrence.event)?;
        let spending = account::spending(&before, &occurrence.event, &actions, &occurrence.payload);
        Ok(Step { occurrence, actions, run, spending })
    };
    occurrences.into_iter().map(step).collect()
}

/// Ends a task without its core: for a journal that cannot be replayed. It goes to the dead letters.
pub(super) async fn fail(shared: &Shared, task: &str, epoch: u64, seq: u64, error: store::TaskError) -> Option<Stop> {
    let now = shared.clock.now_ms();
    let mut batch = empty();
    batch.status = StatusChange::Finished(End::broken(error));
    let commit = Commit { task: task.to_owned(), epoch, expected_seq: seq, now, batch };
    match shared.store.commit(commit).await {
        Ok(()) => Some(Stop::Finished),
        Err(error) => {
            tracing::error!(task_id = task, %error, "failed to end a task that cannot go on");
            Some(Stop::Store)
        }
    }
}

fn is_passing(error: &store::Error) -> bool {
    matches!(error, store::Error::Overloaded { .. } | store::Error::Locked { .. })
}

async fn sleep_for(duration: Option<Duration>) {
    if let Some(duration) = duration {
        tokio::time::sleep(duration).await;
    }
}
