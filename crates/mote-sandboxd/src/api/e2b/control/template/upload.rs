//! Uploads for `copy`: an address that is good for a while and for one upload's name, and what is put there.

use axum::Extension;
use axum::body::Body as HttpBody;
use axum::extract::{Path, RawQuery, State};
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use serde_json::json;

use super::Builder;
use crate::api::OverTls;
use crate::api::e2b::control::body::{Answer, json_answer};
use crate::api::e2b::failure::Refused;
use crate::api::e2b::{E2b, query};
use crate::limits::{TEMPLATE_UPLOAD_ADDRESS_MS, TEMPLATE_UPLOAD_BYTES_MAX};
use crate::template::{files, plan};

/// What the token of an upload's address is for.
const PURPOSE: &str = "upload";

fn checked(hash: &str) -> Result<(), Failure> {
    let is_hash = plan::is_hash(hash);
    is_hash.then_some(()).ok_or_else(|| Failure::invalid("hash", "64 hexadecimal digits in lower case are needed"))
}

/// `GET /templates/{id}/files/{hash}`: whether the files are there, and where they go.
pub(super) async fn address(
    State(e2b): State<E2b>,
    _: Builder,
    Path((id, hash)): Path<(String, String)>,
    secure: Option<Extension<OverTls>>,
    headers: HeaderMap,
) -> Answer {
    checked(&hash)?;
    let template = e2b.api.templates.get(&id)?;
    let present = e2b.api.templates.files().find(&template.id, &hash).await?.is_some();
    let until = e2b.api.sandboxes.clock().now_ms().saturating_add(TEMPLATE_UPLOAD_ADDRESS_MS);
    let token = e2b.api.sandboxes.store().vault().token(PURPOSE, &subject(&template.id, &hash, until));
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // The address by which the caller has come: the daemon does not know another.
    let host = text(header::HOST.as_str())
        .ok_or_else(|| Failure::invalid("host", "the request names no host, which the address of an upload needs"))?;
    let forwarded = text("x-forwarded-proto").filter(|scheme| ["http", "https"].contains(scheme));
    let scheme = forwarded.unwrap_or(if secure.is_some() { "https" } else { "http" });
    let url = format!("{scheme}://{host}/templates/{}/files/{hash}?expires={until}&token={token}", template.id);
    Ok(json_answer(StatusCode::CREATED, &json!({ "present": present, "url": url })))
}

fn subject(template: &str, hash: &str, until: u64) -> String {
    format!("{template}/{hash}/{until}")
}

/// `PUT` of the files, by the address that was given: E2B's SDKs send no key there.
pub(super) async fn take(
    State(e2b): State<E2b>,
    Path((id, hash)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<StatusCode, Refused> {
    checked(&hash)?;
    let query = query.as_deref();
    let until = query::value(query, "expires").and_then(|until| until.parse().ok()).unwrap_or(0);
    let token = query::value(query, "token").unwrap_or_default();
    let vault = e2b.api.sandboxes.store().vault();
    if e2b.api.sandboxes.clock().now_ms() > until || !vault.is_token(PURPOSE, &subject(&id, &hash, until), &token) {
        return Err(Failure::new(Code::Forbidden, "the address of the upload is not good, or not any more").into());
    }
    // It may have been removed since.
    let template = e2b.api.templates.get(&id)?;
    let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|told| told > TEMPLATE_UPLOAD_BYTES_MAX) {
        return Err(files::too_large().into());
    }
    let chunks = body
        .into_data_stream()
        .map(|chunk| chunk.map_err(|error| Failure::new(Code::Invalid, format!("failed to read the upload: {error}"))));
    e2b.api.templates.files().take(&template.id, &hash, chunks).await?;
    Ok(StatusCode::OK)
}
