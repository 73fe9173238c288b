//! Every event in every phase: taken or refused, as the table says.

use mote_core::journal::{CORE, Malformed};
use mote_core::{
    CallFailure, CallKind, Change, Effect, Event, EventKind, Finish, Limits, ModelFailure, Phase, Refusal, Spend, Wait,
};

use crate::play::{
    DIGEST, SPEND, answer, answered, approved_tool, budget_refused, call_failed, granted, model_failed, replied,
    replied_with, spec, tool,
};
use crate::{CALLS, Play, limits};

/// A turn with a call of every kind: a tool, an approval, a signal, a question.
fn acting() -> Play {
    let signal = spec(CallKind::Signal { name: 1, until: 0 }, 3);
    let question = spec(CallKind::Question { until: 0 }, 4);
    Play::act(limits(), &[tool(Effect::Read, 1), approved_tool(Effect::Write, 2), signal, question])
}

fn phases() -> Vec<Play> {
    let new = Play { run: mote_core::Run::new(), now: 0, records: Vec::new() };
    let mut backing_off = Play::think(limits());
    backing_off.take(model_failed(ModelFailure::Transient));
    let mut finished = Play::think(limits());
    finished.take(answer());
    vec![new, Play::open(limits()), Play::start(limits()), Play::think(limits()), backing_off, acting(), finished]
}

/// Each event, and what each phase says to it: `+` takes it, `-` finds it unexpected, `x` is over.
fn table() -> Vec<(Event<CALLS>, &'static str)> {
    vec![
        // New, Open, Reserving, Thinking, BackingOff, Acting, Finished
        (Event::CallSuspended { call: 0, wait: Wait::Remote, until: 0 }, "-----+x"),
        (Event::Opened { core: CORE, limits: limits(), digest: DIGEST }, "+-----x"),
        (Event::Loaded { tokens: 5 }, "-+----x"),
        (Event::Started { tokens: 5 }, "-+----x"),
        (granted(), "--+---x"),
        (budget_refused(), "--+---x"),
        (answer(), "---+--x"),
        (replied(&[tool(Effect::Read, 1)]), "---+--x"),
        (replied_with(Finish::Invalid, SPEND, 5, &[]), "---+--x"),
        (model_failed(ModelFailure::Transient), "---+--x"),
        (model_failed(ModelFailure::ContextLength), "---+--x"),
        (model_failed(ModelFailure::Rejected), "---+--x"),
        (answered(0), "-----+x"),
        (call_failed(0, CallFailure::Unknown), "-----+x"),
        (call_failed(0, CallFailure::NotPerformed), "-----+x"),
        (call_failed(0, CallFailure::Forbidden), "-----+x"),
        (Event::TimerFired, "--++++x"),
        (Event::Signalled { call: 2, tokens: 5 }, "-----+x"),
        (Event::Approved { call: 1 }, "-----+x"),
        (Event::Denied { call: 1 }, "-----+x"),
        (Event::Replied { call: 3, tokens: 5 }, "-----+x"),
        (Event::Cancelled { spend: Spend::default() }, "-+++++x"),
        (Event::Recovered, "-+++++x"),
        (Event::Rebound { digest: [1; 32], change: Change::Continue }, "-+++++x"),
        (Event::Rebound { digest: [1; 32], change: Change::Fail }, "-+++++x"),
    ]
}

#[test]
fn every_event_in_every_phase_is_taken_or_refused_as_documented() {
    for (event, expected) in table() {
        assert_eq!(expected.len(), phases().len());
        for (mut play, expected) in phases().into_iter().zip(expected.chars()) {
            let phase = play.run.phase();
            match expected {
                '+' => drop(play.take(event)),
                '-' => assert_eq!(play.refuse(event), Refusal::Unexpected, "{event:?} in {phase:?}"),
                _ => assert_eq!(play.refuse(event), Refusal::Finished, "{event:?} in {phase:?}"),
            }
        }
    }
}

#[test]
fn a_call_takes_only_the_event_that_it_waits_for() {
    let events = |call| -> [(Event<CALLS>, u16); 6] {
        [
            (answered(call), 0),
            (call_failed(call, CallFailure::Unknown), 0),
            (Event::Approved { call }, 1),
            (Event::Denied { call }, 1),
            (Event::Signalled { call, tokens: 5 }, 2),
            (Event::Replied { call, tokens: 5 }, 3),
        ]
    };
    for call in [0, 1, 2, 3, 4, u16::MAX] {
        for (event, taker) in events(call) {
            let mut play = acting();
            if call == taker {
                play.take(event);
            } else {
                assert_eq!(play.refuse(event), Refusal::Call(call), "{event:?}");
            }
        }
    }
}

