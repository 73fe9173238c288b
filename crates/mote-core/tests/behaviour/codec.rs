//! Single records: the room that they take, and bytes that are almost one.

use mote_core::journal::{self, Malformed};
use mote_core::{
    Actions, CallKind, CallSpec, Change, Cost, Effect, Event, Finish, Limits, ModelFailure, Run, Spend, Spender, Wait,
};

use crate::CALLS;
use crate::play::{Play, replied_with};

const MOST: Spend = Spend { input: u64::MAX, output: u64::MAX, nano_usd: u64::MAX };
const COST: Cost = Cost { spend: MOST, uncertain: true };

fn largest_limits() -> Limits {
    Limits {
        steps: u32::MAX,
        tool_calls: u32::MAX,
        calls: u16::MAX,
        parallel: u16::MAX,
        units: u16::MAX,
        model_attempts: u16::MAX,
        endpoints: u16::MAX,
        model_outage_ms: u64::MAX,
        interruptions: u16::MAX,
        interruptions_ms: u64::MAX,
        rest_ms: u32::MAX,
        tool_attempts: u16::MAX,
        backoff_ms: u32::MAX,
        backoff_ms_max: u32::MAX,
        repeats: u16::MAX,
        repairs: u16::MAX,
        active_ms: u64::MAX,
        expires_at: u64::MAX,
        window: u32::MAX,
        reserve: u32::MAX,
        low_water: u8::MAX,
        fixed: u32::MAX,
        output: u32::MAX,
        budget_tokens: u64::MAX,
        budget_nano_usd: u64::MAX,
        price_input: u64::MAX,
        price_output: u64::MAX,
        compact_at: u8::MAX,
        compact_attempts: u16::MAX,
        summary: u32::MAX,
        summary_price_input: u64::MAX,
        summary_price_output: u64::MAX,
    }
}

fn largest_call() -> CallSpec {
    let kind = CallKind::Signal { name: u64::MAX, until: u64::MAX };
    CallSpec { kind, tool: u64::MAX, digest: u64::MAX, timeout_ms: u32::MAX, reserve: MOST }
}

/// Encodes the event without actions and decodes it again.
fn there_and_back(event: Event<CALLS>) -> Vec<u8> {
    let mut buffer = vec![0; journal::record_bytes_max(CALLS)];
    let len = journal::encode(u64::MAX, &event, &Actions::default(), &mut buffer).unwrap();
    buffer.truncate(len);
    let (record, actions) = journal::decode::<CALLS>(&buffer).unwrap();
    assert_eq!((record.now, record.event), (u64::MAX, event));
    assert_eq!(actions.count(), 0);
    buffer
}

#[test]
fn the_largest_value_of_every_field_survives_and_fits() {
    let kinds = [
        CallKind::Tool { effect: Effect::Write, key_ttl_ms: u64::MAX, approval: true },
        CallKind::Rejected { tokens: u32::MAX },
        CallKind::Timer { at: u64::MAX },
        CallKind::Question { until: u64::MAX },
    ];
    let (digest, jitter, retry_after_ms) = ([0xff; 32], u16::MAX, u32::MAX);
    there_and_back(Event::Opened { core: u16::MAX, limits: largest_limits(), digest });
    there_and_back(Event::Rebound { digest, change: Change::PendingCall });
    there_and_back(Event::Resumed { limits: largest_limits(), digest });
    there_and_back(replied_with(Finish::Filtered, MOST, u32::MAX, &[largest_call(); CALLS]));
    there_and_back(replied_with(Finish::Calls, MOST, u32::MAX, &kinds.map(|kind| CallSpec { kind, ..largest_call() })));
    let failure = ModelFailure::Rejected;
    there_and_back(Event::ModelFailed { failure, cost: COST, retry_after_ms, jitter, available: u16::MAX });
    there_and_back(Event::CompactionFailed { cost: COST, retry_after_ms, jitter, last: true });
    there_and_back(Event::Compacted { through: u32::MAX, tokens: u32::MAX, cost: COST });
    there_and_back(Event::CallSuspended { call: u16::MAX, wait: Wait::Remote, until: u64::MAX });
    there_and_back(Event::BudgetGranted { spender: Spender::Call { call: u16::MAX }, available: u16::MAX });
    there_and_back(Event::CallAnswered { call: u16::MAX, tokens: u32::MAX, is_error: true, cost: COST });
    there_and_back(Event::Cancelled { spend: MOST });
}

