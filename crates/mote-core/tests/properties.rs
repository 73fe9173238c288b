//! The run against a simple model of what a driver may rely on, under random events: sensible, late, double and absurd.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod watcher;

use mote_core::{
    Array, CallFailure, CallKind, CallSpec, CallState, Change, Cost, Effect, Event, Finish, Limits, ModelFailure,
    Phase, Run, Spend, Spender, Wait, journal,
};
use proptest::prelude::*;
use watcher::Watcher;

const UNITS: usize = 6;
const CALLS: usize = 4;
type Subject = Run<UNITS, CALLS>;

/// Dice that a test case is played with: every choice of the simulated world is a draw.
struct Dice {
    draws: std::vec::IntoIter<u32>,
}

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.draws.next().unwrap_or(0) % bound.max(1)
    }

    /// One in `bound`.
    fn rarely(&mut self, bound: u32) -> bool {
        self.below(bound) == bound - 1
    }

    fn index(&mut self, len: usize) -> usize {
        self.below(u32::try_from(len).unwrap()) as usize
    }
}

/// Limits of which a few are tight: a run under many tight ones ends before it shows anything.
fn limits(dice: &mut Dice) -> Limits {
    let mut limits = Limits {
        steps: 30 + dice.below(30),
        tool_calls: 100,
        calls: CALLS as u16,
        parallel: 1 + dice.below(4) as u16,
        units: 1 + dice.below(UNITS as u32) as u16,
        model_attempts: 2 + dice.below(4) as u16,
        endpoints: 1 + dice.below(2) as u16,
        model_outage_ms: u64::from(dice.below(60_000)),
        interruptions: 3 + dice.below(20) as u16,
        interruptions_ms: u64::from(dice.below(60)) * 1_000,
        rest_ms: [0, 1_500][dice.index(2)],
        tool_attempts: 2 + dice.below(4) as u16,
        backoff_ms: dice.below(1000),
        backoff_ms_max: 2000,
        repeats: 0,
        repairs: 3,
        active_ms: 10_000_000,
        expires_at: 0,
        window: 6_000 + dice.below(9_000),
        reserve: 500,
        low_water: dice.below(101) as u8,
        fixed: dice.below(400),
        output: 1 + dice.below(600),
        budget_tokens: u64::MAX,
        budget_nano_usd: u64::MAX,
        price_input: u64::from(dice.below(3_000)),
        price_output: u64::from(dice.below(15_000)),
        compact_at: [0, 0, 40 + dice.below(60) as u8][dice.index(3)],
        compact_attempts: dice.below(3) as u16,
        summary: 1 + dice.below(300),
        summary_price_input: u64::from(dice.below(1_000)),
        summary_price_output: u64::from(dice.below(5_000)),
    };
    for _ in 0..dice.below(3) {
        match dice.below(12) {
            0 => limits.steps = 1 + dice.below(6),
            1 => limits.tool_calls = dice.below(20),
            2 => limits.model_attempts = dice.below(3) as u16,
            3 => limits.tool_attempts = dice.below(3) as u16,
            4 => limits.repeats = 1,
            5 => limits.repairs = 0,
            6 => limits.active_ms = u64::from(dice.below(200_000)),
            7 => limits.expires_at = 1 + u64::from(dice.below(400_000)),
            8 => limits.window = dice.below(3_000),
            9 => limits.reserve = dice.below(50),
            10 => limits.budget_tokens = u64::from(dice.below(60_000)),
            _ => limits.budget_nano_usd = u64::from(dice.below(90_000_000)),
        }
    }
    limits
}

