//! `POST /run`: a task, submitted and awaited by one request.
//!
//! A client that goes away cancels its run, unless it asked otherwise with `?detach=true`. It does not queue for a place:
//! where none is free it answers 503, and `POST /tasks` is for work that may wait. It waits for its turn in its session,
//! within [`limits::SESSION_RUNS_MAX`], where that can come by itself ([`super::turn`]).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::access::Caller;
use super::body::JsonBytes;
use super::dto::{RunRequest, TaskBody};
use super::events::{self, Changes, Follower};
use super::idempotency;
use super::problem::{Code, Problem, TaskCode};
use super::query::Params;
use super::state::Api;
use super::turn::Turn;
use crate::limits;
use crate::runner::{Accepted, PostError, Runner, Submission, SubmitError};
use crate::store::{self, Mail, Status, Task};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const ROUTE: &str = "POST /run";

/// Cancels a run when it is dropped: the client went away. Disarmed once the answer is on its way.
pub(super) struct CancelOnDrop {
    runner: Runner,
    task: Option<String>,
}

impl CancelOnDrop {
    fn new(runner: Runner, task: String) -> Self {
        Self { runner, task: Some(task) }
    }

    pub(super) fn disarm(&mut self) {
        self.task = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        // Without a runtime the process is ending, and the run goes on after its restart.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(abandon(self.runner.clone(), task));
    }
}

/// Leaves the cancellation for the task, again for a while if the store is overloaded.
async fn abandon(runner: Runner, task: String) {
    for _ in 0..limits::ABANDON_ATTEMPTS {
        match runner.post(&task, Mail::Cancel).await {
            Ok(()) => return tracing::info!(task_id = task, "the client of the run went away: cancelled"),
            Err(PostError::Store(store::Error::Conflict { .. } | store::Error::NotFound { .. })) => return,
            Err(error) => tracing::warn!(task_id = task, %error, "failed to cancel the run of a client that went away"),
        }
        tokio::time::sleep(limits::RETRY_AFTER).await;
    }
}

