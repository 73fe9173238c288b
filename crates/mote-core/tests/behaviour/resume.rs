//! A run that failed or was cancelled goes on from its last good step.

use mote_core::{Action, CallOutcome, Change, Effect, Event, Failure, Finish, Limits, ModelFailure, Outcome, Refusal};

use crate::play::{SPEND, START, answer, answered, approved_tool, model_failed, replied, replied_with, tool};
use crate::{Play, conclude, limits};

fn resumed(limits: Limits) -> Event<{ crate::CALLS }> {
    Event::Resumed { limits, digest: [5; 32] }
}

/// Resumes an ended run and lets it answer; what the resumption asked for.
fn goes_on(mut play: Play, limits: Limits) -> (Play, Vec<Action>) {
    let spent = play.run.budget().counted();
    let actions = play.wait(86_400_000).take(resumed(limits));
    assert_eq!(play.run.budget().counted(), spent, "what was spent goes on counting");
    assert_eq!(play.run.digest(), &[5; 32]);
    play.grant();
    play.take(answer());
    (play, actions)
}

#[test]
fn a_failed_model_call_is_made_again_with_the_same_context_and_the_same_step() {
    for failure in [ModelFailure::Rejected, ModelFailure::Transient, ModelFailure::Unavailable] {
        let strict = Limits { model_attempts: 1, model_outage_ms: 0, ..limits() };
        let mut play = Play::act(strict, &[tool(Effect::Read, 1)]);
        play.take(answered(0));
        play.grant();
        play.take(model_failed(failure));
        let (tokens, first) = (play.run.context().tokens(), play.run.context().first());
        let (play, actions) = goes_on(play, strict);
        assert!(matches!(actions[..], [Action::Reserve { .. }]), "{actions:?}");
        assert_eq!((play.run.context().tokens(), play.run.context().first(), play.run.steps()), (tokens, first, 2));
    }
}

#[test]
fn what_was_under_way_has_its_notice_and_what_was_not_begun_gets_one() {
    let calls = [tool(Effect::Write, 1), approved_tool(Effect::Write, 2)];
    let mut play = Play::act(Limits { expires_at: START + 1_000, ..limits() }, &calls);
    assert_eq!(play.wake()[0], conclude(0, CallOutcome::Unknown));
    let (play, actions) = goes_on(play, limits());
    assert_eq!(actions[0], conclude(1, CallOutcome::NotMade), "an approval is asked for anew");
    assert_eq!(play.run.steps(), 2, "an unknown outcome is told, never repeated");
}

#[test]
fn a_turn_that_was_refused_is_asked_for_again() {
    let read = tool(Effect::Read, 1);
    let mut play = Play::act(Limits { repeats: 1, ..limits() }, &[read]);
    play.take(answered(0));
    play.grant();
    let before = play.run.context().tokens();
    play.take(replied(&[read]));
    assert_eq!(play.run.context().tokens(), before, "it is not in the context");
    let (play, _) = goes_on(play, limits());
    assert_eq!((play.run.steps(), play.run.tool_calls()), (2, 1));
}

#[test]
fn steps_money_and_calls_go_on_counting_and_working_time_begins_anew() {
    let bounds = Limits { steps: 1, active_ms: 5_000, ..limits() };
    let mut play = Play::act(bounds, &[tool(Effect::Read, 1)]);
    assert_eq!(play.wait(4_000).take(answered(0)), [crate::failed(Failure::Steps)]);
    assert_eq!(play.take(resumed(bounds)), [crate::failed(Failure::Steps)], "no more of them than before");
    assert!(play.take(resumed(Limits { steps: 2, ..bounds })).iter().all(crate::is_reserve));
    assert_eq!(play.run.active_ms(), 0);
    play.grant();
    play.take(answer());
    assert_eq!(play.run.steps(), 2);
}

#[test]
fn a_cancelled_run_is_resumed_in_every_phase_that_had_input() {
    let act = Play::act(limits(), &[tool(Effect::Read, 1)]);
    let mut back_off = Play::think(limits());
    back_off.take(model_failed(ModelFailure::Unavailable));
    for mut play in [Play::start(limits()), Play::think(limits()), back_off, act] {
        play.take(Event::Cancelled { spend: SPEND });
        assert!(play.run.is_resumable());
        goes_on(play, limits());
    }
    let mut play = Play::open(limits());
    play.take(Event::Cancelled { spend: SPEND });
    assert_eq!((play.run.is_resumable(), play.refuse(resumed(limits()))), (false, Refusal::Finished));
}

#[test]
fn a_completed_run_has_nothing_to_resume() {
    let mut play = Play::think(limits());
    play.take(answer());
    assert_eq!((play.run.is_resumable(), play.refuse(resumed(limits()))), (false, Refusal::Finished));
    let mut fresh = Play::open(limits());
    assert_eq!(fresh.refuse(resumed(limits())), Refusal::Unexpected);
}

#[test]
fn a_run_under_way_only_takes_its_new_bounds() {
    let mut play = Play::think(Limits { expires_at: START + 1_000, ..limits() });
    assert_eq!(play.wait(5_000).take(resumed(Limits { expires_at: START + 60_000, ..limits() })), []);
    assert_eq!(play.take(Event::TimerFired), [], "it has not expired");
    play.take(answer());
}

#[test]
fn a_run_that_ended_as_its_agent_changed_goes_on_under_the_new_one() {
    let mut play = Play::act(limits(), &[approved_tool(Effect::Write, 1)]);
    play.take(Event::Rebound { digest: [9; 32], change: Change::PendingCall });
    let (_, actions) = goes_on(play, limits());
    assert_eq!(
        actions[0],
        conclude(0, CallOutcome::NotMade),
        "what was asked of a person is not what would be done now"
    );
}

#[test]
fn a_run_resumes_as_often_as_it_fails() {
    let mut play = Play::think(limits());
    for _ in 0..5 {
        let ended = play.take(replied_with(Finish::Length, SPEND, 40, &[]));
        assert_eq!(ended.last(), Some(&Action::Finish { outcome: Outcome::Failed(Failure::Truncated) }));
        play.take(resumed(limits()));
        play.grant();
    }
    play.take(answer());
    assert_eq!(play.run.steps(), 1);
}

#[test]
fn bounds_beyond_this_build_are_refused() {
    let mut play = Play::think(limits());
    let refusal = play.refuse(resumed(Limits { units: 200, ..limits() }));
    assert!(matches!(refusal, Refusal::Capacity { what: "units", .. }));
}
