//! `POST /tasks/{id}/stream-token`: a short-lived token that opens one task's stream from a browser, whose `EventSource` and
//! `WebSocket` cannot send headers.
//!
//! What a token says and how it is signed is [`crate::auth::token`]'s business; its secret is the store's.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::body::OptionalJsonBytes;
use super::path::Places;
use super::problem::{Code, Problem};
use super::query::Params;
use super::state::Api;
use crate::auth::Principal;
use crate::auth::token::{StreamTokens, fresh_secret};
use crate::limits;
use crate::timestamp::format_rfc3339;

/// The parameter of a stream's query that carries the token.
pub(super) const PARAMETER: &str = "token";
/// The secret's name in the store.
const SECRET: &str = "stream_tokens";

/// A token for one task's stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StreamToken)]
pub(super) struct TokenBody {
    /// The token: `?token=` of the two streams. It opens nothing else.
    token: String,
    /// Until when a stream may be opened with it, RFC 3339; one that is open then goes on.
    expires: String,
    /// The stream for `EventSource`, token included.
    events: String,
    /// The stream for `WebSocket`, token included.
    ws: String,
}

/// Makes a token with which a browser may follow the task.
#[utoipa::path(
    post, path = "/tasks/{id}/stream-token", tag = "tasks", operation_id = "task_stream_token",
    params(("id" = String, Path, description = "The task.")),
    responses(
        (status = 200, description = "The token, good for 5 minutes, for this task, and only while its key is.", body = TokenBody),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn issue(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    params: Params,
    body: OptionalJsonBytes,
) -> Result<Response, Problem> {
    params.finish()?;
    super::tasks::no_fields(body)?;
    let task = super::tasks::visible(&api, &principal, &id).await?;
    let ttl = u64::try_from(limits::STREAM_TOKEN_TTL.as_millis()).unwrap_or(u64::MAX);
    let expires_at = api.runner.now().saturating_add(ttl);
    let token = tokens(&api).await?.issue(&principal, &task.id, expires_at);
    let to = |stream: &str| format!("/tasks/{id}/{stream}?{PARAMETER}={token}");
    let body = TokenBody { expires: format_rfc3339(expires_at), events: to("events"), ws: to("ws"), token };
    let mut response = Json(body).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn tokens(api: &Api) -> Result<&StreamTokens, Problem> {
    let make = async || -> Result<StreamTokens, Problem> {
        let fresh = fresh_secret().map_err(|error| {
            tracing::error!(%error, "failed to make the secret of stream tokens");
            Problem::new(Code::Internal, "failed to make a token; the log has more under this request's id")
        })?;
        Ok(StreamTokens::new(&api.runner.store().secret(SECRET, fresh).await?))
    };
    api.stream_tokens.get_or_try_init(make).await
}

/// Whom a token in a stream's query lets in.
pub(super) async fn authenticate(api: &Api, task: &str, token: &str) -> Result<Principal, Problem> {
    let holder = |name: &str| match &api.keys {
        Some(keys) => keys.holder(name),
        None => Some(Principal::anonymous()),
    };
    let found = tokens(api).await?.check(token, task, api.runner.now(), holder);
    found.ok_or_else(|| {
        let detail =
            format!("the stream token is not (or no longer) good for this task; POST /tasks/{task}/stream-token");
        Problem::new(Code::Unauthenticated, detail)
    })
}