#[test]
fn a_result_is_taken_once() {
    let mut play = acting();
    play.take(answered(0));
    assert_eq!(play.refuse(answered(0)), Refusal::Call(0));
    assert_eq!(play.refuse(call_failed(0, CallFailure::Unknown)), Refusal::Call(0));
    play.take(Event::Signalled { call: 2, tokens: 5 });
    assert_eq!(play.refuse(Event::Signalled { call: 2, tokens: 5 }), Refusal::Call(2));
}

#[test]
fn a_late_answer_of_an_attempt_that_was_given_up_is_refused() {
    let mut play = acting();
    play.take(call_failed(0, CallFailure::NotPerformed));
    assert_eq!(play.refuse(answered(0)), Refusal::Call(0), "it backs off");
}

#[test]
fn a_reply_that_ends_in_calls_must_carry_some() {
    let mut play = Play::think(limits());
    assert_eq!(play.refuse(replied(&[])), Refusal::NoCalls);
    assert!(matches!(play.run.phase(), Phase::Thinking { .. }));
}

#[test]
fn calls_of_a_reply_that_is_no_turn_are_not_made() {
    let mut play = Play::think(limits());
    let actions = play.take(replied_with(Finish::Final, SPEND, 5, &[tool(Effect::Write, 1)]));
    assert_eq!(actions.last(), Some(&mote_core::Action::Finish { outcome: mote_core::Outcome::Completed }));
    assert!(play.run.calls().is_empty());
}

#[test]
fn refusals_name_the_limit_and_both_numbers() {
    let calls = [1, 2, 3].map(|digest| tool(Effect::Read, digest));
    let refusal = Play::think(Limits { calls: 2, ..limits() }).refuse(replied(&calls));
    assert_eq!(refusal, Refusal::Capacity { what: "calls", asked: 3, has: 2 });
    assert_eq!(refusal.to_string(), "the run asks for 3 calls, this build has 2");
    let mut new = Play { run: mote_core::Run::new(), now: 0, records: Vec::new() };
    let refusal = new.refuse(Event::Opened { core: CORE, limits: Limits { units: 99, ..limits() }, digest: DIGEST });
    assert_eq!(refusal.to_string(), "the run asks for 99 units, this build has 8");
}

#[test]
fn every_refusal_reads_as_a_sentence() {
    let texts = [
        Refusal::Unexpected.to_string(),
        Refusal::Finished.to_string(),
        Refusal::Call(7).to_string(),
        Refusal::Core { asked: 0x0200 }.to_string(),
        Refusal::NoCalls.to_string(),
        Refusal::ActionsFull.to_string(),
        Malformed::Truncated.to_string(),
        Malformed::Tag { what: "event", tag: 99 }.to_string(),
        Malformed::Range("jitter").to_string(),
    ];
    assert_eq!(
        texts,
        [
            "the event makes no sense in the run's phase",
            "the run is over",
            "call 7 of this turn does not wait for this event",
            "the run was opened by core 0x0200, this build has 0x0100; use a newer one",
            "the reply ended in calls but carries none",
            "one step asked for too many actions",
            "the record is cut short",
            "99 is no event",
            "jitter is out of range",
        ]
    );
}

#[test]
fn the_table_gives_every_kind_a_number_and_a_name_of_its_own() {
    let numbers: std::collections::BTreeSet<u8> = EventKind::ALL.iter().map(|kind| kind.tag()).collect();
    let names: std::collections::BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!((numbers.len(), names.len()), (EventKind::ALL.len(), EventKind::ALL.len()));
    for kind in EventKind::ALL {
        assert_eq!(EventKind::named(kind.name()), Some(*kind));
    }
    assert_eq!(EventKind::named("run.unheard"), None);
    for (event, _) in table() {
        assert_eq!(EventKind::named(event.kind().name()), Some(event.kind()));
    }
}

#[test]
fn a_run_that_a_newer_core_opened_is_refused() {
    let mut new = Play { run: mote_core::Run::new(), now: 0, records: Vec::new() };
    let newer = Event::Opened { core: CORE + 1, limits: limits(), digest: DIGEST };
    assert_eq!(new.refuse(newer), Refusal::Core { asked: CORE + 1 });
}
