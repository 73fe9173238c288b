//! A failure as an HTTP answer: the status of its code, the body as it is, `Retry-After` where it says when.
//!
//! It changes no message: what must not be told is not in a failure in the first place.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};

/// A failure on its way to the caller.
#[derive(Debug)]
pub struct Refusal(pub Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        if failure.code == Code::Internal {
            tracing::error!(error = %failure, "a request failed");
        }
        let status = StatusCode::from_u16(failure.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&failure)).into_response();
        if let Some(seconds) = failure.context.get("retry_after_s")
            && let Ok(value) = HeaderValue::from_str(seconds)
        {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        if failure.code == Code::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
