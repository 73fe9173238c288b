//! Tool calls: each effect class under each failure, the cap on parallel calls, approval, repetition.

use mote_core::{
    Action, CallFailure, CallKind, CallOutcome, CallState, Cost, Effect, Event, Failure, Limits, NOTICE_TOKENS, Phase,
};

use crate::play::{answered, approved_tool, call_failed, keyed_tool, spec, tool};
use crate::{Play, call_tool, conclude, limits};

fn one(effect: Effect) -> Play {
    Play::act(limits(), &[tool(effect, 1)])
}

/// How the only call of the turn is concluded in this step, if it is.
fn conclusion(actions: &[Action]) -> Option<CallOutcome> {
    actions.iter().find_map(|action| match action {
        Action::Conclude { call: 0, outcome } => Some(*outcome),
        _ => None,
    })
}

#[test]
fn a_write_is_never_repeated_once_it_may_have_been_performed() {
    let mut play = one(Effect::Write);
    assert_eq!(conclusion(&play.take(call_failed(0, CallFailure::Unknown))), Some(CallOutcome::Unknown));
}

#[test]
fn a_write_that_was_not_performed_is_tried_again() {
    let mut play = one(Effect::Write);
    assert_eq!(play.take(call_failed(0, CallFailure::NotPerformed)), []);
    assert_eq!(play.wake(), [call_tool(0, 2)]);
    // The second attempt is as uncertain as a first would be.
    assert_eq!(conclusion(&play.take(call_failed(0, CallFailure::Unknown))), Some(CallOutcome::Unknown));
}

#[test]
fn a_write_under_way_when_its_worker_died_has_an_unknown_outcome() {
    let mut play = one(Effect::Write);
    assert_eq!(conclusion(&play.take(Event::Recovered)), Some(CallOutcome::Unknown));
    assert!(matches!(play.run.phase(), Phase::Reserving { .. }), "the model is told");
}

#[test]
fn a_write_that_waits_for_its_next_attempt_survives_its_worker() {
    let mut play = one(Effect::Write);
    play.take(call_failed(0, CallFailure::NotPerformed));
    assert_eq!(play.take(Event::Recovered), []);
    assert_eq!(play.wake(), [call_tool(0, 2)]);
}

#[test]
fn a_write_that_waits_for_a_free_place_is_made_after_a_crash() {
    let mut play = Play::act(Limits { parallel: 1, ..limits() }, &[tool(Effect::Write, 1), tool(Effect::Write, 2)]);
    assert_eq!(play.take(Event::Recovered), [conclude(0, CallOutcome::Unknown), call_tool(1, 1)]);
}

#[test]
fn a_read_is_retried_whatever_is_known_and_then_failed() {
    for failure in [CallFailure::Unknown, CallFailure::NotPerformed] {
        let mut play = one(Effect::Read);
        for attempt in 2..=3 {
            assert_eq!(play.take(call_failed(0, failure)), []);
            assert_eq!(play.wake(), [call_tool(0, attempt)]);
        }
        assert_eq!(conclusion(&play.take(call_failed(0, failure))), Some(CallOutcome::Failed));
    }
}

#[test]
fn a_keyed_call_is_retried_while_the_backend_remembers_the_key() {
    let mut play = Play::act(limits(), &[keyed_tool(10_000)]);
    play.wait(9_750);
    // The back-off of 250 ms ends at the key's last moment.
    assert_eq!(play.take(call_failed(0, CallFailure::Unknown)), []);
    assert_eq!(play.wake(), [call_tool(0, 2)]);
}

#[test]
fn a_keyed_call_is_unknown_once_the_backend_may_have_forgotten_the_key() {
    let mut play = Play::act(limits(), &[keyed_tool(10_000)]);
    play.wait(9_751);
    assert_eq!(conclusion(&play.take(call_failed(0, CallFailure::Unknown))), Some(CallOutcome::Unknown));
}

#[test]
fn the_keys_life_begins_with_the_first_attempt() {
    let mut play = Play::act(limits(), &[keyed_tool(10_000)]);
    play.wait(6_000).take(call_failed(0, CallFailure::Unknown));
    assert_eq!(play.wake(), [call_tool(0, 2)]);
    play.wait(6_000);
    assert_eq!(conclusion(&play.take(call_failed(0, CallFailure::Unknown))), Some(CallOutcome::Unknown));
}