#[test]
fn the_busiest_turn_fits_into_the_room_that_is_promised() {
    let limits = Limits { calls: 16, parallel: 16, units: 8, output: u32::MAX, ..Limits::default() };
    let mut play = Play::<8, 16>::think(limits);
    let kind = CallKind::Tool { effect: Effect::Write, key_ttl_ms: u64::MAX, approval: false };
    let spend = Spend { input: u64::MAX / 2, output: u64::MAX / 2, nano_usd: 1 << 63 };
    play.take(replied_with(Finish::Calls, spend, 1_000, &[CallSpec { kind, ..largest_call() }; 16]));
    // A conclusion of each call takes at most five bytes more.
    let longest = play.records.iter().map(Vec::len).max().unwrap();
    assert!(longest + 16 * 5 <= journal::record_bytes_max(16), "{longest}");
}

#[test]
fn a_buffer_without_room_is_an_error_at_every_length() {
    let event = Event::<CALLS>::Opened { core: u16::MAX, limits: largest_limits(), digest: [0; 32] };
    let len = there_and_back(event).len();
    for short in 0..len {
        assert!(journal::encode(u64::MAX, &event, &Actions::default(), &mut vec![0; short]).is_err());
    }
    assert_eq!(journal::NoRoom.to_string(), "the buffer is too small for the record");
}

#[track_caller]
fn check(bytes: &[u8], expected: Malformed) {
    assert_eq!(journal::decode::<CALLS>(bytes).err(), Some(expected));
}

#[test]
fn bytes_that_are_almost_a_record_are_told_apart() {
    check(&[], Malformed::Truncated);
    check(&[1], Malformed::Format(1));
    check(&[2, 0], Malformed::Truncated);
    check(&[2, 0, 0], Malformed::Tag { what: "event", tag: 0 });
    check(&[2, 0, 23], Malformed::Tag { what: "event", tag: 23 });
    check(&[2, 0, 7, 4], Malformed::Tag { what: "model failure", tag: 4 });
    check(&[2, 0, 4, 3], Malformed::Tag { what: "spender", tag: 3 });
    check(&[2, 0, 10, 0, 5], Malformed::Tag { what: "wait", tag: 5 });
    check(&[2, 0, 9, 0, 3], Malformed::Tag { what: "call failure", tag: 3 });
    check(&[2, 0, 6, 0, 0, 0, 0, 5], Malformed::Tag { what: "finish", tag: 5 });
    check(&[2, 0, 6, 0, 0, 0, 0, 2, 1, 5], Malformed::Tag { what: "call", tag: 5 });
    check(&[2, 0, 6, 0, 0, 0, 0, 2, 1, 0, 3], Malformed::Tag { what: "effect", tag: 3 });
    check(&[2, 0, 6, 0, 0, 0, 0, 2, 5], Malformed::Calls { found: 5, has: CALLS });
    check(&[2, 0, 8, 0, 0, 2], Malformed::Range("is_error"));
    // A call index of 65,536, and 5 billion tokens.
    check(&[2, 0, 14, 0x80, 0x80, 0x04], Malformed::Range("call"));
    check(&[2, 0, 2, 0x80, 0xe4, 0x97, 0xd0, 0x12], Malformed::Range("tokens"));
}

#[test]
fn a_number_has_one_spelling_and_sixty_four_bits() {
    check(&[2, 0x80, 0x00, 12], Malformed::Range("number"));
    check(&[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 12], Malformed::Range("number"));
    check(&[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x00, 12], Malformed::Range("number"));
    let largest = [2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 12];
    assert_eq!(journal::decode::<CALLS>(&largest).unwrap().0.now, u64::MAX);
}

#[test]
fn an_action_that_is_none_ends_the_reading() {
    let (_, mut actions) = journal::decode::<CALLS>(&[2, 0, 12, 7, 0, 11, 7, 0]).unwrap();
    assert_eq!(actions.next(), Some(Ok(mote_core::Action::Suspend { until: 0 })));
    assert_eq!(actions.next(), Some(Err(Malformed::Tag { what: "action", tag: 11 })));
    assert_eq!(actions.next(), None);
    for (bytes, what) in [(&[2, 0, 8][..], "call outcome"), (&[8, 2], "outcome"), (&[8, 32], "outcome")] {
        let record = [&[2, 0, 12], bytes].concat();
        let (_, mut actions) = journal::decode::<CALLS>(&record).unwrap();
        assert!(matches!(actions.next(), Some(Err(Malformed::Tag { what: found, .. })) if found == what));
    }
}

#[test]
fn a_record_that_the_run_refuses_says_why_and_changes_nothing() {
    let mut run = Run::<8, CALLS>::new();
    let error = run.replay(&[2, 0, 12]).unwrap_err();
    assert_eq!(error.to_string(), "the event is refused: the event makes no sense in the run's phase");
    assert_eq!(run, Run::new());
}
