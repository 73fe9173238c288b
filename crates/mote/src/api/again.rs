//! `/tasks/{id}/resume` and `/tasks/{id}/rerun`: another life for a task that failed or was cancelled.
//!
//! It does not decide where a resumed run goes on; its journal does.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::access::Caller;
use super::body::OptionalJsonBytes;
use super::path::Places;
use super::problem::{Code, Problem};
use super::query::Params;
use super::state::Api;
use super::tasks::{accepted, no_fields, visible, word};
use crate::auth::Principal;
use crate::runner::ResumeError;
use crate::store::{self, EffectRow, Status, Task};
use crate::timestamp::format_rfc3339;

/// What `POST /tasks/{id}/rerun` takes.
#[derive(Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RerunRequest {
    /// Run it again although what it did through tools may then be done again.
    #[serde(default)]
    #[schema(required = false)]
    repeat_writes: Option<bool>,
}

/// A call that may be made again.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(super) struct RepeatedWrite {
    /// The tool.
    tool: String,
    /// `idempotent` or `write`.
    class: String,
    /// `reserved`, `done` or `unknown`.
    outcome: String,
    /// The model step that asked for it.
    step: u32,
    /// The call's id, as the model gave it.
    call: String,
    /// When its outcome became known, RFC 3339.
    at: String,
}

impl From<EffectRow> for RepeatedWrite {
    fn from(row: EffectRow) -> Self {
        let EffectRow { tool, class, outcome, step, call, at } = row;
        Self { tool, class, outcome, step, call, at: format_rfc3339(at) }
    }
}

fn not_failed(task: &Task) -> Problem {
    let detail = format!("task {} is {}: only a failed or cancelled one gets another life", task.id, word(task.status));
    Problem::new(Code::NotFailed, detail)
}

/// The task, if it failed or was cancelled.
async fn ended(api: &Api, principal: &Principal, id: &str) -> Result<Task, Problem> {
    let task = visible(api, principal, id).await?;
    if matches!(task.status, Status::Failed | Status::Cancelled) { Ok(task) } else { Err(not_failed(&task)) }
}

/// What became of it: another request may have been faster.
async fn queued(
    api: &Api,
    principal: &Principal,
    id: &str,
    outcome: Result<(), store::Error>,
) -> Result<Response, Problem> {
    match outcome {
        Ok(()) => accepted(api, principal, id).await,
        Err(store::Error::Conflict { .. }) => Err(not_failed(&visible(api, principal, id).await?)),
        Err(error) => Err(error.into()),
    }
}

/// Queues a failed or cancelled task, to go on from its last good step: with what was said, done and spent. Its wall time and
/// its working time begin anew, under the agent's bounds as they are now.
#[utoipa::path(
    post, path = "/tasks/{id}/resume", tag = "tasks", operation_id = "resume_task",
    params(("id" = String, Path, description = "The task.")),
    responses(
        (status = 202, description = "The task is queued.", body = super::dto::TaskBody),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "The task has neither failed nor been cancelled, its journal cannot be gone on from, or its own budget carries no further model call.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["run"]), ("header_key" = ["run"])),
)]
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    params: Params,
    body: OptionalJsonBytes,
) -> Result<Response, Problem> {
    params.finish()?;
    no_fields(body)?;
    ended(&api, &principal, &id).await?;
    match api.runner.resume(&id).await {
        Ok(()) => accepted(&api, &principal, &id).await,
        Err(ResumeError::NotResumable(why)) => {
            let detail = format!("task {id} cannot be resumed: {why}; POST /tasks/{id}/rerun begins anew");
            Err(Problem::new(Code::NotResumable, detail))
        }
        Err(ResumeError::Store(error)) => queued(&api, &principal, &id, Err(error)).await,
    }
}

/// Queues a failed or cancelled task, to begin from its request with a fresh journal. What it did through tools before may be
/// done again, so that has to be confirmed where there is any.
#[utoipa::path(
    post, path = "/tasks/{id}/rerun", tag = "tasks", operation_id = "rerun_task",
    params(("id" = String, Path, description = "The task.")),
    request_body = Option<RerunRequest>,
    responses(
        (status = 202, description = "The task is queued.", body = super::dto::TaskBody),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "The task has neither failed nor been cancelled; or it did something through tools that may be done again: `writes` has what, and `repeat_writes` confirms it.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["admin"]), ("header_key" = ["admin"])),
)]
pub(super) async fn rerun(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    params: Params,
    body: OptionalJsonBytes,
) -> Result<Response, Problem> {
    params.finish()?;
    let confirmed = body.parse::<RerunRequest>()?.unwrap_or_default().repeat_writes.unwrap_or(false);
    ended(&api, &principal, &id).await?;
    if !confirmed {
        refuse_to_repeat(&id, api.runner.store().effects(&id).await?)?;
    }
    let outcome = api.runner.store().requeue(&id, api.runner.now()).await;
    queued(&api, &principal, &id, outcome).await
}

/// A call that failed changed nothing; any other would be made again.
fn refuse_to_repeat(id: &str, effects: Vec<EffectRow>) -> Result<(), Problem> {
    let writes = effects.into_iter().filter(|effect| effect.outcome != "failed");
    let writes: Vec<RepeatedWrite> = writes.map(RepeatedWrite::from).collect();
    if writes.is_empty() {
        return Ok(());
    }
    let mut tools: Vec<&str> = writes.iter().map(|effect| effect.tool.as_str()).collect();
    tools.sort_unstable();
    tools.dedup();
    let (calls, tools) = (writes.len(), tools.join(", "));
    let detail = format!(
        "task {id} made {calls} calls that change something ({tools}), which may be made again; \
         POST /tasks/{id}/resume goes on behind them, {{\"repeat_writes\": true}} begins anew all the same"
    );
    Err(Problem::new(Code::WritesRepeated, detail).writes(writes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_may_be_repeated_is_told_with_its_time() {
        let row = |outcome: &str| EffectRow {
            tool: "send_note".to_owned(),
            class: "write".to_owned(),
            outcome: outcome.to_owned(),
            step: 3,
            call: "c".to_owned(),
            at: 1_700_000_000_000,
        };
        refuse_to_repeat("t", vec![row("failed")]).unwrap();
        let refused = refuse_to_repeat("t", vec![row("failed"), row("unknown")]).unwrap_err();
        let body = serde_json::to_value(refused.body("r")).unwrap();
        assert_eq!(body["writes"].as_array().map(Vec::len), Some(1));
        assert_eq!(body["writes"][0]["at"], crate::timestamp::format_rfc3339(1_700_000_000_000));
    }
}
