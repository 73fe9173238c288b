//! A run that comes to a session in which another task is under way: it waits for its turn, and is told at once where no
//! turn can come before somebody has answered that task. Behind one that waits for a model or a tool to be available again, it
//! goes on as a task.
//!
//! Whose turn it is, the store decides; see docs/http.md.

use serde_json::Value;

use super::events::Changes;
use super::problem::{Code, Problem};
use super::state::Api;
use crate::store::{self, Erase, Status};

/// When a run's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has.
    Come,
    /// By itself, but not soon: the task at the session's head waits until a model or a tool is tried again.
    Later,
}

/// Waits while the task is queued behind others of its session.
///
/// # Errors
/// [`Code::SessionBusy`] as soon as the task at the session's head waits for a person, a signal or a time.
pub(super) async fn come(api: &Api, id: &str) -> Result<Turn, Problem> {
    let store = api.runner.store();
    let mut own = Changes::of(store, id);
    loop {
        own.mark_seen();
        let Some(task) = store.task(None, id).await? else { return Err(Problem::task_not_found(id)) };
        let Some(session) = task.owner.session.as_deref().filter(|_| task.status == Status::Queued) else {
            return Ok(Turn::Come);
        };
        let head = store.session_head(&task.owner.tenant, session).await?.filter(|head| head.id != task.id);
        let mut before = None;
        if let Some(head) = head {
            let mut changes = Changes::of(store, &head.id);
            changes.mark_seen();
            // Read again: it may have changed before it was watched.
            match store.task(None, &head.id).await? {
                Some(head) if head.rests() => {
                    return Err(busy(session, &head.id, head.waiting.as_deref()));
                }
                Some(head) if head.status == Status::Waiting => return Ok(Turn::Later),
                Some(head) if !head.status.is_terminal() => before = Some(changes),
                _ => continue,
            }
        }
        let others = async {
            match &mut before {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = own.next() => {}
            () = others => {}
            () = api.closing.cancelled() => return Ok(Turn::Come),
        }
    }
}

/// Takes a task back that has not had its turn: nothing is left of it, its idempotency key is free again. False if it runs
/// already.
pub(super) async fn withdraw(api: &Api, id: &str) -> Result<bool, Problem> {
    let what = Erase::Task { tenant: None, task: id.to_owned(), now: api.runner.now() };
    match api.runner.erase(what).await {
        Ok(_) => Ok(true),
        Err(store::Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The refusal of a run, with the task that is in its way and how that is answered.
pub(super) fn busy(session: &str, task: &str, waiting: Option<&str>) -> Problem {
    let waits: Vec<Value> = waiting.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let how: Vec<String> = waits.iter().map(describe).collect();
    let waits_for = if how.is_empty() { String::new() } else { format!(" for {}", how.join("; ")) };
    let detail = format!(
        "task {task} of session {session} waits{waits_for}. Answer or cancel it first, or send this with ?detach=true: it \
         then goes on by itself once its turn comes"
    );
    Problem::new(Code::SessionBusy, detail).blocked_by(task, waiting)
}

/// One wait in words, with the request that ends it.
fn describe(wait: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, tool, answer) = (text(&wait["kind"]), text(&wait["tool"]), &wait["answer"]);
    let until = wait["until"].as_str().map(|until| format!(" until {until}")).unwrap_or_default();
    if answer.is_object() {
        let (method, path) = (text(&answer["method"]), text(&answer["path"]));
        return format!("{kind} of {tool}{until} ({method} {path} {})", answer["body"]);
    }
    format!("{kind} of {tool}{until}")
}

/// The refusal where too many runs wait for their turn.
pub(super) fn full(session: &str, task: &str, open: u64) -> Problem {
    let detail = format!(
        "task {task} of session {session} is under way and {open} tasks are open in the session, the most for one more run to \
         wait its turn; use POST /tasks, or come back"
    );
    Problem::new(Code::SessionBusy, detail).blocked_by(task, None).retry_after(crate::limits::RETRY_AFTER)
}
