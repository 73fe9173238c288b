//! Deadlines: what counts as work, what ends a wait, and what the driver must wake for.

use mote_core::{Action, CallFailure, CallKind, CallOutcome, CallSpec, Change, Effect, Event, Failure, Limits};

use crate::play::{START, answer, answered, approved_tool, call_failed, model_failed, spec, tool};
use crate::{Play, call_tool, conclude, limits};

fn signal(until: u64) -> CallSpec {
    spec(CallKind::Signal { name: 7, until }, 1)
}

fn timer(at: u64) -> CallSpec {
    spec(CallKind::Timer { at }, 2)
}

fn question(until: u64) -> CallSpec {
    spec(CallKind::Question { until }, 3)
}

fn read() -> CallSpec {
    tool(Effect::Read, 4)
}

#[test]
fn thinking_acting_and_backing_off_are_work() {
    let mut play = Play::start(limits());
    play.wait(10).grant();
    play.wait(100).take(model_failed(mote_core::ModelFailure::Transient));
    play.wait(1_000).take(Event::TimerFired);
    play.turn(&[read()]);
    play.wait(10_000).take(answered(0));
    assert_eq!(play.run.active_ms(), 11_110);
}

#[test]
fn waiting_for_a_person_a_signal_or_a_time_is_no_work() {
    for wait in [approved_tool(Effect::Write, 1), signal(0), timer(START + 90_000_000), question(0)] {
        let mut play = Play::act(Limits { active_ms: 1_000, ..limits() }, &[wait]);
        assert!(play.run.is_suspended());
        play.wait(86_400_000).take(Event::TimerFired);
        assert_eq!(play.run.active_ms(), 0, "{wait:?}");
    }
}

#[test]
fn a_wait_beside_a_call_under_way_is_work_until_the_call_ends() {
    let mut play = Play::act(limits(), &[signal(0), read()]);
    assert!(!play.run.is_suspended());
    assert_eq!(play.wait(700).take(answered(1)), [Action::Suspend { until: 0 }]);
    play.wait(5_000).take(Event::Signalled { call: 0, tokens: 5 });
    assert_eq!(play.run.active_ms(), 700);
}

#[test]
fn time_without_a_worker_is_no_work() {
    for back in [Event::Recovered, Event::Rebound { digest: [3; 32], change: Change::Continue }] {
        let mut play = Play::act(Limits { active_ms: 1_000, ..limits() }, &[read()]);
        play.wait(3_600_000).take(back);
        assert_eq!(play.run.active_ms(), 0);
        play.wait(999).take(Event::TimerFired);
        assert_eq!(play.run.active_ms(), 999, "and it counts again from there");
    }
}

#[test]
fn working_time_ends_the_run_at_its_last_millisecond() {
    let mut play = Play::think(Limits { active_ms: 1_000, ..limits() });
    assert_eq!(play.run.poll_at(), Some(START + 1_000));
    assert_eq!(play.wait(999).take(Event::TimerFired), []);
    assert_eq!(play.wait(1).take(Event::TimerFired).last(), Some(&crate::failed(Failure::Active)));
}

#[test]
fn what_is_left_of_the_working_time_stays_over_a_wait() {
    let mut play = Play::start(Limits { active_ms: 1_000, ..limits() });
    play.wait(400);
    play.turn(&[signal(0)]);
    assert_eq!(play.run.poll_at(), None, "nothing to wake for but mail");
    play.wait(50_000).take(Event::Signalled { call: 0, tokens: 5 });
    assert_eq!(play.run.poll_at(), Some(play.now + 600));
}

#[test]
fn a_run_that_rests_is_not_ended_for_its_working_time_until_it_works_again() {
    let mut play = Play::think(Limits { active_ms: 1_000, ..limits() });
    // The reply came after the deadline, and before its timer.
    play.wait(1_500).take(crate::play::replied(&[timer(START + 60_000)]));
    assert_eq!(play.wake()[0], conclude(0, CallOutcome::TimeReached));
    assert_eq!(play.run.poll_at(), Some(play.now));
    assert_eq!(play.wake(), [crate::failed(Failure::Active)]);
}

#[test]
fn wall_time_ends_the_run_in_every_phase_waits_included() {
    let limits = Limits { expires_at: START + 5_000, ..limits() };
    let mut back_off = Play::think(limits);
    back_off.take(model_failed(mote_core::ModelFailure::Transient));
    let act = Play::act(limits, &[read()]);
    let suspended = Play::act(limits, &[approved_tool(Effect::Write, 1)]);
    for mut play in [Play::start(limits), Play::think(limits), back_off, act, suspended] {
        let phase = play.run.phase();
        play.wait(5_000);
        assert_eq!(play.take(Event::TimerFired).last(), Some(&crate::failed(Failure::Expired)), "{phase:?}");
    }
}

#[test]
fn a_gap_between_workers_is_wall_time() {
    let mut play = Play::act(Limits { expires_at: START + 5_000, ..limits() }, &[read()]);
    play.wait(6_000).take(Event::Recovered);
    assert_eq!(play.wake().last(), Some(&crate::failed(Failure::Expired)));
}

