//! The context: what is folded, what never is, and that it all takes constant memory.

use mote_core::{Action, Cost, Effect, Event, Failure, Limits, OUTPUT_TOKENS_MIN, Phase, Run};

use crate::play::{answered, model_failed, tool};
use crate::{Play, UNITS, limits};

fn small() -> Limits {
    Limits { window: 2_000, reserve: 300, fixed: 200, low_water: 60, output: 300, ..limits() }
}

/// Plays a turn whose message and result take `tokens` together, and returns the first unit sent next.
fn turn(play: &mut Play, digest: u64, tokens: u32) -> u32 {
    play.turn(&[tool(Effect::Read, digest)]);
    play.take(Event::CallAnswered { call: 0, tokens: tokens - 40, is_error: false, cost: Cost::default() });
    play.run.context().first()
}

#[test]
fn nothing_is_folded_while_the_context_fits() {
    let mut play = Play::start(small());
    // 1,500 are usable: the input of 100 and seven units of 200.
    for digest in 0..7 {
        assert_eq!(turn(&mut play, digest, 200), 1);
    }
    assert_eq!((play.run.context().tokens(), play.run.context().folded_units()), (1_500, 0));
}

#[test]
fn trimming_goes_down_to_the_low_water_mark_and_then_rests() {
    let mut play = Play::start(small());
    let firsts: Vec<u32> = (0..16).map(|digest| turn(&mut play, digest, 200)).collect();
    // 60 % of 1,500 are 900: the input and four units. The packet's beginning then stays for four turns.
    assert_eq!(firsts, [1, 1, 1, 1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13]);
    assert_eq!(play.run.context().tokens(), 100 + 4 * 200);
    assert_eq!((play.run.context().folded_units(), play.run.context().folded_tokens()), (12, 2_400));
}

#[test]
fn the_newest_unit_stays_even_above_the_low_water_mark() {
    let mut play = Play::start(Limits { low_water: 0, ..small() });
    turn(&mut play, 1, 200);
    assert_eq!(turn(&mut play, 2, 1_350), 2);
    assert_eq!(play.run.context().tokens(), 1_450);
}

#[test]
fn a_low_water_mark_above_the_whole_folds_no_more_than_needed() {
    let mut play = Play::start(Limits { low_water: 250, ..small() });
    for digest in 0..7 {
        turn(&mut play, digest, 200);
    }
    assert_eq!(turn(&mut play, 9, 200), 2);
}

#[test]
fn the_input_is_never_folded_however_many_units_come_after() {
    let mut play = Play::open(small());
    play.take(Event::Loaded { tokens: 400 });
    play.take(Event::Started { tokens: 900 });
    for digest in 0..20 {
        turn(&mut play, digest, 500);
        assert!(play.run.context().tokens() >= 900 + 500);
    }
    assert_eq!(play.run.context().input(), 1);
    assert_eq!((play.run.context().first(), play.run.context().folded_units()), (21, 20));
}

#[test]
fn an_input_and_a_newest_unit_that_do_not_fit_together_end_the_run() {
    let mut play = Play::start(small());
    play.turn(&[tool(Effect::Read, 1)]);
    let actions = play.take(Event::CallAnswered { call: 0, tokens: 1_361, is_error: false, cost: Cost::default() });
    assert_eq!(actions, [crate::failed(Failure::ContextOverflow)]);
}

#[test]
fn a_session_larger_than_the_ring_or_the_window_is_trimmed_before_the_first_call() {
    let mut play = Play::open(Limits { units: 3, ..small() });
    for tokens in [100, 200, 300, 400, 500] {
        play.take(Event::Loaded { tokens });
    }
    assert_eq!((play.run.context().folded_units(), play.run.context().tokens()), (2, 1_200));
    play.take(Event::Started { tokens: 400 });
    assert_eq!((play.run.context().first(), play.run.context().tokens()), (4, 900));
    let called = play.grant();
    assert!(matches!(called[..], [Action::CallModel { from: 4, .. }]), "{called:?}");
}

