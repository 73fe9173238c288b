//! The state machine: every state is left by every event in the one exhaustive match of `Run::apply`. It performs
//! nothing, and a refused event leaves it exactly as it was.

mod act;
mod attempts;
mod plan;
mod resume;

use self::attempts::{Attempts, Interruptions};
use self::resume::Resumption;
use crate::journal::{CORE, CORE_COUNTS_APART};
use crate::{
    Action, Actions, Array, Budget, CallSpec, Change, Context, Event, Failure, Full, Limits, Outcome, Spend,
    TURNS_REMEMBERED, Time,
};

/// Where a run stands: plan (`Reserving`, `Thinking`, `BackingOff`), act and observe (`Acting`), or an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing happened yet.
    New,
    /// Bounds are known, the context is being loaded.
    Open,
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

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallState {
    /// To be made as soon as a place is free.
    #[default]
    Queued,
    /// A person is asked.
    Approving,
    /// An attempt is under way.
    Running {
        /// The attempt, from 1.
        attempt: u16,
        /// When the first attempt began.
        since: Time,
        /// Whether an earlier attempt may have been performed.
        doubt: bool,
    },
    /// An attempt failed; another follows.
    BackingOff {
        /// The next attempt.
        attempt: u16,
        /// When the first attempt began.
        since: Time,
        /// Whether an earlier attempt may have been performed.
        doubt: bool,
        /// When the next one may begin.
        until: Time,
    },
    /// Waits for a signal, a time or a person.
    Waiting {
        /// When it ends at the latest; 0 is never.
        until: Time,
    },
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
    /// Version of the state machine that opened it: what a journal of an older one may lack, replay lets it lack.
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
        [expiry, active, own].into_iter().flatten().min()
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
            Phase::Reserving { .. } | Phase::Thinking { .. } => true,
            Phase::BackingOff { .. } | Phase::Acting => !self.is_suspended(),
        }
    }

    /// Whether attempts are counted by what befell them: not by the cores before.
    pub(super) fn counts_apart(&self) -> bool {
        self.core >= CORE_COUNTS_APART
    }

    #[rustfmt::skip]
    fn apply(&mut self, event: &Event<CALLS>, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        use Phase::{Acting, BackingOff, Finished, New, Open, Reserving, Thinking};
        match (self.phase, event) {
            (New, Event::Opened { limits, digest }) => self.open(limits, digest),
            (Open, Event::Loaded { tokens }) => { self.context.push(*tokens, self.limits.units); Ok(()) }
            (Open, Event::Started { tokens }) => { self.context.set_input(*tokens); self.plan(actions) }

            (Reserving { attempt, output }, Event::BudgetGranted) => self.think(attempt, output, actions),
            (Reserving { .. }, Event::BudgetRefused) => {
                self.budget.release();
                self.finish(Outcome::Failed(Failure::BudgetShared), actions)
            }
            (Reserving { .. }, Event::Recovered) => self.ask_reservation(actions),

            (Thinking { .. }, Event::ModelReplied { spend, tokens, finish, calls }) => {
                self.reply(*spend, *tokens, *finish, calls, actions)
            }
            (Thinking { attempt }, Event::ModelFailed { .. }) => self.model_call_failed(attempt, event, actions),
            (Thinking { attempt }, Event::Recovered) => self.model_call_lost(attempt, actions),

            (Acting, Event::CallAnswered { call, tokens, is_error: _ }) => self.call_answered(*call, *tokens, actions),
            (Acting, Event::CallFailed { call, failure, retry_after_ms, jitter }) => {
                self.call_failed(*call, *failure, *retry_after_ms, *jitter, actions)
            }
            (Acting, Event::Signalled { call, tokens }) => self.signalled(*call, *tokens, actions),
            (Acting, Event::Approved { call }) => self.approved(*call, actions),
            (Acting, Event::Denied { call }) => self.denied(*call, actions),
            (Acting, Event::Replied { call, tokens }) => self.replied(*call, *tokens, actions),
            (Acting, Event::Recovered) => self.calls_lost(actions),

            (Open | BackingOff { .. }, Event::Recovered) => Ok(()),
            (Reserving { .. } | Thinking { .. } | BackingOff { .. } | Acting | Finished(_),
                Event::Resumed { limits, digest }) => self.resumed(limits, digest, actions),
            (Reserving { .. } | Thinking { .. } | BackingOff { .. } | Acting, Event::TimerFired) => self.timer(actions),
            (Open | Reserving { .. } | Thinking { .. } | BackingOff { .. } | Acting, Event::Cancelled { spend }) => {
                if matches!(self.phase, Thinking { .. }) {
                    // What had streamed in is an estimate.
                    self.settle(*spend, self.counts_apart(), actions)?;
                }
                self.finish(Outcome::Cancelled, actions)
            }
            (Open | Reserving { .. } | Thinking { .. } | BackingOff { .. } | Acting, Event::Rebound { digest, change }) => {
                self.rebound(digest, *change, actions)
            }

            (New, Event::Loaded { .. } | Event::Started { .. } | Event::TimerFired | Event::Cancelled { .. }
                | Event::Recovered | Event::Rebound { .. } | Event::Resumed { .. })
            | (Open, Event::Opened { .. } | Event::TimerFired | Event::Resumed { .. })
            | (Reserving { .. } | Thinking { .. } | BackingOff { .. } | Acting,
                Event::Opened { .. } | Event::Loaded { .. } | Event::Started { .. })
            | (New | Open | Thinking { .. } | BackingOff { .. } | Acting, Event::BudgetGranted | Event::BudgetRefused)
            | (New | Open | Reserving { .. } | BackingOff { .. } | Acting,
                Event::ModelReplied { .. } | Event::ModelFailed { .. })
            | (New | Open | Reserving { .. } | Thinking { .. } | BackingOff { .. },
                Event::CallAnswered { .. } | Event::CallFailed { .. } | Event::Signalled { .. }
                | Event::Approved { .. } | Event::Denied { .. } | Event::Replied { .. }) => Err(Refusal::Unexpected),

            (Finished(_), Event::Opened { .. } | Event::Loaded { .. } | Event::Started { .. } | Event::BudgetGranted
                | Event::BudgetRefused | Event::ModelReplied { .. } | Event::ModelFailed { .. }
                | Event::CallAnswered { .. } | Event::CallFailed { .. } | Event::TimerFired | Event::Signalled { .. }
                | Event::Approved { .. } | Event::Denied { .. } | Event::Replied { .. } | Event::Cancelled { .. }
                | Event::Recovered | Event::Rebound { .. }) => Err(Refusal::Finished),
        }
    }

    fn check_capacity(&self, limits: &Limits) -> Result<(), Refusal> {
        let check = |what, asked: u16, has: usize| {
            let has = u32::try_from(has).unwrap_or(u32::MAX);
            if u32::from(asked) > has { Err(Refusal::Capacity { what, asked: asked.into(), has }) } else { Ok(()) }
        };
        check("units", limits.units, UNITS)?;
        check("calls", limits.calls, CALLS)
    }

    fn open(&mut self, limits: &Limits, digest: &[u8; 32]) -> Result<(), Refusal> {
        self.check_capacity(limits)?;
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
        match self.phase {
            Phase::BackingOff { attempt, until } if until <= self.now => self.backed_off(attempt, until, actions),
            Phase::Acting => self.calls_due(actions),
            Phase::New
            | Phase::Open
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

    /// Ends the run whatever is under way; a model call under way counts as its whole reservation.
    fn abandon(&mut self, outcome: Outcome, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        if matches!(self.phase, Phase::Thinking { .. }) {
            self.forfeit(actions)?;
        }
        self.finish(outcome, actions)
    }

    fn finish(&mut self, outcome: Outcome, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.cut_off(actions)?;
        self.budget.release();
        self.resumption = Resumption::of(self.phase);
        self.phase = Phase::Finished(outcome);
        Ok(actions.push(Action::Finish(outcome))?)
    }

    fn settle(&mut self, spend: Spend, uncertain: bool, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        self.budget.settle(spend, uncertain);
        Ok(actions.push(Action::Settle { tokens: spend.tokens(), nano_usd: spend.nano_usd, uncertain })?)
    }

    /// Settles a model call of which nothing is known at its whole reservation.
    fn forfeit(&mut self, actions: &mut Actions<CALLS>) -> Result<(), Refusal> {
        let uncertain = self.counts_apart();
        let reserved = self.budget.reservation();
        // Cores before 0x0003 booked all of it as known, and as input.
        let whole = Spend { input: reserved.tokens(), output: 0, nano_usd: reserved.nano_usd };
        self.settle(if uncertain { reserved } else { whole }, uncertain, actions)
    }

    /// Version of the state machine that opened it.
    #[must_use]
    pub fn core(&self) -> u16 {
        self.core
    }

    pub(crate) fn opened_by(&mut self, core: u16) {
        self.core = core;
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

    /// Calls of the present turn.
    #[must_use]
    pub fn calls(&self) -> &[Call] {
        self.calls.as_slice()
    }
}
