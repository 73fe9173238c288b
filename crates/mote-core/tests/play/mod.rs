//! A run played by hand: events by short names, a clock that only the test moves, and a journal that is written and
//! replayed along the way. It decides nothing and asserts nothing about what the run asks for.

use mote_core::{
    Action, Array, CallFailure, CallKind, CallSpec, Cost, Effect, Event, Finish, Limits, ModelFailure, Refusal, Run,
    Spend, Spender, Time, journal,
};

/// When every play begins: 2026-01-01 00:00 UTC.
pub const START: Time = 1_767_225_600_000;
pub const DIGEST: [u8; 32] = [0xa5; 32];

pub struct Play<const UNITS: usize, const CALLS: usize> {
    pub run: Run<UNITS, CALLS>,
    pub now: Time,
    /// One journal record for each event that was taken.
    pub records: Vec<Vec<u8>>,
}

impl<const UNITS: usize, const CALLS: usize> Play<UNITS, CALLS> {
    /// A run that knows its limits and has no input yet.
    pub fn open(limits: Limits) -> Self {
        let mut play = Self { run: Run::new(), now: START, records: Vec::new() };
        play.take(Event::Opened { core: journal::CORE, limits, digest: DIGEST });
        play
    }

    /// A run that asks for its first reservation, with an input of 100 tokens.
    pub fn start(limits: Limits) -> Self {
        let mut play = Self::open(limits);
        play.take(Event::Started { tokens: 100 });
        play
    }

    /// A run whose first model call is under way.
    pub fn think(limits: Limits) -> Self {
        let mut play = Self::start(limits);
        play.grant();
        play
    }

    /// A run whose first turn made these calls.
    pub fn act(limits: Limits, calls: &[CallSpec]) -> Self {
        let mut play = Self::think(limits);
        play.take(replied(calls));
        play
    }

    /// Steps the run, journals the step and replays the record on a copy.
    pub fn take(&mut self, event: Event<CALLS>) -> Vec<Action> {
        let before = self.run;
        let actions = match self.run.step(self.now, &event) {
            Ok(actions) => actions,
            Err(refusal) => panic!("{event:?} is refused in {:?}: {refusal}", before.phase()),
        };
        let mut buffer = vec![0; journal::record_bytes_max(CALLS)];
        let len = journal::encode(self.now, &event, &actions, &mut buffer).unwrap();
        buffer.truncate(len);
        let mut replica = before;
        replica.replay(&buffer).unwrap();
        assert_eq!(replica, self.run, "the record of {event:?} replays to another state");
        self.records.push(buffer);
        actions.iter().collect()
    }

    /// The refusal of an event, after a check that it changed nothing.
    pub fn refuse(&mut self, event: Event<CALLS>) -> Refusal {
        let before = self.run;
        match self.run.step(self.now, &event) {
            Ok(actions) => panic!("{event:?} is taken in {:?}: {actions:?}", before.phase()),
            Err(refusal) => {
                assert_eq!(before, self.run, "the refused {event:?} changed the run");
                refusal
            }
        }
    }

    /// Lets time pass, and nothing else happen.
    pub fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += ms;
        self
    }

    /// Sleeps until the run's next deadline and fires its timer.
    pub fn wake(&mut self) -> Vec<Action> {
        self.now = self.now.max(self.run.poll_at().unwrap());
        self.take(Event::TimerFired)
    }

    /// Grants the model's reservation; every endpoint's circuit is closed.
    pub fn grant(&mut self) -> Vec<Action> {
        self.take(granted())
    }

    /// Grants the reservation and lets the model reply with calls.
    pub fn turn(&mut self, calls: &[CallSpec]) -> Vec<Action> {
        self.grant();
        self.take(replied(calls))
    }
}

/// The model's reservation holds, and every endpoint's circuit is closed.
pub fn granted<const CALLS: usize>() -> Event<CALLS> {
    Event::BudgetGranted { spender: Spender::Model, available: u16::MAX }
}

/// A shared budget refuses the model's reservation.
pub fn budget_refused<const CALLS: usize>() -> Event<CALLS> {
    Event::BudgetRefused { spender: Spender::Model }
}

pub const SPEND: Spend = Spend { input: 120, output: 30, nano_usd: 810_000 };

pub fn replied_with<const CALLS: usize>(finish: Finish, spend: Spend, tokens: u32, calls: &[CallSpec]) -> Event<CALLS> {
    let mut array = Array::new();
    calls.iter().for_each(|spec| array.push(*spec).unwrap());
    Event::ModelReplied { spend, tokens, finish, calls: array }
}

pub fn replied<const CALLS: usize>(calls: &[CallSpec]) -> Event<CALLS> {
    replied_with(Finish::Calls, SPEND, 40, calls)
}

pub fn answer<const CALLS: usize>() -> Event<CALLS> {
    replied_with(Finish::Final, SPEND, 60, &[])
}

/// A failed model call that cost nothing, with the least jitter.
pub fn model_failed<const CALLS: usize>(failure: ModelFailure) -> Event<CALLS> {
    Event::ModelFailed { failure, cost: Cost::default(), retry_after_ms: 0, jitter: 0, available: 0 }
}

/// A failed model call that cost this, with the other endpoints available or not.
pub fn model_failed_with<const CALLS: usize>(
    failure: ModelFailure,
    cost: Cost,
    (retry_after_ms, jitter): (u32, u16),
    others: bool,
) -> Event<CALLS> {
    Event::ModelFailed { failure, cost, retry_after_ms, jitter, available: if others { u16::MAX } else { 0 } }
}

pub fn answered<const CALLS: usize>(call: u16) -> Event<CALLS> {
    Event::CallAnswered { call, tokens: 25, is_error: false, cost: Cost::default() }
}

/// A failed attempt, with the least jitter.
pub fn call_failed<const CALLS: usize>(call: u16, failure: CallFailure) -> Event<CALLS> {
    Event::CallFailed { call, failure, retry_after_ms: 0, jitter: 0, cost: Cost::default() }
}

/// A tool whose backend never forgets a key.
pub fn tool(effect: Effect, digest: u64) -> CallSpec {
    spec(CallKind::Tool { effect, key_ttl_ms: u64::MAX, approval: false }, digest)
}

pub fn approved_tool(effect: Effect, digest: u64) -> CallSpec {
    spec(CallKind::Tool { effect, key_ttl_ms: u64::MAX, approval: true }, digest)
}

pub fn keyed_tool(key_ttl_ms: u64) -> CallSpec {
    spec(CallKind::Tool { effect: Effect::Idempotent, key_ttl_ms, approval: false }, 1)
}

pub fn spec(kind: CallKind, digest: u64) -> CallSpec {
    CallSpec { kind, tool: 0x7001, digest, timeout_ms: 10_000, reserve: Spend::default() }
}