#[test]
fn poll_at_names_the_earliest_of_all_deadlines() {
    assert_eq!(Play::open(limits()).run.poll_at(), None);
    let far = Limits { active_ms: 50_000, expires_at: START + 90_000, ..limits() };
    assert_eq!(Play::start(far).run.poll_at(), Some(START + 50_000), "working time");
    let soon = Limits { expires_at: START + 40_000, ..far };
    assert_eq!(Play::think(soon).run.poll_at(), Some(START + 40_000), "expiry");
    let wait = Play::act(far, &[signal(START + 30_000), timer(START + 20_000), question(START + 10_000), read()]);
    assert_eq!(wait.run.poll_at(), Some(START + 10_000), "the first wait");
    let mut failing = Play::act(far, &[signal(START + 30_000), read()]);
    failing.take(call_failed(1, CallFailure::NotPerformed));
    assert_eq!(failing.run.poll_at(), Some(START + 250), "a call's back-off");
    let mut thinking = Play::think(far);
    thinking.take(model_failed(mote_core::ModelFailure::Transient));
    assert_eq!(thinking.run.poll_at(), Some(START + 250), "the model's back-off");
    let waiting = Play::act(far, &[approved_tool(Effect::Write, 1)]);
    assert_eq!(waiting.run.poll_at(), Some(START + 90_000), "expiry only: a wait is no work");
}

#[test]
fn a_suspended_run_says_until_when() {
    let until = |limits: Limits, calls: &[CallSpec]| {
        let mut play = Play::think(limits);
        play.take(crate::play::replied(calls)).last().copied()
    };
    let expiring = Limits { expires_at: START + 40_000, ..limits() };
    assert_eq!(until(limits(), &[signal(0)]), Some(Action::Suspend { until: 0 }));
    assert_eq!(until(limits(), &[signal(0), timer(START + 9)]), Some(Action::Suspend { until: START + 9 }));
    assert_eq!(until(expiring, &[signal(0)]), Some(Action::Suspend { until: START + 40_000 }));
    assert_eq!(until(expiring, &[timer(START + 50_000)]), Some(Action::Suspend { until: START + 40_000 }));
}

#[test]
fn a_wait_ends_when_its_time_comes_and_each_kind_says_how() {
    let at = START + 60_000;
    for (wait, outcome) in [
        (signal(at), CallOutcome::TimedOut),
        (question(at), CallOutcome::TimedOut),
        (timer(at), CallOutcome::TimeReached),
    ] {
        let mut play = Play::act(limits(), &[wait]);
        assert_eq!(play.wait(59_999).take(Event::TimerFired), [Action::Suspend { until: at }]);
        assert_eq!(play.wait(1).take(Event::TimerFired)[0], conclude(0, outcome));
    }
}

#[test]
fn a_timer_for_a_time_that_is_over_ends_at_once() {
    for at in [0, 1, START - 1] {
        let mut play = Play::act(limits(), &[timer(at)]);
        assert_eq!(play.wake()[0], conclude(0, CallOutcome::TimeReached));
        assert_eq!(play.now, START);
    }
}

#[test]
fn a_wait_without_a_limit_ends_by_its_event_only() {
    let mut play = Play::act(limits(), &[signal(0), question(0)]);
    play.wait(u64::from(u32::MAX)).take(Event::TimerFired);
    assert_eq!(play.take(Event::Signalled { call: 0, tokens: 5 }), [Action::Suspend { until: 0 }]);
    assert!(play.take(Event::Replied { call: 1, tokens: 5 }).iter().all(crate::is_reserve));
}

#[test]
fn a_wait_makes_room_for_calls_that_came_before() {
    let waits: [(CallSpec, Option<Event<{ crate::CALLS }>>); 3] = [
        (signal(0), Some(Event::Signalled { call: 0, tokens: 5 })),
        (question(0), Some(Event::Replied { call: 0, tokens: 5 })),
        (timer(START + 1_000), None),
    ];
    for (wait, event) in waits {
        let mut play = Play::act(Limits { repeats: 1, ..limits() }, &[read()]);
        play.take(answered(0));
        play.turn(&[wait]);
        match event {
            Some(event) => play.take(event),
            None => play.wake(),
        };
        let actions = crate::besides_money(play.turn(&[read()]));
        assert_eq!(actions, [call_tool(0, 1)], "polling after a wait is no repetition");
    }
}

#[test]
fn waiting_again_and_again_is_no_repetition() {
    let mut play = Play::start(Limits { repeats: 1, ..limits() });
    for _ in 0..5 {
        play.turn(&[signal(0)]);
        assert!(play.take(Event::Signalled { call: 0, tokens: 5 }).iter().all(crate::is_reserve));
    }
}

#[test]
fn a_clock_that_goes_back_is_taken_as_standing_still() {
    let mut play = Play::think(Limits { active_ms: 10_000, ..limits() });
    play.wait(4_000).take(Event::TimerFired);
    play.now -= 3_000;
    play.take(Event::TimerFired);
    assert_eq!((play.run.now(), play.run.active_ms()), (START + 4_000, 4_000));
    play.take(answer());
}
