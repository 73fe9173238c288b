//! The scenarios whose journals are checked in. Each is played anew by the test and compared with its file, so a change
//! here, or of the core's behaviour, shows as a difference of bytes.

use mote_core::{
    CallFailure, CallKind, Change, Cost, Effect, Event, Finish, Limits, ModelFailure, Phase, Spend, Spender, Wait,
};

use crate::play::{
    Play, SPEND, START, answer, answered, approved_tool, call_failed, keyed_tool, model_failed, model_failed_with,
    replied, replied_with, spec, tool,
};

/// The smallest run that fits every scenario.
pub const UNITS: usize = 6;
pub const CALLS: usize = 3;
pub type Golden = Play<UNITS, CALLS>;

pub struct Scenario {
    /// Name of its file.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    pub play: fn() -> Golden,
}

#[rustfmt::skip]
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "plain_answer", about: "The model answers at once.", play: plain_answer },
    Scenario { name: "parallel_tools", about: "Two tools at once and a rejected call, then the answer.", play: parallel_tools },
    Scenario { name: "retries", about: "The model, then a tool, fail; both are tried again, not before Retry-After.", play: retries },
    Scenario { name: "fallback", about: "An endpoint fails and another is there: no back-off.", play: fallback },
    Scenario { name: "context_length", about: "The model finds the context too long: half of it is sent.", play: context_length },
    Scenario { name: "crash_in_write", about: "A worker dies with a read, a keyed call and a write under way: the write's outcome is unknown.", play: crash_in_write },
    Scenario { name: "key_forgotten", about: "A keyed call is not repeated once its backend may have forgotten the key.", play: key_forgotten },
    Scenario { name: "crash_in_model_call", about: "A worker dies during a model call: it settles at its reservation and is made again.", play: crash_in_model_call },
    Scenario { name: "approvals", about: "One call is approved, one is denied, one is forbidden by policy.", play: approvals },
    Scenario { name: "waits", about: "A signal arrives, a timer ends, a question is answered, a signal does not come.", play: waits },
    Scenario { name: "repaired_answer", about: "An answer fails its schema and is repaired.", play: repaired_answer },
    Scenario { name: "trimming", about: "Forty turns in a small window, after units of an earlier turn: the oldest are folded.", play: trimming },
    Scenario { name: "budget_exhausted", about: "A reply costs more than was reserved: recorded, and the run ends.", play: budget_exhausted },
    Scenario { name: "budget_refused", about: "A shared budget refuses the reservation.", play: budget_refused },
    Scenario { name: "repeated_calls", about: "The same calls come again and again.", play: repeated_calls },
    Scenario { name: "cancelled", about: "A client cancels during a model call.", play: cancelled },
    Scenario { name: "cancelled_in_calls", about: "A client cancels while a read, a write and a keyed call are under way.", play: cancelled_in_calls },
    Scenario { name: "expired", about: "Wall time ends while the run waits for a person.", play: expired },
    Scenario { name: "rebound_continue", about: "The capability set changed; the agent goes on.", play: rebound_continue },
    Scenario { name: "rebound_fail", about: "The capability set changed; the agent's runs fail.", play: rebound_fail },
    Scenario { name: "outage", about: "No endpoint is available for a while: the run rests between attempts, and the model is back.", play: outage },
    Scenario { name: "outage_too_long", about: "An endpoint refuses the request and the other is not available for too long.", play: outage_too_long },
    Scenario { name: "interrupted_again_and_again", about: "Workers die during a model call and a read, more often than attempts may fail.", play: interrupted_again_and_again },
    Scenario { name: "resumed_after_failure", about: "The model fails for good; a person resumes the run.", play: resumed_after_failure },
    Scenario { name: "resumed_after_expiry", about: "Wall time ends during a write and before an approval; a person resumes the run.", play: resumed_after_expiry },
    Scenario { name: "rebound_pending_call", about: "The tool of a pending call changed.", play: rebound_pending_call },
    Scenario { name: "suspended_calls", about: "A backend asks a person, another works for a day, a third gets no answer.", play: suspended_calls },
    Scenario { name: "paid_calls", about: "Calls that spend: one is carried by the budgets, one is refused, one is lost with its worker.", play: paid_calls },
    Scenario { name: "compaction", about: "The oldest units are summarised beside the model call, and again because they no longer fit.", play: compaction },
    Scenario { name: "compaction_fails", about: "Summaries fail and are refused: the context is trimmed.", play: compaction_fails },
];

fn limits() -> Limits {
    Limits {
        units: UNITS as u16,
        calls: CALLS as u16,
        parallel: 2,
        price_input: 3_000,
        price_output: 15_000,
        budget_tokens: 200_000,
        budget_nano_usd: 500_000_000,
        ..Limits::default()
    }
}

