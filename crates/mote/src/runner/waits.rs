//! What a task waits for, and whether mail fits it: an answer that answers nothing is refused to its sender's face.
//!
//! It takes nothing; a run under way reads its mail itself and drops what no longer fits.

use std::sync::{Mutex, PoisonError};

use mote_core::{Call, CallState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::drive::Driver;
use super::{Runner, Shared};
use crate::arguments;
use crate::limits::{MAIL_AWAITED_MAX, MAIL_MAX};
use crate::store::{self, Letter, Mail, Status};

/// Why mail was not left for a task.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The task asks nothing that this could answer: 409.
    #[error("{0}")]
    NotAsked(String),
    /// What the task asks takes another form of answer: 422.
    #[error("{0}")]
    Misfit(String),
}

/// What a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A person's yes or no.
    Approval,
    /// A person's answer.
    Question,
    /// A named signal.
    Signal,
    /// A time.
    Timer,
    /// Work that a backend does by itself.
    Remote,
    /// A model that is not available.
    Model,
    /// Another attempt at a call.
    Retry,
}

impl Kind {
    /// What clients call what the core calls so.
    pub(super) fn of(wait: mote_core::Wait) -> Self {
        match wait {
            mote_core::Wait::Approval => Self::Approval,
            mote_core::Wait::Input => Self::Question,
            mote_core::Wait::Signal => Self::Signal,
            mote_core::Wait::Time => Self::Timer,
            mote_core::Wait::Remote => Self::Remote,
        }
    }

    /// The request that ends such a wait, for clients; `None` where only time does.
    pub(super) fn answer(self, task: &str, call: &str, arguments: &Value) -> Option<Value> {
        let input = format!("/tasks/{task}/input");
        match self {
            Self::Approval => Some(json!({
                "method": "POST", "path": input, "body": {"call": call, "approve": true},
                "how": "approve is true or false; content may give the reason of a refusal",
            })),
            Self::Question => Some(json!({
                "method": "POST", "path": input, "body": {"call": call, "content": "…"},
                "how": "content is the answer: a text, or any JSON that the question asks for",
            })),
            Self::Signal => {
                let name = arguments["name"].as_str().unwrap_or_default();
                Some(json!({
                    "method": "POST", "path": format!("/tasks/{task}/signals/{name}"), "body": {},
                    "how": "the body is what the signal carries: any JSON, or none",
                }))
            }
            Self::Timer | Self::Remote | Self::Model | Self::Retry => None,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Approval => "an approval, which takes `approve`",
            Self::Question => "a question, which takes `content`",
            Self::Signal => "a wait for a signal, which takes no input",
            Self::Timer => "a wait for a time, which takes no input",
            Self::Remote => "work that its backend does, which takes no input",
            Self::Model => "a wait for a model, which takes no input",
            Self::Retry => "a wait for another attempt, which takes no input",
        }
    }
}

/// An open wait, as the task's row tells it too.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Wait {
    /// The provider's id of the call.
    pub call: String,
    /// What it waits for.
    pub kind: Kind,
    /// The call's arguments: a signal's name is among them.
    #[serde(default)]
    pub arguments: Value,
}

/// What a run under way waits for; unknown while a step is being written.
#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<Option<Vec<Wait>>>);

impl Standing {
    pub(super) fn are(&self, waits: Vec<Wait>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(waits);
    }

