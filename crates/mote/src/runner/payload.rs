//! What the journal keeps of an event beside the core's record: its text, as JSON, in the shape in which streams show
//! it to clients. It holds no secret and decides nothing.

use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::model::Finish;
use crate::store::{By, Spending};
use crate::usage::Usage;

/// The text of an event. `type` in the JSON is the entry's kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type")]
pub enum Payload {
    /// The run was opened.
    #[serde(rename = "run.opened")]
    Opened {
        /// The agent's name.
        agent: String,
        /// Its version.
        version: String,
        /// Digest of its capability set, hex.
        digest: String,
    },
    /// A message of an earlier turn of the session was loaded.
    #[serde(rename = "session.loaded")]
    Loaded {
        /// The message.
        message: Message,
    },
    /// The input is in place.
    #[serde(rename = "run.started")]
    Started,
    /// The reservation holds.
    #[serde(rename = "budget.granted")]
    BudgetGranted,
    /// A shared budget refused the reservation.
    #[serde(rename = "budget.refused")]
    BudgetRefused {
        /// Which.
        scope: String,
        /// What the call needs and what is left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        short: Option<String>,
    },
    /// The model replied.
    #[serde(rename = "model.replied")]
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
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
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
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<RefusedCall>,
        /// Why the answer fails the output schema, for the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        feedback: Option<String>,
    },
    /// The model did not reply.
    #[serde(rename = "model.failed")]
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// How long it took, ms.
        duration_ms: u64,
    },
    /// A tool answered.
    #[serde(rename = "call.answered")]
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
    #[serde(rename = "call.failed")]
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
    /// A time came.
    #[serde(rename = "timer.fired")]
    TimerFired,
    /// A signal came.
    #[serde(rename = "signal.received")]
    SignalReceived {
        /// Index within the turn.
        call: u16,
        /// Its name.
        name: String,
        /// What it carries.
        payload: serde_json::Value,
        /// Who sent it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person approved a call.
    #[serde(rename = "call.approved")]
    CallApproved {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Who approved it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person refused a call.
    #[serde(rename = "call.denied")]
    CallDenied {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Why, if the person says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<serde_json::Value>,
        /// Who refused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person answered a question.
    #[serde(rename = "input.received")]
    InputReceived {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// The answer.
        content: serde_json::Value,
        /// Who gave it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A client cancelled.
    #[serde(rename = "run.cancelled")]
    Cancelled {
        /// Who cancelled it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// Another worker took over.
    #[serde(rename = "run.recovered")]
    Recovered {
        /// The worker that took over.
        worker: String,
    },
    /// The capability set changed.
    #[serde(rename = "run.rebound")]
    Rebound {
        /// Digest of the new one, hex.
        digest: String,
        /// `continue`, `fail`, `pending_call`.
        change: String,
        /// What changed, where the run cannot go on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        what: Option<String>,
    },
    /// A run that had ended goes on, or one under way has new bounds.
    #[serde(rename = "run.resumed")]
    Resumed {
        /// Digest of the capability set that it goes on under, hex.
        digest: String,
    },
}

/// A call that is answered without being performed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RefusedCall {
    /// The provider's id of the call.
    pub id: String,
    /// What the model is told.
    pub reason: String,
}

/// A call that may or may not have been performed, and is not made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UnknownCall {
    /// The provider's id of the call.
    pub id: String,
    /// Tool.
    pub tool: String,
}

impl Payload {
    /// The entry's kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "run.opened",
            Self::Loaded { .. } => "session.loaded",
            Self::Started => "run.started",
            Self::BudgetGranted => "budget.granted",
            Self::BudgetRefused { .. } => "budget.refused",
            Self::ModelReplied { .. } => "model.replied",
            Self::ModelFailed { .. } => "model.failed",
            Self::CallAnswered { .. } => "call.answered",
            Self::CallFailed { .. } => "call.failed",
            Self::TimerFired => "timer.fired",
            Self::SignalReceived { .. } => "signal.received",
            Self::CallApproved { .. } => "call.approved",
            Self::CallDenied { .. } => "call.denied",
            Self::InputReceived { .. } => "input.received",
            Self::Cancelled { .. } => "run.cancelled",
            Self::Recovered { .. } => "run.recovered",
            Self::Rebound { .. } => "run.rebound",
            Self::Resumed { .. } => "run.resumed",
        }
    }

    /// The JSON that the journal keeps; `None` for an event that its kind says all of.
    pub(crate) fn to_json(&self) -> Option<String> {
        match self {
            Self::Started | Self::BudgetGranted | Self::TimerFired | Self::Cancelled { by: None } => None,
            other => serde_json::to_string(other).ok(),
        }
    }

    /// The same with what the event's step spent, as `settled`: the sum over a journal is what its task spent; and with the
    /// calls whose outcome stays unknown with it, as `unknown`.
    pub(crate) fn to_json_with(&self, spending: Option<&Spending>, unknown: &[UnknownCall]) -> Option<String> {
        let json = self.to_json();
        let settled = spending.map(|spending| {
            let usage = &spending.usage;
            let settled = serde_json::json!({
                "input": usage.input,
                "output": usage.output,
                "nano_usd": spending.nano_usd,
                "uncertain": spending.uncertain,
            });
            format!(",\"settled\":{settled}")
        });
        let unknown = (!unknown.is_empty()).then(|| format!(",\"unknown\":{}", serde_json::json!(unknown)));
        if settled.is_none() && unknown.is_none() {
            return json;
        }
        // Put behind the rest as text: a reply's message is not encoded twice.
        let json = json.unwrap_or_else(|| serde_json::json!({ "type": self.kind() }).to_string());
        let open = json.strip_suffix('}').unwrap_or(&json);
        Some(format!("{open}{}{}}}", settled.unwrap_or_default(), unknown.unwrap_or_default()))
    }

    /// Reads what [`Self::to_json`] wrote.
    pub(crate) fn from_entry(kind: &str, payload: Option<&str>) -> Result<Self, serde_json::Error> {
        match (kind, payload) {
            (_, Some(json)) => serde_json::from_str(json),
            (kind, None) => serde_json::from_value(serde_json::json!({ "type": kind })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Mail;

    #[test]
    fn numbers_keep_their_digits_in_the_journal_and_in_the_mail() {
        const WRITTEN: &str = r#"{"z":123456789012345678901234567890,"a":[0.12345678901234567890,-1,1.0]}"#;
        let payload: serde_json::Value = serde_json::from_str(WRITTEN).unwrap();
        let signal = Payload::SignalReceived { call: 3, name: "ci".to_owned(), payload: payload.clone(), by: None };
        let read: Payload = serde_json::from_str(&serde_json::to_string(&signal).unwrap()).unwrap();
        assert_eq!(read, signal);
        let Payload::SignalReceived { payload: kept, .. } = read else { panic!("a signal") };
        assert_eq!(kept.to_string(), WRITTEN);
        let mail = Mail::Signal { name: "ci".to_owned(), payload };
        let read: Mail = serde_json::from_str(&serde_json::to_string(&mail).unwrap()).unwrap();
        let Mail::Signal { payload: kept, .. } = read else { panic!("a signal") };
        assert_eq!(kept.to_string(), WRITTEN);
    }
}
