//! The state machine: every state is left by every event in the one exhaustive match of `Run::apply`. It performs
//! nothing, and a refused event leaves it exactly as it was.

mod act;
mod attempts;
mod compact;
mod plan;
mod resume;
mod wait;

use self::attempts::{Attempts, Failed, Interruptions};
use self::compact::Compaction;
use self::resume::Resumption;
use crate::journal::CORE;
use crate::{
    Action, Actions, Array, Budget, CallSpec, Change, Context, Cost, ENDPOINTS_MAX, Event, Failure, Full, Limits,
    Outcome, Spend, Spender, TURNS_REMEMBERED, Time, Wait,
};

/// Where a run stands: plan (`Compacting`, `Reserving`, `Thinking`, `BackingOff`), act and observe (`Acting`), or an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing happened yet.
    New,
    /// Bounds are known, the context is being loaded.
    Open,
    /// A model call waits for the summary that makes the context fit.
    Compacting {
        /// The attempt that waits, from 1.
        attempt: u16,
    },
    /// A model call waits for its reservation.
    Reserving {
        /// The attempt that the reservation is for, from 1.
        attempt: u16,
        /// Largest reply.
        output: u32,
    },
    /// A model call is under way.
    Thinking {
        /// The attempt, from 1.
        attempt: u16,
        /// The endpoint, by its place in the chain.
        endpoint: u8,
    },
    /// A model call failed and is to be tried again.
    BackingOff {
        /// The next attempt.
        attempt: u16,
        /// When.
        until: Time,
    },
    /// Calls of tools are under way, or waited for.
    Acting,
    /// Over.
    Finished(Outcome),
}

/// One attempt at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Which, from 1.
    pub number: u16,
    /// When the first attempt began.
    pub since: Time,
    /// Whether an earlier attempt may have been performed.
    pub doubt: bool,
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallState {
    /// To be made as soon as a place is free.
    #[default]
    Queued,
    /// An attempt waits for its reservation.
    Reserving(Attempt),
    /// An attempt is under way.
    Running(Attempt),
    /// An attempt failed; another follows.
    BackingOff {
        /// The next attempt.
        next: Attempt,
        /// When it may begin.
        until: Time,
    },
    /// Waits, and holds nothing.
    Waiting {
        /// For what.
        wait: Wait,
        /// When it ends at the latest, or is asked after; 0 is never.
        until: Time,
        /// The attempt that is suspended; none where the call is the wait, or waits to be approved first.
        attempt: Option<Attempt>,
    },
    /// A suspended attempt goes on as soon as a place is free.
    Ready(Attempt),
    /// Its result is known.
    Done,
}

/// A call of the present turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// What it asks for.
    pub spec: CallSpec,
    /// Where it stands.
    pub state: CallState,
    /// Of its attempts, those that were lost with their worker.
    pub lost: u16,
    /// Whether its reservation is open.
    pub reserved: bool,
}

/// Why an event was refused. The run is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The event makes no sense in the run's phase.
    Unexpected,
    /// The run is over.
    Finished,
    /// There is no such call in this turn, or it does not wait for this event.
    Call(u16),
    /// The journal asks for more than this build has.
    Capacity {
        /// `units` or `calls`.
        what: &'static str,
        /// What it asks for.
        asked: u32,
        /// What this build has.
        has: u32,
    },
    /// A newer state machine opened the run.
    Core {
        /// Its version.
        asked: u16,
    },
    /// A reply ended in calls but carries none.
    NoCalls,
    /// More actions than one step may ask for: an error in this crate.
    ActionsFull,
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unexpected => f.write_str("the event makes no sense in the run's phase"),
            Self::Finished => f.write_str("the run is over"),
            Self::Call(call) => write!(f, "call {call} of this turn does not wait for this event"),
            Self::Capacity { what, asked, has } => {
                write!(f, "the run asks for {asked} {what}, this build has {has}")
            }
            Self::Core { asked } => {
                write!(f, "the run was opened by core {asked:#06x}, this build has {CORE:#06x}; use a newer one")
            }
            Self::NoCalls => f.write_str("the reply ended in calls but carries none"),
            Self::ActionsFull => f.write_str("one step asked for too many actions"),
        }
    }
}

