//! Step to bytes. Tags are for ever: a new variant takes a new number, none is used again.

use super::bytes::{NoRoom, Writer};
use super::{CORE, FORMAT};
use crate::{
    Action, Actions, CallFailure, CallKind, CallOutcome, CallSpec, Change, Effect, Event, Failure, Finish, Limits,
    ModelFailure, Outcome, Spend, Time,
};

/// Writes one record into `buffer` and returns its length in bytes.
///
/// # Errors
/// [`NoRoom`] if `buffer` is shorter than the record; [`super::record_bytes_max`] is always enough.
pub fn encode<const CALLS: usize>(
    now: Time,
    event: &Event<CALLS>,
    actions: &Actions<CALLS>,
    buffer: &mut [u8],
) -> Result<usize, NoRoom> {
    let mut w = Writer::new(buffer);
    w.byte(FORMAT)?;
    w.number(now)?;
    write_event(&mut w, event)?;
    actions.iter().try_for_each(|action| write_action(&mut w, action))?;
    Ok(w.len())
}

fn write_event<const CALLS: usize>(w: &mut Writer<'_>, event: &Event<CALLS>) -> Result<(), NoRoom> {
    match event {
        Event::Opened { limits, digest } => {
            w.byte(1)?;
            w.number(CORE)?;
            write_limits(w, limits)?;
            w.raw(digest)
        }
        Event::Loaded { tokens } => tagged(w, 2, &[u64::from(*tokens)]),
        Event::Started { tokens } => tagged(w, 3, &[u64::from(*tokens)]),
        Event::BudgetGranted => w.byte(4),
        Event::BudgetRefused => w.byte(5),
        Event::ModelReplied { spend, tokens, finish, calls } => {
            w.byte(6)?;
            write_spend(w, *spend)?;
            w.number(*tokens)?;
            w.byte(match finish {
                Finish::Final => 0,
                Finish::Invalid => 1,
                Finish::Calls => 2,
                Finish::Length => 3,
                Finish::Filtered => 4,
            })?;
            w.number(calls.len() as u64)?;
            calls.as_slice().iter().try_for_each(|call| write_call(w, call))
        }
        Event::ModelFailed { .. } => write_model_failed(w, event),
        Event::CallAnswered { call, tokens, is_error } => {
            tagged(w, 8, &[u64::from(*call), u64::from(*tokens)])?;
            w.byte(u8::from(*is_error))
        }
        Event::CallFailed { call, failure, retry_after_ms, jitter } => {
            let failure = match failure {
                CallFailure::NotPerformed => 0,
                CallFailure::Unknown => 1,
                CallFailure::Forbidden => 2,
            };
            tagged(w, 9, &[u64::from(*call), failure, u64::from(*retry_after_ms), u64::from(*jitter)])
        }
        Event::TimerFired => w.byte(10),
        Event::Signalled { call, tokens } => tagged(w, 11, &[u64::from(*call), u64::from(*tokens)]),
        Event::Approved { call } => tagged(w, 12, &[u64::from(*call)]),
        Event::Denied { call } => tagged(w, 13, &[u64::from(*call)]),
        Event::Replied { call, tokens } => tagged(w, 14, &[u64::from(*call), u64::from(*tokens)]),
        Event::Cancelled { spend } => {
            w.byte(15)?;
            write_spend(w, *spend)
        }
        Event::Recovered => w.byte(16),
        Event::Rebound { digest, change } => {
            w.byte(17)?;
            w.raw(digest)?;
            w.byte(change_number(*change))
        }
        Event::Resumed { limits, digest } => {
            w.byte(19)?;
            write_limits(w, limits)?;
            w.raw(digest)
        }
    }
}

fn write_model_failed<const CALLS: usize>(w: &mut Writer<'_>, event: &Event<CALLS>) -> Result<(), NoRoom> {
    let Event::ModelFailed { failure, spend, uncertain, endpoint, retry_after_ms, jitter, alternative } = *event else {
        return Ok(());
    };
    w.byte(18)?;
    w.byte(match failure {
        ModelFailure::Transient => 0,
        ModelFailure::ContextLength => 1,
        ModelFailure::Rejected => 2,
        ModelFailure::Unavailable => 3,
    })?;
    write_spend(w, spend)?;
    w.byte(u8::from(uncertain))?;
    w.number(endpoint)?;
    w.number(retry_after_ms)?;
    w.number(jitter)?;
    w.byte(u8::from(alternative))
}

fn change_number(change: Change) -> u8 {
    match change {
        Change::Continue => 0,
        Change::Fail => 1,
        Change::PendingCall => 2,
    }
}

