//! Every way in which a run ends, and that each ends it for good.

use mote_core::{
    Action, CallFailure, CallOutcome, CallState, Change, Effect, Event, Failure, Finish, Limits, ModelFailure, Outcome,
    Phase, Spend, Spender,
};

use crate::play::{
    SPEND, START, answer, answered, approved_tool, budget_refused, call_failed, keyed_tool, model_failed, replied,
    replied_with, tool,
};
use crate::{Play, limits};

const FAILURES: [Failure; 16] = [
    Failure::Steps,
    Failure::ToolCalls,
    Failure::Active,
    Failure::Expired,
    Failure::BudgetRun,
    Failure::BudgetShared,
    Failure::Repeated,
    Failure::Model,
    Failure::ModelRejected,
    Failure::Filtered,
    Failure::Truncated,
    Failure::Invalid,
    Failure::ContextOverflow,
    Failure::CapabilitiesChanged,
    Failure::Outage,
    Failure::Interrupted,
];

/// Plays a run into a failure. The match is whole: a new failure does not compile without its play.
fn play_into(failure: Failure) -> (Play, Vec<Action>) {
    let read = tool(Effect::Read, 1);
    let ended = |finish| replied_with(finish, SPEND, 40, &[]);
    let (mut play, last) = match failure {
        Failure::Steps => (Play::act(Limits { steps: 1, ..limits() }, &[read]), answered(0)),
        Failure::ToolCalls => (Play::think(Limits { tool_calls: 1, ..limits() }), replied(&[read, read])),
        Failure::Active => {
            let mut play = Play::act(Limits { active_ms: 5_000, ..limits() }, &[read]);
            play.wait(5_000);
            (play, Event::TimerFired)
        }
        Failure::Expired => {
            let mut play = Play::act(Limits { expires_at: START + 100, ..limits() }, &[read]);
            play.wait(100);
            (play, Event::TimerFired)
        }
        Failure::BudgetRun => {
            let costly = Spend { nano_usd: 2, ..SPEND };
            let play = Play::think(Limits { budget_nano_usd: 1, ..limits() });
            (play, replied_with(Finish::Invalid, costly, 40, &[]))
        }
        Failure::BudgetShared => (Play::start(limits()), budget_refused()),
        Failure::Repeated => {
            let mut play = Play::act(Limits { repeats: 1, ..limits() }, &[read]);
            play.take(answered(0));
            play.grant();
            (play, replied(&[read]))
        }
        Failure::Model => {
            (Play::think(Limits { model_attempts: 1, ..limits() }), model_failed(ModelFailure::Transient))
        }
        Failure::Outage => {
            (Play::think(Limits { model_outage_ms: 0, ..limits() }), model_failed(ModelFailure::Unavailable))
        }
        Failure::Interrupted => {
            (Play::think(Limits { interruptions: 0, interruptions_ms: 0, ..limits() }), Event::Recovered)
        }
        Failure::ModelRejected => (Play::think(limits()), model_failed(ModelFailure::Rejected)),
        Failure::Filtered => (Play::think(limits()), ended(Finish::Filtered)),
        Failure::Truncated => (Play::think(limits()), ended(Finish::Length)),
        Failure::Invalid => (Play::think(Limits { repairs: 0, ..limits() }), ended(Finish::Invalid)),
        Failure::ContextOverflow => (Play::open(limits()), Event::Started { tokens: 200_000 }),
        Failure::CapabilitiesChanged => {
            (Play::act(limits(), &[read]), Event::Rebound { digest: [1; 32], change: Change::PendingCall })
        }
    };
    let actions = play.take(last);
    (play, actions)
}

#[test]
fn every_failure_is_reached_and_is_the_last_action() {
    for failure in FAILURES {
        let (play, actions) = play_into(failure);
        assert_eq!(actions.last(), Some(&crate::failed(failure)));
        assert_eq!(play.run.phase(), Phase::Finished(Outcome::Failed(failure)));
    }
}

#[test]
fn a_run_that_is_over_has_no_deadline_and_no_open_reservation() {
    for failure in FAILURES {
        let (play, _) = play_into(failure);
        assert_eq!(play.run.poll_at(), None, "{failure:?}");
        assert_eq!(play.run.budget().reserved(), Spend::default(), "{failure:?}");
        assert!(!play.run.is_suspended(), "{failure:?}");
    }
}

