//! Replays a plan: what a model would say, turn by turn, while tools are performed for real.
//!
//! Turn `n` of the plan answers step `n` of every run, whatever was played before: that holds across crashes, resumption
//! and sessions, because nothing is remembered. It does not read the prompt; only `${input}` and `${results…}` look at the
//! transcript.

mod plan;
mod template;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

pub use plan::{Fail, FailKind, Plan, PlanError, Turn};

use super::{Answer, Delta, DeltaSink, Error, ErrorKind, Finish, Provider, Reply, Request};
use crate::message::{Message, Part, Role};
use crate::usage::Usage;

/// This provider's kind.
pub const KIND: &str = "scripted";
/// Characters of one text delta, more or less: a word is not cut.
const DELTA_CHARS: usize = 12;

/// A model that follows a plan.
pub struct Scripted {
    plan: Plan,
    file: PathBuf,
    model: String,
}

impl Scripted {
    /// A model that follows the plan in a file.
    ///
    /// # Errors
    /// If the file cannot be read or is no plan; names line and column.
    pub fn load(file: &Path, model: &str) -> Result<Self, PlanError> {
        Ok(Self { plan: Plan::load(file)?, file: file.to_owned(), model: model.to_owned() })
    }

    fn error(&self, kind: ErrorKind, message: String) -> Error {
        let (model, endpoint) = (self.model.clone(), self.file.display().to_string());
        let bad_reply = [ErrorKind::Broken, ErrorKind::Aborted, ErrorKind::EmptyReply];
        let (answer, began) = (Answer::default(), bad_reply.contains(&kind));
        let (retry_after, usage) = (None, None);
        Error { kind, model, endpoint, message, retry_after, began, usage, answer }
    }

    fn turn(&self, request: &Request) -> Result<&Turn, Error> {
        let place = usize::try_from(request.step).unwrap_or(usize::MAX).saturating_sub(1);
        self.plan.turns.get(place).ok_or_else(|| {
            let (turns, step) = (self.plan.turns.len(), request.step);
            self.error(ErrorKind::Rejected, format!("the plan ran out: it has {turns} turns, and this is step {step}"))
        })
    }
}

#[async_trait]
impl Provider for Scripted {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        let turn = self.turn(request)?;
        let delay = Duration::from_millis(turn.delay_ms);
        if let Some(fail) = turn.fail.as_ref().filter(|fail| request.attempt <= fail.attempts) {
            tokio::time::sleep(delay).await;
            let mut error = self.error(fail.kind.into(), fail.message.clone());
            error.retry_after = fail.retry_after_ms.map(Duration::from_millis);
            return Err(error);
        }
        let scope = template::Scope::of(request);
        let fill = |text: &str| {
            template::fill(text, &scope)
                .map_err(|error| self.error(ErrorKind::Rejected, format!("turn {} of the plan: {error}", request.step)))
        };
        let mut parts = Vec::new();
        if let Some(think) = &turn.think {
            let text = fill(think)?;
            play(&text, delay, &mut |piece| deltas(Delta::Reasoning(piece))).await;
            parts.push(Part::Reasoning { text, opaque: None });
        }
        if let Some(say) = &turn.say {
            let text = fill(say)?;
            play(&text, delay, &mut |piece| deltas(Delta::Text(piece))).await;
            parts.push(Part::Text { text });
        }
        for (place, call) in turn.call.iter().enumerate() {
            let arguments = template::fill_value(&call.arguments, &scope).map_err(|error| {
                self.error(ErrorKind::Rejected, format!("turn {} of the plan: {error}", request.step))
            })?;
            tokio::time::sleep(delay).await;
            deltas(Delta::Call { name: call.tool.clone() });
            // The same for every attempt and every replay, and unique within a session.
            let id = format!("{}-{}-{place}", request.task, request.step);
            let arguments = Value::Object(arguments).to_string();
            parts.push(Part::Call { id, name: call.tool.clone(), arguments, opaque: None });
        }
        Ok(Reply {
            message: Message { role: Role::Assistant, parts },
            finish: if turn.call.is_empty() { Finish::Stop } else { Finish::ToolCalls },
            usage: turn.usage.map(Usage::from),
            provider: KIND.to_owned(),
            model: self.model.clone(),
        })
    }
}

