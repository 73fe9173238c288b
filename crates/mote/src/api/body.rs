//! Reading a request's body: bounded in size, in time and in what all of them take together, and JSON only.
//!
//! Asking for `application/json` also keeps foreign pages out: a browser sends it across origins only after a preflight,
//! which [`super::cors`] answers. It does not know what a body says; [`super::dto`] does.

use std::sync::Arc;

use axum::body::HttpBody as _;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::dto;
use super::problem::{Code, Problem};
use super::state::Api;
use crate::limits;

/// A JSON body as it came, and its share of what all bodies may take.
pub(super) struct JsonBytes {
    bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl JsonBytes {
    /// What it says. The bytes are gone afterwards: a run may take long.
    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<T, Problem> {
        dto::parse(&self.bytes)
    }
}

impl FromRequest<Arc<Api>> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let found = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        if !found.is_some_and(is_json) {
            let found = found.unwrap_or("none");
            let message = format!("must be application/json, not {found}");
            return Err(Problem::field(Code::UnsupportedMediaType, "content-type", message));
        }
        read(request, api).await
    }
}

/// A body that may be left out.
pub(super) struct OptionalJsonBytes(JsonBytes);

impl OptionalJsonBytes {
    /// What it says, if there is one.
    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<Option<T>, Problem> {
        if self.0.bytes.is_empty() { Ok(None) } else { self.0.parse().map(Some) }
    }
}

impl FromRequest<Arc<Api>> for OptionalJsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        if request.headers().contains_key(header::CONTENT_TYPE) {
            return JsonBytes::from_request(request, api).await.map(Self);
        }
        let body = read(request, api).await?;
        if body.bytes.is_empty() {
            return Ok(Self(body));
        }
        Err(Problem::field(Code::UnsupportedMediaType, "content-type", "must be application/json, not none"))
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// What a body may come to, bytes: what was announced, or the bound.
fn announced(request: &Request) -> usize {
    let announced = request.body().size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
    announced.unwrap_or(limits::REQUEST_BODY_BYTES_MAX).min(limits::REQUEST_BODY_BYTES_MAX)
}

async fn read(request: Request, api: &Arc<Api>) -> Result<JsonBytes, Problem> {
    let share = api.body_share(announced(&request))?;
    let reading = Bytes::from_request(request, api);
    match tokio::time::timeout(limits::BODY_READ_TIMEOUT, reading).await {
        Ok(Ok(bytes)) => Ok(JsonBytes { bytes, _share: share }),
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