fn read(digest: u64) -> mote_core::CallSpec {
    tool(Effect::Read, digest)
}

fn finish(mut play: Golden) -> Golden {
    play.grant();
    play.wait(900).take(answer());
    play
}

fn plain_answer() -> Golden {
    finish(Golden::start(limits()))
}

fn parallel_tools() -> Golden {
    let mut play = Golden::think(limits());
    play.wait(1_200).take(replied(&[read(1), spec(CallKind::Rejected { tokens: 18 }, 2), read(3)]));
    play.wait(80).take(answered(2));
    play.wait(15).take(Event::CallAnswered { call: 0, tokens: 210, is_error: true, cost: Cost::default() });
    finish(play)
}

fn retries() -> Golden {
    let mut play = Golden::think(limits());
    play.wait(30).take(Event::ModelFailed {
        failure: ModelFailure::Transient,
        cost: Cost::default(),
        retry_after_ms: 7_000,
        jitter: 40_000,
        available: 0,
    });
    play.wake();
    play.grant();
    play.wait(50).take(Event::ModelFailed {
        failure: ModelFailure::Transient,
        cost: Cost { spend: Spend { input: 120, output: 3, nano_usd: 405_000 }, uncertain: true },
        retry_after_ms: 0,
        jitter: 65_535,
        available: 0,
    });
    play.wake();
    play.turn(&[tool(Effect::Write, 1), read(2), read(3)]);
    let failure = CallFailure::NotPerformed;
    play.wait(20).take(Event::CallFailed { call: 0, failure, retry_after_ms: 2_500, jitter: 9, cost: Cost::default() });
    play.wait(20).take(Event::CallFailed {
        call: 1,
        failure,
        retry_after_ms: 0,
        jitter: 32_768,
        cost: Cost::default(),
    });
    play.wake();
    play.wait(5).take(answered(1));
    play.wait(5).take(answered(2));
    play.wake();
    play.wait(5).take(answered(0));
    finish(play)
}

fn fallback() -> Golden {
    let mut play = Golden::think(Limits { endpoints: 2, ..limits() });
    play.wait(30).take(Event::ModelFailed {
        failure: ModelFailure::Transient,
        cost: Cost::default(),
        retry_after_ms: 60_000,
        jitter: 1,
        available: u16::MAX,
    });
    finish(play)
}

fn context_length() -> Golden {
    let mut play = Golden::start(limits());
    for digest in 0..5 {
        play.turn(&[read(digest)]);
        play.take(Event::CallAnswered { call: 0, tokens: 3_000, is_error: false, cost: Cost::default() });
    }
    play.grant();
    play.take(model_failed(ModelFailure::ContextLength));
    finish(play)
}

fn crash_in_write() -> Golden {
    let mut play = Golden::think(Limits { parallel: 3, ..limits() });
    play.take(replied(&[read(1), tool(Effect::Write, 2), keyed_tool(60_000)]));
    play.wait(40_000).take(Event::Recovered);
    play.wake();
    play.wait(70).take(answered(0));
    play.wait(70).take(answered(2));
    finish(play)
}

fn key_forgotten() -> Golden {
    let mut play = Golden::act(limits(), &[keyed_tool(60_000)]);
    play.wait(200).take(call_failed(0, CallFailure::Unknown));
    play.wait(3_600_000).take(Event::Recovered);
    play.wake();
    finish(play)
}

fn crash_in_model_call() -> Golden {
    let mut play = Golden::think(limits());
    play.wait(20_000).take(Event::Recovered);
    play.take(Event::Recovered);
    finish(play)
}

fn approvals() -> Golden {
    let write = |digest| approved_tool(Effect::Write, digest);
    let mut play = Golden::act(limits(), &[write(1), write(2), write(3)]);
    play.wait(86_400_000).take(Event::Denied { call: 1 });
    play.wait(86_400_000).take(Event::Approved { call: 2 });
    play.wait(15).take(call_failed(2, CallFailure::Forbidden));
    play.wait(3_600_000).take(Event::Approved { call: 0 });
    play.wait(15).take(answered(0));
    finish(play)
}

fn waits() -> Golden {
    let soon = START + 60_000;
    let signal = |until| spec(CallKind::Signal { name: 0x5157_a100, until }, 1);
    let question = |until| spec(CallKind::Question { until }, 3);
    let mut play = Golden::act(limits(), &[signal(0), spec(CallKind::Timer { at: soon }, 2), question(0)]);
    play.wait(5_000).take(Event::Signalled { call: 0, tokens: 33 });
    play.wake();
    play.wait(5_000).take(Event::Replied { call: 2, tokens: 12 });
    play.turn(&[signal(soon + 3_600_000), question(soon + 1_800_000)]);
    play.wake();
    play.wake();
    finish(play)
}

