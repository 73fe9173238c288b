//! The run against a simple model of what a driver may rely on, under random events: sensible, late, double and absurd.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod watcher;

use mote_core::{
    Array, CallFailure, CallKind, CallSpec, CallState, Change, Effect, Event, Finish, Limits, ModelFailure, Phase, Run,
    Spend, journal,
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

    fn index(&mut self, len: usize) -> usize {
        self.below(u32::try_from(len).unwrap()) as usize
    }
}

fn limits(dice: &mut Dice) -> Limits {
    Limits {
        steps: 1 + dice.below(12),
        tool_calls: 1 + dice.below(30),
        calls: CALLS as u16,
        parallel: 1 + dice.below(4) as u16,
        units: 1 + dice.below(UNITS as u32) as u16,
        model_attempts: 1 + dice.below(4) as u16,
        tool_attempts: 1 + dice.below(4) as u16,
        backoff_ms: dice.below(1000),
        backoff_ms_max: 2000,
        repeats: dice.below(3) as u16,
        repairs: dice.below(3) as u16,
        active_ms: u64::from(dice.below(200_000)),
        expires_at: [0, u64::from(dice.below(1_000_000))][dice.index(2)],
        window: 1_000 + dice.below(9_000),
        reserve: 500,
        low_water: dice.below(101) as u8,
        fixed: dice.below(400),
        output: 1 + dice.below(600),
        budget_tokens: [u64::MAX, u64::from(dice.below(40_000))][dice.index(2)],
        budget_nano_usd: [u64::MAX, u64::from(dice.below(40_000_000))][dice.index(2)],
        price_input: u64::from(dice.below(3_000)),
        price_output: u64::from(dice.below(15_000)),
    }
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
    CallSpec { kind, tool: 1, digest: u64::from(dice.below(20)), timeout_ms: 1000 }
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
    match dice.below(24) {
        0 => return Event::Recovered,
        1 if dice.below(8) == 0 => return Event::Cancelled { spend: Spend::default() },
        2 if dice.below(4) == 0 => return Event::Rebound { digest: [9; 32], change: Change::Continue },
        3 => return absurd(run, dice),
        4 => return Event::TimerFired,
        _ => {}
    }
    let budget = run.budget();
    let output = u64::from(dice.below(u32::try_from(budget.reserved_tokens.min(1 << 30)).unwrap()));
    let nano_usd = u64::from(dice.below(u32::try_from(budget.reserved_nano_usd.min(1 << 30)).unwrap()));
    let spend = Spend { input: budget.reserved_tokens.saturating_sub(output) / 2, output, nano_usd };
    match run.phase() {
        Phase::New => Event::Opened { limits: limits(dice), digest: [7; 32] },
        Phase::Open if dice.below(3) == 0 => Event::Loaded { tokens: dice.below(3_000) },
        Phase::Open => Event::Started { tokens: dice.below(2_000) },
        Phase::Reserving { .. } if dice.below(20) == 0 => Event::BudgetRefused,
        Phase::Reserving { .. } => Event::BudgetGranted,
        Phase::Thinking { .. } if dice.below(4) == 0 => Event::ModelFailed {
            failure: [
                ModelFailure::Transient,
                ModelFailure::Transient,
                ModelFailure::ContextLength,
                ModelFailure::Rejected,
            ][dice.index(4)],
            spend,
            retry_after_ms: dice.below(3_000),
            jitter: dice.below(1 << 16) as u16,
            alternative: dice.below(2) == 0,
        },
        Phase::Thinking { .. } => Event::ModelReplied {
            spend,
            tokens: dice.below(1_500),
            finish: [Finish::Calls, Finish::Calls, Finish::Calls, Finish::Invalid, Finish::Final, Finish::Length]
                [dice.index(6)],
            calls: calls(dice, run.now()),
        },
        Phase::BackingOff { .. } | Phase::Finished(_) => Event::TimerFired,
        Phase::Acting => acting(run, dice),
    }
}

fn acting(run: &Subject, dice: &mut Dice) -> Event<CALLS> {
    let index = dice.index(run.calls().len());
    let call = index as u16;
    let tokens = dice.below(1_500);
    match (run.calls()[index].state, run.calls()[index].spec.kind) {
        (CallState::Running { .. }, _) if dice.below(3) == 0 => Event::CallFailed {
            call,
            failure: [CallFailure::Unknown, CallFailure::NotPerformed, CallFailure::Forbidden][dice.index(3)],
            retry_after_ms: dice.below(2_000),
            jitter: dice.below(1 << 16) as u16,
        },
        (CallState::Running { .. }, _) => Event::CallAnswered { call, tokens, is_error: dice.below(2) == 0 },
        (CallState::Approving, _) if dice.below(3) == 0 => Event::Denied { call },
        (CallState::Approving, _) => Event::Approved { call },
        (CallState::Waiting { .. }, CallKind::Signal { .. }) => Event::Signalled { call, tokens },
        (CallState::Waiting { .. }, CallKind::Question { .. }) => Event::Replied { call, tokens },
        _ => Event::TimerFired,
    }
}

fn absurd(run: &Subject, dice: &mut Dice) -> Event<CALLS> {
    let call = dice.below(9) as u16;
    match dice.below(9) {
        0 => Event::Opened { limits: limits(dice), digest: [1; 32] },
        1 => Event::Started { tokens: u32::MAX },
        2 => Event::BudgetGranted,
        3 => Event::CallAnswered { call, tokens: dice.below(10), is_error: false },
        4 => Event::CallFailed { call, failure: CallFailure::Unknown, retry_after_ms: 0, jitter: 0 },
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// One terminal state; spend within the budget; no model call without a reservation; every call of a turn has exactly
    /// one result before the next; an uncertain write is never repeated; the journal replays to the same state.
    #[test]
    fn a_run_keeps_its_promises_under_any_events(draws in prop::collection::vec(any::<u32>(), 1..900)) {
        let mut dice = Dice { draws: draws.into_iter() };
        let mut run = Subject::new();
        let mut replica = Subject::new();
        let mut watcher = Watcher::default();
        let mut now = 0_u64;
        while dice.draws.len() > 0 {
            // Mostly forward, sometimes to the next deadline, sometimes back: clocks do that.
            now = match dice.below(10) {
                0 => now.saturating_sub(5_000),
                1..=4 => run.poll_at().unwrap_or(now).max(now),
                _ => now + u64::from(dice.below(2_000)),
            };
            let before = run;
            let event = sensible(&run, &mut dice);
            match run.step(now, &event) {
                Err(_) => prop_assert_eq!(before, run, "a refused event changed the run"),
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
