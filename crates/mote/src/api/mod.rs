//! The HTTP API: routes, bodies, errors to statuses. Only this module knows HTTP.
//!
//! It does not run tasks: it hands them to the [`crate::runner`] and reads the [`crate::store`].

mod access;
mod again;
mod body;
mod dto;
mod event_payload;
mod events;
mod health;
mod idempotency;
mod journal;
mod openapi;
mod path;
mod problem;
mod query;
mod ratelimit;
mod refusals;
mod request_id;
mod run;
mod sessions;
mod spent;
mod state;
mod strict;
mod tasks;
#[cfg(test)]
mod tests;
mod token;
mod tools;
mod turn;
mod ws;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

pub use events::watch;
pub use health::ReadyCheck;
pub use mote_http::ClientAddr;
pub use openapi::DOCUMENT as OPENAPI;
pub use problem::{Code, TaskCode};
pub use state::{ApiState, Metrics};

use crate::auth::{Principal, Scope};
use crate::limits;
use problem::Problem;
use state::Api;

/// Every route of the service, by method.
pub const ROUTES: &[(&str, &str)] = &[
    ("POST", "/run"),
    ("POST", "/tasks"),
    ("GET", "/tasks"),
    ("GET", "/tasks/{id}"),
    ("DELETE", "/tasks/{id}"),
    ("GET", "/tasks/{id}/events"),
    ("GET", "/tasks/{id}/journal"),
    ("GET", "/tasks/{id}/ws"),
    ("POST", "/tasks/{id}/stream-token"),
    ("POST", "/tasks/{id}/cancel"),
    ("POST", "/tasks/{id}/input"),
    ("POST", "/tasks/{id}/signals/{name}"),
    ("POST", "/tasks/{id}/resume"),
    ("POST", "/tasks/{id}/rerun"),
    ("GET", "/sessions"),
    ("GET", "/sessions/{id}"),
    ("DELETE", "/sessions/{id}"),
    ("GET", "/v1/tools"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
];

/// What the server holds at once, and how long it waits.
const SERVER: mote_http::Limits = mote_http::Limits {
    connections: limits::CONNECTIONS_MAX,
    head_time: limits::HEADER_READ_TIMEOUT,
    head_bytes: limits::HEADER_BYTES_MAX,
    headers: limits::HEADERS_MAX,
    accept_retry: limits::ACCEPT_RETRY,
    rest_time: limits::BODY_REST_TIME,
    rest_bytes: limits::BODY_REST_BYTES,
    write_time: limits::RESPONSE_WRITE_TIMEOUT,
    unsent_bytes: limits::RESPONSE_UNSENT_BYTES,
};

/// A server of every route of the service.
pub fn server(state: ApiState) -> mote_http::Server {
    mote_http::Server::new(router(state), SERVER)
}

/// Every route of the service.
pub fn router(state: ApiState) -> Router {
    let api = Arc::new(Api::new(state));
    let gate = |scope: Scope, tokens: bool| {
        from_fn_with_state(access::Gate { api: Arc::clone(&api), scope, tokens }, access::admit)
    };
    let needs = |scope: Scope| gate(scope, false);
    let run = Router::new()
        .route("/run", post(run::run))
        .route("/tasks", post(tasks::submit))
        .route("/tasks/{id}/cancel", post(tasks::cancel))
        .route("/tasks/{id}/resume", post(again::resume))
        .route("/tasks/{id}/input", post(tasks::input))
        .route("/tasks/{id}/signals/{name}", post(tasks::signal))
        .route_layer(needs(Scope::Run));
    let read = Router::new()
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::get))
        .route("/tasks/{id}/journal", get(journal::page))
        .route("/tasks/{id}/stream-token", post(token::issue))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{id}", get(sessions::get))
        .route("/v1/tools", get(tools::list))
        .route_layer(needs(Scope::Read));
    let streams = Router::new()
        .route("/tasks/{id}/events", get(events::stream))
        .route("/tasks/{id}/ws", get(ws::socket))
        .route_layer(gate(Scope::Read, true));
    let admin = Router::new()
        .route("/tasks/{id}", delete(tasks::erase))
        .route("/tasks/{id}/rerun", post(again::rerun))
        .route("/sessions/{id}", delete(sessions::erase))
        .route_layer(needs(Scope::Admin));
    let open = Router::new()
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::serve));
    let mut router = run
        .merge(read)
        .merge(streams)
        .merge(admin)
        .merge(open)
        .fallback(async || Problem::new(Code::RouteNotFound, "there is no such route; /openapi.json lists them"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "the Allow header lists what this route takes")
        })
        .layer(DefaultBodyLimit::max(limits::REQUEST_BODY_BYTES_MAX));
    if let Some(cors) = cors(&api.runner.agent().server.cors) {
        router = router.layer(cors);
    }
    router.layer(from_fn_with_state(Arc::clone(&api), request_id::observe)).with_state(api)
}

/// Pages of the named origins may call the API. Off while none is named.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let named = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(named))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            access::API_KEY,
            idempotency::KEY,
            events::LAST_EVENT_ID,
            request_id::REQUEST_ID,
            run::TRACEPARENT,
        ])
        .expose_headers([
            header::LOCATION,
            header::RETRY_AFTER,
            idempotency::REPLAYED,
            idempotency::TTL,
            ratelimit::POLICY,
            ratelimit::LIMIT,
            request_id::REQUEST_ID,
        ])
        .max_age(Duration::from_secs(600));
    Some(layer)
}

/// As which tenant a submission acts: the key's, else the one that it names, else the default one.
fn tenant_of(principal: &Principal, named: Option<&str>) -> Result<String, Problem> {
    match (principal.tenant.as_deref(), named) {
        (Some(bound), Some(named)) if bound != named => {
            let message = format_args!("the API key is bound to another tenant than {named:?}").to_string();
            Err(Problem::field(Code::TenantForbidden, "tenant", message))
        }
        (Some(bound), _) => Ok(bound.to_owned()),
        (None, named) => Ok(named.unwrap_or_default().to_owned()),
    }
}

/// The tenant whose things are listed: the key's, else the one that it names, else all. A key that asks for another tenant's
/// than its own is told so: an empty list would say that there is nothing.
fn tenant_filter(principal: &Principal, params: &mut query::Params) -> Result<Option<String>, Problem> {
    let named = params.take("tenant")?;
    match (&principal.tenant, &named) {
        (None, None) => Ok(None),
        _ => tenant_of(principal, named.as_deref()).map(Some),
    }
}

/// A number as a header's value.
fn number_header(number: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::from_str(&number.to_string()).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// A header's text, if it is there once and readable.
fn text_header<'a>(headers: &'a http::HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field(Code::InvalidHeader, name.as_str(), "stands more than once"));
    }
    let text = value.to_str().map_err(|_| Problem::field(Code::InvalidHeader, name.as_str(), "is not printable ASCII"));
    text.map(Some)
}