fn repaired_answer() -> Golden {
    let mut play = Golden::think(limits());
    play.wait(700).take(replied_with(Finish::Invalid, SPEND, 95, &[]));
    finish(play)
}

fn trimming() -> Golden {
    let limits = Limits { window: 6_000, reserve: 500, fixed: 300, low_water: 60, steps: 50, ..limits() };
    let mut play = Golden::open(limits);
    for tokens in [900, 1_400, 250] {
        play.take(Event::Loaded { tokens });
    }
    play.take(Event::Started { tokens: 640 });
    for turn in 0_u32..40 {
        play.turn(&[read(u64::from(turn))]);
        play.wait(50).take(Event::CallAnswered {
            call: 0,
            tokens: 90 + turn * 37 % 1_700,
            is_error: false,
            cost: Cost::default(),
        });
    }
    finish(play)
}

fn budget_exhausted() -> Golden {
    let mut play = Golden::think(Limits { budget_tokens: 5_000, output: 1_000, ..limits() });
    let spend = Spend { input: 4_600, output: 900, nano_usd: 27_300_000 };
    play.wait(700).take(replied_with(Finish::Calls, spend, 900, &[read(1)]));
    play
}

fn budget_refused() -> Golden {
    let mut play = Golden::start(limits());
    play.take(crate::play::budget_refused());
    play
}

fn repeated_calls() -> Golden {
    let mut play = Golden::start(Limits { repeats: 2, ..limits() });
    for _ in 0..2 {
        play.turn(&[read(1), read(2)]);
        play.wait(10).take(answered(0));
        play.wait(10).take(answered(1));
    }
    play.turn(&[read(1), read(2)]);
    play
}

fn cancelled() -> Golden {
    let mut play = Golden::think(limits());
    play.wait(450).take(Event::Cancelled { spend: Spend { input: 120, output: 11, nano_usd: 525_000 } });
    play
}

fn cancelled_in_calls() -> Golden {
    let mut play =
        Golden::act(Limits { parallel: 3, ..limits() }, &[read(1), tool(Effect::Write, 2), keyed_tool(60_000)]);
    play.wait(80).take(call_failed(2, CallFailure::Unknown));
    play.wait(80).take(Event::Cancelled { spend: Spend::default() });
    play
}

fn expired() -> Golden {
    let mut play =
        Golden::act(Limits { expires_at: START + 2_592_000_000, ..limits() }, &[approved_tool(Effect::Write, 1)]);
    play.wake();
    play
}

fn rebound(change: Change) -> Golden {
    let mut play = Golden::act(limits(), &[read(1), tool(Effect::Write, 2)]);
    play.take(answered(0));
    play.wait(30_000).take(Event::Rebound { digest: [0x5a; 32], change });
    play
}

fn rebound_continue() -> Golden {
    let mut play = rebound(Change::Continue);
    play.take(Event::Recovered);
    finish(play)
}

fn rebound_fail() -> Golden {
    rebound(Change::Fail)
}

fn rebound_pending_call() -> Golden {
    rebound(Change::PendingCall)
}

fn unavailable(retry_after_ms: u32) -> Event<CALLS> {
    model_failed_with(ModelFailure::Unavailable, Cost::default(), (retry_after_ms, 20_000), false)
}

fn outage() -> Golden {
    let mut play = Golden::think(Limits { rest_ms: 5_000, ..limits() });
    for retry_after_ms in [0, 0, 9_000, 0, 0, 0] {
        play.wait(40).take(unavailable(retry_after_ms));
        play.wake();
        play.grant();
    }
    play.wait(900).take(answer());
    play
}

fn outage_too_long() -> Golden {
    let limits = Limits { endpoints: 2, model_outage_ms: 20_000, rest_ms: 5_000, ..limits() };
    let mut play = Golden::think(limits);
    play.wait(40).take(model_failed_with(ModelFailure::Rejected, Cost::default(), (0, 0), true));
    play.grant();
    play.wait(10_000).take(unavailable(0));
    while play.run.poll_at().is_some() {
        play.wake();
        play.grant();
        play.wait(40).take(unavailable(0));
    }
    play
}

fn interrupted_again_and_again() -> Golden {
    let mut play = Golden::think(limits());
    for _ in 0..6 {
        play.wait(5_000).take(Event::Recovered);
        if matches!(play.run.phase(), Phase::BackingOff { .. }) {
            play.wake();
        }
        play.grant();
    }
    play.wait(900).take(replied(&[read(1)]));
    for _ in 0..6 {
        play.wait(5_000).take(Event::Recovered);
        play.wake();
    }
    play.wait(50).take(answered(0));
    finish(play)
}

fn resume(play: &mut Golden, limits: Limits) {
    play.wait(3_600_000).take(Event::Resumed { limits, digest: [0x77; 32] });
}

