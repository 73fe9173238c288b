//! `/health`, `/ready` and `/metrics`: open to whoever reaches the port, as probes and scrapers expect. They show no task,
//! no tenant and no content.
//!
//! `/health` asks nobody: a failing dependency must not get the process restarted.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::state::Api;
use crate::limits;

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Something that must hold before the service takes requests.
#[derive(Clone)]
pub struct ReadyCheck {
    name: &'static str,
    check: Check,
}

impl ReadyCheck {
    /// A check by name; its error is shown to whoever asks, so that it must not tell secrets.
    pub fn new<F, R>(name: &'static str, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name, check: Arc::new(move || check().boxed()) }
    }

    /// A check that needs no waiting, e.g. whether some model's circuit is not open.
    pub fn flag(name: &'static str, failure: &'static str, holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self::new(name, move || std::future::ready(if holds() { Ok(()) } else { Err(failure.to_owned()) }))
    }
}

/// The last report, for a moment: a probe must not become load on the store.
#[derive(Default)]
pub(super) struct ReadyCache(Mutex<Option<(Instant, Ready)>>);

/// Whether the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
    /// The agent's name.
    name: String,
    /// The agent's version.
    version: String,
}

/// Whether the service may be sent requests.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Ready {
    /// `ready` or `unready`.
    status: &'static str,
    /// Each check by name.
    checks: Vec<CheckBody>,
}

/// One check.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ReadyCheck)]
pub(super) struct CheckBody {
    /// Its name.
    name: &'static str,
    /// Whether it holds.
    ok: bool,
    /// Why not, or what is to be looked at although it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Liveness.
#[utoipa::path(
    get, path = "/health", tag = "operation", operation_id = "health",
    responses((status = 200, description = "The process lives.", body = Health)),
)]
pub(super) async fn health(State(api): State<Arc<Api>>) -> Json<Health> {
    let agent = api.runner.agent();
    Json(Health { status: "ok", name: agent.name.clone(), version: agent.version.clone() })
}

/// Readiness.
#[utoipa::path(
    get, path = "/ready", tag = "operation", operation_id = "ready",
    responses(
        (status = 200, description = "Send requests.", body = Ready),
        (status = 503, description = "Send none; the checks say why.", body = Ready),
    ),
)]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let mut cached = api.ready.0.lock().await;
    let mut report = match cached.as_ref() {
        Some((at, report)) if at.elapsed() < limits::READY_CACHE => report.clone(),
        _ => {
            let report = inspect(&api).await;
            *cached = Some((Instant::now(), report.clone()));
            report
        }
    };
    drop(cached);
    // Never from the cache: a load balancer must see at once that the process is going.
    let draining = api.runner.draining() || api.closing.is_cancelled();
    report.checks.push(body("drain", if draining { Err("the service is shutting down".to_owned()) } else { Ok(()) }));
    let ok = report.checks.iter().all(|check| check.ok);
    report.status = if ok { "ready" } else { "unready" };
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, Json(report)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn inspect(api: &Api) -> Ready {
    let store = Arc::clone(api.runner.store());
    let ping = async move { store.ping(limits::READY_CHECK_TIMEOUT).await.map_err(|error| summary(&error)) };
    // A service whose earlier keys hold serves its callers: the log warns, a metric tells, and so does this.
    let keys = api.keys.as_ref().and_then(|keys| keys.problem());
    let detail =
        keys.map(|_| "the keys file cannot be read; the keys read before are in force (see the log)".to_owned());
    let configuration = CheckBody { name: "configuration", ok: true, detail };
    let checks = api.checks.iter().map(|check| bounded(check.name, (check.check)()));
    let (store, mut rest) = tokio::join!(bounded("store", ping.boxed()), join_all(checks));
    let mut all = vec![store, configuration];
    all.append(&mut rest);
    Ready { status: "", checks: all }
}

/// What a stranger may know of a failed store: no path, no statement.
fn summary(error: &crate::store::Error) -> String {
    use crate::store::Error;
    tracing::warn!(%error, "the store is not ready");
    match error {
        Error::Overloaded { .. } => "overloaded",
        Error::DiskFull => "the disk is full",
        Error::Locked { .. } => "locked by another process",
        Error::Corrupt { .. } => "damaged",
        _ => "cannot be written",
    }
    .to_owned()
}

async fn bounded(name: &'static str, check: BoxFuture<'_, Result<(), String>>) -> CheckBody {
    let limit = limits::READY_CHECK_TIMEOUT;
    let outcome = timeout(limit, check).await;
    body(name, outcome.unwrap_or_else(|_| Err(format!("no answer within {} ms", limit.as_millis()))))
}

fn body(name: &'static str, outcome: Result<(), String>) -> CheckBody {
    CheckBody { name, ok: outcome.is_ok(), detail: outcome.err() }
}

/// Metrics, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", operation_id = "metrics",
    responses((status = 200, description = "Every metric, in the Prometheus or OpenMetrics text format.", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let (text, media_type) = api.metrics.render().await;
    ([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))], text).into_response()
}
