//! What is asked of the daemon itself: capabilities, health, readiness, metrics.
//!
//! Health and readiness need no key: a probe has none.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::IntoResponse as _;
use http::{HeaderMap, StatusCode, header};
use mote_sandbox_api::capability::{Capabilities, Support};
use mote_sandbox_api::error::{Code, Failure};

use super::body::{Answer, json};
use crate::api::Api;
use crate::api::access::{Holder, presented};
use crate::state::Scope;
use crate::telemetry::metrics::Detail;

pub(super) async fn capabilities(State(api): State<Api>, _: Holder) -> Answer {
    let substrate = api.sandboxes.substrate();
    let name = substrate.name().to_owned();
    let capabilities = Capabilities {
        api: mote_sandbox_api::VERSION.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        substrates: BTreeMap::from([
            (name, Support::yes("user namespaces, cgroups, seccomp and an overlay root")),
            ("microvm".to_owned(), Support::no("not in this version")),
            ("vm".to_owned(), Support::no("not in this version")),
        ]),
        enforcement: substrate.enforcement(),
        features: substrate.features(),
        profiles: api.sandboxes.profiles().all().clone(),
    };
    Ok(json(StatusCode::OK, &capabilities))
}

/// The process answers.
pub(super) async fn health() -> Answer {
    Ok(json(StatusCode::OK, &serde_json::json!({ "status": "ok" })))
}

/// New sandboxes can be made: the state answers and the daemon is not stopping.
pub(super) async fn ready(State(api): State<Api>) -> Answer {
    if api.closing.is_cancelled() {
        let stopping = serde_json::json!({ "ready": false, "reason": "the daemon is stopping" });
        return Ok(json(StatusCode::SERVICE_UNAVAILABLE, &stopping));
    }
    if let Err(failure) = api.sandboxes.store().keys().await {
        let broken = serde_json::json!({ "ready": false, "reason": failure.message });
        return Ok(json(StatusCode::SERVICE_UNAVAILABLE, &broken));
    }
    Ok(json(StatusCode::OK, &serde_json::json!({ "ready": true })))
}

/// Open to scrapers without a key. Ids of sandboxes are told only to who holds one; a key that is not known is refused rather
/// than answered less.
pub(super) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Answer {
    let detail = match presented(&headers) {
        None => Detail::Sums,
        Some(key) => {
            let holder = api.keys.holder(key).await?.ok_or_else(|| {
                Failure::new(Code::Unauthenticated, "the API key is not known")
                    .remedy("send a key that is, or none: what is told then names no sandbox")
            })?;
            holder.may(Scope::Sandbox)?;
            Detail::Sandboxes
        }
    };
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    let open_metrics = accepted.contains("application/openmetrics-text");
    let (text, kind) = api.metrics.exposition(&api.sandboxes, detail, open_metrics).await?;
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// What stands at no route.
pub(super) async fn nowhere(method: http::Method, uri: http::Uri) -> Answer {
    let failure = Failure::not_found("route", &format!("{method} {}", uri.path()));
    Err(failure.remedy("docs/sandbox-http.md lists the routes").into())
}
