//! Reading a request's body: bounded in size and in time, and JSON only.
//!
//! Asking for `application/json` also keeps foreign pages out: a browser sends it across origins only after a preflight,
//! which [`super::cors`] answers. It does not parse; [`super::dto`] does.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{StatusCode, header};

use super::problem::{Code, Problem};
use crate::limits;

/// A JSON body as it came.
pub(super) struct JsonBytes(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let found = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        if !found.is_some_and(is_json) {
            let found = found.unwrap_or("none");
            let message = format!("must be application/json, not {found}");
            return Err(Problem::field(Code::UnsupportedMediaType, "content-type", message));
        }
        read(request, state).await.map(Self)
    }
}

/// A body that may be left out: empty bytes then.
pub(super) struct OptionalJsonBytes(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for OptionalJsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if request.headers().contains_key(header::CONTENT_TYPE) {
            return JsonBytes::from_request(request, state).await.map(|body| Self(body.0));
        }
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        Err(Problem::field(Code::UnsupportedMediaType, "content-type", "must be application/json, not none"))
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let reading = Bytes::from_request(request, state);
    match tokio::time::timeout(limits::BODY_READ_TIMEOUT, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is larger than {} bytes", limits::REQUEST_BODY_BYTES_MAX);
            Err(Problem::new(Code::BodyTooLarge, detail))
        }
        Ok(Err(rejection)) => Err(Problem::new(Code::InvalidJson, format!("failed to read the body: {rejection}"))),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", limits::BODY_READ_TIMEOUT.as_secs());
            Err(Problem::new(Code::RequestTimeout, detail))
        }
    }
}
