//! Limits of a run, budgets and the context window.
//!
//! It does not enforce them: the core and the store do.

use std::time::Duration;

use super::super::diagnostic::FieldPath;
use super::super::findings::Findings;
use super::super::{Agent, Bound, Budgets, Context, Model, RunLimits, Windowed, raw, units};
use super::{duration, tokens, tokens_32};

const DAY: Duration = Duration::from_secs(86_400);

/// Limits of a run.
pub(super) fn limits(raw: raw::Limits, findings: &mut Findings<'_>) -> RunLimits {
    let path = FieldPath::top("limits");
    let limits = RunLimits {
        steps: raw.steps.unwrap_or(30),
        tool_calls: raw.tool_calls.unwrap_or(60),
        parallel: raw.parallel.unwrap_or(8),
        model_attempts: raw.model_attempts.unwrap_or(4),
        model_outage: duration(
            raw.model_outage.as_ref(),
            Duration::from_secs(900),
            &path.key("model_outage"),
            findings,
        ),
        tool_attempts: raw.tool_attempts.unwrap_or(3),
        backoff: duration(raw.backoff.as_ref(), Duration::from_millis(500), &path.key("backoff"), findings),
        backoff_max: duration(raw.backoff_max.as_ref(), Duration::from_secs(30), &path.key("backoff_max"), findings),
        repeats: raw.repeats.unwrap_or(3),
        repairs: raw.repairs.unwrap_or(2),
        active: duration(raw.active.as_ref(), Duration::from_secs(600), &path.key("active"), findings),
        expires: duration(raw.expires.as_ref(), 30 * DAY, &path.key("expires"), findings),
    };
    if limits.backoff > limits.backoff_max {
        findings.error(&path.key("backoff"), "is longer than `backoff_max`");
    }
    if limits.active > limits.expires {
        findings.error(&path.key("active"), "working time is longer than `expires`, which holds waiting too");
    }
    limits
}

/// Budgets.
pub(super) fn budgets(raw: &raw::Budget, findings: &mut Findings<'_>) -> Budgets {
    let path = FieldPath::top("budget");
    let mut windowed = |raw: Option<&raw::Windowed>, name: &str| {
        let (raw, path) = (raw?, path.key(name));
        let bound = bound(raw.usd.as_ref(), raw.tokens.as_ref(), &path, findings);
        Some(Windowed { bound, every: duration(Some(&raw.every), DAY, &path.key("every"), findings) })
    };
    let agent = windowed(raw.agent.as_ref(), "agent");
    let per_tenant = windowed(raw.per_tenant.as_ref(), "per_tenant");
    let per_user = windowed(raw.per_user.as_ref(), "per_user");
    let mut plain = |raw: Option<&raw::Bound>, name: &str| {
        raw.map(|raw| bound(raw.usd.as_ref(), raw.tokens.as_ref(), &path.key(name), findings))
    };
    let per_run = plain(raw.per_run.as_ref(), "per_run").unwrap_or_default();
    let per_session = plain(raw.per_session.as_ref(), "per_session");
    Budgets { per_run, agent, per_tenant, per_user, per_session }
}

fn bound(
    usd: Option<&serde_json::Number>,
    raw_tokens: Option<&raw::Tokens>,
    path: &FieldPath,
    findings: &mut Findings<'_>,
) -> Bound {
    if usd.is_none() && raw_tokens.is_none() && !findings.is_broken(path) {
        findings.error_hint(path, "bounds nothing", "give `usd`, `tokens` or both");
    }
    let nano_usd = usd.and_then(|number| {
        let parsed = units::usd(number);
        parsed.map_err(|error| findings.error(&path.key("usd"), error.to_string())).ok()
    });
    let tokens = tokens(raw_tokens, &path.key("tokens"), findings);
    for (name, value) in [("usd", nano_usd), ("tokens", tokens)] {
        if value == Some(0) {
            findings.error(&path.key(name), "a budget of zero lets nothing run");
        }
    }
    Bound { nano_usd, tokens }
}

/// A bound in USD that the cost of a model without a price never reaches bounds nothing.
pub(super) fn check_prices(agent: &Agent, findings: &mut Findings<'_>) {
    for (index, model) in agent.models.iter().enumerate().filter(|(_, model)| !model.is_priced) {
        let top = FieldPath::top("model");
        let at = if index == 0 { top } else { top.key("fallback").index(index - 1) };
        for bound in money_bounds(&agent.budget) {
            let path = FieldPath::top("budget").key(bound).key("usd");
            if findings.flag(&at).is_some() {
                let message = format!("its price is not known, so that `{path}` would bound nothing");
                let hint = "add --price INPUT,OUTPUT in USD per million tokens (--price 0 if it is free), or bound \
                            `tokens` instead of `usd`";
                findings.error_hint(&at, message, hint);
            } else {
                let message =
                    format!("bounds nothing: the price of `{}` is not known, its cost counts as 0", model.name);
                let hint = "give the model a `price: {input: …, output: …}` in USD per million tokens (zeros if it is \
                            free), or bound `tokens`";
                findings.error_hint(&path, message, hint);
            }
        }
    }
}

/// The budgets that bound money.
fn money_bounds(budgets: &Budgets) -> Vec<&'static str> {
    let Budgets { per_run, agent, per_tenant, per_user, per_session } = budgets;
    let windowed = |windowed: &Option<Windowed>| windowed.as_ref().map(|windowed| windowed.bound);
    let bounds = [
        ("per_run", Some(*per_run)),
        ("agent", windowed(agent)),
        ("per_tenant", windowed(per_tenant)),
        ("per_user", windowed(per_user)),
        ("per_session", *per_session),
    ];
    let bounds = bounds.into_iter().filter(|(_, bound)| bound.is_some_and(|bound| bound.nano_usd.is_some()));
    bounds.map(|(name, _)| name).collect()
}

/// The context packet.
pub(super) fn context(raw: raw::Context, models: &[Model], findings: &mut Findings<'_>) -> Context {
    let path = FieldPath::top("context");
    let window = tokens_32(raw.window.as_ref(), 120_000, &path.key("window"), findings);
    let reserve = tokens_32(raw.reserve.as_ref(), 8_000, &path.key("reserve"), findings);
    let low_water = match raw.low_water.as_deref().map(units::percent) {
        None => 60,
        Some(Ok(percent @ 10..=95)) => percent,
        Some(Ok(_)) => {
            findings.error(&path.key("low_water"), "must be from 10% to 95%");
            60
        }
        Some(Err(error)) => {
            findings.error(&path.key("low_water"), error.to_string());
            60
        }
    };
    let output = models.iter().map(|model| model.output_tokens_max).max().unwrap_or_default();
    if u64::from(window) <= u64::from(reserve) + u64::from(output) {
        let message = format!(
            "a window of {window} tokens leaves nothing for the transcript: `reserve` takes {reserve}, the reply (`output_max`) {output}"
        );
        findings.error_hint(&path.key("window"), message, "give the model's whole window, or lower the other two");
    }
    Context { window, reserve, low_water }
}
