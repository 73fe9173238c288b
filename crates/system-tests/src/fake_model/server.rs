//! The fake model's HTTP server and its handle. Wire formats and plans are its siblings' part.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::asked::{Asked, Refusal, Wire};
use super::plan::{Behaviour, Fault, Plan};
use super::said::Said;
use super::{anthropic, delivery, mode, openai};
use crate::limits::{BODY_BYTES_MAX, RECORDED_MAX};
use crate::listener::{Listener, Reset};

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Path.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Value,
    /// Whether the request was refused as malformed, and why.
    pub refused: Option<String>,
}

impl Recorded {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Numbers since the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Requests to a model.
    pub requests: u64,
    /// Answers under way.
    pub open: u64,
    /// Most answers that were under way at once.
    pub peak: u64,
    /// Answers that the client did not wait for.
    pub abandoned: u64,
}

#[derive(Default)]
struct Inner {
    plan: Plan,
    rule_uses: Vec<u64>,
    recorded: VecDeque<Recorded>,
    record_max: usize,
    delay_ms: u64,
    serial: u64,
    stats: Stats,
}

/// What the handlers share.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Inner>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an answer under way; dropped before [`InFlight::done`] it counts as abandoned.
pub(crate) struct InFlight {
    shared: Shared,
    finished: bool,
}

impl InFlight {
    fn new(shared: Shared) -> Self {
        let mut inner = shared.lock();
        inner.stats.open += 1;
        inner.stats.peak = inner.stats.peak.max(inner.stats.open);
        drop(inner);
        Self { shared, finished: false }
    }

    pub(crate) fn done(&mut self) {
        self.finished = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.stats.open = inner.stats.open.saturating_sub(1);
        inner.stats.abandoned += u64::from(!self.finished);
    }
}

/// A running fake model. Dropping it stops it.
pub struct FakeModel {
    address: SocketAddr,
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
}