fn write_limits(w: &mut Writer<'_>, limits: &Limits) -> Result<(), NoRoom> {
    // Destructured whole, so that a new limit cannot be forgotten here.
    let Limits {
        steps,
        tool_calls,
        calls,
        parallel,
        units,
        model_attempts,
        endpoints,
        model_outage_ms,
        interruptions,
        interruptions_ms,
        rest_ms,
        tool_attempts,
        backoff_ms,
        backoff_ms_max,
        repeats,
        repairs,
        active_ms,
        expires_at,
        window,
        reserve,
        low_water,
        fixed,
        output,
        budget_tokens,
        budget_nano_usd,
        price_input,
        price_output,
    } = *limits;
    for number in [steps, tool_calls] {
        w.number(number)?;
    }
    for number in [calls, parallel, units, model_attempts, tool_attempts] {
        w.number(number)?;
    }
    for number in [backoff_ms, backoff_ms_max, u32::from(repeats), u32::from(repairs)] {
        w.number(number)?;
    }
    for number in [active_ms, expires_at] {
        w.number(number)?;
    }
    for number in [window, reserve, u32::from(low_water), fixed, output] {
        w.number(number)?;
    }
    [budget_tokens, budget_nano_usd, price_input, price_output].into_iter().try_for_each(|number| w.number(number))?;
    for number in [endpoints, interruptions] {
        w.number(number)?;
    }
    w.number(model_outage_ms)?;
    w.number(rest_ms)?;
    w.number(interruptions_ms)
}

fn write_call(w: &mut Writer<'_>, call: &CallSpec) -> Result<(), NoRoom> {
    match call.kind {
        CallKind::Tool { effect, key_ttl_ms, approval } => {
            w.byte(0)?;
            w.byte(match effect {
                Effect::Read => 0,
                Effect::Idempotent => 1,
                Effect::Write => 2,
            })?;
            w.number(key_ttl_ms)?;
            w.byte(u8::from(approval))?;
        }
        CallKind::Rejected { tokens } => tagged(w, 1, &[u64::from(tokens)])?,
        CallKind::Signal { name, until } => tagged(w, 2, &[name, until])?,
        CallKind::Timer { at } => tagged(w, 3, &[at])?,
        CallKind::Question { until } => tagged(w, 4, &[until])?,
    }
    w.number(call.tool)?;
    w.number(call.digest)?;
    w.number(call.timeout_ms)
}

fn write_action(w: &mut Writer<'_>, action: Action) -> Result<(), NoRoom> {
    match action {
        Action::Settle { tokens, nano_usd, uncertain: false } => tagged(w, 1, &[tokens, nano_usd]),
        Action::Settle { tokens, nano_usd, uncertain: true } => tagged(w, 9, &[tokens, nano_usd]),
        Action::Conclude { call, outcome } => {
            let outcome = match outcome {
                CallOutcome::Unknown => 0,
                CallOutcome::Failed => 1,
                CallOutcome::Forbidden => 2,
                CallOutcome::Denied => 3,
                CallOutcome::TimedOut => 4,
                CallOutcome::TimeReached => 5,
                CallOutcome::NotMade => 6,
            };
            tagged(w, 2, &[u64::from(call), outcome])
        }
        Action::Ask { call } => tagged(w, 3, &[u64::from(call)]),
        Action::CallTool { call, attempt } => tagged(w, 4, &[u64::from(call), u64::from(attempt)]),
        Action::Reserve { tokens, nano_usd } => tagged(w, 5, &[tokens, nano_usd]),
        Action::CallModel { step, attempt, from, output } => {
            tagged(w, 6, &[u64::from(step), u64::from(attempt), u64::from(from), u64::from(output)])
        }
        Action::Suspend { until } => tagged(w, 7, &[until]),
        Action::Finish(outcome) => tagged(w, 8, &[outcome_number(outcome)]),
    }
}

fn outcome_number(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Completed => 0,
        Outcome::Cancelled => 1,
        Outcome::Failed(failure) => match failure {
            Failure::Steps => 16,
            Failure::ToolCalls => 17,
            Failure::Active => 18,
            Failure::Expired => 19,
            Failure::BudgetRun => 20,
            Failure::BudgetShared => 21,
            Failure::Repeated => 22,
            Failure::Model => 23,
            Failure::ModelRejected => 24,
            Failure::Filtered => 25,
            Failure::Truncated => 26,
            Failure::Invalid => 27,
            Failure::ContextOverflow => 28,
            Failure::CapabilitiesChanged => 29,
            Failure::Outage => 30,
            Failure::Interrupted => 31,
        },
    }
}

fn write_spend(w: &mut Writer<'_>, spend: Spend) -> Result<(), NoRoom> {
    [spend.input, spend.output, spend.nano_usd].into_iter().try_for_each(|number| w.number(number))
}

fn tagged(w: &mut Writer<'_>, tag: u8, numbers: &[u64]) -> Result<(), NoRoom> {
    w.byte(tag)?;
    numbers.iter().try_for_each(|number| w.number(*number))
}
