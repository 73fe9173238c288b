//! Errors as clients see them: RFC 9457 problem details with a stable code. Every code stands in this file and in
//! `docs/errors.md`, and a test holds the two together.
//!
//! It does not decide what a run's error is; the runner does, with the codes of [`TaskCode`].

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::again::RepeatedWrite;
use crate::limits;
use crate::runner::SubmitError;
use crate::store;

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($variant:ident $text:literal $status:ident $title:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = $title] $variant,)*
        }

        impl $name {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as it is sent.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The HTTP status that it comes with.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// What it means, in a few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// Why a request was refused: the `code` of a problem.
    Code {
        InvalidJson "invalid_json" BAD_REQUEST "The body is not JSON",
        InvalidQuery "invalid_query" BAD_REQUEST "The query is not understood",
        InvalidHeader "invalid_header" BAD_REQUEST "A header is not understood",
        CursorInvalid "cursor_invalid" BAD_REQUEST "The cursor leads nowhere",
        Unauthenticated "unauthenticated" UNAUTHORIZED "An API key is needed",
        Forbidden "forbidden" FORBIDDEN "The API key lacks a scope",
        TenantForbidden "tenant_forbidden" FORBIDDEN "The API key is bound to another tenant",
        OriginForbidden "origin_forbidden" FORBIDDEN "The page's origin is not allowed",
        RouteNotFound "route_not_found" NOT_FOUND "There is no such route",
        TaskNotFound "task_not_found" NOT_FOUND "There is no such task",
        SessionNotFound "session_not_found" NOT_FOUND "There is no such session",
        SignalNotFound "signal_not_found" NOT_FOUND "No tool of the agent waits for signals",
        MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The route does not take this method",
        RequestTimeout "request_timeout" REQUEST_TIMEOUT "The body did not arrive in time",
        TaskFinished "task_finished" CONFLICT "The task has finished",
        NotAsked "not_asked" CONFLICT "The task asks nothing that this answers",
        NotFailed "not_failed" CONFLICT "The task has neither failed nor been cancelled",
        NotResumable "not_resumable" CONFLICT "The task's journal cannot be gone on from",
        WritesRepeated "writes_repeated" CONFLICT "To run the task again may repeat what it did",
        SessionBusy "session_busy" CONFLICT "A task of the session is in the way",
        TaskRunning "task_running" CONFLICT "The task is running",
        Conflict "conflict" CONFLICT "The state forbids it",
        IdempotencyInProgress "idempotency_in_progress" CONFLICT "The first request with this key is still running",
        BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is too large",
        UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body must be plain application/json",
        InvalidRequest "invalid_request" UNPROCESSABLE_ENTITY "A field is not acceptable",
        AnswerMisfit "answer_misfit" UNPROCESSABLE_ENTITY "The task asks for another form of answer",
        IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY "The key was used with another request",
        UpgradeRequired "upgrade_required" UPGRADE_REQUIRED "The route speaks WebSocket",
        RateLimited "rate_limited" TOO_MANY_REQUESTS "Too many requests",
        BudgetExhausted "budget_exhausted" TOO_MANY_REQUESTS "A shared budget is exhausted",
        MailboxFull "mailbox_full" TOO_MANY_REQUESTS "The task has too much unread mail",
        Internal "internal" INTERNAL_SERVER_ERROR "Something failed here",
        Overloaded "overloaded" SERVICE_UNAVAILABLE "Too much to do",
        Draining "draining" SERVICE_UNAVAILABLE "The service is shutting down",
        StreamsExhausted "streams_exhausted" SERVICE_UNAVAILABLE "Too many event streams are open",
        StoreUnavailable "store_unavailable" SERVICE_UNAVAILABLE "The store cannot be used",
    }
}

