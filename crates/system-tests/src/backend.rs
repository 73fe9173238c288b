//! A tool backend over real HTTP that counts: requests, distinct effects, and what it did for each idempotency key.
//!
//! Routes, `{name}` being anything the test chooses:
//! - `GET /read/{name}`: reads.
//! - `POST /idempotent/{name}`: needs an `Idempotency-Key`; one effect a key, later requests replay the first answer.
//! - `POST /write/{name}`: an effect a request.
//!
//! An effect happens before the delay, so that a caller that dies while it waits has had it. State is in memory: it
//! does not survive this process; the tests kill the caller.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::limits::{BODY_BYTES_MAX, PATIENCE, POLL, RECORDED_MAX};
use crate::listener::{Listener, Reset};

/// How a route behaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conduct {
    /// Waits before it answers, after the effect, ms.
    pub delay_ms: u64,
    /// Answers with this status instead of 200.
    pub status: Option<u16>,
    /// `Retry-After` beside the status, seconds.
    pub retry_after: Option<u64>,
    /// Whether a failing answer has had its effect nonetheless.
    pub effect_before_failure: bool,
    /// Never answers.
    pub hang: bool,
    /// Resets the connection instead of answering.
    pub reset: bool,
    /// Answers with a redirect to this place.
    pub redirect: Option<String>,
    /// The answer's body instead of the usual one.
    pub body: Option<String>,
    /// Pads the answer to so many bytes.
    pub pad_bytes: usize,
    /// How many requests this holds for; absent is all.
    pub times: Option<u64>,
}

/// What happened under one `{kind}/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Effects.
    pub effects: u64,
    /// Requests that carried each idempotency key.
    pub keys: BTreeMap<String, u64>,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body as text.
    pub body: String,
}

