//! Work that is lost with its worker: no failed attempt, bounded on its own, its cost uncertain.

use mote_core::{Action, CallOutcome, Effect, Event, Failure, Limits, Phase, Spend, Spender};

use crate::play::{answer, answered, keyed_tool, replied, tool};
use crate::{Play, conclude, limits};

#[test]
fn four_restarts_in_one_step_end_nothing() {
    let mut play = Play::think(Limits { model_attempts: 4, ..limits() });
    for _ in 0..19 {
        play.wait(15_000);
        lose(&mut play);
    }
    play.take(answer());
}

/// The model call under way is lost, and made again when its back-off is over.
fn lose(play: &mut Play) {
    play.take(Event::Recovered);
    if matches!(play.run.phase(), Phase::BackingOff { .. }) {
        play.wake();
    }
    play.grant();
}

#[test]
fn a_crash_loop_backs_off_and_buries_nothing() {
    let mut play = Play::think(Limits { interruptions: 3, backoff_ms: 500, backoff_ms_max: 8_000, ..limits() });
    let mut pauses = Vec::new();
    for _ in 0..8 {
        play.wait(50).take(Event::Recovered);
        pauses.push(play.run.poll_at().filter(|_| play.run.interruptions() > 1).map(|until| until - play.now));
        // Lives that end during the back-off lose nothing and count nothing.
        if matches!(play.run.phase(), Phase::BackingOff { .. }) {
            assert_eq!(play.wait(10).take(Event::Recovered), []);
            play.wake();
        }
        play.grant();
    }
    let paused: Vec<u64> = pauses.into_iter().flatten().collect();
    assert_eq!(paused, [250, 500, 1_000, 2_000, 4_000, 4_000, 4_000], "the first is made again at once");
    play.take(answer());
}

#[test]
fn reads_that_are_lost_again_and_again_back_off_too() {
    let mut play = Play::act(Limits { interruptions: 2, ..limits() }, &[tool(Effect::Read, 1)]);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        play.take(Event::Recovered);
        pauses.push(play.run.poll_at().unwrap() - play.now);
        play.wake();
    }
    assert!(pauses.windows(2).all(|two| two[1] == 2 * two[0]), "{pauses:?}");
    play.take(answered(0));
}

#[test]
fn interruptions_are_bounded_by_a_limit_of_their_own() {
    let mut play = Play::think(Limits { interruptions: 2, interruptions_ms: 60_000, ..limits() });
    for _ in 0..6 {
        lose(&mut play);
    }
    play.wait(60_000);
    assert_eq!(play.take(Event::Recovered).last(), Some(&crate::failed(Failure::Interrupted)));
}

#[test]
fn whatever_ends_well_in_between_starts_the_count_anew() {
    let mut play = Play::think(Limits { interruptions: 1, interruptions_ms: 0, ..limits() });
    for turn in 0..4 {
        play.take(Event::Recovered);
        play.turn(&[tool(Effect::Read, turn)]);
        play.take(Event::Recovered);
        play.wake();
        play.take(answered(0));
        play.grant();
    }
    play.take(answer());
}

#[test]
fn a_lost_model_call_is_uncertain_by_kind_and_counts_in_the_budget() {
    let mut play = Play::think(Limits { price_input: 3, price_output: 15, budget_tokens: 9_000, ..limits() });
    let reserved = play.run.budget().model_reservation();
    // 100 in, held as 112, and 4,096 out.
    assert_eq!(reserved, Spend { input: 112, output: 4_096, nano_usd: 112 * 3 + 4_096 * 15 });
    let settle =
        Action::Settle { spender: Spender::Model, tokens: 4_208, nano_usd: reserved.nano_usd, uncertain: true };
    assert_eq!(play.take(Event::Recovered)[0], settle);
    assert_eq!((play.run.budget().uncertain, play.run.budget().spent), (reserved, Spend::default()));
    play.grant();
    assert_eq!(play.run.budget().counted().tokens(), 4_208);
    play.take(answer());
    assert_eq!(play.run.budget().counted().tokens(), 4_208 + 150);
}

#[test]
fn lost_calls_of_one_step_count_once_in_the_runs_own_budget() {
    let mut play = Play::think(Limits { price_output: 10, budget_nano_usd: 130_000, ..limits() });
    let reserved = play.run.budget().model_reservation();
    for lost in 1..=6 {
        lose(&mut play);
        let budget = play.run.budget();
        assert_eq!((budget.counted(), budget.lost_calls), (reserved, lost));
        assert_eq!(budget.uncertain.nano_usd, u64::from(lost) * reserved.nano_usd, "all of it is booked");
        assert_eq!(budget.model_reservation(), reserved, "the next one is no smaller");
    }
    // The next step has lost nothing yet.
    let spend = Spend { nano_usd: 5, ..Spend::default() };
    play.take(crate::play::replied_with(mote_core::Finish::Calls, spend, 40, &[tool(Effect::Read, 1)]));
    play.take(answered(0));
    play.grant();
    lose(&mut play);
    assert_eq!(play.run.budget().counted().nano_usd, 2 * 40_960 + 5);
}

#[test]
fn a_call_that_was_cut_off_is_uncertain_whoever_cut_it_off() {
    let spend = Spend { input: 100, output: 7, nano_usd: 9 };
    let mut cancelled = Play::think(limits());
    let actions = cancelled.take(Event::Cancelled { spend });
    assert_eq!(actions[0], Action::Settle { spender: Spender::Model, tokens: 107, nano_usd: 9, uncertain: true });
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
        play.grant();
        play.take(answer());
    }
}

#[test]
fn a_write_that_is_lost_is_of_unknown_outcome_and_not_made_again() {
    let mut play = Play::think(limits());
    play.take(replied(&[tool(Effect::Write, 1)]));
    assert_eq!(play.take(Event::Recovered)[0], conclude(0, CallOutcome::Unknown));
}
