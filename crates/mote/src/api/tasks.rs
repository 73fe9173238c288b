//! `/tasks`: submit, list, look at, cancel, answer, signal, delete.
//!
//! It does not run them; a task goes on whether or not anybody looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::access::Caller;
use super::body::{JsonBytes, OptionalJsonBytes};
use super::dto::{InputRequest, Nothing, PageBody, RunRequest, TaskBody};
use super::idempotency;
use super::path::Places;
use super::problem::{Code, Problem};
use super::query::{Params, wrong};
use super::run::{annotate, location};
use super::state::Api;
use crate::auth::Principal;
use crate::limits;
use crate::runner::PostError;
use crate::store::{self, By, Erase, Filter, Letter, Mail, Status, Task};
use crate::tools::builtin::{SIGNAL_NAME_PATTERN, is_signal_name};
use crate::tools::config::Builtin;

const ROUTE: &str = "POST /tasks";

/// A task that the caller may see; another tenant's does not exist for it.
pub(super) async fn visible(api: &Api, principal: &Principal, id: &str) -> Result<Task, Problem> {
    let task = api.runner.store().task(principal.tenant.as_deref(), id).await?;
    task.ok_or_else(|| Problem::task_not_found(id))
}

/// 202, the task as it stands and where to find it.
pub(super) async fn accepted(api: &Api, principal: &Principal, id: &str) -> Result<Response, Problem> {
    Ok(accepted_as(visible(api, principal, id).await?))
}

fn accepted_as(task: Task) -> Response {
    let location = location(&task.id);
    let mut response = (StatusCode::ACCEPTED, Json(TaskBody::from(task))).into_response();
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Makes a task durable, then answers.
#[utoipa::path(
    post, path = "/tasks", tag = "tasks", operation_id = "submit_task",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request one task.")),
    request_body = RunRequest,
    responses(
        (status = 202, description = "The task is durable; see Location. `Idempotency-Replayed: true` if it was before.", body = TaskBody),
        (status = 422, description = "A field is not acceptable, or the key was used with another request.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 503, description = "Overloaded or shutting down; see Retry-After.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["run"]), ("header_key" = ["run"])),
)]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    params: Params,
    headers: HeaderMap,
    body: JsonBytes,
) -> Result<Response, Problem> {
    params.finish()?;
    let mut submission = body.parse::<RunRequest>()?.into_submission(&principal)?;
    let keyed = annotate(&mut submission, &headers, ROUTE)?;
    let outcome = api.runner.submit(submission, false).await?;
    let mut response = match outcome.queued {
        Some(task) => accepted_as(*task),
        None => accepted(&api, &principal, &outcome.task).await?,
    };
    if keyed {
        let ttl = api.runner.agent().server.idempotency_ttl;
        idempotency::mark(response.headers_mut(), ttl, outcome.replayed);
    }
    Ok(response)
}

/// Lists tasks, newest first.
#[utoipa::path(
    get, path = "/tasks", tag = "tasks", operation_id = "list_tasks",
    params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u64>, Query, description = "Tasks a page, 1 to 200; 50 if left out."),
        ("status" = Option<Status>, Query, description = "Only this status."),
        ("session" = Option<String>, Query, description = "Only this session."),
        ("user" = Option<String>, Query, description = "Only this user."),
        ("tenant" = Option<String>, Query, description = "Only this tenant; a bound key sees its own alone."),
        ("label" = Option<Vec<String>>, Query, description = "`key=value`; repeated, all must match."),
        ("dead" = Option<bool>, Query, description = "Only the dead letters."),
        ("created_after" = Option<String>, Query, description = "Only those submitted later than this, RFC 3339."),
        ("created_before" = Option<String>, Query, description = "Only those submitted earlier than this, RFC 3339."),
    ),
    responses(
        (status = 200, description = "One page.", body = PageBody),
        (status = 400, description = "A parameter is not understood.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    mut params: Params,
) -> Result<Json<PageBody>, Problem> {
    let cursor = params.take("cursor")?;
    let limit = params.take_limit()?;
    let filter = filter(&principal, &mut params)?;
    params.finish()?;
    let page = api.runner.store().list(filter, cursor, limit).await.map_err(|error| match error {
        store::Error::Conflict { .. } => {
            Problem::field(Code::CursorInvalid, "cursor", "is not one that this listing gave")
        }
        other => Problem::store(&other),
    })?;
    Ok(Json(PageBody { tasks: page.tasks.into_iter().map(TaskBody::from).collect(), next: page.next }))
}

fn filter(principal: &Principal, params: &mut Params) -> Result<Filter, Problem> {
    let tenant = super::tenant_filter(principal, params)?;
    let status = params.take("status")?.map(|text| parse_status(&text)).transpose()?;
    let mut labels = BTreeMap::new();
    for label in params.take_all("label") {
        let Some((key, value)) = label.split_once('=') else {
            return Err(wrong("label", format_args!("must be key=value, not {label:?}")));
        };
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(wrong("label", format_args!("the key {key:?} is given twice")));
        }
    }
    if labels.len() > limits::LABELS_MAX {
        return Err(wrong("label", format_args!("at most {}", limits::LABELS_MAX)));
    }
    let (user, session, dead) = (params.take("user")?, params.take("session")?, params.take_flag("dead")?);
    let (created_after, created_before) = (params.take_time("created_after")?, params.take_time("created_before")?);
    Ok(Filter { tenant, user, session, status, labels, dead, created_after, created_before })
}

