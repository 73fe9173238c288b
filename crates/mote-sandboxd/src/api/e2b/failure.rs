//! Failures in E2B's shapes: `{code, message}` of the control plane and of files, Connect's code words of the RPCs.
//!
//! It changes no message beyond naming the feature that is not there.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use serde_json::json;

/// A failure on its way to a client of E2B's.
#[derive(Debug)]
pub(in crate::api) struct Refused(pub(super) Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// Status of a failure: E2B knows no `410`, a sandbox that is gone is not found.
fn status(failure: &Failure) -> StatusCode {
    match failure.code {
        Code::Gone => StatusCode::NOT_FOUND,
        code => StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// E2B's own words for a sandbox that is not there: callers look for them.
fn absent(failure: &Failure) -> Option<String> {
    let is_sandbox = failure.context.get("kind").is_some_and(|kind| kind == "sandbox");
    let id = failure.context.get("id").or_else(|| failure.context.get("sandbox"))?;
    let is_absent = failure.code == Code::Gone || (failure.code == Code::NotFound && is_sandbox);
    is_absent.then(|| format!("Sandbox {id:?} doesn't exist or you don't have access to it"))
}

/// The message with what else the caller should know: E2B's errors have no other place for it.
pub(super) fn message(failure: &Failure) -> String {
    let mut message = failure.message.clone();
    if failure.code == Code::Unsupported
        && let Some(feature) = failure.context.get("feature")
        && !message.contains(feature.as_str())
    {
        message = format!("{feature}: {message}");
    }
    if let Some(remediation) = &failure.remediation {
        message = format!("{message} ({remediation})");
    }
    message
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        if failure.code == Code::Internal {
            tracing::error!(error = %failure, "a request failed");
        }
        let status = status(&failure);
        let message = absent(&failure).unwrap_or_else(|| message(&failure));
        let body = json!({ "code": status.as_u16(), "message": message });
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = failure.context.get("retry_after_s")
            && let Ok(value) = HeaderValue::from_str(seconds)
        {
            headers.insert(header::RETRY_AFTER, value);
        }
        // The SDKs repeat what answers 429 or 504 unless told otherwise; only a full queue gets better by that.
        let again = failure.code == Code::Exhausted;
        headers.insert("should-retry", HeaderValue::from_static(if again { "true" } else { "false" }));
        response
    }
}

/// Connect's code word (connectrpc.com/docs/protocol, "Error codes").
pub(super) fn connect_code(failure: &Failure) -> &'static str {
    match failure.code {
        Code::NotFound if failure.context.get("kind").is_some_and(|kind| kind == "user") => "unauthenticated",
        Code::NotFound if failure.context.get("kind").is_some_and(|kind| kind == "cwd") => "invalid_argument",
        Code::Invalid => "invalid_argument",
        Code::Unauthenticated => "unauthenticated",
        Code::Forbidden => "permission_denied",
        Code::NotFound => "not_found",
        Code::Conflict => "already_exists",
        Code::IllegalTransition => "failed_precondition",
        Code::Busy => "aborted",
        Code::Exhausted | Code::NoSpace | Code::TooLarge => "resource_exhausted",
        Code::Timeout => "deadline_exceeded",
        Code::Unsupported => "unimplemented",
        Code::Gone => "unavailable",
        _ => "internal",
    }
}

/// HTTP status of a unary RPC that failed with this code word (the same page of the protocol).
pub(super) fn connect_status(code: &str) -> StatusCode {
    match code {
        "invalid_argument" | "failed_precondition" | "out_of_range" => StatusCode::BAD_REQUEST,
        "unauthenticated" => StatusCode::UNAUTHORIZED,
        "permission_denied" => StatusCode::FORBIDDEN,
        "not_found" => StatusCode::NOT_FOUND,
        "already_exists" | "aborted" => StatusCode::CONFLICT,
        "resource_exhausted" => StatusCode::TOO_MANY_REQUESTS,
        "unimplemented" => StatusCode::NOT_IMPLEMENTED,
        "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "deadline_exceeded" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
