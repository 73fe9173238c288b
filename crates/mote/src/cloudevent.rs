//! What a task tells the configured sink, as CloudEvents 1.0 in structured mode (CloudEvents specification, "JSON event
//! format").
//!
//! It does not deliver them: the store keeps each in its outbox, in the transaction of what it tells, and
//! `runner::outbox` sends it.

use serde_json::{Value, json};

use crate::clock::UnixMs;
use crate::limits::ERROR_DETAIL_CHARS_MAX;
use crate::message::Message;
use crate::store::{Account, Announcer, OutboxMessage, Owner, Status, Task, TaskError, UnknownEffect};
use crate::timestamp::format_rfc3339;

/// How a task ended.
#[derive(Debug)]
pub struct Ended<'a> {
    /// Its id.
    pub task: &'a str,
    /// Whose it is.
    pub owner: &'a Owner,
    /// Completed, failed or cancelled.
    pub status: Status,
    /// The result, JSON.
    pub result: Option<&'a str>,
    /// Why it failed.
    pub error: Option<&'a TaskError>,
    /// What it spent.
    pub account: Account,
    /// Model steps it took.
    pub steps: u32,
    /// Added to the task's id for the event's: one that is run anew or resumed ends again.
    pub id_suffix: &'a str,
}

impl<'a> Ended<'a> {
    /// How a stored task ended.
    #[must_use]
    pub fn of(task: &'a Task, id_suffix: &'a str) -> Self {
        Self {
            task: &task.id,
            owner: &task.owner,
            status: task.status,
            result: task.result.as_deref(),
            error: task.error.as_ref(),
            account: Account { usage: task.usage, nano_usd: task.cost_nano_usd, uncertain: task.uncertain },
            steps: task.steps,
            id_suffix,
        }
    }

    /// `dev.mote.task.STATUS`.
    #[must_use]
    pub fn message(&self, agent: &str, now: UnixMs) -> OutboxMessage {
        let data = json!({
            "id": self.task,
            "status": self.status,
            "result": self.result.and_then(|json| serde_json::from_str::<Value>(json).ok()),
            "error": self.error,
            "usage": self.account.usage,
            "cost_nano_usd": self.account.nano_usd,
            "uncertain": self.account.uncertain,
            "steps": self.steps,
            "session": self.owner.session,
            "labels": self.owner.labels,
        });
        let kind = format!("dev.mote.task.{}", self.status.as_str());
        let id = format!("{}{}", self.task, self.id_suffix);
        event(agent, &id, &kind, self.task, now, data)
    }
}

/// A task that began to wait, or whose waits changed.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// Its id.
    pub task: &'a str,
    /// Whose it is.
    pub owner: &'a Owner,
    /// The attempt that came to wait.
    pub epoch: u64,
    /// The journal entry after which it waits.
    pub seq: u64,
    /// What it waits for, JSON: a list, as the task shows it.
    pub waiting: &'a str,
}

impl Waiting<'_> {
    /// `dev.mote.task.waiting`; `None` where it waits for nothing that anybody could see.
    #[must_use]
    pub fn message(&self, agent: &str, now: UnixMs) -> Option<OutboxMessage> {
        // A pause before a model or a tool is tried again asks nothing of anybody.
        let rests = |wait: &Value| !matches!(wait["kind"].as_str(), Some("model" | "retry" | "remote"));
        let waiting = serde_json::from_str::<Vec<Value>>(self.waiting).ok().filter(|list| list.iter().any(rests))?;
        let data = json!({
            "id": self.task,
            "status": Status::Waiting,
            "seq": self.seq,
            "waiting": waiting,
            "session": self.owner.session,
            "user": self.owner.user,
            "labels": self.owner.labels,
        });
        // The epoch rises with every claim, also of a task that was run anew.
        let id = format!("{}/waiting/{}/{}", self.task, self.epoch, self.seq);
        Some(event(agent, &id, "dev.mote.task.waiting", self.task, now, data))
    }
}

/// A call of a `write` tool whose outcome nobody knows: a person may have to look.
#[derive(Debug)]
pub struct OutcomeUnknown<'a> {
    /// The task that made it.
    pub task: &'a str,
    /// Whose it is.
    pub owner: &'a Owner,
    /// The model step that asked for it.
    pub step: u32,
    /// The call's id, as the model gave it.
    pub call: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// Times that the task was run anew or resumed before: its steps may come again.
    pub lives: u32,
    /// What it was called with (JSON), where that is known: whoever looks has to know what for.
    pub arguments: Option<&'a str>,
}

impl OutcomeUnknown<'_> {
    /// `dev.mote.effect.outcome_unknown`. Arguments beyond [`ERROR_DETAIL_CHARS_MAX`] are left out; the journal has them.
    #[must_use]
    pub fn message(&self, agent: &str, now: UnixMs) -> OutboxMessage {
        let short = self.arguments.filter(|arguments| arguments.len() <= ERROR_DETAIL_CHARS_MAX);
        let arguments = short.and_then(|arguments| serde_json::from_str::<Value>(arguments).ok());
        let data = json!({
            "task": self.task,
            "step": self.step,
            "call": self.call,
            "tool": self.tool,
            "arguments": arguments,
            "session": self.owner.session,
            "labels": self.owner.labels,
        });
        let id = format!("{}{}/{}/{}", self.task, life(self.lives), self.step, self.call);
        event(agent, &id, "dev.mote.effect.outcome_unknown", self.task, now, data)
    }
}

/// Words what happened to an agent's tasks, in its name.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// The agent.
    pub agent: std::sync::Arc<str>,
}

impl Announcer for Publisher {
    fn ended(&self, task: &Task, now: UnixMs) -> OutboxMessage {
        // A task that is run anew or resumed ends again; the two ends are two events.
        let suffix = if task.dead { format!("/dead/{}", task.lives) } else { life(task.lives) };
        Ended::of(task, &suffix).message(&self.agent, now)
    }

    fn outcome_unknown(&self, unknown: &UnknownEffect<'_>, now: UnixMs) -> OutboxMessage {
        let &UnknownEffect { task, owner, lives, step, call, tool, replies } = unknown;
        let arguments = arguments(replies, step, call);
        let arguments = arguments.as_deref();
        OutcomeUnknown { task, owner, step, call, tool, lives, arguments }.message(&self.agent, now)
    }
}

/// What a call of a model step was made with, as the journal has it; `None` where that cannot be read.
fn arguments(replies: &[String], step: u32, call: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Replied {
        step: u32,
        message: Message,
    }
    let mut replied = replies.iter().filter_map(|json| serde_json::from_str::<Replied>(json).ok());
    let replied = replied.find(|replied| replied.step == step)?;
    let mut calls = replied.message.calls();
    calls.find(|(id, ..)| *id == call).map(|(.., arguments)| arguments.to_owned())
}

/// What tells the events of a task's lives apart: nothing for the first.
#[must_use]
pub fn life(lives: u32) -> String {
    if lives == 0 { String::new() } else { format!("/{lives}") }
}

fn event(agent: &str, id: &str, kind: &str, subject: &str, now: UnixMs, data: Value) -> OutboxMessage {
    let body = json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/agents/{agent}"),
        "type": kind,
        "subject": subject,
        "time": format_rfc3339(now),
        "datacontenttype": "application/json",
        "data": data,
    });
    OutboxMessage { id: id.to_owned(), body: body.to_string() }
}