/// Runs a task and answers with its end.
#[utoipa::path(
    post, path = "/run", tag = "tasks", operation_id = "run",
    params(
        ("detach" = Option<bool>, Query, description = "The run goes on if the client goes away, otherwise it is cancelled; and it is queued where its session's task waits, which answers 202 at once."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request one run."),
    ),
    request_body(content = RunRequest, description = "With `Accept: text/event-stream` the answer is the run's events."),
    responses(
        (status = 200, description = "Completed; or the stream of events, where that was asked for.", content(
            (TaskBody = "application/json"), (events::StreamMessage = "text/event-stream"))),
        (status = 202, description = "The run began to wait, is queued behind a task that waits (for a model or a tool, or with `detach`), or the service is shutting down: it goes on as a task; see Location.", body = TaskBody),
        (status = 409, description = "The task was cancelled (the task); the session's task waits or its queue is full (`session_busy`), or the first request with this key is still running (a problem).", content(
            (TaskBody = "application/json"), (super::problem::Body = "application/problem+json"))),
        (status = 422, description = "The task failed by a limit, a budget or its output (the task), or a field is not acceptable (a problem).", content(
            (TaskBody = "application/json"), (super::problem::Body = "application/problem+json"))),
        (status = 500, description = "The task failed by a fault of the service (the task), or the request did (a problem).", content(
            (TaskBody = "application/json"), (super::problem::Body = "application/problem+json"))),
        (status = 502, description = "The model failed.", body = TaskBody),
        (status = 503, description = "Overloaded or shutting down; see Retry-After.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["run"]), ("header_key" = ["run"])),
)]
pub(super) async fn run(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    mut params: Params,
    headers: HeaderMap,
    body: JsonBytes,
) -> Result<Response, Problem> {
    let detach = params.take_flag("detach")?;
    params.finish()?;
    let mut submission = body.parse::<RunRequest>()?.into_submission(&principal)?;
    let keyed = annotate(&mut submission, &headers, ROUTE)?;
    let place = if accepts_events(&headers) { Some(api.stream_place(&principal)?) } else { None };

    let (accepted, guard) = submit_guarded(api.runner.clone(), submission, detach).await?;
    let ttl = keyed.then_some(api.runner.agent().server.idempotency_ttl);
    if accepted.replayed {
        still_running(&api, &accepted.task).await?;
    }
    let (guard, queued) = turn(&api, &accepted, guard, detach).await?;
    let mut response = if let Some(task) = queued {
        answer(task)
    } else if let Some(place) = place {
        let follower = Follower::open(&api, &accepted.task, 0, place, Some(guard));
        let mut response = events::response(follower);
        response.headers_mut().insert(header::LOCATION, location(&accepted.task));
        response
    } else {
        answer(settled(&api, &accepted.task, guard).await?)
    };
    if let Some(ttl) = ttl {
        idempotency::mark(response.headers_mut(), ttl, accepted.replayed);
    }
    Ok(response)
}

/// Waits until the run has begun, or gives the task that stays in the queue: one that was to be detached, or whose turn comes
/// by itself, but not soon.
async fn turn(
    api: &Api,
    accepted: &Accepted,
    mut guard: CancelOnDrop,
    detach: bool,
) -> Result<(CancelOnDrop, Option<Task>), Problem> {
    if accepted.queued.is_none() {
        return Ok((guard, None));
    }
    loop {
        match super::turn::come(api, &accepted.task).await {
            Ok(Turn::Come) => return Ok((guard, None)),
            Ok(Turn::Later) => break,
            Err(problem) if problem.code != Code::SessionBusy => return Err(problem),
            Err(_) if detach => break,
            Err(problem) => {
                if super::turn::withdraw(api, &accepted.task).await? {
                    guard.disarm();
                    return Err(problem);
                }
            }
        }
    }
    guard.disarm();
    let task = api.runner.store().task(None, &accepted.task).await?;
    Ok((guard, Some(task.ok_or_else(|| Problem::task_not_found(&accepted.task))?)))
}

/// Submits in a task of its own, so that a client that goes away meanwhile leaves no run behind that nobody cancels: the
/// outcome, dropped unread, takes its guard along.
async fn submit_guarded(
    runner: Runner,
    submission: Submission,
    detach: bool,
) -> Result<(Accepted, CancelOnDrop), Problem> {
    let span = tracing::Span::current();
    let submitting = async move {
        let turn_within = (!detach).then_some(limits::SESSION_RUNS_MAX);
        let accepted = runner.submit_in_turn(submission, true, turn_within).await?;
        let mut guard = CancelOnDrop::new(runner, accepted.task.clone());
        // Whoever repeats a request does not own the run: the first client does.
        if detach || accepted.replayed {
            guard.disarm();
        }
        Ok::<_, SubmitError>((accepted, guard))
    };
    match tokio::spawn(tracing::Instrument::instrument(submitting, span)).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => {
            tracing::error!(%error, "a submission ended abnormally");
            Err(Problem::new(Code::Internal, "the submission failed; the log has more under this request's id"))
        }
    }
}

/// Refuses the repetition of a request whose run is under way. One that waits for somebody was answered then, and is again.
async fn still_running(api: &Api, task: &str) -> Result<(), Problem> {
    match api.runner.store().task(None, task).await? {
        Some(task) if !task.status.is_terminal() && task.status != Status::Waiting => {
            let detail = format!("task {} runs for the first request with this key; follow it at /tasks/{0}", task.id);
            Err(Problem::new(Code::IdempotencyInProgress, detail).retry_after(limits::RETRY_AFTER))
        }
        Some(_) => Ok(()),
        None => Err(Problem::task_not_found(task)),
    }
}