#[test]
fn retry_after_beyond_the_keys_life_is_not_waited_for() {
    let mut play = Play::act(limits(), &[keyed_tool(10_000)]);
    let failed = Event::CallFailed {
        call: 0,
        failure: CallFailure::Unknown,
        retry_after_ms: 10_001,
        jitter: 0,
        cost: Cost::default(),
    };
    assert_eq!(conclusion(&play.take(failed)), Some(CallOutcome::Unknown));
}

#[test]
fn a_keyed_call_that_was_not_performed_is_retried_past_the_keys_life() {
    let mut play = Play::act(limits(), &[keyed_tool(10_000)]);
    play.wait(60_000).take(call_failed(0, CallFailure::NotPerformed));
    assert_eq!(play.wake(), [call_tool(0, 2)]);
}

#[test]
fn a_back_off_that_ends_late_does_not_repeat_a_call_whose_key_is_forgotten() {
    let mut play = Play::act(limits(), &[keyed_tool(10_000)]);
    play.take(call_failed(0, CallFailure::Unknown));
    // The worker died here, and the next one came after the backend forgot the key.
    play.wait(3_600_000).take(Event::Recovered);
    assert_eq!(conclusion(&play.wake()), Some(CallOutcome::Unknown));
}

#[test]
fn a_back_off_that_ends_late_still_repeats_a_call_that_was_not_performed() {
    let mut play = Play::act(limits(), &[keyed_tool(10_000)]);
    play.take(call_failed(0, CallFailure::NotPerformed));
    play.wait(3_600_000).take(Event::Recovered);
    assert_eq!(play.wake(), [call_tool(0, 2)]);
}

#[test]
fn doubt_stays_however_the_later_attempts_end() {
    for last in [CallFailure::NotPerformed, CallFailure::Forbidden] {
        let mut play = Play::act(Limits { tool_attempts: 2, ..limits() }, &[tool(Effect::Idempotent, 1)]);
        play.take(call_failed(0, CallFailure::Unknown));
        play.wake();
        assert_eq!(conclusion(&play.take(call_failed(0, last))), Some(CallOutcome::Unknown), "{last:?}");
    }
}

#[test]
fn a_call_that_policy_forbids_is_not_tried_again() {
    for effect in [Effect::Read, Effect::Idempotent, Effect::Write] {
        let mut play = one(effect);
        assert_eq!(conclusion(&play.take(call_failed(0, CallFailure::Forbidden))), Some(CallOutcome::Forbidden));
    }
}

#[test]
fn calls_back_off_like_model_calls_and_respect_retry_after() {
    let mut play = one(Effect::Read);
    let failure = CallFailure::NotPerformed;
    play.take(Event::CallFailed { call: 0, failure, retry_after_ms: 90_000, jitter: u16::MAX, cost: Cost::default() });
    assert_eq!(play.run.poll_at(), Some(play.now + 90_000));
    play.wake();
    play.take(Event::CallFailed { call: 0, failure, retry_after_ms: 1, jitter: u16::MAX, cost: Cost::default() });
    assert_eq!(play.run.poll_at(), Some(play.now + 999), "the second of 500 ms, doubled, with full jitter");
}

#[test]
fn no_more_calls_are_under_way_than_may_be_in_parallel() {
    let calls = [1, 2, 3, 4].map(|digest| tool(Effect::Read, digest));
    let mut play = Play::think(Limits { parallel: 2, ..limits() });
    let started = play.take(crate::play::replied(&calls));
    assert_eq!(crate::besides_money(started), [call_tool(0, 1), call_tool(1, 1)]);
    assert_eq!(play.take(answered(1)), [call_tool(2, 1)]);
    // A call that backs off keeps its place: it comes again soon.
    assert_eq!(play.take(call_failed(0, CallFailure::NotPerformed)), []);
    assert_eq!(play.take(answered(2)), [call_tool(3, 1)]);
    assert_eq!(play.wake(), [call_tool(0, 2)]);
}

#[test]
fn waits_and_approvals_take_no_place() {
    let wait = spec(CallKind::Signal { name: 1, until: 0 }, 1);
    let calls = [wait, approved_tool(Effect::Write, 2), tool(Effect::Read, 3)];
    let mut play = Play::think(Limits { parallel: 1, ..limits() });
    let actions = crate::besides_money(play.take(crate::play::replied(&calls)));
    assert_eq!(actions, [Action::Ask { call: 1 }, call_tool(2, 1)]);
    assert_eq!(play.take(Event::Approved { call: 1 }), [], "approved, and waits for the place");
    assert_eq!(play.take(answered(2)), [call_tool(1, 1)]);
}