    pub(super) fn unknown(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn known(&self) -> Option<Vec<Wait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Driver {
    /// What the run waits for now.
    pub(super) fn waits(&self) -> Vec<Wait> {
        let kind = |call: &Call| match call.state {
            CallState::Waiting { wait, .. } => Some(Kind::of(wait)),
            _ => None,
        };
        let wait = |(index, call): (u16, &Call)| {
            let (kind, named) = (kind(call)?, self.transcript.call(index)?);
            let arguments = arguments::read(&named.arguments).map(Value::Object).unwrap_or_default();
            Some(Wait { call: named.id.clone(), kind, arguments })
        };
        (0..).zip(self.run.calls()).filter_map(wait).collect()
    }
}

impl Runner {
    /// Cancels, answers or signals a task: durable when this returns. An answer is compared with what the task asks, as far
    /// as that is known here: a run that another process drives, and one that is just being written, take it as it is.
    ///
    /// # Errors
    /// The store's (the task does not exist, is over, or has too much unread mail), or that it asks nothing that this answers.
    pub async fn post(&self, task: &str, mail: impl Into<Letter>) -> Result<(), PostError> {
        let letter = mail.into();
        let most = self.shared.admit_mail(task, &letter.mail).await?;
        self.shared.store.deliver(task, letter, self.now(), most).await?;
        self.shared.holdings.ring(task);
        Ok(())
    }
}

impl Shared {
    /// How much unread mail of its kind the task may hold for this to be left too; an answer must answer something.
    pub(super) async fn admit_mail(&self, task: &str, mail: &Mail) -> Result<usize, PostError> {
        match mail {
            Mail::Cancel => Ok(MAIL_MAX),
            Mail::Input { call, approve, content } => {
                if let Some(mut open) = self.waits(task).await? {
                    let asked = open.clone();
                    self.take_unread(task, &mut open).await?;
                    let answer = Answer { call: call.as_deref(), approves: approve.is_some(), says: content.is_some() };
                    answer.check(task, &asked, &open)?;
                }
                Ok(MAIL_MAX)
            }
            Mail::Signal { name, .. } => {
                let waits = self.waits(task).await?.unwrap_or_default();
                let awaits = |wait: &Wait| wait.kind == Kind::Signal && wait.arguments["name"] == name.as_str();
                Ok(if waits.iter().any(awaits) { MAIL_AWAITED_MAX } else { MAIL_MAX })
            }
        }
    }

    /// What a task waits for; `None` if this process cannot know it now, or if the store will refuse anyway.
    async fn waits(&self, task: &str) -> Result<Option<Vec<Wait>>, store::Error> {
        let Some(row) = self.store.task(None, task).await? else { return Ok(None) };
        Ok(match row.status {
            Status::Waiting => row.waiting.as_deref().and_then(|waiting| serde_json::from_str(waiting).ok()),
            Status::Running => self.holdings.waits(task),
            // One that never ran asks nothing; one that was given back may.
            Status::Queued => (row.seq == 0).then(Vec::new),
            Status::Completed | Status::Failed | Status::Cancelled => None,
        })
    }

    /// Strikes out what unread answers will answer.
    async fn take_unread(&self, task: &str, open: &mut Vec<Wait>) -> Result<(), store::Error> {
        if open.is_empty() {
            return Ok(());
        }
        for row in self.store.mail(task).await? {
            let Mail::Input { call, approve, content } = &row.mail else { continue };
            let answer = Answer { call: call.as_deref(), approves: approve.is_some(), says: content.is_some() };
            if let Some(index) = answer.target(open) {
                open.remove(index);
            }
        }
        Ok(())
    }
}

/// What of an answer decides where it fits.
struct Answer<'a> {
    call: Option<&'a str>,
    approves: bool,
    says: bool,
}

impl Answer<'_> {
    fn fits(&self, wait: &Wait) -> bool {
        match wait.kind {
            Kind::Approval => self.approves,
            Kind::Question => self.says,
            Kind::Signal | Kind::Timer | Kind::Remote | Kind::Model | Kind::Retry => false,
        }
    }

    /// The wait that it answers: the one that it names, or else the oldest that it fits.
    fn target(&self, open: &[Wait]) -> Option<usize> {
        open.iter().position(|wait| self.call.is_none_or(|call| call == wait.call) && self.fits(wait))
    }

    fn check(&self, task: &str, asked: &[Wait], open: &[Wait]) -> Result<(), PostError> {
        if self.target(open).is_some() {
            return Ok(());
        }
        if self.target(asked).is_some() {
            return Err(PostError::NotAsked(format!("task {task} has an answer to that which it has not read yet")));
        }
        let asks = |wait: &&Wait| matches!(wait.kind, Kind::Approval | Kind::Question);
        let list: Vec<String> =
            asked.iter().filter(asks).map(|wait| format!("call {} is {}", wait.call, wait.kind.describe())).collect();
        if list.is_empty() {
            return Err(PostError::NotAsked(format!("task {task} asks nothing now")));
        }
        let list = list.join("; ");
        match self.call.map(|call| asked.iter().find(|wait| wait.call == call)) {
            Some(None) => Err(PostError::NotAsked(format!("task {task} asks nothing with that call; {list}"))),
            Some(Some(wait)) => Err(PostError::Misfit(format!("call {} is {}", wait.call, wait.kind.describe()))),
            None => Err(PostError::Misfit(list)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(asked: &[(&str, Kind)], call: Option<&str>, approves: bool, says: bool, expected: &str) {
        let waits: Vec<Wait> = asked
            .iter()
            .map(|(call, kind)| Wait { call: (*call).to_owned(), kind: *kind, arguments: json!({}) })
            .collect();
        let said = match (Answer { call, approves, says }.check("t", &waits, &waits)) {
            Ok(()) => "taken".to_owned(),
            Err(PostError::NotAsked(text)) => format!("not asked: {text}"),
            Err(error) => format!("misfit: {error}"),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn an_answer_is_compared_with_what_is_asked() {
        let (approval, question, signal) = (("a", Kind::Approval), ("q", Kind::Question), ("s", Kind::Signal));
        check(&[approval], None, true, false, "taken");
        check(&[question, approval], None, true, false, "taken");
        check(&[question, approval], Some("q"), false, true, "taken");
        // A reason may go with a refusal.
        check(&[approval], Some("a"), true, true, "taken");
        check(&[question], None, true, false, "misfit: call q is a question, which takes `content`");
        check(&[approval], Some("a"), false, true, "misfit: call a is an approval, which takes `approve`");
        check(&[question, approval], Some("a"), false, true, "misfit: call a is an approval, which takes `approve`");
        let nope = "not asked: task t asks nothing with that call; call q is a question, which takes `content`";
        check(&[question], Some("nope"), false, true, nope);
        check(&[signal], None, true, true, "not asked: task t asks nothing now");
        check(&[], Some("a"), true, false, "not asked: task t asks nothing now");
    }
}