fn call(dice: &mut Dice, now: u64) -> CallSpec {
    let effect = [Effect::Read, Effect::Idempotent, Effect::Write][dice.index(3)];
    let key_ttl_ms = [u64::MAX, u64::from(dice.below(5_000))][dice.index(2)];
    let until = [0, now + u64::from(dice.below(50_000))][dice.index(2)];
    let kind = match dice.below(8) {
        0 => CallKind::Rejected { tokens: dice.below(50) },
        1 => CallKind::Signal { name: 7, until },
        2 => CallKind::Timer { at: until },
        3 => CallKind::Question { until },
        _ => CallKind::Tool { effect, key_ttl_ms, approval: dice.below(5) == 0 },
    };
    let reserve = match (kind, dice.below(6)) {
        (CallKind::Tool { .. }, 0) => Spend {
            input: dice.below(900).into(),
            output: dice.below(900).into(),
            nano_usd: dice.below(900_000).into(),
        },
        _ => Spend::default(),
    };
    CallSpec { kind, tool: 1, digest: u64::from(dice.below(12)), timeout_ms: 1000, reserve }
}

fn calls(dice: &mut Dice, now: u64) -> Array<CallSpec, CALLS> {
    let mut calls = Array::new();
    for _ in 0..=dice.below(CALLS as u32 - 1) {
        calls.push(call(dice, now)).unwrap();
    }
    calls
}

/// An event that fits the run's state, most of the time; the spend of a reply keeps to its reservation.
fn sensible(run: &Subject, dice: &mut Dice) -> Event<CALLS> {
    match dice.below(32) {
        0 => return Event::Recovered,
        1 if dice.rarely(16) => return Event::Cancelled { spend: spend(run, dice) },
        2 if dice.rarely(6) => return Event::Rebound { digest: [9; 32], change: change(dice) },
        3 => return absurd(run, dice),
        4 => return Event::TimerFired,
        _ => {}
    }
    match run.phase() {
        Phase::New => Event::Opened { core: journal::CORE, limits: limits(dice), digest: [7; 32] },
        Phase::Open if dice.below(2) == 0 => Event::Loaded { tokens: dice.below(1_500) },
        Phase::Open => Event::Started { tokens: dice.below(800) },
        Phase::Reserving { .. } | Phase::Compacting { .. } | Phase::Thinking { .. } if dice.below(3) == 0 => {
            compacting(run, dice)
        }
        Phase::Compacting { .. } => compacting(run, dice),
        Phase::Reserving { .. } if dice.rarely(120) => Event::BudgetRefused { spender: Spender::Model },
        Phase::Reserving { .. } => granted(Spender::Model, dice),
        Phase::Thinking { .. } => thinking(run, dice),
        Phase::Finished(_) if dice.below(2) == 0 => resumed(run),
        Phase::BackingOff { .. } | Phase::Finished(_) => Event::TimerFired,
        Phase::Acting => acting(run, dice),
    }
}

/// A few steps more, and otherwise the bounds that the run had.
fn resumed(run: &Subject) -> Event<CALLS> {
    let limits = *run.limits();
    Event::Resumed { limits: Limits { steps: limits.steps.saturating_add(3), ..limits }, digest: [3; 32] }
}

fn granted(spender: Spender, dice: &mut Dice) -> Event<CALLS> {
    Event::BudgetGranted { spender, available: dice.below(4) as u16 }
}

/// What may happen to a summary, whether one is under way or not.
fn compacting(run: &Subject, dice: &mut Dice) -> Event<CALLS> {
    let reserved = run.budget().summary_reservation();
    let cost = Cost { spend: within(reserved, dice), uncertain: dice.below(2) == 0 };
    match dice.below(12) {
        0 => Event::BudgetRefused { spender: Spender::Summary },
        1..=5 => granted(Spender::Summary, dice),
        6..=7 => Event::CompactionFailed {
            cost,
            retry_after_ms: dice.below(2_000),
            jitter: dice.below(1 << 16) as u16,
            last: dice.below(4) == 0,
        },
        _ => Event::Compacted { through: run.summary().unwrap_or(dice.below(9)), tokens: dice.below(200), cost },
    }
}

