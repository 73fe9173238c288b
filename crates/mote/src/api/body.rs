//! Reading a request's body: bounded in size, in time and in what all of them take together, and JSON only: UTF-8 and not
//! compressed, which would let few bytes become many.
//!
//! Asking for `application/json` also keeps foreign pages out: a browser sends it across origins only after a preflight,
//! which [`super::cors`] answers. It does not know what a body says; [`super::dto`] does.

use std::sync::Arc;

use axum::body::HttpBody as _;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
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

/// Refuses what is sent in an encoding, or as a type, that is not understood.
fn check_form(headers: &HeaderMap) -> Result<(), Problem> {
    let refused =
        |name: HeaderName, message: String| Problem::field(Code::UnsupportedMediaType, name.as_str(), message);
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let coding = value.to_str().unwrap_or("?");
        if !coding.split(',').all(|coding| coding.trim().eq_ignore_ascii_case("identity")) {
            return Err(refused(header::CONTENT_ENCODING, format!("must be identity or absent, not {coding}")));
        }
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter().map(|value| value.to_str().unwrap_or("?"));
    match (types.next(), types.next()) {
        (Some(found), None) if is_json(found) => Ok(()),
        (found, more) => {
            let found = if more.is_some() { "two of them" } else { found.unwrap_or("none") };
            Err(refused(header::CONTENT_TYPE, format!("must be application/json, in UTF-8, not {found}")))
        }
    }
}

impl FromRequest<Arc<Api>> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        check_form(request.headers())?;
        read(request, api).await
    }
}

/// A body that may be left out.
pub(super) struct OptionalJsonBytes(JsonBytes);

impl OptionalJsonBytes {
    /// The object that it is, if there is one; null is none.
    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<Option<T>, Problem> {
        if self.0.bytes.is_empty() || self.0.bytes.trim_ascii() == b"null" {
            Ok(None)
        } else {
            self.0.parse().map(Some)
        }
    }

    /// What it says, whatever it is; null if there is none.
    pub(super) fn parse_any(self) -> Result<serde_json::Value, Problem> {
        if self.0.bytes.is_empty() { Ok(serde_json::Value::Null) } else { dto::parse_any(&self.0.bytes) }
    }
}

impl FromRequest<Arc<Api>> for OptionalJsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let announced = [header::CONTENT_TYPE, header::CONTENT_ENCODING];
        if announced.iter().any(|name| request.headers().contains_key(name)) {
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
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    // JSON has no charset parameter (RFC 8259, section 11); what says UTF-8 says nothing wrong.
    let charset = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            ["utf-8", "utf8"].iter().any(|known| value.trim().trim_matches('"').eq_ignore_ascii_case(known))
        }
        _ => true,
    };
    essence.eq_ignore_ascii_case("application/json") && parts.all(charset)
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
