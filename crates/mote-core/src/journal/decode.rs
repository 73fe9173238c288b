//! Bytes to step. Whatever is not exactly a record of this format is an error; nothing is guessed.

use super::bytes::{Malformed, Reader};
use super::{CORE, CORE_COUNTS_APART, FORMAT, Record};
use crate::{
    Action, Array, CallFailure, CallKind, CallOutcome, CallSpec, Change, Effect, Event, Failure, Finish, Limits,
    ModelFailure, Outcome, Spend,
};

/// Reads one record; the actions that follow it are read as the iterator goes.
///
/// # Errors
/// [`Malformed`] for whatever is no record of this format, or has more calls than `CALLS`.
pub fn decode<const CALLS: usize>(
    bytes: &[u8],
) -> Result<(Record<CALLS>, impl Iterator<Item = Result<Action, Malformed>> + '_), Malformed> {
    let mut r = Reader::new(bytes);
    let format = r.byte()?;
    if format != FORMAT {
        return Err(Malformed::Format(format));
    }
    let now = r.number()?;
    let (event, core) = read_event(&mut r)?;
    let mut failed = false;
    let actions = core::iter::from_fn(move || {
        if failed || r.is_empty() {
            return None;
        }
        let action = read_action(&mut r);
        failed = action.is_err();
        Some(action)
    });
    Ok((Record { now, core, event }, actions))
}

fn read_event<const CALLS: usize>(r: &mut Reader<'_>) -> Result<(Event<CALLS>, u16), Malformed> {
    let event = match r.byte()? {
        1 => {
            let core = r.fit("core version")?;
            let limits = read_limits(r, core)?;
            return Ok((Event::Opened { limits, digest: r.digest()? }, core));
        }
        2 => Event::Loaded { tokens: r.fit("tokens")? },
        3 => Event::Started { tokens: r.fit("tokens")? },
        4 => Event::BudgetGranted,
        5 => Event::BudgetRefused,
        6 => read_reply(r)?,
        // As cores before 0x0003 wrote it: every spend known, every endpoint one.
        7 => Event::ModelFailed {
            failure: read_model_failure(r)?,
            spend: read_spend(r)?,
            uncertain: false,
            endpoint: 0,
            retry_after_ms: r.fit("retry_after_ms")?,
            jitter: r.fit("jitter")?,
            alternative: r.flag("alternative")?,
        },
        8 => Event::CallAnswered { call: r.fit("call")?, tokens: r.fit("tokens")?, is_error: r.flag("is_error")? },
        9 => Event::CallFailed {
            call: r.fit("call")?,
            failure: match r.byte()? {
                0 => CallFailure::NotPerformed,
                1 => CallFailure::Unknown,
                2 => CallFailure::Forbidden,
                tag => return Err(unknown("call failure", tag)),
            },
            retry_after_ms: r.fit("retry_after_ms")?,
            jitter: r.fit("jitter")?,
        },
        10 => Event::TimerFired,
        11 => Event::Signalled { call: r.fit("call")?, tokens: r.fit("tokens")? },
        12 => Event::Approved { call: r.fit("call")? },
        13 => Event::Denied { call: r.fit("call")? },
        14 => Event::Replied { call: r.fit("call")?, tokens: r.fit("tokens")? },
        15 => Event::Cancelled { spend: read_spend(r)? },
        16 => Event::Recovered,
        17 => Event::Rebound {
            digest: r.digest()?,
            change: match r.byte()? {
                0 => Change::Continue,
                1 => Change::Fail,
                2 => Change::PendingCall,
                tag => return Err(unknown("change", tag)),
            },
        },
        18 => Event::ModelFailed {
            failure: read_model_failure(r)?,
            spend: read_spend(r)?,
            uncertain: r.flag("uncertain")?,
            endpoint: r.fit("endpoint")?,
            retry_after_ms: r.fit("retry_after_ms")?,
            jitter: r.fit("jitter")?,
            alternative: r.flag("alternative")?,
        },
        19 => Event::Resumed { limits: read_limits(r, CORE)?, digest: r.digest()? },
        tag => return Err(unknown("event", tag)),
    };
    Ok((event, 0))
}

fn read_model_failure(r: &mut Reader<'_>) -> Result<ModelFailure, Malformed> {
    Ok(match r.byte()? {
        0 => ModelFailure::Transient,
        1 => ModelFailure::ContextLength,
        2 => ModelFailure::Rejected,
        3 => ModelFailure::Unavailable,
        tag => return Err(unknown("model failure", tag)),
    })
}

fn read_reply<const CALLS: usize>(r: &mut Reader<'_>) -> Result<Event<CALLS>, Malformed> {
    let spend = read_spend(r)?;
    let tokens = r.fit("tokens")?;
    let finish = match r.byte()? {
        0 => Finish::Final,
        1 => Finish::Invalid,
        2 => Finish::Calls,
        3 => Finish::Length,
        4 => Finish::Filtered,
        tag => return Err(unknown("finish", tag)),
    };
    let found = r.number()?;
    if found > CALLS as u64 {
        return Err(Malformed::Calls { found, has: CALLS });
    }
    let mut calls = Array::new();
    for _ in 0..found {
        calls.push(read_call(r)?).map_err(|_| Malformed::Calls { found, has: CALLS })?;
    }
    Ok(Event::ModelReplied { spend, tokens, finish, calls })
}

