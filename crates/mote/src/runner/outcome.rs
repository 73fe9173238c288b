//! What an action ended in, as an event for the core with its text. It estimates what a failed call cost; it does not
//! decide what follows.

use std::time::Duration;

use mote_core::{CallFailure, Cost, Event, ModelFailure, Spend};

use super::batch::Occurrence;
use super::drive::Driver;
use super::payload::Payload;
use super::request::millis;
use super::turn;
use crate::context;
use crate::model::{self, ErrorKind, Reply, price};
use crate::tools::{self, FailureKind, Progress, Suspension};
use crate::usage::Usage;

/// What was seen of a reply before it ended.
pub(super) struct Seen {
    /// Bytes that had streamed in.
    pub(super) streamed: usize,
    /// Whether a piece of it had come.
    pub(super) began: bool,
}

/// A model call's end.
pub(super) fn of_model(
    driver: &Driver,
    attempt: u16,
    result: Result<Reply, model::Error>,
    seen: &Seen,
    took: Duration,
) -> Occurrence {
    match result {
        Ok(reply) => replied(driver, attempt, reply, took),
        Err(error) => failed(driver, attempt, &error, seen, took),
    }
}

fn replied(driver: &Driver, attempt: u16, reply: Reply, took: Duration) -> Occurrence {
    let shared = &driver.shared;
    let output = u64::from(context::message_tokens(&reply.message));
    let (usage, estimated) = match reply.usage {
        // Some servers count nothing, and say so in numbers.
        Some(usage) if usage.output == 0 && reply.message.content_bytes() > 0 => (Usage { output, ..usage }, true),
        Some(usage) => (usage, false),
        None => (Usage { input: input_estimate(driver), output, ..Usage::default() }, true),
    };
    let spend = spend_of(driver, &reply.model, &usage);
    let cost_nano_usd = spend.nano_usd;
    let reading = turn::read(shared, &reply, shared.clock.now_ms());
    Occurrence::new(
        Event::ModelReplied { spend, tokens: reading.tokens, finish: reading.finish, calls: reading.calls },
        Payload::ModelReplied {
            step: driver.run.steps(),
            attempt,
            provider: reply.provider,
            model: reply.model,
            usage,
            estimated,
            cost_nano_usd,
            duration_ms: millis(took),
            finish: reply.finish,
            message: reply.message,
            refused: reading.refused,
            feedback: reading.feedback,
        },
    )
}

/// What the tokens cost at the model that answered. One that is offered under one name at several endpoints costs what the
/// dearest of them asks.
fn price_of(models: &[crate::model::config::Model], name: &str, usage: &Usage) -> u64 {
    let cost = |model: &crate::model::config::Model| price::cost(usage, &model.price);
    let named = models.iter().filter(|model| model.name == name).map(cost).max();
    named.or_else(|| models.first().map(cost)).unwrap_or_default()
}

fn failed(driver: &Driver, attempt: u16, error: &model::Error, seen: &Seen, took: Duration) -> Occurrence {
    let began = seen.began || error.began;
    let failure = match error.kind {
        ErrorKind::ContextLength => ModelFailure::ContextLength,
        ErrorKind::Rejected => ModelFailure::Rejected,
        // A reply that breaks off is one attempt; an endpoint that does not answer may be back in a while.
        ErrorKind::Broken | ErrorKind::TimedOut if began => ModelFailure::Transient,
        ErrorKind::Aborted | ErrorKind::EmptyReply => ModelFailure::Transient,
        ErrorKind::Unreachable
        | ErrorKind::RateLimited
        | ErrorKind::Overloaded
        | ErrorKind::Broken
        | ErrorKind::TimedOut
        | ErrorKind::CircuitOpen => ModelFailure::Unavailable,
    };
    let may_cost =
        matches!(error.kind, ErrorKind::Broken | ErrorKind::Aborted | ErrorKind::EmptyReply | ErrorKind::TimedOut);
    // What the provider says it used counts as it is, but for a count that stands at the beginning of a reply that was cut off
    // later; where it may have used something and says nothing, an estimate does.
    let was_cut = matches!(error.kind, ErrorKind::Broken | ErrorKind::Aborted | ErrorKind::TimedOut);
    let streamed = if was_cut { u64::from(context::tokens(seen.streamed)) } else { 0 };
    let usage = error.usage.map(|usage| Usage { output: usage.output.max(streamed), ..usage });
    let (spend, uncertain) = match &usage {
        Some(usage) => (spend_of(driver, &error.model, usage), error.usage.as_ref() != Some(usage)),
        None if may_cost => (spend_estimate(driver, seen.streamed), true),
        None => (Spend::default(), false),
    };
    let retry_after_ms = error.retry_after.map_or(0, |after| u32::try_from(millis(after)).unwrap_or(u32::MAX));
    let (cost, jitter, available) = (Cost { spend, uncertain }, jitter(driver), driver.shared.provider.available());
    Occurrence::new(
        Event::ModelFailed { failure, cost, retry_after_ms, jitter, available },
        Payload::ModelFailed {
            step: driver.run.steps(),
            attempt,
            model: error.model.clone(),
            kind: error_kind(error.kind).to_owned(),
            message: error.to_string(),
            usage,
            duration_ms: millis(took),
        },
    )
}

