//! What goes over the wire as JSON, and the strict reading of it. A request that carries a field nobody knows is
//! refused, naming the field.
//!
//! It does not touch the store: a [`RunRequest`] becomes a [`Submission`], a [`store::Task`] becomes a [`TaskBody`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{self, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::{Code, Problem};
use super::spent::{Cost, UsageBody};
use super::strict::{self, Object};
use crate::auth::Principal;
use crate::config::{Bound, units};
use crate::limits;
use crate::message::{Message, Role};
use crate::runner::Submission;
use crate::store::{self, Owner, Status, TaskError};
use crate::timestamp::format_rfc3339;

/// A task as a client asks for it. Unknown fields are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunRequest {
    /// A text, or the messages of a conversation that ends with the user's.
    input: Input,
    /// Tasks of one session share a transcript and run one at a time.
    session: Option<String>,
    /// Whose task it is; a key that is bound to a tenant sets it.
    tenant: Option<String>,
    /// User within the tenant.
    user: Option<String>,
    /// Facts for this run that stand beside the input; any JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    context: Option<serde_json::Value>,
    /// Free labels, at most 16, for listing; one that is null counts as left out.
    #[serde(default, deserialize_with = "strict::or_default")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    labels: BTreeMap<String, Option<String>>,
    /// Narrows the agent's budget of a run; never widens it.
    #[schema(value_type = Option<BudgetRequest>)]
    budget: Option<Object<BudgetRequest>>,
    /// Narrows working time (waits excluded), as in agent.yaml: `90s`, `10m`.
    #[schema(value_type = Option<String>, example = "10m")]
    active: Option<DurationText>,
    /// Narrows wall time, as in agent.yaml: `2h`, `30d`.
    #[schema(value_type = Option<String>, example = "1h")]
    expires: Option<DurationText>,
}

/// The most that a run may spend.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetRequest {
    /// US dollars.
    #[schema(example = 0.25)]
    usd: Option<f64>,
    /// Tokens, in and out.
    #[serde(default, deserialize_with = "strict::whole")]
    tokens: Option<u64>,
}

/// Text or messages.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Input {
    /// One text from the user.
    Text(String),
    /// A conversation, oldest first.
    Messages(Vec<InputMessage>),
}

/// One message of the input.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InputMessage {
    /// Who says it.
    role: InputRole,
    /// What is said.
    content: String,
}

/// Who may say a message of the input: tool calls and their results are the agent's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum InputRole {
    /// The person or program that gives the task.
    User,
    /// The model, earlier.
    Assistant,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Input;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of messages")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
                let mut messages = Vec::new();
                while let Some(Object(message)) = list.next_element()? {
                    if messages.len() == limits::INPUT_MESSAGES_MAX {
                        let max = limits::INPUT_MESSAGES_MAX;
                        return Err(de::Error::custom(format_args!("more than {max} messages")));
                    }
                    messages.push(message);
                }
                Ok(Input::Messages(messages))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

/// A duration as agent.yaml writes it.
#[derive(Debug, Clone, Copy)]
struct DurationText(Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match units::duration(&text) {
            Ok(duration) if !duration.is_zero() => Ok(Self(duration)),
            Ok(_) => Err(de::Error::custom(format_args!("{text:?} is not above zero"))),
            Err(error) => Err(de::Error::custom(error)),
        }
    }
}

/// Reads a JSON object strictly; the problem names the field.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    read::<Object<T>>(bytes).map(|object| object.0)
}

/// Reads any JSON.
pub(super) fn parse_any(bytes: &[u8]) -> Result<serde_json::Value, Problem> {
    read(bytes)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let field = if path == "." { "body".to_owned() } else { path };
            Problem::field(Code::InvalidRequest, field, inner)
        } else {
            Problem::new(Code::InvalidJson, format!("failed to read the body as JSON: {inner}"))
        }
    })?;
    json.end().map_err(|error| Problem::new(Code::InvalidJson, format!("failed to read the body as JSON: {error}")))?;
    Ok(value)
}

fn invalid(field: impl Into<String>, message: impl std::fmt::Display) -> Problem {
    Problem::field(Code::InvalidRequest, field, message)
}