fn resumed_after_failure() -> Golden {
    let mut play = Golden::act(limits(), &[read(1)]);
    play.wait(50).take(answered(0));
    play.grant();
    play.wait(30).take(model_failed(ModelFailure::Rejected));
    resume(&mut play, limits());
    finish(play)
}

fn resumed_after_expiry() -> Golden {
    let expiring = Limits { expires_at: START + 60_000, ..limits() };
    let mut play = Golden::act(expiring, &[tool(Effect::Write, 1), approved_tool(Effect::Write, 2)]);
    play.wake();
    let limits = Limits { expires_at: play.now + 7_200_000, ..limits() };
    resume(&mut play, limits);
    finish(play)
}

fn suspended_calls() -> Golden {
    let mut play =
        Golden::act(limits(), &[tool(Effect::Write, 1), tool(Effect::Idempotent, 2), tool(Effect::Write, 3)]);
    let suspended = |call, wait, until| Event::CallSuspended { call, wait, until };
    let soon = play.now + 60_000;
    play.wait(30).take(suspended(0, Wait::Input, 0));
    play.wait(30).take(suspended(1, Wait::Remote, soon));
    play.wait(30).take(suspended(2, Wait::Approval, soon + 60_000));
    play.wait(5_000).take(Event::Replied { call: 0, tokens: 9 });
    play.wait(30).take(answered(0));
    play.wake();
    play.wait(30).take(suspended(1, Wait::Remote, 0));
    play.take(Event::Recovered);
    play.wake();
    play.wait(86_400_000).take(Event::CallWoken { call: 1 });
    play.wait(30).take(answered(1));
    finish(play)
}

fn paid_calls() -> Golden {
    let most = Spend { input: 4_000, output: 1_000, nano_usd: 40_000_000 };
    let agent = |digest| mote_core::CallSpec { reserve: most, ..tool(Effect::Idempotent, digest) };
    let mut play = Golden::act(Limits { parallel: 3, ..limits() }, &[agent(1), agent(2), agent(3)]);
    let granted = |call| Event::BudgetGranted { spender: Spender::Call { call }, available: 0 };
    play.take(granted(0));
    play.take(Event::BudgetRefused { spender: Spender::Call { call: 1 } });
    play.take(granted(2));
    let cost = Cost { spend: Spend { input: 3_100, output: 240, nano_usd: 12_900_000 }, uncertain: false };
    play.wait(2_000).take(Event::CallAnswered { call: 0, tokens: 80, is_error: false, cost });
    play.wait(2_000).take(Event::Recovered);
    play.wake();
    play.take(granted(2));
    let cost = Cost { uncertain: true, ..cost };
    play.wait(2_000).take(Event::CallAnswered { call: 2, tokens: 80, is_error: false, cost });
    finish(play)
}

/// A context that fills up after four turns.
fn filling() -> Limits {
    Limits {
        window: 6_000,
        reserve: 500,
        fixed: 300,
        compact_at: 70,
        summary: 400,
        summary_price_input: 100,
        ..limits()
    }
}

fn fill(play: &mut Golden, turns: std::ops::Range<u64>) {
    for digest in turns {
        play.turn(&[read(digest)]);
        play.wait(50).take(Event::CallAnswered { call: 0, tokens: 900, is_error: false, cost: Cost::default() });
    }
}

fn summary_granted() -> Event<CALLS> {
    Event::BudgetGranted { spender: Spender::Summary, available: 0 }
}

fn compaction() -> Golden {
    let mut play = Golden::start(filling());
    fill(&mut play, 0..4);
    play.take(summary_granted());
    play.grant();
    let cost = Cost { spend: Spend { input: 2_000, output: 210, nano_usd: 200_000 }, uncertain: false };
    let through = play.run.summary().unwrap();
    play.wait(400).take(Event::Compacted { through, tokens: 210, cost });
    play.wait(400).take(replied(&[read(7), read(8)]));
    let large = |call| Event::CallAnswered { call, tokens: 2_300, is_error: false, cost: Cost::default() };
    play.wait(50).take(large(0));
    play.wait(50).take(large(1));
    play.take(summary_granted());
    let through = play.run.summary().unwrap();
    play.wait(400).take(Event::Compacted { through, tokens: 260, cost });
    finish(play)
}

fn compaction_fails() -> Golden {
    let mut play = Golden::start(filling());
    fill(&mut play, 0..4);
    play.take(summary_granted());
    play.wait(100).take(Event::CompactionFailed { cost: Cost::default(), retry_after_ms: 0, jitter: 0, last: false });
    play.wake();
    play.take(summary_granted());
    play.wait(20_000).take(Event::Recovered);
    fill(&mut play, 4..6);
    play.take(Event::BudgetRefused { spender: Spender::Summary });
    finish(play)
}