fn change(dice: &mut Dice) -> Change {
    [Change::Continue, Change::Continue, Change::Continue, Change::Fail, Change::PendingCall][dice.index(5)]
}

fn spend(run: &Subject, dice: &mut Dice) -> Spend {
    within(run.budget().model_reservation(), dice)
}

/// Something that a reservation carries.
fn within(reserved: Spend, dice: &mut Dice) -> Spend {
    let bound = |most: u64| u32::try_from(most.min(1 << 30)).unwrap();
    let tokens = reserved.tokens();
    let output = u64::from(dice.below(bound(tokens)));
    let input = tokens.saturating_sub(output) / 2;
    Spend { input, output, nano_usd: u64::from(dice.below(bound(reserved.nano_usd))) }
}

fn thinking(run: &Subject, dice: &mut Dice) -> Event<CALLS> {
    if dice.rarely(6) {
        return Event::ModelFailed {
            failure: match dice.below(16) {
                0 => ModelFailure::Rejected,
                1 => ModelFailure::ContextLength,
                2..=8 => ModelFailure::Unavailable,
                _ => ModelFailure::Transient,
            },
            cost: Cost { spend: spend(run, dice), uncertain: dice.below(2) == 0 },
            retry_after_ms: dice.below(3_000),
            jitter: dice.below(1 << 16) as u16,
            available: dice.below(4) as u16,
        };
    }
    Event::ModelReplied {
        spend: spend(run, dice),
        tokens: dice.below(400),
        finish: match dice.below(100) {
            0 => Finish::Final,
            1 => Finish::Length,
            2 => Finish::Filtered,
            3..=7 => Finish::Invalid,
            _ => Finish::Calls,
        },
        calls: calls(dice, run.now()),
    }
}

fn acting(run: &Subject, dice: &mut Dice) -> Event<CALLS> {
    let index = dice.index(run.calls().len());
    let call = index as u16;
    let tokens = [dice.below(100), dice.below(1_200)][dice.index(2)];
    let spec = run.calls()[index].spec;
    if dice.below(8) == 0 {
        return compacting(run, dice);
    }
    let cost = match run.calls()[index].reserved {
        true => Cost { spend: within(spec.reserve, dice), uncertain: dice.below(2) == 0 },
        false => Cost::default(),
    };
    match run.calls()[index].state {
        CallState::Reserving(_) if dice.below(6) == 0 => Event::BudgetRefused { spender: Spender::Call { call } },
        CallState::Reserving(_) => granted(Spender::Call { call }, dice),
        CallState::Running(_) if dice.below(3) == 0 => Event::CallFailed {
            call,
            failure: [CallFailure::Unknown, CallFailure::NotPerformed, CallFailure::Forbidden][dice.index(3)],
            retry_after_ms: dice.below(2_000),
            jitter: dice.below(1 << 16) as u16,
            cost,
        },
        CallState::Running(_) if dice.below(4) == 0 => Event::CallSuspended {
            call,
            wait: [Wait::Approval, Wait::Input, Wait::Remote, Wait::Remote, Wait::Time][dice.index(5)],
            until: [0, run.now() + u64::from(dice.below(50_000))][dice.index(2)],
        },
        CallState::Running(_) => Event::CallAnswered { call, tokens, is_error: dice.below(2) == 0, cost },
        CallState::Waiting { wait: Wait::Approval, .. } if dice.below(3) == 0 => Event::Denied { call },
        CallState::Waiting { wait: Wait::Approval, .. } => Event::Approved { call },
        CallState::Waiting { wait: Wait::Signal, .. } => Event::Signalled { call, tokens },
        CallState::Waiting { wait: Wait::Input, .. } => Event::Replied { call, tokens },
        CallState::Waiting { wait: Wait::Remote, .. } => Event::CallWoken { call },
        CallState::Queued
        | CallState::BackingOff { .. }
        | CallState::Waiting { .. }
        | CallState::Ready(_)
        | CallState::Done => Event::TimerFired,
    }
}

