//! The run's own account: reserved before, settled after, never beyond the limit without being told.

use mote_core::{Action, Effect, Event, Failure, Finish, Limits, Outcome, Phase, Spend, Spender};

use crate::play::{answer, answered, budget_refused, replied_with, tool};
use crate::{Play, limits};

fn priced() -> Limits {
    Limits { price_input: 3_000, price_output: 15_000, output: 1_000, ..limits() }
}

/// The largest reply that the first reservation allows, or the run's failure.
fn output(limits: Limits, input: u32) -> Result<u32, Failure> {
    let mut play = Play::open(limits);
    play.take(Event::Started { tokens: input });
    match play.run.phase() {
        Phase::Reserving { output, .. } => Ok(output),
        Phase::Finished(Outcome::Failed(failure)) => Err(failure),
        phase => panic!("{phase:?}"),
    }
}

#[test]
fn a_reservation_covers_the_input_with_an_eighth_more_and_the_largest_reply() {
    let mut play = Play::open(Limits { fixed: 700, ..priced() });
    let actions = play.take(Event::Started { tokens: 100 });
    // 800 in, held as 900, and 1,000 out.
    assert_eq!(
        actions,
        [Action::Reserve { spender: Spender::Model, tokens: 1_900, nano_usd: 900 * 3_000 + 1_000 * 15_000 }]
    );
}

#[test]
fn the_model_is_called_for_the_reply_that_was_reserved() {
    let mut play = Play::start(Limits { budget_tokens: 512, ..priced() });
    assert!(matches!(play.grant()[..], [Action::CallModel { output: 400, .. }]));
    assert_eq!(play.run.budget().reserved().tokens(), 512);
}

#[test]
fn a_reply_is_cut_to_what_the_budget_affords() {
    // 100 tokens of input are held as 112.
    assert_eq!(output(Limits { budget_tokens: 112 + 1_000, ..priced() }, 100), Ok(1_000));
    assert_eq!(output(Limits { budget_tokens: 112 + 999, ..priced() }, 100), Ok(999));
    assert_eq!(output(Limits { budget_tokens: 112 + 256, ..priced() }, 100), Ok(256));
    assert_eq!(output(Limits { budget_tokens: 112 + 255, ..priced() }, 100), Err(Failure::BudgetRun));
    assert_eq!(output(Limits { budget_tokens: 111, ..priced() }, 100), Err(Failure::BudgetRun));
    let money = |output: u64| Limits { budget_nano_usd: 112 * 3_000 + output * 15_000, ..priced() };
    assert_eq!(output(money(1_000), 100), Ok(1_000));
    assert_eq!(output(money(400), 100), Ok(400));
    assert_eq!(output(money(255), 100), Err(Failure::BudgetRun));
    assert_eq!(output(Limits { budget_nano_usd: 112 * 3_000 - 1, ..priced() }, 100), Err(Failure::BudgetRun));
}

#[test]
fn a_small_limit_on_the_reply_is_no_reason_to_refuse() {
    assert_eq!(output(Limits { output: 20, ..priced() }, 100), Ok(20));
    assert_eq!(output(Limits { output: 20, budget_tokens: 112 + 19, ..priced() }, 100), Err(Failure::BudgetRun));
}

#[test]
fn a_model_without_a_price_needs_no_money() {
    let free = Limits { price_input: 0, price_output: 0, budget_nano_usd: 0, ..priced() };
    assert_eq!(output(free, 100), Ok(1_000));
}

#[test]
fn prices_beyond_every_number_refuse_and_do_not_overflow() {
    let dear = Limits { price_input: u64::MAX, price_output: u64::MAX, budget_nano_usd: u64::MAX - 1, ..priced() };
    assert_eq!(output(dear, 100), Err(Failure::BudgetRun));
}

