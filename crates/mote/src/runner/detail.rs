//! What a run's error says beside its sentence: how much a budget had left, what the schema refused, which tool changed.
//!
//! It decides nothing: `ending` names the code, the core the outcome.

use mote_core::{Action, Change, Failure, Limits, OUTPUT_TOKENS_MIN, Outcome, Phase, Spender};

use super::batch::Step;
use super::drive::Driver;
use super::payload::Payload;
use super::{Core, Shared, batch, ending, recover, turn};
use crate::limits::ERROR_DETAIL_CHARS_MAX;
use crate::money::{self, Shortfall};
use crate::redact;
use crate::store::{Amount, BudgetLine, Owner, Status, TaskError};

/// How a run ended.
pub(super) struct Ending {
    pub status: Status,
    pub error: Option<TaskError>,
    /// The error's sentence for the log: nothing in it was said in the run.
    pub cause: Option<String>,
    /// What the error adds to that and may quote.
    pub detail: Option<String>,
}

impl Driver {
    /// How the run ended with its `last` step.
    pub(super) fn ending(&self, outcome: Outcome, last: &Step) -> Ending {
        let (failure, scope) = (self.last_failure(last), self.scope(last));
        let (status, error) = ending::of(outcome, last.run.limits(), failure.as_ref(), scope.as_deref());
        let Some(error) = error else { return Ending { status, error: None, cause: None, detail: None } };
        let sentence = match numbers(outcome, last) {
            Some(numbers) => format!("{}: {numbers}", error.message),
            None => error.message,
        };
        let said = self.transcript.packet(0);
        let said = said.iter().chain(self.transcript.last()).flat_map(redact::texts);
        let cause = redact::hide(&sentence, said.chain([&*self.shared.prompt]));
        let detail = detail(outcome, last);
        let message = detail.as_ref().map_or_else(|| sentence.clone(), |detail| format!("{sentence}: {detail}"));
        Ending { status, error: Some(TaskError { code: error.code, message }), cause: Some(cause), detail }
    }
}

/// What `steps` wanted to reserve for a spender.
pub(super) fn reserved(steps: &[Step], whose: Spender) -> Option<Amount> {
    steps.iter().flat_map(|step| step.actions.iter()).find_map(|action| match action {
        Action::Reserve { spender, tokens, nano_usd } if spender == whose => Some(Amount { tokens, nano_usd }),
        _ => None,
    })
}

/// What a reservation needs and what the shared budget that refused it has left; nothing where the store does not say.
pub(super) async fn short(shared: &Shared, owner: &Owner, needs: Option<Amount>, scope: &str) -> Option<String> {
    let line = batch::lines(shared, owner, shared.clock.now_ms()).into_iter().find(|line| line.scope == scope)?;
    let taken = shared.store.taken(&line).await.ok()??;
    Some(shortfall(needs?, taken, &line).to_string())
}

/// What is short of a shared budget.
fn shortfall(needs: Amount, taken: Amount, line: &BudgetLine) -> Shortfall {
    let left = |max: Option<u64>, taken: u64| max.map(|max| max.saturating_sub(taken));
    let (nano_usd, tokens) = (left(line.nano_usd_max, taken.nano_usd), left(line.tokens_max, taken.tokens));
    Shortfall::new(needs.nano_usd, nano_usd, needs.tokens, tokens)
}

/// Figures that belong to the outcome; none of them was said by anybody.
fn numbers(outcome: Outcome, last: &Step) -> Option<String> {
    match (outcome, &last.occurrence.payload) {
        (Outcome::Failed(Failure::BudgetRun), _) => {
            Some(format!("{}{}", run_shortfall(&last.run, last.run.limits()), lost_calls(&last.run)))
        }
        (Outcome::Failed(Failure::BudgetShared), Payload::BudgetRefused { short, .. }) => short.clone(),
        _ => None,
    }
}

