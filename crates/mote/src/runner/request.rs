//! The request of a task as it is stored, and the bounds that follow from it and the agent. A request narrows what the
//! agent may do; it never widens it.

use std::time::Duration;

use mote_core::Limits;
use serde::{Deserialize, Serialize};

use super::{Shared, Submission};
use crate::canonical;
use crate::clock::UnixMs;
use crate::config::Agent;
use crate::limits::{INTERRUPTIONS_MAX, INTERRUPTIONS_MS, REST_MS};
use crate::message::{Message, Role};

/// A task's request, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub input: Vec<Message>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nano_usd_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Stored {
    pub(super) fn new(submission: &Submission) -> Self {
        Self {
            input: submission.input.clone(),
            context: submission.context.clone(),
            nano_usd_max: submission.budget.nano_usd,
            tokens_max: submission.budget.tokens,
            active_ms: submission.active.map(millis),
            traceparent: submission.traceparent.clone(),
        }
    }

    /// What the model is given as input: the messages, then the facts that stand beside them.
    pub(super) fn messages(&self) -> Vec<Message> {
        let mut messages = self.input.clone();
        if let Some(context) = &self.context {
            messages.push(Message::text(Role::User, format!("Context for this task (JSON): {context}")));
        }
        messages
    }
}

/// Fingerprint of a submission for its idempotency key: everything that the client said but the trace.
pub(super) fn fingerprint(submission: &Submission) -> [u8; 32] {
    let stored = Stored { traceparent: None, ..Stored::new(submission) };
    let said = serde_json::json!({
        "request": stored,
        "tenant": submission.owner.tenant,
        "user": submission.owner.user,
        "session": submission.owner.session,
        "labels": submission.owner.labels,
        "expires_ms": submission.expires.map(millis),
    });
    // The canonical form: the same request with its members in another order is the same request.
    canonical::digest(&said)
}

/// Wall time at which a task submitted now ends.
pub(super) fn expires_at(agent: &Agent, submission: &Submission, now: UnixMs) -> UnixMs {
    let wall = submission.expires.map_or(agent.limits.expires, |asked| asked.min(agent.limits.expires));
    now.saturating_add(millis(wall))
}

/// The core's bounds for a run of this request.
pub(super) fn bounds(shared: &Shared, stored: &Stored, expires_at: Option<UnixMs>) -> Limits {
    let agent = &shared.agent;
    let (limits, context, per_run) = (&agent.limits, &agent.context, agent.budget.per_run);
    let narrowed = |agents: Option<u64>, asked: Option<u64>| agents.unwrap_or(u64::MAX).min(asked.unwrap_or(u64::MAX));
    let prices = || agent.models.iter().map(|model| model.price);
    let output = agent.models.iter().map(|model| model.output_tokens_max).min().unwrap_or(0);
    Limits {
        steps: limits.steps,
        tool_calls: limits.tool_calls,
        calls: small(crate::limits::CALLS_PER_TURN),
        parallel: limits.parallel,
        units: small(crate::limits::CONTEXT_UNITS),
        model_attempts: limits.model_attempts,
        endpoints: small(agent.models.len()),
        model_outage_ms: millis(limits.model_outage),
        interruptions: INTERRUPTIONS_MAX,
        interruptions_ms: INTERRUPTIONS_MS,
        rest_ms: REST_MS,
        tool_attempts: limits.tool_attempts,
        backoff_ms: u32::try_from(millis(limits.backoff)).unwrap_or(u32::MAX),
        backoff_ms_max: u32::try_from(millis(limits.backoff_max)).unwrap_or(u32::MAX),
        repeats: limits.repeats,
        repairs: limits.repairs,
        active_ms: millis(limits.active).min(stored.active_ms.unwrap_or(u64::MAX)),
        expires_at: expires_at.unwrap_or(0),
        window: context.window,
        reserve: context.reserve,
        low_water: context.low_water,
        fixed: shared.fixed_tokens,
        output,
        budget_tokens: narrowed(per_run.tokens, stored.tokens_max),
        budget_nano_usd: narrowed(per_run.nano_usd, stored.nano_usd_max),
        // The dearest of all, writing to the cache included: a reservation must cover whichever model answers.
        price_input: prices().map(|price| price.input.max(price.cache_write)).max().unwrap_or(0),
        price_output: prices().map(|price| price.output).max().unwrap_or(0),
        // The context is trimmed: nothing summarises yet.
        compact_at: 0,
        compact_attempts: 0,
        summary: 0,
        summary_price_input: 0,
        summary_price_output: 0,
    }
}

fn small(limit: usize) -> u16 {
    u16::try_from(limit).unwrap_or(u16::MAX)
}

/// A duration in whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(context: &str) -> [u8; 32] {
        fingerprint(&Submission {
            owner: crate::store::Owner::default(),
            input: vec![Message::text(Role::User, "go")],
            context: Some(serde_json::from_str(context).unwrap()),
            budget: crate::config::Bound::default(),
            active: None,
            expires: None,
            idempotency: None,
            traceparent: None,
        })
    }

    #[test]
    fn a_fingerprint_ignores_the_order_of_members() {
        assert_eq!(asked(r#"{"a": 1, "b": {"x": 1.0, "y": 2}}"#), asked(r#"{"b": {"y": 2, "x": 1}, "a": 1}"#));
        assert_ne!(asked(r#"{"a": 1}"#), asked(r#"{"a": 2}"#));
        let (one, another) = (r#"{"id": 123456789012345678901234567890}"#, r#"{"id": 123456789012345678901234567891}"#);
        assert_ne!(asked(one), asked(another), "ids beyond a double stay apart");
    }
}