#[test]
fn what_is_reserved_and_not_used_is_free_again() {
    let mut play = Play::start(Limits { budget_tokens: 2_000, ..priced() });
    for turn in 0..5 {
        play.grant();
        let calls = [tool(Effect::Read, turn)];
        let spend = Spend { input: 100, output: 50, nano_usd: 1_050_000 };
        play.take(replied_with(Finish::Calls, spend, 10, &calls));
        assert_eq!(play.run.budget().reserved(), Spend::default());
        play.take(answered(0));
    }
    assert_eq!(play.run.budget().spent, Spend { input: 500, output: 250, nano_usd: 5_250_000 });
    assert_eq!(play.run.budget().overshoot_tokens, 0);
}

#[test]
fn the_budget_ends_the_run_before_the_call_that_would_exceed_it() {
    let mut play = Play::start(Limits { budget_tokens: 3_000, ..priced() });
    let spend = Spend { input: 1_500, output: 900, nano_usd: 0 };
    let calls = [tool(Effect::Read, 1)];
    play.grant();
    play.take(replied_with(Finish::Calls, spend, 10, &calls));
    // 600 are left, 151 of them for the input of 135: 449 for the reply.
    assert!(play.take(answered(0)).iter().all(crate::is_reserve));
    assert!(matches!(play.grant()[..], [Action::CallModel { output: 449, .. }]));
    play.take(replied_with(
        Finish::Calls,
        Spend { input: 135, output: 200, nano_usd: 0 },
        10,
        &[tool(Effect::Read, 2)],
    ));
    assert_eq!(play.take(answered(0)), [crate::failed(Failure::BudgetRun)]);
    assert!(play.run.budget().spent.tokens() <= 3_000);
}

#[test]
fn an_overshoot_is_recorded_and_stops_the_run_before_its_calls() {
    let limits = Limits { budget_tokens: 1_200, budget_nano_usd: 20_000_000, ..priced() };
    for spend in [Spend { input: 900, output: 400, nano_usd: 9 }, Spend { input: 9, output: 9, nano_usd: 20_000_001 }] {
        for finish in [Finish::Calls, Finish::Invalid] {
            let mut play = Play::think(limits);
            let reserved = *play.run.budget();
            let actions = play.take(replied_with(finish, spend, 10, &[tool(Effect::Write, 1)]));
            let settle = Action::Settle {
                spender: Spender::Model,
                tokens: spend.tokens(),
                nano_usd: spend.nano_usd,
                uncertain: false,
            };
            assert_eq!(actions, [settle, crate::failed(Failure::BudgetRun)]);
            let budget = play.run.budget();
            assert_eq!(budget.overshoot_tokens, spend.tokens().saturating_sub(reserved.reserved().tokens()));
            assert_eq!(budget.overshoot_nano_usd, spend.nano_usd.saturating_sub(reserved.reserved().nano_usd));
            assert!(budget.overshoot_tokens + budget.overshoot_nano_usd > 0);
        }
    }
}

#[test]
fn an_answer_that_cost_too_much_is_still_the_answer() {
    let mut play = Play::think(Limits { budget_tokens: 1_200, ..priced() });
    let actions = play.take(replied_with(Finish::Final, Spend { input: 9_000, output: 9, nano_usd: 0 }, 10, &[]));
    assert_eq!(actions.last(), Some(&Action::Finish { outcome: Outcome::Completed }));
    assert_eq!(play.run.budget().overshoot_tokens, 9_009 - 1_112);
}

#[test]
fn an_overshoot_within_the_budget_is_recorded_and_goes_on() {
    let mut play = Play::think(priced());
    let spend = Spend { input: 2_000, output: 50, nano_usd: 1 };
    play.take(replied_with(Finish::Calls, spend, 10, &[tool(Effect::Read, 1)]));
    assert_eq!(play.run.budget().overshoot_tokens, 2_050 - 1_112);
    play.take(answered(0));
    play.grant();
    play.take(answer());
}

#[test]
fn a_shared_budget_that_refuses_ends_the_run_and_frees_its_own_reservation() {
    let mut play = Play::start(priced());
    assert_eq!(play.take(budget_refused()), [crate::failed(Failure::BudgetShared)]);
    assert_eq!(play.run.budget().reserved(), Spend::default());
    assert_eq!(play.run.budget().spent, Spend::default());
}
