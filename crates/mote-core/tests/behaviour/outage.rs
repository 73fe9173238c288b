//! Endpoints that are not available, and those that reply with nothing of use: the one is bounded by time, the other by
//! attempts of each endpoint.

use mote_core::{Action, CallFailure, Cost, Effect, Event, Failure, Limits, ModelFailure, Phase, Spender};

use crate::play::{answer, answered, call_failed, model_failed_with, tool};
use crate::{Play, limits};

/// A failure with the other endpoints available or not.
fn failed(failure: ModelFailure, others: bool) -> Event<{ crate::CALLS }> {
    model_failed_with(failure, Cost::default(), (0, 0), others)
}

fn down(others: bool) -> Event<{ crate::CALLS }> {
    failed(ModelFailure::Unavailable, others)
}

fn broken(others: bool) -> Event<{ crate::CALLS }> {
    failed(ModelFailure::Transient, others)
}

/// Fails every attempt so, until the run ends; how long that takes and what it ends with.
fn until_the_end(mut play: Play, failure: impl Fn(u32) -> Event<{ crate::CALLS }>) -> (u64, u32, Action) {
    let began = play.now;
    for attempt in 1.. {
        let actions = play.take(failure(attempt));
        if let Some(Action::Finish { outcome }) = actions.last() {
            return (play.now - began, attempt, Action::Finish { outcome: *outcome });
        }
        if matches!(play.run.phase(), Phase::BackingOff { .. }) {
            play.wake();
        }
        play.grant();
    }
    unreachable!("it never ends");
}

#[test]
fn an_outage_is_bounded_by_time_and_not_by_attempts() {
    let limits = Limits { model_attempts: 2, model_outage_ms: 900_000, rest_ms: 5_000, ..limits() };
    let (took, attempts, end) = until_the_end(Play::think(limits), |_| down(false));
    assert_eq!(
        (took, end),
        (900_000, crate::failed(Failure::Outage)),
        "the last attempt is made when the time is over"
    );
    assert!(attempts > 20, "{attempts}");
}

#[test]
fn an_outage_that_is_over_leaves_the_next_one_its_whole_time() {
    let mut play = Play::think(Limits { model_outage_ms: 10_000, ..limits() });
    for turn in 0..3 {
        play.take(down(false));
        play.wait(8_000).take(Event::TimerFired);
        play.turn(&[tool(Effect::Read, turn)]);
        play.take(answered(0));
        play.grant();
    }
    play.take(answer());
}

#[test]
fn each_endpoint_has_its_own_attempts() {
    let limits = Limits { model_attempts: 4, endpoints: 2, ..limits() };
    let (_, attempts, end) = until_the_end(Play::think(limits), |attempt| broken(attempt > 0));
    assert_eq!((attempts, end), (8, crate::failed(Failure::Model)));
}

#[test]
fn an_endpoint_that_has_used_up_its_attempts_is_named_until_the_step_is_over() {
    let mut play = Play::think(Limits { model_attempts: 2, endpoints: 2, ..limits() });
    let mut asked = Vec::new();
    for _ in 0..3 {
        play.take(broken(true));
        if matches!(play.run.phase(), Phase::BackingOff { .. }) {
            play.wake();
        }
        asked.extend(play.grant().iter().filter_map(endpoint));
    }
    assert_eq!(asked, [1, 0, 1], "each in turn; the first has used up its attempts with the third");
    assert_eq!(play.run.exhausted(), 0b01);
    play.take(crate::play::replied(&[tool(Effect::Read, 1)]));
    play.take(answered(0));
    assert_eq!(play.run.exhausted(), 0);
}

#[test]
fn an_endpoint_that_refuses_leaves_the_step_to_the_other_and_to_its_outage() {
    let limits = Limits { endpoints: 2, model_outage_ms: 60_000, ..limits() };
    let fails = |attempt| if attempt == 1 { failed(ModelFailure::Rejected, true) } else { down(false) };
    let (took, _, end) = until_the_end(Play::think(limits), fails);
    assert_eq!((took, end), (60_000, crate::failed(Failure::Outage)));
    let both = |_| failed(ModelFailure::Rejected, true);
    let (took, attempts, end) = until_the_end(Play::think(limits), both);
    assert_eq!((took, attempts, end), (0, 2, crate::failed(Failure::ModelRejected)), "refused for good, at once");
}

fn endpoint(action: &Action) -> Option<u8> {
    match action {
        Action::CallModel { endpoint, .. } => Some(*endpoint),
        _ => None,
    }
}

#[test]
fn the_first_endpoint_whose_circuit_is_closed_is_asked_and_the_first_of_all_where_none_is() {
    for (available, expected) in [(0b111, 0), (0b110, 1), (0b100, 2), (0, 0), (0b1000, 0)] {
        let mut play = Play::start(Limits { endpoints: 3, ..limits() });
        let granted = Event::BudgetGranted { spender: Spender::Model, available };
        assert_eq!(play.take(granted).iter().find_map(endpoint), Some(expected), "{available:b}");
    }
}

#[test]
fn a_long_back_off_gives_the_run_back_and_is_no_work() {
    let mut play = Play::think(Limits { rest_ms: 5_000, active_ms: 20_000, ..limits() });
    let mut rests = 0;
    while play.now - crate::play::START < 600_000 {
        let actions = play.take(down(false));
        let rest = play.run.poll_at().unwrap() - play.now >= 5_000;
        assert_eq!(play.run.is_suspended(), rest);
        let until = play.run.poll_at().unwrap();
        assert_eq!(actions.last() == Some(&Action::Suspend { until }), rest);
        rests += u32::from(rest);
        play.wake();
        play.grant();
    }
    assert!(rests > 10 && play.run.active_ms() < 10_000, "{rests} rests, {} ms of work", play.run.active_ms());
}

#[test]
fn time_in_which_nobody_tried_is_no_outage() {
    let limits = Limits { model_outage_ms: 20_000, rest_ms: 100, ..limits() };
    let mut late = Play::think(limits);
    late.take(down(false));
    // The process was gone for an hour.
    late.wait(3_600_000).take(Event::TimerFired);
    late.grant();
    late.take(down(false));
    let mut lost = Play::think(limits);
    lost.take(down(false));
    lost.wake();
    lost.grant();
    lost.wait(3_600_000).take(Event::Recovered);
    lost.grant();
    lost.take(down(false));
    for play in [late, lost] {
        assert!(matches!(play.run.phase(), Phase::BackingOff { .. }), "{:?}", play.run.phase());
    }
}

#[test]
fn a_tool_that_asks_for_a_long_pause_gives_the_run_back() {
    let mut play = Play::act(Limits { rest_ms: 5_000, ..limits() }, &[tool(Effect::Read, 1), tool(Effect::Read, 2)]);
    let pause = |call| Event::CallFailed {
        call,
        failure: CallFailure::NotPerformed,
        retry_after_ms: 60_000,
        jitter: 0,
        cost: Cost::default(),
    };
    assert_eq!(play.take(pause(0)), [], "the other call is under way");
    let until = play.now + 60_000;
    assert_eq!(play.take(pause(1)), [Action::Suspend { until }]);
    assert_eq!(play.wake(), [crate::call_tool(0, 2), crate::call_tool(1, 2)]);
    play.take(call_failed(0, CallFailure::NotPerformed));
    assert!(!play.run.is_suspended(), "a short back-off is none");
}