/// A tenant, user, session, signal or label: short, not empty, no control characters.
pub(super) fn check_name(field: &str, text: &str) -> Result<(), Problem> {
    let max = limits::NAME_CHARS_MAX;
    // No character has more than four bytes.
    if text.is_empty() || text.len() > 4 * max || text.chars().count() > max {
        return Err(invalid(field, format_args!("must be 1 to {max} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "must not contain control characters"));
    }
    Ok(())
}

impl RunRequest {
    /// Checks every bound and says whose task it becomes.
    pub(super) fn into_submission(self, principal: &Principal) -> Result<Submission, Problem> {
        for (field, value) in [("session", &self.session), ("tenant", &self.tenant), ("user", &self.user)] {
            if let Some(value) = value {
                check_name(field, value)?;
            }
        }
        let given = |(key, value): (String, Option<String>)| Some((key, value?));
        let labels: BTreeMap<String, String> = self.labels.into_iter().filter_map(given).collect();
        if labels.len() > limits::LABELS_MAX {
            return Err(invalid("labels", format_args!("at most {}", limits::LABELS_MAX)));
        }
        for (key, value) in &labels {
            check_name("labels", key)?;
            check_name(&format!("labels.{key}"), value)?;
            if key.contains('=') {
                return Err(invalid(format!("labels.{key}"), "a label's key must not contain ="));
            }
        }
        let tenant = super::tenant_of(principal, self.tenant.as_deref())?;
        let owner = Owner { tenant, user: self.user, session: self.session, labels };
        Ok(Submission {
            owner,
            input: self.input.into_messages()?,
            context: self.context,
            budget: self.budget.map(|budget| budget.0).unwrap_or_default().into_bound()?,
            active: self.active.map(|duration| duration.0),
            expires: self.expires.map(|duration| duration.0),
            idempotency: None,
            traceparent: None,
        })
    }
}

impl Input {
    fn into_messages(self) -> Result<Vec<Message>, Problem> {
        let messages = match self {
            Self::Text(content) => vec![InputMessage { role: InputRole::User, content }],
            Self::Messages(messages) => messages,
        };
        match messages.last() {
            None => return Err(invalid("input", "must not be empty")),
            Some(last) if last.role != InputRole::User => {
                return Err(invalid("input", "the last message must be the user's"));
            }
            Some(_) => {}
        }
        if let Some(index) = messages.iter().position(|message| message.content.trim().is_empty()) {
            let field = if messages.len() == 1 { "input".to_owned() } else { format!("input[{index}].content") };
            return Err(invalid(field, "must not be empty"));
        }
        let message = |InputMessage { role, content }| {
            let role = if role == InputRole::User { Role::User } else { Role::Assistant };
            Message::text(role, content)
        };
        Ok(messages.into_iter().map(message).collect())
    }
}

impl BudgetRequest {
    fn into_bound(self) -> Result<Bound, Problem> {
        let nano_usd = match self.usd {
            None => None,
            Some(usd) if (limits::BUDGET_USD_MIN..=limits::BUDGET_USD_MAX).contains(&usd) => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 < usd <= 1e9")]
                let nano = (usd * 1e9).round() as u64;
                Some(nano)
            }
            Some(_) => return Err(invalid("budget.usd", "must be 0.000000001 to 1000000000")),
        };
        if self.tokens.is_some_and(|tokens| tokens == 0 || tokens > limits::BUDGET_TOKENS_MAX) {
            return Err(invalid("budget.tokens", format_args!("must be 1 to {}", limits::BUDGET_TOKENS_MAX)));
        }
        Ok(Bound { nano_usd, tokens: self.tokens })
    }
}

/// An object without fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// An answer to an approval or to a question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InputRequest {
    /// The call that asked; without it, the oldest open one is answered.
    call: Option<String>,
    /// For an approval: granted or not.
    approve: Option<bool>,
    /// For a question: the answer, any JSON but null, which counts as left out. For an approval: why.
    #[schema(value_type = Option<serde_json::Value>)]
    content: Option<serde_json::Value>,
    /// The person who answers; it stands in the journal beside the name of the API key.
    user: Option<String>,
}

impl InputRequest {
    /// The answer, and the person who gives it.
    pub(super) fn into_mail(self) -> Result<(store::Mail, Option<String>), Problem> {
        if self.approve.is_none() && self.content.is_none() {
            return Err(invalid("body", "one of approve and content is needed, and null is as good as left out"));
        }
        for (field, value) in [("call", &self.call), ("user", &self.user)] {
            if let Some(value) = value {
                check_name(field, value)?;
            }
        }
        Ok((store::Mail::Input { call: self.call, approve: self.approve, content: self.content }, self.user))
    }
}

/// A task as clients see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Task)]
pub(super) struct TaskBody {
    /// Its id.
    pub(super) id: String,
    /// Where it stands.
    pub(super) status: Status,
    /// The result, once completed: a text, or what the agent's output schema says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<Box<RawValue>>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<TaskError>,
    /// What it waits for, while waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<WaitBody>>)]
    pub(super) waiting: Option<Box<RawValue>>,
    /// Whether it stands in the dead letters, from where `POST /tasks/{id}/resume` and `POST /tasks/{id}/rerun` take it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dead: bool,
    /// Whether a restored store holds it back until `mote store release`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    held: bool,
    /// Which life it is in: 1, and one more with each rerun.
    life: u32,
    /// Tokens so far in this life.
    usage: UsageBody,
    /// Cost so far in this life.
    cost: Cost,
    /// Model steps so far.
    steps: u32,
    /// Tool calls so far.
    tool_calls: u32,
    /// Position of the newest event; streams resume behind it with `?after=`.
    seq: u64,
    /// Session.
    session: Option<String>,
    /// Tenant; empty is the default tenant.
    tenant: String,
    /// User.
    user: Option<String>,
    /// Labels.
    labels: BTreeMap<String, String>,
    /// When what happened.
    times: Times,
    /// What it was given; only where one task is looked at, by a key with the scope `read`.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Input>,
    /// Facts that stand beside the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    context: Option<serde_json::Value>,
}

/// One thing that a task waits for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Wait)]
pub(super) struct WaitBody {
    /// The call that waits, by the model's id.
    call: String,
    /// `approval`, `question`, `signal` or `timer`; `model` or `retry` where it tries again by itself.
    kind: String,
    /// The call's tool.
    tool: String,
    /// The call's arguments.
    arguments: serde_json::Value,
    /// When it ends by itself, RFC 3339.
    until: Option<String>,
    /// The request that ends it; null where only time does.
    answer: Option<AnswerBody>,
    /// Why it tries again, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// How a wait is answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WaitAnswer)]
pub(super) struct AnswerBody {
    /// The method.
    method: String,
    /// The path; it needs a key with the scope `run`.
    path: String,
    /// A body to fill in.
    body: serde_json::Value,
    /// What to fill in.
    how: String,
}

/// Times, RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Times {
    /// Submitted.
    created: String,
    /// First claimed by a worker.
    started: Option<String>,
    /// Last change.
    updated: String,
    /// Finished.
    finished: Option<String>,
    /// When it is given up at the latest.
    expires: Option<String>,
}

impl From<store::Task> for TaskBody {
    fn from(task: store::Task) -> Self {
        Self {
            life: task.life(),
            id: task.id,
            status: task.status,
            result: task.result.map(raw),
            error: task.error,
            waiting: task.waiting.map(raw),
            dead: task.dead,
            held: task.held,
            usage: UsageBody::new(task.usage, task.uncertain),
            cost: Cost::new(task.cost_nano_usd, task.uncertain),
            steps: task.steps,
            tool_calls: task.tool_calls,
            seq: task.seq,
            session: task.owner.session,
            tenant: task.owner.tenant,
            user: task.owner.user,
            labels: task.owner.labels,
            times: Times {
                created: format_rfc3339(task.created_at),
                started: task.started_at.map(format_rfc3339),
                updated: format_rfc3339(task.updated_at),
                finished: task.finished_at.map(format_rfc3339),
                expires: task.expires_at.map(format_rfc3339),
            },
            input: None,
            context: None,
        }
    }
}

impl TaskBody {
    /// The task with what it was given.
    pub(super) fn with_input(task: store::Task) -> Self {
        /// As much of a stored request as clients gave.
        #[derive(Deserialize)]
        struct Given {
            input: Vec<Message>,
            context: Option<serde_json::Value>,
        }
        let given = serde_json::from_str::<Given>(&task.request).ok();
        let (input, context) = given.map_or((None, None), |given| (Some(Input::from(given.input)), given.context));
        Self { input, context, ..task.into() }
    }
}

impl From<Vec<Message>> for Input {
    fn from(messages: Vec<Message>) -> Self {
        let message = |message: &Message| InputMessage {
            role: if message.role == Role::User { InputRole::User } else { InputRole::Assistant },
            content: message.plain_text(),
        };
        match messages.as_slice() {
            [only] => Self::Text(only.plain_text()),
            all => Self::Messages(all.iter().map(message).collect()),
        }
    }
}

/// One page of tasks, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TaskPage)]
pub(super) struct PageBody {
    /// The tasks.
    pub(super) tasks: Vec<TaskBody>,
    /// `?cursor=` of the next page; null at the end.
    pub(super) next: Option<String>,
}

/// Stored JSON as it stands; text that is not JSON (an old or foreign row) becomes a JSON string.
#[allow(clippy::needless_pass_by_value, reason = "mapped over owned rows")]
pub(super) fn raw(text: String) -> Box<RawValue> {
    let as_string = || serde_json::value::to_raw_value(&text);
    // A string always serialises, so null never comes of it.
    serde_json::from_str(&text).or_else(|_| as_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests;
