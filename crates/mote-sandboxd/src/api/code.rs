//! The code interpreter over HTTP: the routes are E2B's (port 49999 of a sandbox) and, below `/v1/sandboxes/{id}/code`, the
//! native API's.
//!
//! It does not find the sandbox: whoever mounts it puts a [`Desk`] in the request's extensions.

use axum::body::Body;
use axum::extract::{Extension, FromRequestParts as _, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use serde::de::DeserializeOwned;

use super::Api;
use super::access::User;
use super::failure::Refusal;
use crate::api::gather::gathered;
use crate::code::{Cell, Dead, Interpreter, NewContext};
use crate::guest::Guest;
use crate::limits::CODE_REQUEST_BYTES_MAX;

/// A sandbox whose code contexts are asked for.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) interpreter: Interpreter,
    pub(super) sandbox: String,
    pub(super) guest: Guest,
}

/// Every route with its methods.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter)> {
    vec![
        ("/health", get(async || StatusCode::OK)),
        ("/execute", post(execute)),
        ("/contexts", get(list).post(create)),
        ("/contexts/{context}", delete(remove)),
        ("/contexts/{context}/restart", post(restart)),
        ("/contexts/{context}/interrupt", post(interrupt)),
    ]
}

/// The routes of a sandbox that was reached.
pub(super) fn router() -> Router {
    routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
}

/// Where the native API has them.
pub(super) const BELOW: &str = "/v1/sandboxes/{id}/code";

/// The same below `/v1/sandboxes/{id}/code`.
pub(super) fn native(api: &Api, interpreter: &Interpreter) -> Router {
    let state = (api.clone(), interpreter.clone());
    Router::new().nest(BELOW, router().layer(from_fn_with_state(state, find)))
}

async fn find(
    State((api, interpreter)): State<(Api, Interpreter)>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let User { sandbox } = User::from_request_parts(&mut parts, &api).await?;
    let guest = api.sandboxes.awake(&sandbox).await?;
    parts.extensions.insert(Desk { interpreter, sandbox, guest });
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    let bytes = gathered(request.into_body(), CODE_REQUEST_BYTES_MAX).await?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text)
        .map_err(|error| Failure::new(Code::Invalid, format!("failed to read the body: {error}")))
}

/// Messages as lines of JSON, as they happen. A client that goes away interrupts the cell.
async fn execute(Extension(desk): Extension<Desk>, request: Request) -> Result<Response, Refusal> {
    let cell: Cell = read(request).await?;
    let messages = desk.interpreter.execute(&desk.sandbox, &desk.guest, cell, Dead::Revive).await?;
    // Where the sandbox ends first, the body breaks off: E2B's clients then ask whether it still runs.
    let lines = messages.map(|message| {
        let mut line = serde_json::to_vec(&message.map_err(std::io::Error::other)?)?;
        line.push(b'\n');
        Ok::<_, std::io::Error>(Bytes::from(line))
    });
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

async fn list(Extension(desk): Extension<Desk>) -> Result<Response, Refusal> {
    Ok(Json(desk.interpreter.list(&desk.sandbox, &desk.guest).await?).into_response())
}

async fn create(Extension(desk): Extension<Desk>, request: Request) -> Result<Response, Refusal> {
    let new: NewContext = read(request).await?;
    Ok(Json(desk.interpreter.create(&desk.sandbox, &desk.guest, new).await?).into_response())
}

/// The context of a path: below `/v1` the sandbox stands in it as well.
type Of = Path<std::collections::HashMap<String, String>>;

fn context(Path(names): &Of) -> &str {
    names.get("context").map_or("", String::as_str)
}

async fn remove(Extension(desk): Extension<Desk>, path: Of) -> Result<StatusCode, Refusal> {
    desk.interpreter.remove(&desk.sandbox, &desk.guest, context(&path)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(Extension(desk): Extension<Desk>, path: Of) -> Result<StatusCode, Refusal> {
    desk.interpreter.restart(&desk.sandbox, &desk.guest, context(&path)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn interrupt(Extension(desk): Extension<Desk>, path: Of) -> Result<StatusCode, Refusal> {
    desk.interpreter.interrupt(&desk.sandbox, &desk.guest, context(&path)).await?;
    Ok(StatusCode::NO_CONTENT)
}