fn absurd(run: &Subject, dice: &mut Dice) -> Event<CALLS> {
    let call = dice.below(9) as u16;
    match dice.below(11) {
        8 => resumed(run),
        0 => Event::Opened { core: dice.below(2) as u16 * u16::MAX, limits: limits(dice), digest: [1; 32] },
        1 => Event::Started { tokens: u32::MAX },
        2 => granted([Spender::Model, Spender::Summary, Spender::Call { call }][dice.index(3)], dice),
        3 => Event::CallAnswered { call, tokens: dice.below(10), is_error: false, cost: Cost::default() },
        4 => Event::CallFailed {
            call,
            failure: CallFailure::Unknown,
            retry_after_ms: 0,
            jitter: 0,
            cost: Cost::default(),
        },
        9 => Event::CallWoken { call },
        5 => Event::Approved { call },
        6 => Event::Signalled { call, tokens: 1 },
        7 => Event::Loaded { tokens: u32::MAX },
        _ => Event::ModelReplied {
            spend: Spend::default(),
            tokens: 1,
            finish: Finish::Calls,
            calls: if dice.below(2) == 0 { Array::new() } else { calls(dice, run.now()) },
        },
    }
}

/// Mostly a little later; to the next deadline where the run waits for it; sometimes much later, sometimes back: clocks
/// do that.
fn later(now: u64, run: &Subject, dice: &mut Dice) -> u64 {
    let waits = run.is_suspended()
        || matches!(run.phase(), Phase::BackingOff { .. })
        || run.calls().iter().any(|call| matches!(call.state, CallState::BackingOff { .. }));
    match dice.below(40) {
        0 => now.saturating_sub(5_000),
        1 | 2 => now + u64::from(dice.below(20_000)),
        3 if dice.rarely(8) => run.poll_at().unwrap_or(now).max(now),
        4..=24 if waits => run.poll_at().unwrap_or(now).max(now),
        _ => now + u64::from(dice.below(500)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    /// One terminal state; spend within the budget; no model call without a reservation; every call of a turn has exactly
    /// one result before the next; an uncertain write is never repeated; the journal replays to the same state.
    #[test]
    fn a_run_keeps_its_promises_under_any_events(draws in prop::collection::vec(any::<u32>(), 1..1_600)) {
        let mut dice = Dice { draws: draws.into_iter() };
        let mut run = Subject::new();
        let mut replica = Subject::new();
        let mut watcher = Watcher::default();
        let mut now = 0_u64;
        let mut refused_after_the_end = 0;
        while dice.draws.len() > 0 && refused_after_the_end < 5 {
            now = later(now, &run, &mut dice);
            let before = run;
            let event = sensible(&run, &mut dice);
            match run.step(now, &event) {
                Err(_) => {
                    prop_assert_eq!(before, run, "a refused event changed the run");
                    refused_after_the_end += u32::from(matches!(run.phase(), Phase::Finished(_)));
                }
                Ok(actions) => {
                    watcher.watch(&before, &event, &actions, &run)?;
                    let mut buffer = [0; journal::record_bytes_max(CALLS)];
                    let len = journal::encode(now, &event, &actions, &mut buffer).unwrap();
                    let (record, replayed) = replica.replay(&buffer[..len]).unwrap();
                    prop_assert_eq!(record.event, event);
                    prop_assert_eq!(replayed, actions);
                    prop_assert_eq!(replica, run);
                }
            }
        }
    }

    /// Whatever bytes a journal holds, replaying them is an error or a step, never a panic, and an error changes nothing.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut run = Subject::new();
        if run.replay(&bytes).is_err() {
            prop_assert_eq!(run, Subject::new());
        }
        let mut framed = vec![journal::FORMAT, 0];
        framed.extend_from_slice(&bytes);
        let _ = run.replay(&framed);
    }
}
