//! Model calls: attempts, back-off, Retry-After, fallback, a lost worker.

use mote_core::{Action, Cost, Event, Failure, Limits, ModelFailure, Phase, Spend, Spender};

use crate::play::{answer, model_failed, model_failed_with};
use crate::{Play, limits};

fn transient(retry_after_ms: u32, jitter: u16, others: bool) -> Event<{ crate::CALLS }> {
    model_failed_with(ModelFailure::Transient, Cost::default(), (retry_after_ms, jitter), others)
}

/// How long the run waits after each of `failures` failed attempts.
fn waits(limits: Limits, failures: u32, retry_after_ms: u32, jitter: u16) -> Vec<u64> {
    let mut play = Play::think(limits);
    let mut waits = Vec::new();
    for _ in 0..failures {
        play.take(transient(retry_after_ms, jitter, false));
        waits.push(play.run.poll_at().unwrap() - play.now);
        play.wake();
        play.grant();
    }
    waits
}

fn patient() -> Limits {
    Limits { model_attempts: 50, backoff_ms: 1_000, backoff_ms_max: 30_000, ..limits() }
}

#[test]
fn back_off_doubles_from_half_the_limit_up_to_half_the_cap_without_jitter() {
    assert_eq!(waits(patient(), 8, 0, 0), [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
}

#[test]
fn jitter_adds_up_to_the_other_half_and_never_more() {
    assert_eq!(waits(patient(), 3, 0, u16::MAX), [999, 1_999, 3_999]);
    assert_eq!(waits(patient(), 3, 0, 1 << 15), [750, 1_500, 3_000]);
    assert!(waits(patient(), 10, 0, u16::MAX).iter().all(|wait| *wait < 30_000));
}

#[test]
fn retry_after_is_respected_even_beyond_the_cap() {
    assert_eq!(waits(patient(), 3, 45_000, u16::MAX), [45_000; 3]);
}

#[test]
fn retry_after_never_shortens_the_back_off() {
    assert_eq!(waits(patient(), 3, 600, 0), [600, 1_000, 2_000]);
}

#[test]
fn no_back_off_is_too_large_to_compute() {
    let limits = Limits { backoff_ms: u32::MAX, backoff_ms_max: u32::MAX, ..patient() };
    let longest = u64::from(u32::MAX) / 2;
    assert!(waits(Limits { active_ms: u64::MAX, ..limits }, 40, 0, 0).iter().all(|wait| *wait == longest));
}

#[test]
fn a_timer_that_fires_early_does_not_end_the_back_off() {
    let mut play = Play::think(patient());
    play.take(transient(0, 0, false));
    assert_eq!(play.wait(499).take(Event::TimerFired), []);
    assert!(play.wait(1).take(Event::TimerFired).iter().any(crate::is_reserve));
}

#[test]
fn another_endpoint_is_tried_at_once() {
    let mut play = Play::think(Limits { endpoints: 2, ..limits() });
    assert!(play.take(transient(60_000, 0, true)).iter().any(crate::is_reserve));
    assert!(matches!(play.run.phase(), Phase::Reserving { attempt: 2, .. }));
}

#[test]
fn every_attempt_is_paid_for_anew_and_counted_from_one() {
    let mut play = Play::start(Limits { backoff_ms: 0, ..limits() });
    for expected in 1..=4 {
        let granted = play.grant();
        assert!(matches!(granted[..], [Action::CallModel { step: 1, attempt, .. }] if attempt == expected));
        let actions = play.take(transient(0, 0, true));
        let last = [
            Action::Settle { spender: Spender::Model, tokens: 0, nano_usd: 0, uncertain: false },
            crate::failed(Failure::Model),
        ];
        assert_eq!(actions == last, expected == 4);
    }
}

#[test]
fn a_failed_call_that_cost_something_is_booked() {
    let mut play = Play::think(limits());
    let spend = Spend { input: 90, output: 4, nano_usd: 7 };
    let failure = ModelFailure::Transient;
    let actions = play.take(model_failed_with(failure, Cost { spend, uncertain: false }, (0, 0), false));
    assert_eq!(actions, [Action::Settle { spender: Spender::Model, tokens: 94, nano_usd: 7, uncertain: false }]);
    assert_eq!(play.run.budget().spent, spend);
}

#[test]
fn a_model_call_lost_with_its_worker_settles_at_its_reservation_and_is_made_again() {
    let mut play = Play::think(Limits { price_input: 3, price_output: 15, ..limits() });
    let reserved = play.run.budget().model_reservation();
    let (tokens, nano_usd) = (reserved.tokens(), reserved.nano_usd);
    let actions = play.wait(5_000).take(Event::Recovered);
    assert_eq!(actions[0], Action::Settle { spender: Spender::Model, tokens, nano_usd, uncertain: true });
    assert!(crate::is_reserve(&actions[1]));
    assert!(matches!(play.grant()[..], [Action::CallModel { step: 1, attempt: 2, .. }]));
}

#[test]
fn a_reservation_lost_with_its_worker_is_asked_for_again() {
    let mut play = Play::open(limits());
    let asked = play.take(Event::Started { tokens: 100 });
    assert_eq!(play.take(Event::Recovered), asked);
    assert_eq!(play.run.budget().spent, Spend::default(), "nothing was spent");
}

#[test]
fn a_back_off_goes_on_under_another_worker() {
    let mut play = Play::think(limits());
    play.take(transient(3_000, 0, false));
    let due = play.run.poll_at();
    assert_eq!(play.wait(1_000).take(Event::Recovered), []);
    assert_eq!(play.run.poll_at(), due);
}

#[test]
fn a_context_that_the_model_finds_too_long_is_halved_and_sent_again() {
    let mut play = Play::open(limits());
    for tokens in [10_000; 6] {
        play.take(Event::Loaded { tokens });
    }
    play.take(Event::Started { tokens: 1_000 });
    play.grant();
    assert!(play.take(model_failed(ModelFailure::ContextLength)).iter().any(crate::is_reserve), "at once");
    assert_eq!(play.run.context().tokens(), 21_000, "of 61,000: the largest whole units up to the half");
    let retried = play.grant();
    assert!(matches!(retried[..], [Action::CallModel { step: 1, attempt: 2, from: 4, .. }]), "{retried:?}");
    // Held to three quarters of what was refused from here on: 61,000 would be sent again otherwise.
    assert_eq!(play.run.limits().usable(), 45_750);
    play.take(answer());
}

#[test]
fn a_context_that_cannot_shrink_ends_the_run() {
    let mut play = Play::think(limits());
    let actions = play.take(model_failed(ModelFailure::ContextLength));
    assert_eq!(actions.last(), Some(&crate::failed(Failure::ContextOverflow)));
}

#[test]
fn too_long_a_context_at_the_last_attempt_ends_the_run() {
    let mut play = Play::open(Limits { model_attempts: 1, ..limits() });
    play.take(Event::Loaded { tokens: 10_000 });
    play.take(Event::Loaded { tokens: 10_000 });
    play.take(Event::Started { tokens: 100 });
    play.grant();
    let actions = play.take(model_failed(ModelFailure::ContextLength));
    assert_eq!(actions.last(), Some(&crate::failed(Failure::ContextOverflow)));
}