/// Bounds as `core` wrote them: those that it did not know are as [`Limits::default`] has them.
fn read_limits(r: &mut Reader<'_>, core: u16) -> Result<Limits, Malformed> {
    let limits = Limits {
        steps: r.fit("steps")?,
        tool_calls: r.fit("tool_calls")?,
        calls: r.fit("calls")?,
        parallel: r.fit("parallel")?,
        units: r.fit("units")?,
        model_attempts: r.fit("model_attempts")?,
        tool_attempts: r.fit("tool_attempts")?,
        backoff_ms: r.fit("backoff_ms")?,
        backoff_ms_max: r.fit("backoff_ms_max")?,
        repeats: r.fit("repeats")?,
        repairs: r.fit("repairs")?,
        active_ms: r.number()?,
        expires_at: r.number()?,
        window: r.fit("window")?,
        reserve: r.fit("reserve")?,
        low_water: r.fit("low_water")?,
        fixed: r.fit("fixed")?,
        output: r.fit("output")?,
        budget_tokens: r.number()?,
        budget_nano_usd: r.number()?,
        price_input: r.number()?,
        price_output: r.number()?,
        ..Limits::default()
    };
    if core < CORE_COUNTS_APART {
        return Ok(limits);
    }
    Ok(Limits {
        endpoints: r.fit("endpoints")?,
        interruptions: r.fit("interruptions")?,
        model_outage_ms: r.number()?,
        rest_ms: r.fit("rest_ms")?,
        interruptions_ms: r.number()?,
        ..limits
    })
}

fn read_call(r: &mut Reader<'_>) -> Result<CallSpec, Malformed> {
    let kind = match r.byte()? {
        0 => CallKind::Tool {
            effect: match r.byte()? {
                0 => Effect::Read,
                1 => Effect::Idempotent,
                2 => Effect::Write,
                tag => return Err(unknown("effect", tag)),
            },
            key_ttl_ms: r.number()?,
            approval: r.flag("approval")?,
        },
        1 => CallKind::Rejected { tokens: r.fit("tokens")? },
        2 => CallKind::Signal { name: r.number()?, until: r.number()? },
        3 => CallKind::Timer { at: r.number()? },
        4 => CallKind::Question { until: r.number()? },
        tag => return Err(unknown("call", tag)),
    };
    Ok(CallSpec { kind, tool: r.number()?, digest: r.number()?, timeout_ms: r.fit("timeout_ms")? })
}

fn read_action(r: &mut Reader<'_>) -> Result<Action, Malformed> {
    Ok(match r.byte()? {
        1 => Action::Settle { tokens: r.number()?, nano_usd: r.number()?, uncertain: false },
        2 => Action::Conclude {
            call: r.fit("call")?,
            outcome: match r.byte()? {
                0 => CallOutcome::Unknown,
                1 => CallOutcome::Failed,
                2 => CallOutcome::Forbidden,
                3 => CallOutcome::Denied,
                4 => CallOutcome::TimedOut,
                5 => CallOutcome::TimeReached,
                6 => CallOutcome::NotMade,
                tag => return Err(unknown("call outcome", tag)),
            },
        },
        3 => Action::Ask { call: r.fit("call")? },
        4 => Action::CallTool { call: r.fit("call")?, attempt: r.fit("attempt")? },
        5 => Action::Reserve { tokens: r.number()?, nano_usd: r.number()? },
        6 => Action::CallModel {
            step: r.fit("step")?,
            attempt: r.fit("attempt")?,
            from: r.fit("from")?,
            output: r.fit("output")?,
        },
        7 => Action::Suspend { until: r.number()? },
        8 => Action::Finish(read_outcome(r)?),
        9 => Action::Settle { tokens: r.number()?, nano_usd: r.number()?, uncertain: true },
        tag => return Err(unknown("action", tag)),
    })
}

fn read_outcome(r: &mut Reader<'_>) -> Result<Outcome, Malformed> {
    let failure = match r.byte()? {
        0 => return Ok(Outcome::Completed),
        1 => return Ok(Outcome::Cancelled),
        16 => Failure::Steps,
        17 => Failure::ToolCalls,
        18 => Failure::Active,
        19 => Failure::Expired,
        20 => Failure::BudgetRun,
        21 => Failure::BudgetShared,
        22 => Failure::Repeated,
        23 => Failure::Model,
        24 => Failure::ModelRejected,
        25 => Failure::Filtered,
        26 => Failure::Truncated,
        27 => Failure::Invalid,
        28 => Failure::ContextOverflow,
        29 => Failure::CapabilitiesChanged,
        30 => Failure::Outage,
        31 => Failure::Interrupted,
        tag => return Err(unknown("outcome", tag)),
    };
    Ok(Outcome::Failed(failure))
}

fn read_spend(r: &mut Reader<'_>) -> Result<Spend, Malformed> {
    Ok(Spend { input: r.number()?, output: r.number()?, nano_usd: r.number()? })
}

fn unknown(what: &'static str, tag: u8) -> Malformed {
    Malformed::Tag { what, tag: u64::from(tag) }
}