impl core::error::Error for Refusal {}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::ActionsFull
    }
}

/// One run, of constant size. `UNITS` is the most context units, `CALLS` the most calls of one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<const UNITS: usize, const CALLS: usize> {
    phase: Phase,
    /// Version of the state machine that opened it.
    core: u16,
    limits: Limits,
    digest: [u8; 32],
    now: Time,
    step: u32,
    tool_calls: u32,
    repairs: u16,
    attempts: Attempts,
    interruptions: Interruptions,
    resumption: Resumption,
    active_ms: u64,
    budget: Budget,
    context: Context<UNITS>,
    compaction: Compaction,
    calls: Array<Call, CALLS>,
    turns: Array<u64, TURNS_REMEMBERED>,
}

impl<const UNITS: usize, const CALLS: usize> Default for Run<UNITS, CALLS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const UNITS: usize, const CALLS: usize> Run<UNITS, CALLS> {
    /// A run to which nothing has happened.
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Phase::New,
            core: CORE,
            limits: Limits::default(),
            digest: [0; 32],
            now: 0,
            step: 0,
            tool_calls: 0,
            repairs: 0,
            attempts: Attempts::default(),
            interruptions: Interruptions::default(),
            resumption: Resumption::None,
            active_ms: 0,
            budget: Budget::default(),
            context: Context::new(),
            compaction: Compaction::default(),
            calls: Array::new(),
            turns: Array::new(),
        }
    }

    /// Takes what happened at `now` and returns what to do next.
    ///
    /// # Errors
    /// A [`Refusal`] for an event that makes no sense now; the run is then as it was.
    pub fn step(&mut self, now: Time, event: &Event<CALLS>) -> Result<Actions<CALLS>, Refusal> {
        let mut next = *self;
        next.pass_time(now, event);
        let mut actions = Actions::default();
        next.apply(event, &mut actions)?;
        if next.is_suspended() {
            actions.push(Action::Suspend { until: next.poll_at().unwrap_or(0) })?;
        }
        *self = next;
        Ok(actions)
    }

    /// When [`Event::TimerFired`] is due at the latest, if ever.
    #[must_use]
    pub fn poll_at(&self) -> Option<Time> {
        if matches!(self.phase, Phase::New | Phase::Open | Phase::Finished(_)) {
            return None;
        }
        let expiry = (self.limits.expires_at != 0).then_some(self.limits.expires_at);
        let active =
            self.is_active().then(|| self.now.saturating_add(self.limits.active_ms.saturating_sub(self.active_ms)));
        let own = match self.phase {
            Phase::BackingOff { until, .. } => Some(until),
            Phase::Acting => self.next_call_time(),
            _ => None,
        };
        [expiry, active, own, self.compaction.until()].into_iter().flatten().min()
    }

    fn pass_time(&mut self, now: Time, event: &Event<CALLS>) {
        let now = now.max(self.now);
        // Time in which no worker held the run is nobody's work.
        let unattended = matches!(event, Event::Recovered | Event::Rebound { .. } | Event::Resumed { .. });
        if unattended {
            self.attempts.unattended(now - self.now);
        } else if self.is_active() {
            self.active_ms = self.active_ms.saturating_add(now - self.now);
        }
        self.now = now;
    }

    fn is_active(&self) -> bool {
        match self.phase {
            Phase::New | Phase::Open | Phase::Finished(_) => false,
            Phase::Compacting { .. } | Phase::Reserving { .. } | Phase::Thinking { .. } => true,
            Phase::BackingOff { .. } | Phase::Acting => !self.is_suspended(),
        }
    }

    #[rustfmt::skip]
    fn apply(&mut self, event: &Event<CALLS>, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        use Phase::{Acting, BackingOff, Compacting, Finished, New, Open, Reserving, Thinking};
        use Spender::{Call, Model, Summary};
        match (self.phase, event) {
            (New, Event::Opened { core, limits, digest }) => self.open(*core, limits, digest),
            (Open, Event::Loaded { tokens }) => { self.context.push(*tokens, self.limits.units); Ok(()) }
            (Open, Event::Started { tokens }) => { self.context.set_input(*tokens); self.plan(actions) }

            (Reserving { attempt, output }, Event::BudgetGranted { spender: Model, available }) => {
                self.think(attempt, output, *available, actions)
            }
            (Reserving { .. }, Event::BudgetRefused { spender: Model }) => {
                self.budget.release(Model, Spend::default());
                self.finish(Outcome::Failed(Failure::BudgetShared), actions)
            }

            (Thinking { .. }, Event::ModelReplied { spend, tokens, finish, calls }) => {
                self.reply(*spend, *tokens, *finish, calls, actions)
            }
            (Thinking { attempt, endpoint }, Event::ModelFailed { failure, cost, retry_after_ms, jitter, available }) => {
                self.settle(Model, *cost, actions)?;
                let (failure, retry_after_ms, jitter, available) = (*failure, *retry_after_ms, *jitter, *available);
                self.model_failed(Failed { attempt, endpoint, failure, retry_after_ms, jitter, available }, actions)
            }

            (Acting, Event::BudgetGranted { spender: Call { call }, .. }) => self.call_granted(*call, actions),
            (Acting, Event::BudgetRefused { spender: Call { call } }) => self.call_refused(*call, actions),
            (Acting, Event::CallAnswered { call, tokens, is_error: _, cost }) => {
                self.call_answered(*call, *tokens, *cost, actions)
            }
            (Acting, Event::CallFailed { call, failure, retry_after_ms, jitter, cost }) => {
                self.settle_call(*call, *cost, actions)?;
                self.call_failed(*call, *failure, *retry_after_ms, *jitter, actions)
            }
            (Acting, Event::CallSuspended { call, wait, until }) => self.call_suspended(*call, *wait, *until, actions),
            (Acting, Event::CallWoken { call }) => self.call_woken(*call, actions),
            (Acting, Event::Signalled { call, tokens }) => self.signalled(*call, *tokens, actions),
            (Acting, Event::Approved { call }) => self.approved(*call, actions),
            (Acting, Event::Denied { call }) => self.denied(*call, actions),
            (Acting, Event::Replied { call, tokens }) => self.replied(*call, *tokens, actions),

            (Compacting { .. } | Reserving { .. } | Thinking { .. } | BackingOff { .. } | Acting, event) => match event {
                Event::BudgetGranted { spender: Summary, .. } => self.summarise(actions),
                Event::BudgetRefused { spender: Summary } => self.summary_refused(actions),
                Event::Compacted { through, tokens, cost } => self.compacted(*through, *tokens, *cost, actions),
                Event::CompactionFailed { cost, retry_after_ms, jitter, last } => {
                    self.compaction_failed(*cost, *retry_after_ms, *jitter, *last, actions)
                }
                Event::TimerFired => self.timer(actions),
                Event::Recovered => self.recovered(actions),
                Event::Cancelled { spend } => self.cancelled(*spend, actions),
                Event::Rebound { digest, change } => self.rebound(digest, *change, actions),
                Event::Resumed { limits, digest } => self.resumed(limits, digest, actions),
                Event::Opened { .. } | Event::Loaded { .. } | Event::Started { .. }
                | Event::BudgetGranted { spender: Model | Call { .. }, .. }
                | Event::BudgetRefused { spender: Model | Call { .. } }
                | Event::ModelReplied { .. } | Event::ModelFailed { .. } | Event::CallAnswered { .. }
                | Event::CallFailed { .. } | Event::CallSuspended { .. } | Event::CallWoken { .. }
                | Event::Signalled { .. } | Event::Approved { .. } | Event::Denied { .. }
                | Event::Replied { .. } => Err(Refusal::Unexpected),
            },

            (Open, Event::Recovered) => Ok(()),
            (Open, Event::Cancelled { spend }) => self.cancelled(*spend, actions),
            (Open, Event::Rebound { digest, change }) => self.rebound(digest, *change, actions),
            (Finished(_), Event::Resumed { limits, digest }) => self.resumed(limits, digest, actions),

            (New, Event::Loaded { .. } | Event::Started { .. } | Event::Recovered | Event::Cancelled { .. } | Event::Rebound { .. })
            | (Open, Event::Opened { .. })
            | (New | Open, Event::BudgetGranted { .. } | Event::BudgetRefused { .. } | Event::ModelReplied { .. }
                | Event::ModelFailed { .. } | Event::CallAnswered { .. } | Event::CallFailed { .. }
                | Event::CallSuspended { .. } | Event::CallWoken { .. } | Event::TimerFired | Event::Signalled { .. }
                | Event::Approved { .. } | Event::Denied { .. } | Event::Replied { .. } | Event::Compacted { .. }
                | Event::CompactionFailed { .. } | Event::Resumed { .. }) => Err(Refusal::Unexpected),

            (Finished(_), Event::Opened { .. } | Event::Loaded { .. } | Event::Started { .. }
                | Event::BudgetGranted { .. } | Event::BudgetRefused { .. } | Event::ModelReplied { .. }
                | Event::ModelFailed { .. } | Event::CallAnswered { .. } | Event::CallFailed { .. }
                | Event::CallSuspended { .. } | Event::CallWoken { .. } | Event::TimerFired | Event::Signalled { .. }
                | Event::Approved { .. } | Event::Denied { .. } | Event::Replied { .. } | Event::Compacted { .. }
                | Event::CompactionFailed { .. } | Event::Cancelled { .. } | Event::Recovered
                | Event::Rebound { .. }) => Err(Refusal::Finished),
        }
    }

    fn check_capacity(&self, limits: &Limits) -> Result<(), Refusal> {
        let check = |what, asked: u16, has: usize| {
            let has = u32::try_from(has).unwrap_or(u32::MAX);
            if u32::from(asked) > has { Err(Refusal::Capacity { what, asked: asked.into(), has }) } else { Ok(()) }
        };
        check("units", limits.units, UNITS)?;
        check("endpoints", limits.endpoints, ENDPOINTS_MAX)?;
        check("calls", limits.calls, CALLS)
    }

    fn open(&mut self, core: u16, limits: &Limits, digest: &[u8; 32]) -> Result<(), Refusal> {
        if core > CORE {
            return Err(Refusal::Core { asked: core });
        }
        self.check_capacity(limits)?;
        self.core = core;
        self.limits = *limits;
        self.digest = *digest;
        self.phase = Phase::Open;
        Ok(())
    }

    fn timer(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let expired = self.limits.expires_at != 0 && self.now >= self.limits.expires_at;
        if expired || (self.is_active() && self.active_ms >= self.limits.active_ms) {
            let failure = if expired { Failure::Expired } else { Failure::Active };
            return self.abandon(Outcome::Failed(failure), actions);
        }
        self.summary_due(actions)?;
        match self.phase {
            Phase::BackingOff { attempt, until } if until <= self.now => self.backed_off(attempt, until, actions),
            Phase::Acting => self.calls_due(actions),
            Phase::New
            | Phase::Open
            | Phase::Compacting { .. }
            | Phase::Reserving { .. }
            | Phase::Thinking { .. }
            | Phase::BackingOff { .. }
            | Phase::Finished(_) => Ok(()),
        }
    }

    fn rebound(&mut self, digest: &[u8; 32], change: Change, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.digest = *digest;
        match change {
            Change::Continue => Ok(()),
            Change::Fail | Change::PendingCall => self.abandon(Outcome::Failed(Failure::CapabilitiesChanged), actions),
        }
    }

    /// Another worker took over: what was under way is lost, each in its own way.
    fn recovered(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.summary_lost(actions)?;
        match self.phase {
            Phase::Reserving { .. } => self.ask_reservation(actions),
            Phase::Thinking { attempt, .. } => self.model_call_lost(attempt, actions),
            Phase::Acting => self.calls_lost(actions),
            Phase::New | Phase::Open | Phase::Compacting { .. } | Phase::BackingOff { .. } | Phase::Finished(_) => {
                Ok(())
            }
        }
    }

    fn cancelled(&mut self, spend: Spend, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if matches!(self.phase, Phase::Thinking { .. }) {
            // What had streamed in is an estimate.
            self.settle(Spender::Model, Cost { spend, uncertain: true }, actions)?;
        }
        self.finish(Outcome::Cancelled, actions)
    }

    /// Ends the run whatever is under way; a model call under way counts as its whole reservation.
    fn abandon(&mut self, outcome: Outcome, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if matches!(self.phase, Phase::Thinking { .. }) {
            self.forfeit_model(actions)?;
        }
        self.finish(outcome, actions)
    }

    fn finish(&mut self, outcome: Outcome, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.cut_off(actions)?;
        self.end_summary(actions)?;
        self.budget.release(Spender::Model, Spend::default());
        self.resumption = Resumption::of(self.phase);
        self.phase = Phase::Finished(outcome);
        Ok(actions.push(Action::Finish { outcome })?)
    }

    /// Books what the model or a summary cost.
    fn settle(&mut self, spender: Spender, cost: Cost, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.budget.settle(spender, Spend::default(), cost);
        Self::booked(spender, cost, actions)
    }

    fn booked(spender: Spender, cost: Cost, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let Cost { spend, uncertain } = cost;
        let (tokens, nano_usd) = (spend.tokens(), spend.nano_usd);
        Ok(actions.push(Action::Settle { spender, tokens, nano_usd, uncertain })?)
    }

    /// Settles a model call of which nothing is known at its whole reservation.
    fn forfeit_model(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let spend = self.budget.model_reservation();
        self.settle(Spender::Model, Cost { spend, uncertain: true }, actions)
    }

    /// Version of the state machine that opened it.
    #[must_use]
    pub fn core(&self) -> u16 {
        self.core
    }

    /// Where the run stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Digest of the capability set that it runs under.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The latest time that it was told.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Model steps so far.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.step
    }

    /// Tool calls so far.
    #[must_use]
    pub fn tool_calls(&self) -> u32 {
        self.tool_calls
    }

    /// Working time so far, ms.
    #[must_use]
    pub fn active_ms(&self) -> u64 {
        self.active_ms
    }

    /// Its own account.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Its context, as sizes.
    #[must_use]
    pub fn context(&self) -> &Context<UNITS> {
        &self.context
    }

    /// Whose reservations are asked for and neither granted nor refused, the model's first.
    pub fn reservations_asked(&self) -> impl Iterator<Item = Spender> + '_ {
        let model = matches!(self.phase, Phase::Reserving { .. }).then_some(Spender::Model);
        let summary = self.compaction.is_reserving().then_some(Spender::Summary);
        let calls = (0..).zip(self.calls()).filter(|(_, call)| matches!(call.state, CallState::Reserving(_)));
        model.into_iter().chain(summary).chain(calls.map(|(call, _)| Spender::Call { call }))
    }

    /// Calls of the present turn.
    #[must_use]
    pub fn calls(&self) -> &[Call] {
        self.calls.as_slice()
    }
}
