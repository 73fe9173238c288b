//! Reading requests: JSON bodies and queries, with errors that name the field.
//!
//! It sets no defaults: the types do.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use mote_sandbox_api::error::{Code, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::failure::Refusal;
pub(super) use crate::api::gather::gathered;
use crate::limits::BODY_BYTES_MAX;

/// A JSON body. An empty one is read as `{}`, so that what has only defaults needs no body.
#[derive(Debug)]
pub(super) struct Body<T> {
    pub(super) value: T,
    /// As it came, for the digest of idempotency.
    pub(super) bytes: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = gathered(request.into_body(), BODY_BYTES_MAX).await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let value = serde_json::from_slice(text).map_err(|error| {
            Failure::new(Code::Invalid, format!("failed to read the body: {error}"))
                .with("line", error.line())
                .with("column", error.column())
        })?;
        Ok(Self { value, bytes })
    }
}

/// The query.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::new(Code::Invalid, error.body_text()).with("field", "query").into()),
        }
    }
}

/// An answer in JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    (status, axum::Json(value)).into_response()
}

/// What handlers return.
pub(super) type Answer = Result<Response, Refusal>;