impl Recorded {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Inner {
    conducts: BTreeMap<String, Vec<(Conduct, u64)>>,
    counts: BTreeMap<String, Count>,
    answers: BTreeMap<String, Value>,
    recorded: Vec<Recorded>,
}

/// What the handlers share.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Inner>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running backend. Dropping it stops it.
pub struct Backend {
    address: SocketAddr,
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> std::io::Result<Self> {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts on an address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(address: SocketAddr) -> std::io::Result<Self> {
        let listener = Listener::bind(address)?;
        let address = listener.address()?;
        let shared = Shared::default();
        let service = router(shared.clone()).into_make_service_with_connect_info::<Reset>();
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, service).await;
        });
        Ok(Self { address, shared, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a conduct for `kind/name`; those set earlier come first until they are used up.
    pub fn set(&self, route: &str, conduct: Conduct) {
        self.shared.lock().conducts.entry(route.to_owned()).or_default().push((conduct, 0));
    }

    /// What happened under `kind/name`.
    #[must_use]
    pub fn count(&self, route: &str) -> Count {
        self.shared.lock().counts.get(route).cloned().unwrap_or_default()
    }

    /// Every request so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().recorded.clone()
    }

    /// Waits until so many requests came to `kind/name`.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn wait_for_requests(&self, route: &str, least: u64) -> anyhow::Result<()> {
        let reached = async {
            while self.count(route).requests < least {
                tokio::time::sleep(POLL).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, reached).await;
        waited.map_err(|_| anyhow::anyhow!("{route} got {} requests, not {least}", self.count(route).requests))
    }

    /// Waits for the server to end; it does so only on failure.
    pub async fn join(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/read/{name}", any(read))
        .route("/idempotent/{name}", any(idempotent))
        .route("/write/{name}", any(write))
        .route("/_control/conduct/{kind}/{name}", put(set_conduct))
        .route("/_control/counts", get(counts))
        .route("/_control/requests", get(requests))
        .route("/_control/reset", post(reset))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn read(
    State(shared): State<Shared>,
    ConnectInfo(connection): ConnectInfo<Reset>,
    Path(name): Path<String>,
    call: Call,
) -> Response {
    perform(&shared, connection, "read", name, call).await
}

async fn idempotent(
    State(shared): State<Shared>,
    ConnectInfo(connection): ConnectInfo<Reset>,
    Path(name): Path<String>,
    call: Call,
) -> Response {
    perform(&shared, connection, "idempotent", name, call).await
}

async fn write(
    State(shared): State<Shared>,
    ConnectInfo(connection): ConnectInfo<Reset>,
    Path(name): Path<String>,
    call: Call,
) -> Response {
    perform(&shared, connection, "write", name, call).await
}

/// A request's parts, taken together.
struct Call {
    recorded: Recorded,
    key: Option<String>,
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Call {
    type Rejection = Response;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Response> {
        let headers: HeaderMap = request.headers().clone();
        let method: Method = request.method().clone();
        let uri = request.uri().clone();
        let body = Bytes::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let key = headers.get("idempotency-key").map(|value| text(value).trim_matches('"').to_owned());
        let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Self { recorded: Recorded { method: method.to_string(), target: uri.to_string(), headers, body }, key })
    }
}

async fn perform(shared: &Shared, connection: Reset, kind: &str, name: String, call: Call) -> Response {
    let route = format!("{kind}/{name}");
    let (conduct, answer) = {
        let mut guard = shared.lock();
        let inner = &mut *guard;
        if inner.recorded.len() < RECORDED_MAX {
            inner.recorded.push(call.recorded);
        }
        let conduct = conduct(inner, &route);
        let fails = conduct.status.is_some_and(|status| status >= 400) || conduct.reset || conduct.redirect.is_some();
        let affects = kind != "read" && (!fails || conduct.effect_before_failure);
        let count = inner.counts.entry(route.clone()).or_default();
        count.requests += 1;
        if let Some(key) = &call.key {
            *count.keys.entry(key.clone()).or_default() += 1;
        } else if kind == "idempotent" {
            return (StatusCode::BAD_REQUEST, "the Idempotency-Key header is required").into_response();
        }
        let done = call.key.filter(|_| kind == "idempotent").map(|key| format!("{route} {key}"));
        let earlier = done.as_ref().and_then(|key| inner.answers.get(key).cloned());
        let answer = earlier.unwrap_or_else(|| {
            count.effects += u64::from(affects);
            let answer = json!({"name": name, "kind": kind, "effect": count.effects});
            if let (Some(key), true) = (done, affects) {
                inner.answers.insert(key, answer.clone());
            }
            answer
        });
        (conduct, answer)
    };
    respond(conduct, connection, &answer).await
}

fn conduct(inner: &mut Inner, route: &str) -> Conduct {
    let listed = inner.conducts.get_mut(route).map_or(&mut [][..], Vec::as_mut_slice);
    for (conduct, uses) in listed {
        if conduct.times.is_none_or(|times| *uses < times) {
            *uses += 1;
            return conduct.clone();
        }
    }
    Conduct::default()
}

async fn respond(conduct: Conduct, connection: Reset, answer: &Value) -> Response {
    if conduct.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(conduct.delay_ms)).await;
    }
    if conduct.hang {
        std::future::pending::<()>().await;
    }
    if conduct.reset {
        connection.now();
        return StatusCode::OK.into_response();
    }
    if let Some(target) = conduct.redirect {
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target)]).into_response();
    }
    let mut body = conduct.body.unwrap_or_else(|| answer.to_string());
    body.push_str(&" ".repeat(conduct.pad_bytes.saturating_sub(body.len())));
    let status = conduct.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    if let Some(seconds) = conduct.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

async fn set_conduct(
    State(shared): State<Shared>,
    Path((kind, name)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    match serde_json::from_slice(&body) {
        Ok(conduct) => {
            shared.lock().conducts.insert(format!("{kind}/{name}"), vec![(conduct, 0)]);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn counts(State(shared): State<Shared>) -> Response {
    let counts = shared.lock().counts.clone();
    axum::Json(counts).into_response()
}

async fn requests(State(shared): State<Shared>) -> Response {
    let recorded = shared.lock().recorded.clone();
    axum::Json(recorded).into_response()
}

async fn reset(State(shared): State<Shared>) -> StatusCode {
    *shared.lock() = Inner::default();
    StatusCode::NO_CONTENT
}