impl FakeModel {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(plan: Plan) -> std::io::Result<Self> {
        let fake = Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), 0, RECORDED_MAX).await?;
        fake.set(plan);
        Ok(fake)
    }

    /// Starts on an address; every answer waits `delay_ms` more, and `record_max` requests are remembered.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(address: SocketAddr, delay_ms: u64, record_max: usize) -> std::io::Result<Self> {
        let listener = Listener::bind(address)?;
        let address = listener.address()?;
        let shared = Shared::default();
        shared.lock().delay_ms = delay_ms;
        shared.lock().record_max = record_max;
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

    /// Scheme, host and port: the base URL for the Anthropic SDK.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Base URL for OpenAI clients, with `/v1`.
    #[must_use]
    pub fn openai_url(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// Changes the plan; rules start anew.
    pub fn set(&self, plan: Plan) {
        set(&self.shared, plan);
    }

    /// Requests to a model so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().recorded.iter().cloned().collect()
    }

    /// Numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }

    /// Waits for the server to end; it does so only on failure.
    pub async fn join(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn set(shared: &Shared, plan: Plan) {
    let mut inner = shared.lock();
    inner.rule_uses = vec![0; plan.rules.len()];
    inner.plan = plan;
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/messages", post(messages))
        .route("/v1/models", get(models))
        .route("/_control/plan", put(set_plan))
        .route("/_control/requests", get(requests))
        .route("/_control/stats", get(stats))
        .route("/_control/reset", post(reset))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn chat_completions(
    State(shared): State<Shared>,
    ConnectInfo(connection): ConnectInfo<Reset>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(Wire::OpenAi, shared, connection, headers, body).await
}

async fn messages(
    State(shared): State<Shared>,
    ConnectInfo(connection): ConnectInfo<Reset>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(Wire::Anthropic, shared, connection, headers, body).await
}

async fn models(headers: HeaderMap) -> Response {
    let list = if headers.contains_key("anthropic-version") { anthropic::models() } else { openai::models() };
    axum::Json(list).into_response()
}

async fn set_plan(State(shared): State<Shared>, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(plan) => {
            set(&shared, plan);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn requests(State(shared): State<Shared>) -> Response {
    let recorded: Vec<_> = shared.lock().recorded.iter().cloned().collect();
    axum::Json(recorded).into_response()
}

async fn stats(State(shared): State<Shared>) -> Response {
    let stats = shared.lock().stats;
    axum::Json(stats).into_response()
}

async fn reset(State(shared): State<Shared>) -> StatusCode {
    let mut inner = shared.lock();
    let open = inner.stats.open;
    inner.recorded.clear();
    inner.stats = Stats { open, peak: open, ..Stats::default() };
    inner.rule_uses.fill(0);
    StatusCode::NO_CONTENT
}

/// Reads, records and decides: everything that happens under the lock.
fn decide(wire: Wire, shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Result<(Asked, Behaviour, u64), Refusal> {
    let parsed: Result<Value, _> = serde_json::from_slice(body);
    let asked = match &parsed {
        Err(error) => Err(Refusal::invalid(format!("We could not parse the JSON body of your request: {error}"))),
        Ok(value) => match wire {
            Wire::OpenAi => openai::parse(value, body.len()),
            Wire::Anthropic => anthropic::parse(value, body.len()),
        },
    };
    let mut guard = shared.lock();
    let inner = &mut *guard;
    inner.serial += 1;
    inner.stats.requests += 1;
    let asked = authorise(wire, inner.plan.key.as_deref(), headers).and(asked);
    if inner.record_max > 0 {
        if inner.recorded.len() == inner.record_max {
            inner.recorded.pop_front();
        }
        inner.recorded.push_back(Recorded {
            path: match wire {
                Wire::OpenAi => "/v1/chat/completions".to_owned(),
                Wire::Anthropic => "/v1/messages".to_owned(),
            },
            headers: listed(headers),
            body: parsed.unwrap_or(Value::Null),
            refused: asked.as_ref().err().map(|refusal| refusal.message.clone()),
        });
    }
    let asked = asked?;
    let mut behaviour = choose(inner, &asked, body);
    behaviour.timing.first_ms += inner.delay_ms;
    Ok((asked, behaviour, inner.serial))
}

fn choose(inner: &mut Inner, asked: &Asked, body: &[u8]) -> Behaviour {
    let text = if inner.plan.rules.is_empty() { "".into() } else { String::from_utf8_lossy(body) };
    for (rule, uses) in inner.plan.rules.iter().zip(&mut inner.rule_uses) {
        if rule.times.is_none_or(|times| *uses < times) && rule.when.fits(asked, &text) {
            *uses += 1;
            return rule.then.clone();
        }
    }
    mode::from_name(asked).unwrap_or_else(|| inner.plan.at_turn(asked.turn))
}

fn authorise(wire: Wire, key: Option<&str>, headers: &HeaderMap) -> Result<(), Refusal> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if wire == Wire::Anthropic && value("anthropic-version").is_empty() {
        return Err(Refusal::invalid("anthropic-version: header is required"));
    }
    let given = match wire {
        Wire::OpenAi => value("authorization").strip_prefix("Bearer ").unwrap_or_default(),
        Wire::Anthropic => value("x-api-key"),
    };
    match key {
        Some(key) if key != given => Err(Refusal { status: 401, message: "invalid x-api-key".to_owned() }),
        _ => Ok(()),
    }
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

async fn answer(wire: Wire, shared: Shared, connection: Reset, headers: HeaderMap, body: Bytes) -> Response {
    let mut guard = InFlight::new(shared.clone());
    let (asked, behaviour, serial) = match decide(wire, &shared, &headers, &body) {
        Ok(decided) => decided,
        Err(refusal) => {
            guard.done();
            return error(wire, refusal.status, &refusal.message);
        }
    };
    drop(body);
    if behaviour.timing.first_ms > 0 {
        tokio::time::sleep(Duration::from_millis(behaviour.timing.first_ms)).await;
    }
    match &behaviour.fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Reset) => {
            guard.done();
            connection.now();
            return StatusCode::OK.into_response();
        }
        Some(Fault::Status { status, retry_after }) => {
            guard.done();
            let mut response = error(wire, *status, "The fake model was told to fail.");
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, (*seconds).into());
            }
            return response;
        }
        Some(Fault::ContextLength) => {
            guard.done();
            let (status, body) = match wire {
                Wire::OpenAi => openai::context_length(),
                Wire::Anthropic => anthropic::context_length(),
            };
            return json_response(status, &body);
        }
        Some(Fault::WrongContentType) => {
            guard.done();
            let page = "<!doctype html><title>Sign in to the network</title>";
            return ([(header::CONTENT_TYPE, "text/html")], page).into_response();
        }
        _ => {}
    }
    let said = Said::new(&behaviour, &asked, serial);
    let (content_type, body) = if asked.stream {
        let (events, overloaded) = match wire {
            Wire::OpenAi => (openai::events(&said, asked.include_usage), openai::overloaded()),
            Wire::Anthropic => (anthropic::events(&said), anthropic::overloaded()),
        };
        ("text/event-stream; charset=utf-8", delivery::streamed(&behaviour, events, overloaded, guard))
    } else {
        let answer = match wire {
            Wire::OpenAi => openai::whole(&said),
            Wire::Anthropic => anthropic::whole(&said),
        };
        ("application/json", delivery::whole(&behaviour, &answer, guard))
    };
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], body).into_response()
}

fn error(wire: Wire, status: u16, message: &str) -> Response {
    let body = match wire {
        Wire::OpenAi => openai::error(status, message),
        Wire::Anthropic => anthropic::error(status, message),
    };
    json_response(status, &body)
}

fn json_response(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, Body::from(body.to_string())).into_response()
}

/// What a separate process prints when it is ready.
#[must_use]
pub fn announcement(address: SocketAddr) -> String {
    json!({"address": address.to_string(), "url": format!("http://{address}")}).to_string()
}
