//! Calls that are suspended: a backend that asks a person, or works on by itself.

use mote_core::{Action, CallOutcome, CallState, Cost, Effect, Event, Limits, Refusal, Spend, Spender, Wait};

use crate::play::{answered, tool};
use crate::{CALLS, Play, conclude, limits};

fn suspended(call: u16, wait: Wait, until: u64) -> Event<CALLS> {
    Event::CallSuspended { call, wait, until }
}

fn resume(call: u16) -> Action {
    Action::ResumeCall { call, attempt: 1 }
}

#[test]
fn a_call_that_asks_a_person_gives_the_run_back_and_goes_on_with_the_answer() {
    for (wait, answer) in [
        (Wait::Input, Event::Replied { call: 0, tokens: 9 }),
        (Wait::Approval, Event::Approved { call: 0 }),
        (Wait::Approval, Event::Denied { call: 0 }),
        (Wait::Input, Event::Denied { call: 0 }),
    ] {
        let mut play = Play::act(limits(), &[tool(Effect::Write, 1)]);
        let before = play.run.context().tokens();
        assert_eq!(play.take(suspended(0, wait, 0)), [Action::Ask { call: 0 }, Action::Suspend { until: 0 }]);
        assert_eq!(play.wait(86_400_000).take(answer), [resume(0)], "{wait:?}");
        assert_eq!(play.run.context().tokens(), before, "the answer goes to the backend and is no result");
        assert_eq!(play.run.active_ms(), 0, "waiting is no work");
        assert!(crate::is_reserve(&play.take(answered(0))[0]));
    }
}

#[test]
fn work_elsewhere_is_asked_after_at_its_time_and_whenever_it_is_said_to_have_moved() {
    let mut play = Play::act(limits(), &[tool(Effect::Write, 1)]);
    let until = play.now + 60_000;
    assert_eq!(play.take(suspended(0, Wait::Remote, until)), [Action::Suspend { until }]);
    assert_eq!(play.wake(), [resume(0)]);
    play.take(suspended(0, Wait::Remote, 0));
    assert_eq!(play.wait(5).take(Event::CallWoken { call: 0 }), [resume(0)]);
    assert_eq!(play.refuse(Event::CallWoken { call: 0 }), Refusal::Call(0), "it is under way");
}

#[test]
fn a_worker_that_dies_loses_no_suspended_call() {
    let mut play = Play::act(limits(), &[tool(Effect::Write, 1)]);
    play.take(suspended(0, Wait::Remote, 0));
    assert_eq!(play.wait(5_000).take(Event::Recovered), [Action::Suspend { until: 0 }]);
    assert_eq!(play.take(Event::CallWoken { call: 0 }), [resume(0)]);
}

#[test]
fn a_backend_whose_question_nobody_answers_may_have_done_anything_that_it_could() {
    for (effect, outcome) in [(Effect::Write, CallOutcome::Unknown), (Effect::Read, CallOutcome::TimedOut)] {
        let mut play = Play::act(limits(), &[tool(effect, 1)]);
        let until = play.now + 1_000;
        play.take(suspended(0, Wait::Input, until));
        assert_eq!(play.wake()[0], conclude(0, outcome));
    }
    let mut play = Play::act(limits(), &[tool(Effect::Write, 1)]);
    play.take(suspended(0, Wait::Input, 0));
    let end = play.take(Event::Cancelled { spend: Spend::default() });
    assert_eq!(end[0], conclude(0, CallOutcome::Unknown));
}

#[test]
fn a_suspended_call_leaves_its_place_to_others_and_waits_for_one_to_go_on() {
    let calls = [tool(Effect::Read, 1), tool(Effect::Read, 2)];
    let mut play = Play::act(Limits { parallel: 1, ..limits() }, &calls);
    assert_eq!(play.take(suspended(0, Wait::Remote, 0)), [Action::CallTool { call: 1, attempt: 1 }]);
    assert_eq!(play.take(Event::CallWoken { call: 0 }), [], "the one place is taken");
    assert!(matches!(play.run.calls()[0].state, CallState::Ready(_)));
    assert_eq!(play.take(answered(1)), [resume(0)]);
}

#[test]
fn signals_and_times_are_calls_of_their_own() {
    for wait in [Wait::Signal, Wait::Time] {
        let mut play = Play::act(limits(), &[tool(Effect::Read, 1)]);
        assert_eq!(play.refuse(suspended(0, wait, 0)), Refusal::Call(0));
    }
}

#[test]
fn what_a_suspended_call_may_spend_stays_reserved_until_it_is_over() {
    let most = Spend { input: 900, output: 100, nano_usd: 5_000 };
    let spends = mote_core::CallSpec { reserve: most, ..tool(Effect::Idempotent, 1) };
    let mut play = Play::act(limits(), &[spends]);
    play.take(Event::BudgetGranted { spender: Spender::Call { call: 0 }, available: 0 });
    play.take(suspended(0, Wait::Remote, 0));
    assert_eq!(play.run.budget().reserved(), most);
    play.take(Event::CallWoken { call: 0 });
    let cost = Cost { spend: Spend { input: 10, output: 1, nano_usd: 50 }, uncertain: false };
    let settle = Action::Settle { spender: Spender::Call { call: 0 }, tokens: 11, nano_usd: 50, uncertain: false };
    let actions = play.take(Event::CallAnswered { call: 0, tokens: 5, is_error: false, cost });
    assert_eq!(actions[0], settle);
}