codes! {
    /// Why a task failed: the `error.code` of a task. The status is that of `POST /run`, whose answer is the task.
    TaskCode {
        LimitSteps "limit_steps" UNPROCESSABLE_ENTITY "The run used all its model steps",
        LimitToolCalls "limit_tool_calls" UNPROCESSABLE_ENTITY "The run used all its tool calls",
        LimitActive "limit_active" UNPROCESSABLE_ENTITY "The run used all its working time",
        Expired "expired" UNPROCESSABLE_ENTITY "The task's wall time ran out",
        BudgetRun "budget_run" UNPROCESSABLE_ENTITY "The run's own budget is exhausted",
        BudgetShared "budget_shared" UNPROCESSABLE_ENTITY "A budget shared with other runs is exhausted",
        RepeatedCalls "repeated_calls" UNPROCESSABLE_ENTITY "The model repeated the same calls too often",
        ModelFailed "model_failed" BAD_GATEWAY "The model gave no reply after every attempt",
        ModelReplyAborted "model_reply_aborted" BAD_GATEWAY "The model's endpoint ended every reply with a failure",
        ModelEmptyReply "model_empty_reply" BAD_GATEWAY "The model's reply had neither text nor calls, every time",
        ModelRejected "model_rejected" BAD_GATEWAY "The model's endpoint refused the request",
        ContentFiltered "content_filtered" UNPROCESSABLE_ENTITY "The provider withheld the reply",
        OutputTruncated "output_truncated" UNPROCESSABLE_ENTITY "The reply reached the output limit",
        OutputInvalid "output_invalid" UNPROCESSABLE_ENTITY "The result does not satisfy the output schema",
        ContextOverflow "context_overflow" UNPROCESSABLE_ENTITY "The context does not fit the model's window",
        CapabilitiesChanged "capabilities_changed" UNPROCESSABLE_ENTITY "The agent changed while the task was under way",
        Cancelled "cancelled" CONFLICT "A client cancelled the task",
        InterruptedTooOften "interrupted_too_often" INTERNAL_SERVER_ERROR "The task's workers ended too often during one step",
        DeadLetter "dead_letter" INTERNAL_SERVER_ERROR "Workers took the task repeatedly without progress",
        Divergence "divergence" INTERNAL_SERVER_ERROR "The journal replays to another state",
        Internal "internal" INTERNAL_SERVER_ERROR "Something failed here",
    }
}

impl TaskCode {
    /// The code of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

/// A refusal under way to the client. It becomes a body in [`super::request_id`], which knows the request's id.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) code: Code,
    detail: String,
    field: Option<String>,
    task: Option<String>,
    waiting: Option<String>,
    retry_after: Option<Duration>,
    writes: Vec<RepeatedWrite>,
}

