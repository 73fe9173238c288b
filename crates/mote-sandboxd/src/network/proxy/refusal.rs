//! What a client is answered over HTTP when its request is refused or cannot be carried out.
//!
//! It decides nothing.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;

use super::upstream;
use crate::network::decision::Reason;

/// A body, of ours or passed on.
pub(super) type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A body of ours.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: Reason,
    pub(super) detail: String,
}

/// The body of a refusal (RFC 9457).
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    reason: Reason,
    detail: &'a str,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: Reason, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: detail.into() }
    }

    /// The policy does not allow it.
    pub(super) fn denied(reason: Reason, host: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            reason,
            format!("the sandbox's network policy does not allow {host} ({reason})"),
        )
    }

    pub(super) fn response(&self) -> Response<Body> {
        let (title, code) = match self.reason {
            Reason::Unreachable | Reason::Certificate => ("The destination cannot be reached", "egress_unreachable"),
            Reason::NotOnTape => ("The exchange is not on the tape", "not_on_tape"),
            _ => ("The request does not leave the sandbox", "egress_denied"),
        };
        let problem = Problem { title, status: self.status.as_u16(), code, reason: self.reason, detail: &self.detail };
        let mut response = Response::new(whole(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<upstream::Error> for Refusal {
    fn from(error: upstream::Error) -> Self {
        let reason = match &error {
            upstream::Error::Tls(..) => Reason::Certificate,
            upstream::Error::Connect(..) | upstream::Error::Http(..) => Reason::Unreachable,
        };
        Self::new(StatusCode::BAD_GATEWAY, reason, error.to_string())
    }
}
