//! `GET /v1/snapshots/{id}/export` and `POST /v1/snapshots`: snapshots as files, streamed both ways.
//!
//! Nothing is held but a frame. What a file holds is not looked at here.

use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use serde::Deserialize;

use super::body::{Answer, Query, json};
use crate::api::Api;
use crate::api::access::Holder;
use crate::transfer::too_large;

/// Type of the file.
pub(super) const MEDIA_TYPE: &str = "application/vnd.mote.snapshot";

pub(super) async fn export(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    let exported = api.sandboxes.export(&id).await?;
    let name = format!("attachment; filename=\"{}.snapshot\"", exported.snapshot);
    // A failure breaks the answer off: what the caller has is then not whole, and it knows.
    let frames = exported.into_stream().map(|frame| frame.map_err(std::io::Error::other));
    let mut response = Response::new(HttpBody::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(name) = HeaderValue::try_from(name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ImportQuery {
    /// A name for the snapshot; the one it had where absent.
    #[serde(default)]
    name: Option<String>,
}

pub(super) async fn import(
    State(api): State<Api>,
    _: Holder,
    Query(query): Query<ImportQuery>,
    headers: HeaderMap,
    body: HttpBody,
) -> Answer {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most = api.sandboxes.import_bytes_max();
    if told.is_some_and(|told| told > most) {
        return Err(too_large(most).into());
    }
    let chunks = body.into_data_stream().map(|chunk| {
        chunk.map_err(|error| Failure::new(Code::Invalid, format!("failed to read the snapshot: {error}")))
    });
    let snapshot = api.sandboxes.import(query.name, Box::pin(chunks)).await?;
    Ok(json(StatusCode::CREATED, &snapshot))
}