#[test]
fn a_valid_final_answer_completes_the_run() {
    let mut play = Play::think(limits());
    let settle =
        Action::Settle { spender: Spender::Model, tokens: SPEND.tokens(), nano_usd: SPEND.nano_usd, uncertain: false };
    assert_eq!(play.take(answer()), [settle, Action::Finish { outcome: Outcome::Completed }]);
}

#[test]
fn an_invalid_answer_is_repaired_as_often_as_the_limit_says() {
    let invalid = || replied_with(Finish::Invalid, SPEND, 40, &[]);
    let mut play = Play::think(Limits { repairs: 2, ..limits() });
    for _ in 0..2 {
        assert!(play.take(invalid()).iter().any(crate::is_reserve));
        play.grant();
    }
    assert_eq!(play.take(invalid()).last(), Some(&crate::failed(Failure::Invalid)));
}

#[test]
fn a_client_may_cancel_in_every_phase_that_is_not_over() {
    let act = Play::act(limits(), &[tool(Effect::Write, 1)]);
    let mut back_off = Play::think(limits());
    back_off.take(model_failed(ModelFailure::Transient));
    for mut play in [Play::open(limits()), Play::start(limits()), Play::think(limits()), back_off, act] {
        let thinking = matches!(play.run.phase(), Phase::Thinking { .. });
        let before = play.run.budget().uncertain;
        let actions = play.take(Event::Cancelled { spend: SPEND });
        assert_eq!(actions.last(), Some(&Action::Finish { outcome: Outcome::Cancelled }));
        // Only a model call under way has a cost to book.
        let settles = actions.iter().filter(|action| matches!(action, Action::Settle { .. })).count();
        assert_eq!(settles, usize::from(thinking));
        let booked = play.run.budget().uncertain.tokens() - before.tokens();
        assert_eq!(booked, if thinking { SPEND.tokens() } else { 0 });
    }
}

#[test]
fn an_end_frees_the_reservation_that_was_asked_for() {
    let ends: [fn(&mut Play) -> Vec<Action>; 3] = [
        |play| play.take(Event::Cancelled { spend: SPEND }),
        |play| play.take(Event::Rebound { digest: [1; 32], change: Change::Fail }),
        Play::wake,
    ];
    for end in ends {
        let mut play = Play::start(Limits { expires_at: START + 100, price_input: 3, ..limits() });
        assert!(play.run.budget().reserved().tokens() > 0 && play.run.budget().reserved().nano_usd > 0);
        assert!(matches!(end(&mut play)[..], [Action::Finish { .. }]));
        assert_eq!(play.run.budget().reserved(), Spend::default());
        assert_eq!(play.run.budget().spent, Spend::default(), "and nothing was spent");
    }
}

#[test]
fn a_changed_capability_set_ends_the_run_or_goes_on_as_the_agent_says() {
    let read = tool(Effect::Read, 1);
    for (change, ends) in [(Change::Continue, false), (Change::Fail, true), (Change::PendingCall, true)] {
        let mut play = Play::act(limits(), &[read]);
        let actions = play.take(Event::Rebound { digest: [9; 32], change });
        assert_eq!(actions.contains(&crate::failed(Failure::CapabilitiesChanged)), ends);
        assert_eq!(play.run.digest(), &[9; 32]);
    }
}

#[test]
fn a_model_call_that_the_end_cuts_off_settles_at_its_reservation() {
    let mut play = Play::think(Limits { expires_at: START + 100, ..limits() });
    let Spend { nano_usd, .. } = play.run.budget().reserved();
    let tokens = play.run.budget().reserved().tokens();
    let actions = play.wake();
    assert_eq!(
        actions,
        [
            Action::Settle { spender: Spender::Model, tokens, nano_usd, uncertain: true },
            crate::failed(Failure::Expired)
        ]
    );
    assert_eq!((play.run.budget().spent.tokens(), play.run.budget().uncertain.tokens()), (0, tokens));
}