/// Hands a text out in small pieces, a pause before each, as a model would stream it.
pub(super) async fn play(text: &str, delay: Duration, emit: &mut (dyn FnMut(String) + Send)) {
    let mut rest = text;
    while !rest.is_empty() {
        let far = rest.char_indices().nth(DELTA_CHARS).map_or(rest.len(), |(at, _)| at);
        let end = rest.get(far..).and_then(|after| after.find(char::is_whitespace)).map_or(rest.len(), |at| far + at);
        let (piece, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        emit(piece.to_owned());
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::request;
    use serde_json::json;

    fn scripted(plan: &str) -> Scripted {
        Scripted {
            plan: Plan::parse(plan, Path::new("plan.yaml")).unwrap(),
            file: "plan.yaml".into(),
            model: "s".into(),
        }
    }

    async fn play_step(model: &Scripted, request: &Request) -> (Result<Reply, Error>, Vec<Delta>) {
        let mut seen = Vec::new();
        let reply = model.complete(request, &mut |delta| seen.push(delta)).await;
        (reply, seen)
    }

    const PLAN: &str = r#"
- think: Which ticket?
  say: "Looking at ${input} now, patiently."
  call:
    - {tool: get, arguments: {id: "${input}", limit: 3}}
  usage: {input: 10, output: 5}
- say: "It says ${results.0.title}."
"#;

    #[tokio::test]
    async fn a_plan_is_played_by_step() {
        let model = scripted(PLAN);
        let mut asked = request("T-1");
        let (reply, seen) = play_step(&model, &asked).await;
        let reply = reply.unwrap();
        assert_eq!(reply.finish, Finish::ToolCalls);
        assert_eq!(reply.usage, Some(Usage { input: 10, output: 5, ..Usage::default() }));
        assert_eq!(reply.message.plain_text(), "Looking at T-1 now, patiently.");
        let Some(Part::Call { id, arguments, .. }) = reply.message.parts.last() else { unreachable!("a call") };
        assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), json!({"id": "T-1", "limit": 3}));
        let text: String =
            seen.iter().filter_map(|d| if let Delta::Text(t) = d { Some(t.as_str()) } else { None }).collect();
        assert_eq!(text, "Looking at T-1 now, patiently.");
        assert!(seen.len() > 3, "streamed in pieces: {seen:?}");
        assert_eq!(play_step(&model, &asked).await.0.unwrap(), reply, "the same again after a crash");

        let result = Part::Result { id: id.clone(), content: r#"{"title":"Lost parcel"}"#.into(), is_error: false };
        asked.messages.extend([reply.message.clone(), Message { role: Role::Tool, parts: vec![result] }]);
        asked.step = 2;
        let reply = play_step(&model, &asked).await.0.unwrap();
        assert_eq!((reply.message.plain_text().as_str(), reply.finish), ("It says Lost parcel.", Finish::Stop));
    }

    #[tokio::test]
    async fn a_plan_that_runs_out_says_so() {
        let mut asked = request("x");
        asked.step = 3;
        let error = play_step(&scripted(PLAN), &asked).await.0.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Rejected);
        assert_eq!(
            error.to_string(),
            "failed to call model s at plan.yaml: the plan ran out: it has 2 turns, and this is step 3"
        );
    }

    #[tokio::test]
    async fn a_template_that_finds_nothing_names_the_turn() {
        let mut asked = request("x");
        asked.step = 2;
        let error = play_step(&scripted(PLAN), &asked).await.0.unwrap_err();
        assert!(error.message.starts_with("turn 2 of the plan: ${results.0.title}"), "{}", error.message);
    }

    #[tokio::test]
    async fn failures_come_for_as_many_attempts_as_planned() {
        let model = scripted("- fail: {kind: overloaded, attempts: 2, retry_after_ms: 250}\n  say: back\n");
        for attempt in [1, 2] {
            let error = play_step(&model, &Request { attempt, ..request("x") }).await.0.unwrap_err();
            assert_eq!((error.kind, error.retry_after), (ErrorKind::Overloaded, Some(Duration::from_millis(250))));
        }
        let reply = play_step(&model, &Request { attempt: 3, ..request("x") }).await.0.unwrap();
        assert_eq!(reply.message.plain_text(), "back");
    }
}
