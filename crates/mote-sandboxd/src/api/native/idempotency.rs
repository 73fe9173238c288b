//! `Idempotency-Key`: the first answer under a key is given again, and the request has no second effect.
//!
//! Failures are not kept: the caller may try again under the same key.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use mote_sandbox_api::error::{Code, Failure};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::body::json;
use crate::api::Api;
use crate::api::access::Holder;
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::state::Reply;

/// Requests under way, by key: two at once are one.
static UNDER_WAY: Mutex<Option<HashMap<String, Weak<tokio::sync::Mutex<()>>>>> = Mutex::new(None);

fn turn(key: &str) -> Arc<tokio::sync::Mutex<()>> {
    let mut guard = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let keys = guard.get_or_insert_default();
    if let Some(turn) = keys.get(key).and_then(Weak::upgrade) {
        return turn;
    }
    keys.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    keys.insert(key.to_owned(), Arc::downgrade(&turn));
    turn
}

/// Performs `operation` once under the request's key, if it has one. `scope` is the method and the path.
pub(in crate::api) async fn once<T: Serialize>(
    api: &Api,
    holder: &Holder,
    headers: &HeaderMap,
    scope: &str,
    body: &[u8],
    status: StatusCode,
    operation: impl Future<Output = Result<T, Failure>>,
) -> Result<Response, Failure> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(json(status, &operation.await?));
    };
    let key = key
        .to_str()
        .ok()
        .map(|key| key.trim_matches('"'))
        .filter(|key| !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX);
    let key = key.ok_or_else(|| {
        let message = format!("it must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} characters of ASCII");
        Failure::invalid("Idempotency-Key", message)
    })?;
    let key = format!("{}\n{key}", holder.name);
    let request: [u8; 32] = Sha256::digest([scope.as_bytes(), b"\n", body].concat()).into();
    let turn = turn(&key);
    let _turn = turn.lock().await;
    let store = api.sandboxes.store();
    if let Some(known) = store.reply(&key).await? {
        if known.request != request {
            return Err(Failure::new(Code::Conflict, "the idempotency key came back with another request"));
        }
        let mut response = (status, known.reply).into_response();
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        return Ok(response);
    }
    let value = operation.await?;
    let text = serde_json::to_string(&value)
        .map_err(|error| Failure::new(Code::Internal, format!("failed to write the answer: {error}")))?;
    store.put_reply(&key, Reply { request, reply: text }, api.sandboxes.clock().now_ms()).await?;
    Ok(json(status, &value))
}