#[test]
fn the_limit_of_steps_counts_model_steps_and_not_attempts() {
    let mut play = Play::think(Limits { steps: 2, ..limits() });
    play.take(model_failed(ModelFailure::Transient));
    play.wake();
    play.turn(&[tool(Effect::Read, 1)]);
    assert!(play.take(answered(0)).iter().any(crate::is_reserve));
    play.turn(&[tool(Effect::Read, 2)]);
    assert_eq!(play.take(answered(0)), [crate::failed(Failure::Steps)]);
    assert_eq!(play.run.steps(), 2);
}

#[test]
fn the_limit_of_tool_calls_ends_the_run_before_the_turn_that_goes_beyond_it() {
    let read = |digest| tool(Effect::Read, digest);
    let mut play = Play::act(Limits { tool_calls: 3, ..limits() }, &[read(1), read(2)]);
    play.take(answered(0));
    play.take(answered(1));
    play.turn(&[read(3)]);
    play.take(answered(0));
    let actions = crate::besides_money(play.turn(&[read(4)]));
    assert_eq!(actions, [crate::failed(Failure::ToolCalls)], "no call of that turn is made");
    assert_eq!(play.run.tool_calls(), 3);
}

/// What ends a run.
type End = fn(&mut Play) -> Vec<Action>;

/// Every end that can come while calls are under way.
const CUTS: [(Outcome, End); 5] = [
    (Outcome::Cancelled, |play| play.take(Event::Cancelled { spend: Spend::default() })),
    (Outcome::Failed(Failure::Active), |play| play.wait(60_000).take(Event::TimerFired)),
    (Outcome::Failed(Failure::Expired), |play| play.wait(90_000).take(Event::TimerFired)),
    (Outcome::Failed(Failure::CapabilitiesChanged), |play| {
        play.take(Event::Rebound { digest: [1; 32], change: Change::Fail })
    }),
    (Outcome::Failed(Failure::CapabilitiesChanged), |play| {
        play.take(Event::Rebound { digest: [1; 32], change: Change::PendingCall })
    }),
];

fn cut_limits() -> Limits {
    Limits { active_ms: 60_000, expires_at: START + 90_000, ..limits() }
}

#[test]
fn an_end_says_of_every_call_that_it_cuts_off_what_is_known() {
    let turn = [tool(Effect::Read, 1), tool(Effect::Write, 2), keyed_tool(60_000), tool(Effect::Write, 3)];
    for (outcome, end) in CUTS {
        let mut play = Play::act(cut_limits(), &turn);
        // This attempt reached nobody; the next was still to come.
        play.take(call_failed(3, CallFailure::NotPerformed));
        let concluded = |call, outcome| Action::Conclude { call, outcome };
        let expected = [
            concluded(0, CallOutcome::Failed),
            concluded(1, CallOutcome::Unknown),
            concluded(2, CallOutcome::Unknown),
            concluded(3, CallOutcome::Failed),
            Action::Finish { outcome },
        ];
        assert_eq!(end(&mut play), expected, "{outcome:?}");
        assert!(play.run.calls().iter().all(|call| call.state == CallState::Done), "{outcome:?}");
    }
}

#[test]
fn a_keyed_call_in_doubt_that_was_to_be_made_again_is_unknown_after_the_end() {
    for (outcome, end) in CUTS {
        let mut play =
            Play::act(Limits { backoff_ms: 120_000, backoff_ms_max: 120_000, ..cut_limits() }, &[keyed_tool(u64::MAX)]);
        play.take(call_failed(0, CallFailure::Unknown));
        let unknown = Action::Conclude { call: 0, outcome: CallOutcome::Unknown };
        assert_eq!(end(&mut play), [unknown, Action::Finish { outcome }]);
    }
}

#[test]
fn an_end_says_nothing_of_calls_that_were_never_made_or_are_answered() {
    let limits = Limits { parallel: 1, ..cut_limits() };
    let turn =
        [tool(Effect::Write, 1), approved_tool(Effect::Write, 2), tool(Effect::Write, 3), tool(Effect::Write, 4)];
    let mut play = Play::act(limits, &turn);
    play.take(answered(0));
    let actions = play.take(Event::Cancelled { spend: Spend::default() });
    // The first is answered, the second waits for a person, the last for a place.
    let unknown = Action::Conclude { call: 2, outcome: CallOutcome::Unknown };
    assert_eq!(actions, [unknown, Action::Finish { outcome: Outcome::Cancelled }]);
}