fn parse_status(text: &str) -> Result<Status, Problem> {
    let json = serde_json::Value::String(text.to_owned());
    serde_json::from_value(json)
        .map_err(|_| wrong("status", "must be queued, running, waiting, completed, failed or cancelled"))
}

/// Shows a task.
#[utoipa::path(
    get, path = "/tasks/{id}", tag = "tasks", operation_id = "get_task",
    params(("id" = String, Path, description = "The task.")),
    responses(
        (status = 200, description = "The task.", body = TaskBody),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    params: Params,
) -> Result<Json<TaskBody>, Problem> {
    params.finish()?;
    Ok(Json(TaskBody::with_input(visible(&api, &principal, &id).await?)))
}

/// Deletes a task with its journal, payloads and mail, and its words from its session. Its ledger rows stay for the
/// retention, without user, session and labels.
#[utoipa::path(
    delete, path = "/tasks/{id}", tag = "tasks", operation_id = "delete_task",
    params(("id" = String, Path, description = "The task.")),
    responses(
        (status = 200, description = "Deleted.", body = super::sessions::Erased),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "The task is running; cancel it first.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["admin"]), ("header_key" = ["admin"])),
)]
pub(super) async fn erase(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    params: Params,
) -> Result<Json<super::sessions::Erased>, Problem> {
    params.finish()?;
    let tenant = principal.tenant.as_deref().map(str::to_owned);
    match api.runner.erase(Erase::Task { tenant, task: id.clone(), now: api.runner.now() }).await {
        Ok(0) => Err(Problem::task_not_found(&id)),
        Ok(tasks) => {
            tracing::info!(task_id = id, by = %principal.name, "a task was deleted");
            Ok(Json(super::sessions::Erased { tasks }))
        }
        Err(store::Error::Conflict { what }) => Err(Problem::new(Code::TaskRunning, what)),
        Err(error) => Err(error.into()),
    }
}

/// Cancels a task. Cancelling a cancelled one changes nothing.
#[utoipa::path(
    post, path = "/tasks/{id}/cancel", tag = "tasks", operation_id = "cancel_task",
    params(("id" = String, Path, description = "The task.")),
    responses(
        (status = 202, description = "The cancellation is durable; the task ends at its next event.", body = TaskBody),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "The task has finished.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["run"]), ("header_key" = ["run"])),
)]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    params: Params,
    body: OptionalJsonBytes,
) -> Result<Response, Problem> {
    params.finish()?;
    no_fields(body)?;
    match mail(&api, &principal, &id, (Mail::Cancel, None)).await {
        Err(Finished(problem, Some(Status::Cancelled))) => {
            tracing::debug!(code = problem.code.as_str(), "the task was cancelled before");
            accepted(&api, &principal, &id).await
        }
        outcome => Ok(outcome.map_err(|refusal| refusal.0)?),
    }
}

