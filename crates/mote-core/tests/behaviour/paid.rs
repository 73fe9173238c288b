//! Calls that spend: each has a reservation of its own, beside the model's.

use mote_core::{Action, CallOutcome, CallSpec, Cost, Effect, Event, Limits, Spend, Spender};

use crate::play::{call_failed, tool};
use crate::{CALLS, Play, call_tool, conclude, limits};

const MOST: Spend = Spend { input: 900, output: 100, nano_usd: 5_000 };

fn agent(effect: Effect, digest: u64) -> CallSpec {
    CallSpec { reserve: MOST, ..tool(effect, digest) }
}

fn granted(call: u16) -> Event<CALLS> {
    Event::BudgetGranted { spender: Spender::Call { call }, available: 0 }
}

fn reserve(call: u16) -> Action {
    Action::Reserve { spender: Spender::Call { call }, tokens: 1_000, nano_usd: 5_000 }
}

#[test]
fn a_call_that_spends_is_made_once_its_reservation_holds() {
    let mut play = Play::think(limits());
    let calls = [agent(Effect::Idempotent, 1), tool(Effect::Read, 2), agent(Effect::Idempotent, 3)];
    let asked = crate::play::replied(&calls);
    assert_eq!(play.take(asked)[1..], [reserve(0), call_tool(1, 1), reserve(2)]);
    assert_eq!(play.run.budget().reserved().tokens(), 2_000, "both are open at once");
    assert_eq!(play.take(granted(2)), [call_tool(2, 1)]);
    assert_eq!(play.take(granted(0)), [call_tool(0, 1)]);
}

#[test]
fn a_budget_that_does_not_carry_a_call_ends_the_call_and_not_the_run() {
    let mut play = Play::act(limits(), &[agent(Effect::Write, 1)]);
    let refused = play.take(Event::BudgetRefused { spender: Spender::Call { call: 0 } });
    assert_eq!(refused[0], conclude(0, CallOutcome::OverBudget));
    assert_eq!(play.run.steps(), 2, "the model hears of it");
    // The run's own.
    let spent = crate::play::SPEND.tokens();
    let mut play = Play::think(Limits { budget_tokens: spent + 999, output: 10, ..limits() });
    let actions = play.take(crate::play::replied(&[agent(Effect::Write, 1)]));
    assert!(actions.contains(&conclude(0, CallOutcome::OverBudget)), "{actions:?}");
}

#[test]
fn every_attempt_has_a_reservation_of_its_own() {
    let mut play = Play::act(limits(), &[agent(Effect::Idempotent, 1)]);
    play.take(granted(0));
    let settle = Action::Settle { spender: Spender::Call { call: 0 }, tokens: 0, nano_usd: 0, uncertain: false };
    assert_eq!(play.take(call_failed(0, mote_core::CallFailure::NotPerformed)), [settle]);
    assert_eq!(play.wake(), [reserve(0)]);
    assert_eq!(play.take(granted(0)), [call_tool(0, 2)]);
}

#[test]
fn a_call_lost_with_its_worker_may_have_cost_all_that_was_reserved() {
    let mut play = Play::act(limits(), &[agent(Effect::Idempotent, 1)]);
    play.take(granted(0));
    let forfeit =
        Action::Settle { spender: Spender::Call { call: 0 }, tokens: 1_000, nano_usd: 5_000, uncertain: true };
    assert_eq!(play.take(Event::Recovered), [forfeit]);
    assert_eq!((play.run.budget().uncertain, play.run.budget().reserved()), (MOST, Spend::default()));
    // So may one that the end cuts off; one that was not made yet cost nothing.
    let mut play = Play::act(limits(), &[agent(Effect::Write, 1), agent(Effect::Write, 2)]);
    play.take(granted(0));
    let end = play.take(Event::Cancelled { spend: Spend::default() });
    assert_eq!(end[..3], [forfeit, conclude(0, CallOutcome::Unknown), conclude(1, CallOutcome::Failed)]);
}

#[test]
fn a_reservation_that_was_asked_for_is_asked_for_again_by_the_next_worker() {
    let mut play = Play::act(limits(), &[agent(Effect::Write, 1)]);
    assert_eq!(play.take(Event::Recovered), [reserve(0)]);
}

#[test]
fn a_key_that_the_backend_forgot_while_the_budget_was_asked_is_not_used() {
    let spends = CallSpec { reserve: MOST, ..crate::play::keyed_tool(10_000) };
    let mut play = Play::act(limits(), &[spends]);
    play.take(granted(0));
    play.take(call_failed(0, mote_core::CallFailure::Unknown));
    play.wake();
    let late = play.wait(10_000).take(granted(0));
    assert!(late.contains(&conclude(0, CallOutcome::Unknown)), "{late:?}");
}

#[test]
fn what_an_answer_cost_is_booked_also_where_nothing_was_reserved() {
    let mut play = Play::act(limits(), &[tool(Effect::Read, 1)]);
    let spend = Spend { input: 3, output: 4, nano_usd: 5 };
    let cost = Cost { spend, uncertain: true };
    play.take(Event::CallAnswered { call: 0, tokens: 5, is_error: false, cost });
    assert_eq!(play.run.budget().uncertain, spend);
}