#[test]
fn a_parallel_limit_of_none_still_lets_one_call_through() {
    let play = Play::act(Limits { parallel: 0, ..limits() }, &[tool(Effect::Read, 1)]);
    assert!(matches!(play.run.calls()[0].state, CallState::Running { .. }));
}

#[test]
fn nothing_is_called_before_its_approval() {
    let mut play = Play::think(limits());
    let asked = crate::besides_money(play.take(crate::play::replied(&[approved_tool(Effect::Write, 1)])));
    assert_eq!(asked, [Action::Ask { call: 0 }, Action::Suspend { until: 0 }]);
    assert_eq!(play.wait(1_000).take(Event::TimerFired), [Action::Suspend { until: 0 }]);
    assert_eq!(play.take(Event::Recovered), [Action::Suspend { until: 0 }], "a crash approves nothing");
    assert_eq!(play.take(Event::Approved { call: 0 }), [call_tool(0, 1)]);
    assert_eq!(play.refuse(Event::Approved { call: 0 }), mote_core::Refusal::Call(0));
}

#[test]
fn a_denied_call_is_not_made_and_the_model_is_told() {
    let mut play = Play::act(limits(), &[approved_tool(Effect::Write, 1)]);
    let actions = play.take(Event::Denied { call: 0 });
    assert_eq!(conclusion(&actions), Some(CallOutcome::Denied));
    assert!(crate::is_reserve(&actions[1]));
}

#[test]
fn a_rejected_call_is_never_made() {
    let mut play = Play::think(limits());
    let actions = play.take(crate::play::replied(&[spec(CallKind::Rejected { tokens: 30 }, 1)]));
    assert!(crate::is_reserve(actions.last().unwrap()));
    assert!(crate::besides_money(actions).is_empty());
    assert_eq!(play.run.context().tokens(), 100 + 40 + 30);
}

#[test]
fn every_result_and_every_notice_is_charged_to_its_turn() {
    let mut play = Play::act(limits(), &[tool(Effect::Read, 1), tool(Effect::Write, 2)]);
    play.take(Event::CallAnswered { call: 0, tokens: 500, is_error: true, cost: Cost::default() });
    play.take(call_failed(1, CallFailure::Unknown));
    assert_eq!(play.run.context().tokens(), 100 + 40 + 500 + u64::from(NOTICE_TOKENS));
}

#[test]
fn a_turn_ends_when_every_call_has_its_result_and_not_before() {
    let mut play = Play::act(limits(), &[tool(Effect::Read, 1), tool(Effect::Read, 2)]);
    assert_eq!(play.take(answered(1)), []);
    assert!(play.take(answered(0)).iter().all(crate::is_reserve));
}

#[test]
fn the_same_turn_comes_as_often_as_the_limit_says_and_then_ends_the_run() {
    let mut play = Play::start(Limits { repeats: 3, ..limits() });
    for _ in 0..3 {
        play.turn(&[tool(Effect::Read, 1)]);
        play.take(answered(0));
    }
    let actions = crate::besides_money(play.turn(&[tool(Effect::Read, 1)]));
    assert_eq!(actions, [crate::failed(Failure::Repeated)], "and the call is not made");
}

#[test]
fn a_repetition_is_seen_across_other_turns_until_they_are_eight() {
    for (others, repeated) in [(0, true), (7, true), (8, false)] {
        let mut play = Play::start(Limits { repeats: 1, ..limits() });
        for digest in std::iter::once(99).chain(0..others) {
            play.turn(&[tool(Effect::Read, digest)]);
            play.take(answered(0));
        }
        let actions = play.turn(&[tool(Effect::Read, 99)]);
        assert_eq!(actions.contains(&crate::failed(Failure::Repeated)), repeated, "after {others} others");
    }
}

#[test]
fn other_arguments_another_order_or_another_number_of_calls_is_no_repetition() {
    let read = |digest| tool(Effect::Read, digest);
    let mut play = Play::start(Limits { repeats: 1, ..limits() });
    for calls in [&[read(1), read(2)][..], &[read(2), read(1)], &[read(1)], &[read(1), read(1)], &[read(3)]] {
        let actions = play.turn(calls);
        assert!(!actions.contains(&crate::failed(Failure::Repeated)));
        (0..calls.len() as u16).for_each(|call| drop(play.take(answered(call))));
    }
}

#[test]
fn no_repetition_is_looked_for_where_the_limit_is_zero() {
    let mut play = Play::start(Limits { repeats: 0, steps: 20, ..limits() });
    for _ in 0..15 {
        play.turn(&[tool(Effect::Read, 1)]);
        assert!(play.take(answered(0)).iter().all(crate::is_reserve));
    }
}
