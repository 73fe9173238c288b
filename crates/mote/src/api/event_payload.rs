//! What clients see of a journal event's payload, in streams and in `GET /tasks/{id}/journal`. A shape of its own, version
//! [`VERSION`]: what the journal keeps for the run alone stays inside.
//!
//! docs/events.md is written from it.

use http::HeaderName;
use mote_core::EventKind;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::dto;
use crate::message::Message;
use crate::model::Finish;
use crate::runner::payload::{Payload, RefusedCall};
use crate::store::{self, By, Spender};
use crate::usage::Usage;

/// Version of the shapes below. Fields and kinds may be added to a version; nothing else changes within it.
pub(super) const VERSION: u32 = 1;
/// The header that says it, of streams and of `GET /tasks/{id}/journal`.
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("mote-events-version");

macro_rules! public_payloads {
    ($( $(#[$meta:meta])* $variant:ident $({ $( $(#[$field_meta:meta])* $field:ident: $type:ty ),* $(,)? })? ),* $(,)?) => {
        /// What belongs to a journal event, by its kind.
        #[derive(Debug, Serialize, ToSchema)]
        #[serde(untagged)]
        #[schema(as = Payload)]
        pub(super) enum EventPayload {
            $( $(#[$meta])* $variant $({ $( $(#[$field_meta])* $field: $type ),* })? ),*
        }

        impl EventPayload {
            /// The kinds, in the order of the variants.
            #[cfg(test)]
            pub(super) const KINDS: &[EventKind] = &[ $( EventKind::$variant ),* ];

            fn kind(&self) -> EventKind {
                match self { $( Self::$variant { .. } => EventKind::$variant ),* }
            }
        }
    };
}

public_payloads! {
    /// The run was opened.
    Opened {
        /// The agent's name.
        agent: String,
        /// Its version.
        version: String,
        /// Digest of its capability set, hex.
        digest: String,
    },
    /// A message of an earlier turn of the session was loaded.
    Loaded {
        /// The message.
        message: Message,
    },
    /// The input is in place.
    Started,
    /// A reservation holds.
    BudgetGranted {
        /// Whose, where it is not the model's.
        #[serde(skip_serializing_if = "Option::is_none")]
        spender: Option<Spender>,
    },
    /// A shared budget refused the reservation.
    BudgetRefused {
        /// Which.
        scope: String,
        /// What the call needs and what is left.
        #[serde(skip_serializing_if = "Option::is_none")]
        short: Option<String>,
        /// Whose, where it is not the model's.
        #[serde(skip_serializing_if = "Option::is_none")]
        spender: Option<Spender>,
    },
    /// The model replied.
    ModelReplied {
        /// Step.
        step: u32,
        /// Attempt.
        attempt: u16,
        /// Provider.
        provider: String,
        /// Model.
        model: String,
        /// Tokens.
        usage: Usage,
        /// Whether the endpoint did not say what it used and this is our estimate.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        estimated: bool,
        /// Cost, nano-USD.
        cost_nano_usd: u64,
        /// How long it took, ms.
        duration_ms: u64,
        /// Why it ended.
        finish: Finish,
        /// What it said.
        message: Message,
        /// Calls that are answered without being performed.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        refused: Vec<RefusedCall>,
        /// Why the answer fails the output schema, for the model.
        #[serde(skip_serializing_if = "Option::is_none")]
        feedback: Option<String>,
    },
    /// The model did not reply.
    ModelFailed {
        /// Step.
        step: u32,
        /// Attempt.
        attempt: u16,
        /// Model.
        model: String,
        /// What kind of failure.
        kind: String,
        /// What happened.
        message: String,
        /// Tokens, where the endpoint said them before it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// How long it took, ms.
        duration_ms: u64,
    },
    /// A tool answered.
    CallAnswered {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Tool.
        tool: String,
        /// Attempt.
        attempt: u16,
        /// The answer.
        content: String,
        /// Whether it is an error.
        is_error: bool,
        /// How long the attempt took, ms.
        duration_ms: u64,
    },
    /// An attempt at a call gave no answer.
    CallFailed {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Tool.
        tool: String,
        /// Attempt.
        attempt: u16,
        /// What is known: `not_sent`, `refused`, `unknown`, `forbidden`.
        kind: String,
        /// What happened.
        message: String,
        /// How long the attempt took, ms.
        duration_ms: u64,
    },
    /// An attempt at a call is held by nobody until somebody answers, or its backend has moved on.
    CallSuspended {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Tool.
        tool: String,
        /// Attempt.
        attempt: u16,
        /// What its backend asks a person, if it asks one.
        #[serde(skip_serializing_if = "Option::is_none")]
        asks: Option<serde_json::Value>,
    },
    /// What a suspended call waits for has moved.
    CallWoken {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
    },
    /// A time came.
    TimerFired,
    /// A signal came.
    Signalled {
        /// Index within the turn.
        call: u16,
        /// Its name.
        name: String,
        /// What it carries.
        payload: serde_json::Value,
        /// Who sent it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person approved a call.
    Approved {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Who approved it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person refused a call.
    Denied {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Why, if the person says.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<serde_json::Value>,
        /// Who refused it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person answered a question.
    Replied {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// The answer.
        content: serde_json::Value,
        /// Who gave it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A client cancelled.
    Cancelled {
        /// Who cancelled it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// Another worker took over.
    Recovered {
        /// The worker that took over.
        worker: String,
    },
    /// The capability set changed.
    Rebound {
        /// Digest of the new one, hex.
        digest: String,
        /// `continue`, `fail`, `pending_call`.
        change: String,
        /// What changed, where the run cannot go on.
        #[serde(skip_serializing_if = "Option::is_none")]
        what: Option<String>,
    },
    /// A run that had ended goes on, or one under way has new bounds.
    Resumed {
        /// Digest of the capability set that it goes on under, hex.
        digest: String,
    },
    /// The oldest units were summarised.
    Compacted {
        /// The newest unit that the summary stands for.
        through: u32,
        /// The summary.
        summary: Message,
        /// Model.
        model: String,
        /// Tokens.
        usage: Usage,
    },
    /// The summary failed.
    CompactionFailed {
        /// Model.
        model: String,
        /// What happened.
        message: String,
    },
}

impl From<Payload> for EventPayload {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Opened { agent, version, digest } => Self::Opened { agent, version, digest },
            Payload::Loaded { message } => Self::Loaded { message },
            Payload::Started => Self::Started,
            Payload::BudgetGranted { spender } => Self::BudgetGranted { spender },
            Payload::BudgetRefused { scope, short, spender } => Self::BudgetRefused { scope, short, spender },
            Payload::ModelReplied {
                step,
                attempt,
                provider,
                model,
                usage,
                estimated,
                cost_nano_usd,
                duration_ms,
                finish,
                message,
                refused,
                feedback,
            } => Self::ModelReplied {
                step,
                attempt,
                provider,
                model,
                usage,
                estimated,
                cost_nano_usd,
                duration_ms,
                finish,
                message,
                refused,
                feedback,
            },
            Payload::ModelFailed { step, attempt, model, kind, message, usage, duration_ms } => {
                Self::ModelFailed { step, attempt, model, kind, message, usage, duration_ms }
            }
            Payload::CallAnswered { call, id, tool, attempt, content, is_error, duration_ms } => {
                Self::CallAnswered { call, id, tool, attempt, content, is_error, duration_ms }
            }
            Payload::CallFailed { call, id, tool, attempt, kind, message, duration_ms } => {
                Self::CallFailed { call, id, tool, attempt, kind, message, duration_ms }
            }
            Payload::CallSuspended { call, id, tool, attempt, asks, state: _ } => {
                Self::CallSuspended { call, id, tool, attempt, asks }
            }
            Payload::CallWoken { call, id } => Self::CallWoken { call, id },
            Payload::TimerFired => Self::TimerFired,
            Payload::Signalled { call, name, payload, by } => Self::Signalled { call, name, payload, by },
            Payload::Approved { call, id, by } => Self::Approved { call, id, by },
            Payload::Denied { call, id, content, by } => Self::Denied { call, id, content, by },
            Payload::Replied { call, id, content, by } => Self::Replied { call, id, content, by },
            Payload::Cancelled { by } => Self::Cancelled { by },
            Payload::Recovered { worker } => Self::Recovered { worker },
            Payload::Rebound { digest, change, what } => Self::Rebound { digest, change, what },
            Payload::Resumed { digest } => Self::Resumed { digest },
            Payload::Compacted { through, summary, model, usage } => Self::Compacted { through, summary, model, usage },
            Payload::CompactionFailed { model, message } => Self::CompactionFailed { model, message },
        }
    }
}

/// What an entry's JSON carries beside its payload, whatever the kind.
#[derive(Deserialize)]
struct Beside<'a> {
    #[serde(borrow)]
    settled: Option<&'a RawValue>,
    #[serde(borrow)]
    unknown: Option<&'a RawValue>,
}

/// What clients see of an entry's payload; `None` where the kind says all. Of one that this program cannot read, its kind.
pub(super) fn public(entry: &store::Entry) -> Option<Box<RawValue>> {
    let stored = entry.payload.as_deref()?;
    let read = Payload::from_entry(&entry.kind, Some(stored)).map(EventPayload::from);
    let payload = read.inspect_err(|error| {
        tracing::warn!(seq = entry.seq, kind = entry.kind, %error, "failed to read an event's payload; only its kind is shown");
    });
    let Ok(payload) = payload else { return Some(dto::raw(serde_json::json!({ "type": entry.kind }).to_string())) };
    let beside: Beside<'_> = serde_json::from_str(stored).ok()?;
    let fields = serde_json::to_string(&payload).ok()?;
    let fields = fields.strip_prefix('{').and_then(|fields| fields.strip_suffix('}')).unwrap_or_default();
    let mut text = format!("{{\"type\":\"{}\"", payload.kind().name());
    if !fields.is_empty() {
        text.push(',');
        text.push_str(fields);
    }
    for (name, json) in [("settled", beside.settled), ("unknown", beside.unknown)] {
        if let Some(json) = json {
            text.push_str(&format!(",\"{name}\":{json}"));
        }
    }
    text.push('}');
    Some(dto::raw(text))
}

/// Whether clients see entries of that kind.
pub(super) fn is_public(kind: &str) -> bool {
    EventKind::named(kind).is_none_or(EventKind::is_public)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(kind: &str, payload: serde_json::Value) -> store::Entry {
        let payload = Some(payload.to_string());
        store::Entry { seq: 1, epoch: 1, at: 0, kind: kind.to_owned(), record: Vec::new(), payload }
    }

    #[test]
    fn what_a_tool_keeps_for_itself_stays_inside() {
        let payload = json!({
            "type": "call.suspended", "call": 0, "id": "a", "tool": "order", "attempt": 1,
            "asks": {"message": "really?"}, "state": {"remote": "task-7"}, "added": true,
        });
        let shown = public(&entry("call.suspended", payload)).unwrap();
        let expected = json!({
            "type": "call.suspended", "call": 0, "id": "a", "tool": "order", "attempt": 1,
            "asks": {"message": "really?"},
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(shown.get()).unwrap(), expected);
    }

    #[test]
    fn what_stands_beside_every_payload_is_shown() {
        let payload = json!({"type": "run.cancelled", "settled": {"input": 1}, "unknown": [{"id": "a"}]});
        let shown = public(&entry("run.cancelled", payload.clone())).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(shown.get()).unwrap(), payload);
        assert!(public(&store::Entry { payload: None, ..entry("run.started", json!({})) }).is_none());
    }

    #[test]
    fn every_kind_that_clients_see_has_a_shape() {
        let public: Vec<_> = EventKind::ALL.iter().filter(|kind| kind.is_public()).collect();
        for kind in &public {
            assert!(EventPayload::KINDS.contains(kind), "{}", kind.name());
        }
        assert_eq!(public.len(), EventPayload::KINDS.len());
    }
}
