//! Summaries: when one begins, what it does to the context, and what happens where there is none.

use mote_core::{Action, Cost, Effect, Event, Limits, ModelFailure, Phase, Refusal, Spend, Spender};

use crate::play::{answer, model_failed, replied, tool};
use crate::{CALLS, Play};

/// A context of which 5,200 tokens are usable, and that is summarised from 3,640 on, down to 3,120.
fn limits() -> Limits {
    Limits { window: 6_000, reserve: 500, fixed: 300, compact_at: 70, summary: 400, ..crate::limits() }
}

/// Plays turns that take so many tokens each.
fn turns(play: &mut Play, sizes: &[u32]) -> Vec<Action> {
    let mut last = Vec::new();
    for size in sizes {
        play.turn(&[tool(Effect::Read, u64::from(play.run.steps()))]);
        let (tokens, cost) = (size - 40, Cost::default());
        last = play.take(Event::CallAnswered { call: 0, tokens, is_error: false, cost });
    }
    last
}

fn granted() -> Event<CALLS> {
    Event::BudgetGranted { spender: Spender::Summary, available: 0 }
}

fn compacted(play: &Play, tokens: u32) -> Event<CALLS> {
    let through = play.run.summary().unwrap();
    Event::Compacted { through, tokens, cost: Cost::default() }
}

fn failed(last: bool) -> Event<CALLS> {
    Event::CompactionFailed { cost: Cost::default(), retry_after_ms: 0, jitter: 0, last }
}

#[test]
fn a_context_that_fills_is_summarised_beside_the_model_call() {
    let mut play = Play::start(limits());
    let actions = turns(&mut play, &[900, 900, 900, 900]);
    let spenders = |action: &Action| match action {
        Action::Reserve { spender, .. } => Some(*spender),
        _ => None,
    };
    let asked: Vec<Spender> = actions.iter().filter_map(spenders).collect();
    assert_eq!(asked, [Spender::Model, Spender::Summary], "both reservations are open at once");
    let compact = Action::Compact { from: 1, through: 1, attempt: 1, output: 400 };
    assert_eq!(play.take(granted()), [compact], "as many of the oldest as bring it to the low-water mark");
    assert!(matches!(play.grant()[..], [Action::CallModel { from: 1, .. }]), "the call sees what it saw");
    let event = compacted(&play, 150);
    assert_eq!(play.take(event).len(), 1, "it is booked; nothing else changes");
    assert_eq!((play.run.context().tokens(), play.run.context().first()), (100 + 150 + 3 * 900, 1));
    play.take(answer());
}

#[test]
fn a_call_that_does_not_fit_waits_for_the_summary() {
    let mut play = Play::start(limits());
    turns(&mut play, &[900, 900, 900]);
    let actions = turns(&mut play, &[3_000]);
    assert!(matches!(actions[..], [Action::Reserve { spender: Spender::Summary, .. }]), "{actions:?}");
    assert_eq!(play.run.phase(), Phase::Compacting { attempt: 1 });
    assert!(!play.run.is_suspended());
    assert_eq!(play.take(granted()), [Action::Compact { from: 1, through: 3, attempt: 1, output: 400 }]);
    let event = compacted(&play, 400);
    assert!(play.take(event).iter().any(|action| matches!(action, Action::Reserve { spender: Spender::Model, .. })));
    assert_eq!((play.run.context().tokens(), play.run.context().first()), (3_500, 3));
}

#[test]
fn without_a_summary_the_context_is_trimmed() {
    let over = || {
        let mut play = Play::start(Limits { compact_attempts: 2, ..limits() });
        turns(&mut play, &[900, 900, 900]);
        turns(&mut play, &[3_000]);
        play
    };
    let (mut refused, mut broken, mut useless, mut lost) = (over(), over(), over(), over());
    refused.take(Event::BudgetRefused { spender: Spender::Summary });
    broken.take(granted());
    assert_eq!(broken.take(failed(false)).len(), 1, "one more attempt, after a pause");
    broken.wake();
    broken.take(granted());
    broken.take(failed(false));
    useless.take(granted());
    useless.take(failed(true));
    lost.take(granted());
    lost.take(Event::Recovered);
    lost.take(granted());
    lost.take(Event::Recovered);
    for play in [refused, broken, useless, lost] {
        assert!(matches!(play.run.phase(), Phase::Reserving { .. }), "{:?}", play.run.phase());
        assert_eq!((play.run.context().first(), play.run.context().folded_units()), (4, 3));
    }
}

#[test]
fn there_is_one_summary_a_step_at_most_and_none_that_saves_nothing() {
    let mut play = Play::start(limits());
    turns(&mut play, &[900, 900, 900]);
    turns(&mut play, &[3_000]);
    play.take(granted());
    // A summary as long as what it is of: the context still does not fit, and is trimmed.
    let event = compacted(&play, 2_700);
    play.take(event);
    assert!(matches!(play.run.phase(), Phase::Reserving { .. }));
    let mut small = Play::start(Limits { summary: 900, ..limits() });
    assert_eq!(turns(&mut small, &[900, 900, 900, 900]).len(), 1, "the reservation of the model alone");
    let mut off = Play::start(Limits { compact_at: 0, ..limits() });
    assert_eq!(turns(&mut off, &[900, 900, 900, 900, 900]).len(), 1);
}

#[test]
fn a_model_that_finds_the_context_too_long_has_it_summarised() {
    let mut play = Play::start(limits());
    turns(&mut play, &[800, 800, 800]);
    play.grant();
    let actions = play.take(model_failed(ModelFailure::ContextLength));
    assert!(matches!(actions.last(), Some(Action::Reserve { spender: Spender::Summary, .. })), "{actions:?}");
    play.take(granted());
    let event = compacted(&play, 100);
    play.take(event);
    assert!(matches!(play.run.phase(), Phase::Reserving { attempt: 2, .. }));
}

#[test]
fn a_summary_under_way_at_the_end_may_have_cost_all_that_was_reserved() {
    let mut play = Play::start(Limits { summary_price_input: 2, ..limits() });
    turns(&mut play, &[900, 900, 900, 900]);
    let reserved = play.run.budget().summary_reservation();
    assert!(reserved.nano_usd > 0);
    play.take(granted());
    play.take(Event::Cancelled { spend: Spend::default() });
    assert_eq!((play.run.budget().uncertain, play.run.budget().reserved()), (reserved, Spend::default()));
}

#[test]
fn a_run_does_not_rest_while_it_is_summarised() {
    let mut play = Play::start(Limits { compact_at: 60, ..limits() });
    turns(&mut play, &[900, 900, 900, 900]);
    play.take(granted());
    play.grant();
    play.take(replied(&[crate::play::approved_tool(Effect::Write, 9)]));
    assert!(!play.run.is_suspended());
    let event = compacted(&play, 100);
    assert_eq!(play.take(event).last(), Some(&Action::Suspend { until: 0 }));
}

#[test]
fn what_nobody_asked_for_is_refused() {
    let mut play = Play::start(limits());
    let through = 1;
    assert_eq!(play.refuse(Event::Compacted { through, tokens: 5, cost: Cost::default() }), Refusal::Unexpected);
    assert_eq!(play.refuse(failed(false)), Refusal::Unexpected);
    assert_eq!(play.refuse(granted()), Refusal::Unexpected);
    turns(&mut play, &[900, 900, 900, 900]);
    play.take(granted());
    let other = play.run.summary().unwrap() + 1;
    assert_eq!(play.refuse(Event::Compacted { through: other, tokens: 5, cost: Cost::default() }), Refusal::Unexpected);
}