#[test]
fn no_more_units_are_kept_than_the_limit_says() {
    let mut play = Play::start(Limits { units: 2, ..limits() });
    let firsts: Vec<u32> = (0..5).map(|digest| turn(&mut play, digest, 100)).collect();
    assert_eq!(firsts, [1, 1, 2, 3, 4]);
}

#[test]
fn a_limit_of_no_units_keeps_the_newest_all_the_same() {
    let mut play = Play::start(Limits { units: 0, ..limits() });
    assert_eq!((turn(&mut play, 1, 100), turn(&mut play, 2, 100)), (1, 2));
    assert_eq!(play.run.context().tokens(), 200);
}

#[test]
fn a_thousand_steps_take_the_memory_of_one() {
    let mut play = Play::start(Limits { steps: 1_000, tool_calls: 1_000, repeats: 0, ..small() });
    for step in 1..1_000_u64 {
        turn(&mut play, step, 200);
        assert!(play.run.context().tokens() <= u64::from(play.run.limits().usable()));
    }
    let context = play.run.context();
    assert_eq!(play.run.steps(), 1_000);
    assert_eq!(context.folded_units() + 1, context.first(), "what is not folded is in the ring");
    assert_eq!(context.folded_tokens() + context.tokens(), 100 + 999 * 200, "no token is lost from the count");
    assert!(context.first() > 1_000 - UNITS as u32);
}

#[test]
fn a_run_takes_no_more_memory_than_is_promised() {
    let (call, state) = (size_of::<mote_core::Call>(), size_of::<mote_core::CallState>());
    assert!(
        size_of::<Run<128, 16>>() <= 3_584,
        "a call {call}, state {state}; a server's: {}",
        size_of::<Run<128, 16>>()
    );
    assert!(size_of::<Run<16, 4>>() <= 1_280, "a device's: {}", size_of::<Run<16, 4>>());
}

#[test]
fn room_for_a_useful_reply_is_made_whatever_the_reserve_says() {
    for reserve in [0, 1, 100] {
        // All of it fits beside the reserve, but leaves too little to answer in.
        let mut play = Play::open(Limits { reserve, output: 4_096, fixed: 0, ..small() });
        for tokens in [1_700 - reserve, 150] {
            play.take(Event::Loaded { tokens });
        }
        play.take(Event::Started { tokens: 50 });
        let Phase::Reserving { output, .. } = play.run.phase() else { panic!("{:?}", play.run.phase()) };
        assert!(output >= OUTPUT_TOKENS_MIN, "{output} with {reserve} kept free");
        assert_eq!(play.run.context().folded_units(), 1);
    }
}

#[test]
fn a_window_without_room_for_a_reply_ends_the_run() {
    let mut play = Play::open(Limits { reserve: 0, output: 4_096, fixed: 0, ..small() });
    assert_eq!(play.take(Event::Started { tokens: 1_900 }), [crate::failed(Failure::ContextOverflow)]);
    let mut play = Play::open(Limits { window: 100, fixed: 500, ..small() });
    assert_eq!(play.take(Event::Started { tokens: 0 }), [crate::failed(Failure::ContextOverflow)]);
}

#[test]
fn the_reply_is_cut_to_the_room_that_the_window_leaves() {
    let mut play = Play::open(Limits { output: 1_000, ..small() });
    play.take(Event::Started { tokens: 1_200 });
    assert!(matches!(play.run.phase(), Phase::Reserving { output: 600, .. }), "{:?}", play.run.phase());
}

#[test]
fn a_halved_context_stays_within_what_the_model_took() {
    let mut play = Play::start(Limits { window: 100_000, steps: 100, tool_calls: 100, ..small() });
    for digest in 0..6 {
        turn(&mut play, digest, 1_000);
    }
    play.grant();
    let refused = play.run.context().tokens();
    play.take(model_failed(mote_core::ModelFailure::ContextLength));
    for digest in 10..40 {
        turn(&mut play, digest, 500);
        assert!(play.run.context().tokens() <= refused / 4 * 3 + 4);
    }
    play.turn(&[tool(Effect::Read, 99)]);
    play.take(answered(0));
}