/// What of a run's budget went to calls that were lost with their workers: nobody knows whether they cost it.
fn lost_calls(run: &Core) -> String {
    let (limits, budget) = (run.limits(), run.budget());
    let (counted, uncertain) = (budget.counted(), budget.counted_uncertain());
    let (all, share) = match limits.budget_nano_usd {
        u64::MAX => (format!("{} tokens", counted.tokens()), uncertain.tokens().to_string()),
        _ => (money::dollars(counted.nano_usd), money::dollars(uncertain.nano_usd)),
    };
    match budget.lost_calls {
        0 => String::new(),
        1 => format!("; {all} are counted, of which {share} is uncertain: 1 call was lost with its worker"),
        lost => {
            format!("; {all} are counted, of which {share} is uncertain: {lost} calls were lost with their workers")
        }
    }
}

/// What a model call needs that a run which has ended cannot pay under `limits`, if it is so.
pub(super) fn cannot_pay(run: &Core, limits: &Limits) -> Option<String> {
    let shortfall = run_shortfall(run, limits);
    let ended = matches!(run.phase(), Phase::Finished(_));
    (ended && shortfall.is_short()).then(|| {
        let lost = lost_calls(run);
        format!("its own budget does not carry another model call ({shortfall}{lost}); raise budget.per_run first")
    })
}

/// What another call would need at least, and what the run's own budget has left; the core reserves alike.
fn run_shortfall(run: &Core, limits: &Limits) -> Shortfall {
    let spent = run.budget().counted();
    let input = run.context().tokens().saturating_add(limits.fixed.into());
    let input = input.saturating_add(input / 8);
    let output = u64::from(limits.output.min(OUTPUT_TOKENS_MIN));
    let money = input.saturating_mul(limits.price_input).saturating_add(output.saturating_mul(limits.price_output));
    let left = |max: u64, spent: u64| (max != u64::MAX).then(|| max.saturating_sub(spent));
    let (nano_usd, tokens) = (left(limits.budget_nano_usd, spent.nano_usd), left(limits.budget_tokens, spent.tokens()));
    Shortfall::new(money, nano_usd, input.saturating_add(output), tokens)
}

/// What a client has to know and a log must not: it may quote arguments and answers.
fn detail(outcome: Outcome, last: &Step) -> Option<String> {
    let detail = match (outcome, &last.occurrence.payload) {
        (Outcome::Failed(Failure::Invalid), Payload::ModelReplied { feedback, .. }) => {
            turn::violations(feedback.as_deref()?).replace('\n', " ")
        }
        (Outcome::Failed(Failure::CapabilitiesChanged), Payload::Rebound { what, .. }) => what.clone()?,
        _ => return None,
    };
    Some(bounded(&detail))
}

/// What of the agent changed, where the run cannot go on with it.
pub(super) fn what_changed(driver: &Driver, change: Change) -> Option<String> {
    let short = |digest: &[u8; 32]| data_encoding::HEXLOWER.encode(&digest[..4]);
    match change {
        Change::Continue => None,
        Change::Fail => Some(format!(
            "`on_change` is `fail`; the run worked under the capability set {}…, the agent now has {}…",
            short(driver.run.digest()),
            short(&driver.shared.agent.digest)
        )),
        Change::PendingCall => {
            let changed = recover::changed_calls(driver).filter_map(|index| {
                let call = driver.transcript.call(index)?;
                let how = match driver.shared.registry.get(&call.name) {
                    None => "is not among the agent's tools any more",
                    Some(_) => "is declared otherwise now (schema, URL, method, effect or version)",
                };
                Some(format!("the tool of the pending call {} {how}", described(&call.name, &call.arguments)))
            });
            Some(changed.collect::<Vec<_>>().join("; "))
        }
    }
}

/// A call as an error names it: its tool and its arguments, within bounds.
pub(super) fn described(name: &str, arguments: &str) -> String {
    format!("{name} {}", bounded(arguments))
}

fn bounded(text: &str) -> String {
    let mut short: String = text.chars().take(ERROR_DETAIL_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