/// The body: RFC 9457, `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body<'a> {
    /// `urn:mote:error:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What the code means.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time.
    detail: &'a str,
    /// `urn:mote:request:` and the request's id, under which the log has more.
    instance: String,
    /// Stable; see docs/errors.md.
    code: &'static str,
    /// The field, header or parameter at fault, as a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// The task that is in the way (`session_busy`).
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a str>,
    /// What that task waits for, each with the request that answers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<super::dto::WaitBody>>)]
    waiting: Option<Box<RawValue>>,
    /// With `writes_repeated`: what the task did that may be done again.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    writes: &'a [RepeatedWrite],
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            field: None,
            task: None,
            waiting: None,
            retry_after: None,
            writes: Vec::new(),
        }
    }

    /// A field, header or parameter at fault.
    pub(super) fn field(code: Code, field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let field = field.into();
        let detail = format!("{field}: {message}");
        Self { field: Some(field), ..Self::new(code, detail) }
    }

    /// The task that is in the way, and what it waits for (JSON).
    pub(super) fn blocked_by(self, task: &str, waiting: Option<&str>) -> Self {
        Self { task: Some(task.to_owned()), waiting: waiting.map(str::to_owned), ..self }
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// What the log may say: of a field, which one; its message may quote what the request held.
    pub(super) fn public_detail(&self) -> &str {
        self.field.as_deref().unwrap_or(&self.detail)
    }

    pub(super) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// What the task did that may be done again.
    pub(super) fn writes(self, writes: Vec<RepeatedWrite>) -> Self {
        Self { writes, ..self }
    }

    pub(super) fn task_not_found(id: &str) -> Self {
        Self::new(Code::TaskNotFound, format!("task {id} does not exist"))
    }

    /// What a client may know of a failed store; the rest goes to the log.
    pub(super) fn store(error: &store::Error) -> Self {
        use store::Error;
        match error {
            Error::Overloaded { .. } | Error::Limit { .. } => {
                Self::new(Code::Overloaded, error.to_string()).retry_after(limits::RETRY_AFTER)
            }
            Error::Budget { .. } => Self::new(Code::BudgetExhausted, error.to_string()),
            Error::KeyReused => Self::new(Code::IdempotencyKeyReused, error.to_string()),
            Error::NotFound { what: "session", .. } => Self::new(Code::SessionNotFound, error.to_string()),
            Error::NotFound { .. } => Self::new(Code::TaskNotFound, error.to_string()),
            Error::SessionBusy { session, task, waiting: Some(waiting), .. } => {
                super::turn::busy(session, task, Some(waiting))
            }
            Error::SessionBusy { session, task, waiting: None, open } => super::turn::full(session, task, *open),
            Error::Conflict { .. } => Self::new(Code::Conflict, error.to_string()),
            Error::DiskFull
            | Error::Locked { .. }
            | Error::Corrupt { .. }
            | Error::SchemaTooNew { .. }
            | Error::Foreign { .. } => {
                tracing::error!(%error, "the store cannot be used");
                Self::new(Code::StoreUnavailable, "the store cannot be used now").retry_after(limits::RETRY_AFTER)
            }
            Error::Backend { .. } => {
                tracing::error!(%error, "the store failed");
                Self::new(Code::Internal, "the store failed; the log has more under this request's id")
            }
        }
    }

    pub(super) fn body(&self, request: &str) -> Body<'_> {
        Body {
            kind: format!("urn:mote:error:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            instance: format!("urn:mote:request:{request}"),
            code: self.code.as_str(),
            field: self.field.as_deref(),
            task: self.task.as_deref(),
            waiting: self.waiting.clone().map(super::dto::raw),
            writes: &self.writes,
        }
    }

    /// The whole response, for the request of that id.
    pub(super) fn respond(&self, request: &str) -> Response {
        let mut response = (self.code.status(), Json(self.body(request))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: a client that comes back exactly then is not refused again.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            headers.insert(header::RETRY_AFTER, super::number_header(seconds));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mote\""));
        }
        if self.field.as_deref() == Some(header::CONTENT_ENCODING.as_str()) {
            // RFC 9110, section 15.5.16: what would have been taken.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.code == Code::UpgradeRequired {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(HeaderName::from_static("sec-websocket-version"), HeaderValue::from_static("13"));
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Status and the problem itself, for the outermost middleware to write out.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::store(&error)
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Overloaded { ref retry_after, .. } => {
                let retry_after = *retry_after;
                Self::new(Code::Overloaded, error.to_string()).retry_after(retry_after)
            }
            SubmitError::Draining => Self::new(Code::Draining, error.to_string()).retry_after(limits::RETRY_AFTER),
            SubmitError::Invalid { field, message } => Self::field(Code::InvalidRequest, field, message),
            SubmitError::Budget { .. } => Self::new(Code::BudgetExhausted, error.to_string()),
            SubmitError::Store(error) => Self::store(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Rows `| `code` | status | …` below a heading.
    fn documented(heading: &str) -> BTreeSet<(String, u16)> {
        let document = include_str!("../../../../docs/errors.md");
        let section = document.split("\n## ").find(|section| section.starts_with(heading)).expect("the section exists");
        let row = |line: &str| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let code = cells.next()?.trim_end_matches('`').to_owned();
            Some((code, cells.next()?.parse().ok()?))
        };
        section.lines().filter_map(row).collect()
    }

    #[test]
    fn every_code_of_a_problem_is_documented_with_its_status_and_no_other() {
        let here = Code::ALL.iter().map(|code| (code.as_str().to_owned(), code.status().as_u16())).collect();
        assert_eq!(documented("Problems"), here);
    }

    #[test]
    fn every_code_of_a_task_is_documented_with_its_status_and_no_other() {
        let here = TaskCode::ALL.iter().map(|code| (code.as_str().to_owned(), code.status().as_u16())).collect();
        assert_eq!(documented("Tasks"), here);
    }

    #[test]
    fn what_the_store_says_of_its_files_stays_in_the_log() {
        let corrupt = store::Error::Corrupt { path: "/var/lib/mote/state.db".into(), detail: "page 7".into() };
        let backend = store::Error::Backend { operation: "insert", detail: "table tasks".into() };
        for error in [corrupt, backend] {
            let body = serde_json::to_string(&Problem::store(&error).body("req_1")).unwrap();
            assert!(
                !body.contains("/var/lib") && !body.contains("tasks") && body.contains("urn:mote:request:req_1"),
                "{body}"
            );
        }
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up() {
        let response = Problem::new(Code::Overloaded, "full").retry_after(Duration::from_millis(1200)).respond("r");
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
