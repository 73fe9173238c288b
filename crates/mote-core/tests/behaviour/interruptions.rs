//! Work that is lost with its worker: no failed attempt, bounded on its own, its cost uncertain.

use mote_core::{Action, CallOutcome, Effect, Event, Failure, Limits, Phase, Spend};

use crate::play::{answer, answered, keyed_tool, replied, tool};
use crate::{Play, conclude, limits};

#[test]
fn four_restarts_in_one_step_end_nothing() {
    let mut play = Play::think(Limits { model_attempts: 4, ..limits() });
    for _ in 0..19 {
        play.wait(15_000).take(Event::Recovered);
        play.take(Event::BudgetGranted);
    }
    play.take(answer());
}

#[test]
fn interruptions_are_bounded_by_a_limit_of_their_own() {
    let mut play = Play::think(Limits { interruptions: 2, ..limits() });
    for _ in 0..2 {
        play.take(Event::Recovered);
        play.take(Event::BudgetGranted);
    }
    assert_eq!(play.take(Event::Recovered).last(), Some(&crate::failed(Failure::Interrupted)));
}

#[test]
fn whatever_ends_well_in_between_starts_the_count_anew() {
    let mut play = Play::think(Limits { interruptions: 1, ..limits() });
    for turn in 0..4 {
        play.take(Event::Recovered);
        play.turn(&[tool(Effect::Read, turn)]);
        play.take(Event::Recovered);
        play.wake();
        play.take(answered(0));
        play.take(Event::BudgetGranted);
    }
    play.take(answer());
}

#[test]
fn a_lost_model_call_is_uncertain_by_kind_and_counts_in_the_budget() {
    let mut play = Play::think(Limits { price_input: 3, price_output: 15, budget_tokens: 9_000, ..limits() });
    let reserved = play.run.budget().reservation();
    // 100 in, held as 112, and 4,096 out.
    assert_eq!(reserved, Spend { input: 112, output: 4_096, nano_usd: 112 * 3 + 4_096 * 15 });
    let settle = Action::Settle { tokens: 4_208, nano_usd: reserved.nano_usd, uncertain: true };
    assert_eq!(play.take(Event::Recovered)[0], settle);
    assert_eq!((play.run.budget().uncertain, play.run.budget().spent), (reserved, Spend::default()));
    play.take(Event::BudgetGranted);
    play.take(Event::Recovered);
    assert_eq!(play.run.budget().counted().tokens(), 2 * 4_208);
    let Phase::Reserving { output, .. } = play.run.phase() else { panic!("{:?}", play.run.phase()) };
    assert_eq!(u64::from(output), 9_000 - 2 * 4_208 - 112, "what is uncertain is not spent again");
}

#[test]
fn a_call_that_was_cut_off_is_uncertain_whoever_cut_it_off() {
    let spend = Spend { input: 100, output: 7, nano_usd: 9 };
    let mut cancelled = Play::think(limits());
    let actions = cancelled.take(Event::Cancelled { spend });
    assert_eq!(actions[0], Action::Settle { tokens: 107, nano_usd: 9, uncertain: true });
    assert_eq!(cancelled.run.budget().uncertain, spend);
}

#[test]
fn a_repeatable_call_that_is_lost_is_made_again_and_no_attempt_is_counted() {
    for (call, attempts) in [(tool(Effect::Read, 1), 8), (keyed_tool(u64::MAX), 8)] {
        let mut play = Play::act(Limits { tool_attempts: 2, ..limits() }, &[call]);
        for attempt in 2..=attempts {
            play.take(Event::Recovered);
            assert_eq!(play.wake(), [crate::call_tool(0, attempt)], "each attempt has a number of its own");
        }
        play.take(answered(0));
        play.take(Event::BudgetGranted);
        play.take(answer());
    }
}

#[test]
fn a_write_that_is_lost_is_of_unknown_outcome_and_not_made_again() {
    let mut play = Play::think(limits());
    play.take(replied(&[tool(Effect::Write, 1)]));
    assert_eq!(play.take(Event::Recovered)[0], conclude(0, CallOutcome::Unknown));
}