/// Answers an approval or a question.
#[utoipa::path(
    post, path = "/tasks/{id}/input", tag = "tasks", operation_id = "answer_task",
    params(("id" = String, Path, description = "The task.")),
    request_body = InputRequest,
    responses(
        (status = 202, description = "The answer is durable.", body = TaskBody),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "The task has finished, or asks nothing that this could answer.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable, or what the task asks takes another form of answer.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["run"]), ("header_key" = ["run"])),
)]
pub(super) async fn input(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    params: Params,
    body: JsonBytes,
) -> Result<Response, Problem> {
    params.finish()?;
    let answer = body.parse::<InputRequest>()?.into_mail()?;
    mail(&api, &principal, &id, answer).await.map_err(|refusal| refusal.0)
}

/// Sends a named signal; the body is what it carries.
#[utoipa::path(
    post, path = "/tasks/{id}/signals/{name}", tag = "tasks", operation_id = "signal_task",
    params(
        ("id" = String, Path, description = "The task."),
        ("name" = String, Path, description = "The signal's name."),
    ),
    request_body(content = serde_json::Value, description = "What the signal carries; any JSON, null if left out."),
    responses(
        (status = 202, description = "The signal is durable, whether or not the task waits for it yet.", body = TaskBody),
        (status = 404, description = "No such task, or no tool of the agent waits for signals.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "The task has finished.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["run"]), ("header_key" = ["run"])),
)]
pub(super) async fn signal(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places((id, name)): Places<(String, String)>,
    params: Params,
    body: OptionalJsonBytes,
) -> Result<Response, Problem> {
    params.finish()?;
    check_signal(&api, &name)?;
    let payload = body.parse_any()?;
    mail(&api, &principal, &id, (Mail::Signal { name, payload }, None)).await.map_err(|refusal| refusal.0)
}

/// A signal for which no tool could ever wait would lie in the mailbox for good.
fn check_signal(api: &Api, name: &str) -> Result<(), Problem> {
    if !api.runner.agent().builtins.contains(&Builtin::WaitForSignal) {
        let tool = Builtin::WaitForSignal.name();
        let message = format!("the agent waits for no signals: none is possible without `builtin: {tool}`");
        return Err(Problem::field(Code::SignalNotFound, "name", message));
    }
    if !is_signal_name(name) {
        let message = format!("no tool can wait for {name:?}: a signal's name matches {SIGNAL_NAME_PATTERN}");
        return Err(Problem::field(Code::InvalidRequest, "name", message));
    }
    Ok(())
}

/// A route that takes no body takes an empty object too, since many clients cannot send less.
pub(super) fn no_fields(body: OptionalJsonBytes) -> Result<(), Problem> {
    body.parse::<Nothing>().map(|_| ())
}

/// A refusal, and the status of the task if it is terminal.
pub(super) struct Finished(pub(super) Problem, Option<Status>);

impl From<Problem> for Finished {
    fn from(problem: Problem) -> Self {
        Self(problem, None)
    }
}

/// Leaves mail for a task that the caller may see, in the caller's name and that of the person whom it names.
pub(super) async fn mail(
    api: &Api,
    principal: &Principal,
    id: &str,
    (mail, user): (Mail, Option<String>),
) -> Result<Response, Finished> {
    let task = visible(api, principal, id).await?;
    if task.status.is_terminal() {
        return Err(finished(&task));
    }
    let by = Some(By { key: principal.name.to_string(), user });
    match api.runner.post(id, Letter { mail, by }).await {
        Ok(()) => Ok(accepted(api, principal, id).await?),
        Err(PostError::Store(store::Error::Conflict { .. })) => Err(finished(&visible(api, principal, id).await?)),
        Err(PostError::Store(error @ store::Error::Limit { .. })) => {
            Err(Problem::new(Code::MailboxFull, error.to_string()).retry_after(limits::RETRY_AFTER).into())
        }
        Err(PostError::Store(error)) => Err(Problem::store(&error).into()),
        Err(error @ PostError::NotAsked(_)) => Err(Problem::new(Code::NotAsked, error.to_string()).into()),
        Err(error @ PostError::Misfit(_)) => Err(Problem::new(Code::AnswerMisfit, error.to_string()).into()),
    }
}

fn finished(task: &Task) -> Finished {
    let problem = Problem::new(Code::TaskFinished, format!("task {} is {}", task.id, word(task.status)));
    Finished(problem, Some(task.status))
}

pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::Running => "running",
        Status::Waiting => "waiting",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}
