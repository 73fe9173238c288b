//! SWE-ReX's remote interface (PyPI `swe-rex`), below `/v1/sandboxes/{id}/swerex`: its `RemoteRuntime` takes that address as
//! `host`, and an API key or the sandbox's token as `auth_token`.
//!
//! A session is a bash context of the code interpreter. `docs/sandbox-swe-rex.md` says what maps and what does not.

mod body;
mod failure;
mod file;
mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::request::Parts;
use mote_sandbox_api::error::{Code, Failure};
use serde_json::json;

use super::Api;
use super::access::User;
use super::failure::Refusal;
use crate::code::Interpreter;
use crate::guest::Guest;
use failure::Raised;

/// Where the interface stands.
const BELOW: &str = "/v1/sandboxes/{id}/swerex";

/// What the interface stands on; clones share it.
#[derive(Clone, Debug)]
struct SweRex {
    api: Api,
    interpreter: Interpreter,
    /// The context of each session, by sandbox and name.
    sessions: Arc<Mutex<HashMap<(String, String), String>>>,
}

impl SweRex {
    fn sessions(&self) -> MutexGuard<'_, HashMap<(String, String), String>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest of a sandbox, awake.
    async fn guest(&self, sandbox: &str) -> Result<Guest, Raised> {
        Ok(self.api.sandboxes.awake(sandbox).await?)
    }
}

/// The routes.
pub(super) fn router(api: &Api, interpreter: &Interpreter) -> Router {
    let state = SweRex { api: api.clone(), interpreter: interpreter.clone(), sessions: Arc::default() };
    let routes = Router::new()
        .route("/is_alive", get(is_alive))
        .route("/create_session", post(session::create))
        .route("/run_in_session", post(session::run))
        .route("/close_session", post(session::close))
        .route("/execute", post(session::execute))
        .route("/read_file", post(file::read))
        .route("/write_file", post(file::write))
        .route("/upload", post(file::upload).layer(axum::extract::DefaultBodyLimit::disable()))
        .route("/close", post(session::close_all))
        .with_state(state);
    Router::new().nest(BELOW, routes)
}

/// Somebody who may use the sandbox in the path. SWE-ReX has one header for a token, `X-API-Key`: an API key or the sandbox's
/// own token may stand in it.
struct Caller(String);

impl FromRequestParts<SweRex> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &SweRex) -> Result<Self, Refusal> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let sandbox = path.ok().and_then(|Path(mut names)| names.remove("id")).unwrap_or_default();
        let token = parts.headers.get("x-api-key").and_then(|value| value.to_str().ok());
        let vault = state.api.sandboxes.store().vault();
        if token.is_some_and(|token| vault.is_token("access", &sandbox, token)) {
            return Ok(Self(sandbox));
        }
        Ok(Self(User::from_request_parts(parts, &state.api).await?.sandbox))
    }
}

/// Asked again and again until it holds: it wakes nothing, and a sandbox that is not there is no failure.
async fn is_alive(State(state): State<SweRex>, Caller(sandbox): Caller) -> Response {
    let (is_alive, message) = match state.api.sandboxes.get(&sandbox) {
        Ok(told) if told.state.is_usable() => (true, String::new()),
        Ok(told) => (false, format!("the sandbox is {}", told.state)),
        Err(failure) => (false, failure.message),
    };
    Json(json!({ "is_alive": is_alive, "message": message })).into_response()
}

/// What has no counterpart here, named.
fn unsupported(feature: &str, why: &str) -> Failure {
    Failure::new(Code::Unsupported, format!("{feature} is not supported: {why}")).with("feature", feature)
}
