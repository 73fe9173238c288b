//! What the journal keeps of an event beside the core's record: its text, as JSON. Which kinds there are, and what they are
//! called, is the core's table of events; here is what each says. It holds no secret and decides nothing. What clients see of it
//! is the API's to say.

use mote_core::EventKind;
use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::model::Finish;
use crate::store::{By, Spender, Spending};
use crate::usage::Usage;

/// The payload of each kind of event. A kind of the core's table that is missing here does not compile.
macro_rules! payloads {
    ($( $(#[$meta:meta])* $variant:ident $({ $( $(#[$field_meta:meta])* $field:ident: $type:ty ),* $(,)? })? ),* $(,)?) => {
        /// The text of an event.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Payload {
            $( $(#[$meta])* $variant $({ $( $(#[$field_meta])* $field: $type ),* })? ),*
        }

        impl Payload {
            /// The entry's kind.
            #[must_use]
            pub fn kind(&self) -> EventKind {
                match self { $( Self::$variant { .. } => EventKind::$variant ),* }
            }

            fn read(kind: EventKind, json: &str) -> Result<Self, serde_json::Error> {
                match kind { $( EventKind::$variant => {
                    $(
                        #[derive(Deserialize)]
                        struct Fields { $( $(#[$field_meta])* $field: $type ),* }
                        let Fields { $( $field ),* } = serde_json::from_str(json)?;
                    )?
                    Ok(Self::$variant $({ $( $field ),* })?)
                } )* }
            }
        }
    };
}

payloads! {
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spender: Option<Spender>,
    },
    /// A shared budget refused the reservation.
    BudgetRefused {
        /// Which.
        scope: String,
        /// What the call needs and what is left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        short: Option<String>,
        /// Whose, where it is not the model's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asks: Option<serde_json::Value>,
        /// What the tool's source needs to go on; nobody else reads it.
        state: serde_json::Value,
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person approved a call.
    Approved {
        /// Index within the turn.
        call: u16,
        /// The provider's id of the call.
        id: String,
        /// Who approved it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
    /// A person refused a call.
    Denied {
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
    Replied {
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
    Cancelled {
        /// Who cancelled it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
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

/// An entry that is no event of this program, or whose text is damaged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// No such kind.
    #[error("there is no event {0}")]
    Kind(String),
    /// The text is not what the kind says.
    #[error(transparent)]
    Text(#[from] serde_json::Error),
}

impl Payload {
    /// The JSON that the journal keeps, `type` being the kind; `None` for an event that its kind says all of.
    #[must_use]
    pub fn to_json(&self) -> Option<String> {
        let fields = serde_json::to_string(self).ok()?;
        let fields = fields.strip_prefix('{').filter(|fields| *fields != "}")?;
        Some(format!("{{\"type\":\"{}\",{fields}", self.kind().name()))
    }

    /// The same with what the event's step spent, as `settled`: the sum over a journal is what its task spent; and with the
    /// calls whose outcome stays unknown with it, as `unknown`.
    pub(crate) fn to_json_with(&self, spending: &[Spending], unknown: &[UnknownCall]) -> Option<String> {
        let json = self.to_json();
        let one = |spending: &Spending| {
            let usage = &spending.usage;
            serde_json::json!({
                "input": usage.input,
                "output": usage.output,
                "nano_usd": spending.nano_usd,
                "uncertain": spending.uncertain,
            })
        };
        let settled = match spending {
            [] => None,
            [spending] => Some(one(spending)),
            several => Some(several.iter().map(one).collect()),
        };
        let settled = settled.map(|settled| format!(",\"settled\":{settled}"));
        let unknown = (!unknown.is_empty()).then(|| format!(",\"unknown\":{}", serde_json::json!(unknown)));
        if settled.is_none() && unknown.is_none() {
            return json;
        }
        // Put behind the rest as text: a reply's message is not encoded twice.
        let json = json.unwrap_or_else(|| serde_json::json!({ "type": self.kind().name() }).to_string());
        let open = json.strip_suffix('}').unwrap_or(&json);
        Some(format!("{open}{}{}}}", settled.unwrap_or_default(), unknown.unwrap_or_default()))
    }

    /// Reads what [`Self::to_json`] wrote.
    pub(crate) fn from_entry(kind: &str, payload: Option<&str>) -> Result<Self, ReadError> {
        let known = EventKind::named(kind).ok_or_else(|| ReadError::Kind(kind.to_owned()))?;
        Ok(Self::read(known, payload.unwrap_or("{}"))?)
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
        let signal = Payload::Signalled { call: 3, name: "ci".to_owned(), payload: payload.clone(), by: None };
        let read = Payload::from_entry("signal.received", signal.to_json().as_deref()).unwrap();
        assert_eq!(read, signal);
        let Payload::Signalled { payload: kept, .. } = read else { panic!("a signal") };
        assert_eq!(kept.to_string(), WRITTEN);
        let mail = Mail::Signal { name: "ci".to_owned(), payload };
        let read: Mail = serde_json::from_str(&serde_json::to_string(&mail).unwrap()).unwrap();
        let Mail::Signal { payload: kept, .. } = read else { panic!("a signal") };
        assert_eq!(kept.to_string(), WRITTEN);
    }
}