/// Waits until the task has ended, waits for somebody, or is no longer ours to wait for.
async fn settled(api: &Api, id: &str, mut guard: CancelOnDrop) -> Result<Task, Problem> {
    let store = api.runner.store();
    let mut changes = Changes::of(store, id);
    loop {
        changes.mark_seen();
        let Some(task) = store.task(None, id).await? else { return Err(Problem::task_not_found(id)) };
        if task.status.is_terminal() || task.status == Status::Waiting || api.closing.is_cancelled() {
            guard.disarm();
            return Ok(task);
        }
        tokio::select! {
            () = changes.next() => {}
            () = api.closing.cancelled() => {}
        }
    }
}

/// The status reflects the request, so that a client's own error handling works: only a completed task is a 200.
fn answer(task: Task) -> Response {
    let location = location(&task.id);
    let status = outcome_status(task.status, task.error.as_ref().map(|error| error.code.as_str()));
    let mut response = (status, Json(TaskBody::from(task))).into_response();
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn outcome_status(status: Status, code: Option<&str>) -> StatusCode {
    match status {
        Status::Completed => StatusCode::OK,
        Status::Cancelled => StatusCode::CONFLICT,
        Status::Failed => code.and_then(TaskCode::parse).map_or(StatusCode::INTERNAL_SERVER_ERROR, TaskCode::status),
        Status::Queued | Status::Running | Status::Waiting => StatusCode::ACCEPTED,
    }
}

/// Adds what comes in headers; says whether there was an idempotency key.
pub(super) fn annotate(submission: &mut Submission, headers: &HeaderMap, route: &str) -> Result<bool, Problem> {
    submission.idempotency = idempotency::key(headers)?.map(|key| (route.to_owned(), key));
    let traceparent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    // A malformed one is ignored, as the specification asks.
    submission.traceparent = traceparent.filter(|text| is_traceparent(text)).map(str::to_owned);
    Ok(submission.idempotency.is_some())
}

/// W3C Trace Context, section 3.2: `version-traceid-parentid-flags`, ids not all zeros.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, digits: usize| hex(part, digits) && part.bytes().any(|byte| byte != b'0');
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    match parts.as_slice() {
        [version, trace, parent, flags, rest @ ..] => {
            let known = *version == "00" && rest.is_empty();
            let newer = hex(version, 2) && *version != "00" && *version != "ff";
            (known || newer) && id(trace, 32) && id(parent, 16) && hex(flags, 2)
        }
        _ => false,
    }
}

/// Whether the client prefers a stream of events: it names the media type and does not refuse it with `q=0`.
fn accepts_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let names_it = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("text/event-stream"));
        names_it && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// Where the task is to be found.
pub(super) fn location(task: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("/tasks/{task}")).unwrap_or_else(|_| HeaderValue::from_static("/tasks"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_tells_a_failed_run_from_a_completed_one() {
        for (status, code, expected) in [
            (Status::Completed, None, 200),
            (Status::Cancelled, Some("cancelled"), 409),
            (Status::Failed, Some("limit_steps"), 422),
            (Status::Failed, Some("budget_run"), 422),
            (Status::Failed, Some("model_failed"), 502),
            (Status::Failed, Some("divergence"), 500),
            (Status::Failed, Some("from_a_newer_mote"), 500),
            (Status::Failed, None, 500),
            (Status::Waiting, None, 202),
        ] {
            assert_eq!(outcome_status(status, code).as_u16(), expected, "{status:?} {code:?}");
        }
    }

    #[test]
    fn a_traceparent_is_taken_only_if_it_is_one() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for (text, expected) in [
            (format!("00-{trace}-b7ad6b7169203331-01"), true),
            (format!("01-{trace}-b7ad6b7169203331-01-more"), true),
            (format!("00-{trace}-b7ad6b7169203331-01-more"), false),
            (format!("ff-{trace}-b7ad6b7169203331-01"), false),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false),
            (format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), false),
            (format!("00-{trace}-01"), false),
        ] {
            assert_eq!(is_traceparent(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_stream_is_given_where_it_is_asked_for() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, text/event-stream;q=0.9", true),
            ("text/event-stream;q=0", false),
            ("*/*", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(accepts_events(&headers), expected, "{accept}");
        }
    }
}