/// Name of a model failure's kind, in journals and metrics.
pub(super) fn error_kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::Broken => "broken",
        ErrorKind::Aborted => "aborted",
        ErrorKind::EmptyReply => "empty_reply",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::ContextLength => "context_length",
        ErrorKind::Rejected => "rejected",
        ErrorKind::CircuitOpen => "circuit_open",
    }
}

/// What a model call that gave no usage is taken to have cost: all of its input, and what had streamed in.
pub(super) fn spend_estimate(driver: &Driver, streamed: usize) -> Spend {
    let limits = driver.run.limits();
    let (input, output) = (input_estimate(driver), u64::from(context::tokens(streamed)));
    let nano_usd = input.saturating_mul(limits.price_input).saturating_add(output.saturating_mul(limits.price_output));
    Spend { input, output, nano_usd }
}

/// What these tokens cost with a model, at its configured prices.
fn spend_of(driver: &Driver, model: &str, usage: &Usage) -> Spend {
    let nano_usd = price_of(&driver.shared.agent.models, model, usage);
    Spend { input: usage.input, output: usage.output, nano_usd }
}

fn input_estimate(driver: &Driver) -> u64 {
    driver.run.context().tokens().saturating_add(driver.run.limits().fixed.into())
}

fn jitter(driver: &Driver) -> u16 {
    (driver.shared.clock.random() & 0xffff) as u16
}

/// The end of an attempt at a tool call; `None` if the call is no longer of this turn.
pub(super) fn of_call(
    driver: &Driver,
    call: u16,
    attempt: u16,
    result: Result<Progress, tools::Failure>,
    took: Duration,
) -> Option<Occurrence> {
    let named = driver.transcript.call(call)?;
    let (id, tool, duration_ms) = (named.id.clone(), named.name.clone(), millis(took));
    Some(match result {
        Ok(Progress::Suspended(suspension)) => suspended(call, id, tool, attempt, suspension),
        Ok(Progress::Answered(output)) => Occurrence::new(
            Event::CallAnswered {
                call,
                tokens: context::tokens(output.content.len()),
                is_error: output.is_error,
                cost: Cost { spend: output.spend, uncertain: false },
            },
            Payload::CallAnswered {
                call,
                id,
                tool,
                attempt,
                content: output.content,
                is_error: output.is_error,
                duration_ms,
            },
        ),
        Err(error) => {
            let (failure, kind) = match error.kind {
                FailureKind::NotSent => (CallFailure::NotPerformed, "not_sent"),
                FailureKind::Refused => (CallFailure::NotPerformed, "refused"),
                FailureKind::Unknown => (CallFailure::Unknown, "unknown"),
                FailureKind::Forbidden => (CallFailure::Forbidden, "forbidden"),
            };
            let retry_after_ms = error.retry_after.map_or(0, |after| u32::try_from(millis(after)).unwrap_or(u32::MAX));
            Occurrence::new(
                Event::CallFailed { call, failure, retry_after_ms, jitter: jitter(driver), cost: Cost::default() },
                Payload::CallFailed {
                    call,
                    id,
                    tool,
                    attempt,
                    kind: kind.to_owned(),
                    message: error.message,
                    duration_ms,
                },
            )
        }
    })
}

/// An attempt need not be held any more: it is a row in the store until somebody answers, or its backend has moved.
fn suspended(call: u16, id: String, tool: String, attempt: u16, suspension: Suspension) -> Occurrence {
    let Suspension { wait, until, asks, state } = suspension;
    let wait = match wait {
        tools::Wait::Approval => mote_core::Wait::Approval,
        tools::Wait::Input => mote_core::Wait::Input,
        tools::Wait::Remote => mote_core::Wait::Remote,
    };
    Occurrence::new(
        Event::CallSuspended { call, wait, until: until.unwrap_or(0) },
        Payload::CallSuspended { call, id, tool, attempt, asks, state },
    )
}

/// A summary that nobody writes.
pub(super) fn no_summary() -> Occurrence {
    Occurrence::new(
        Event::CompactionFailed { cost: Cost::default(), retry_after_ms: 0, jitter: 0, last: true },
        Payload::CompactionFailed { model: String::new(), message: "there is no summariser".to_owned() },
    )
}
