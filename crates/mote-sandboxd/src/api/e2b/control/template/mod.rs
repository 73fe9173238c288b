//! Templates: built, uploaded for, tagged, listed, removed, in E2B's shapes.
//!
//! A template is what a caller has built, a snapshot, or an image of the daemon's store. Building, tagging and removing need a
//! key with the scope `template`.

mod build;
mod list;
mod tags;
mod upload;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::routing::{get, post};
use http::request::Parts;
use mote_sandbox_api::request::Sandbox;
use serde_json::{Value, json};

pub(super) use list::public;

use super::list::Known;
use crate::api::e2b::E2b;
use crate::api::e2b::failure::Refused;
use crate::api::e2b::timestamp::rfc3339_unsigned;
use crate::state::Scope;
use crate::template::log::Entry;
use crate::template::record::Build;

/// The routes.
pub(super) fn router() -> Router<E2b> {
    Router::new()
        .route("/templates", get(list::all).post(build::request_v1))
        .route("/v2/templates", get(list::all).post(build::request))
        .route("/v3/templates", post(build::request))
        .route("/templates/aliases/{alias}", get(list::alias))
        .route("/templates/tags", post(tags::assign).delete(tags::remove))
        .route("/templates/{id}", get(list::one).delete(list::remove).patch(list::update).post(build::request_v1))
        .route("/v2/templates/{id}", axum::routing::patch(list::update))
        .route("/templates/{id}/tags", get(tags::all))
        .route("/templates/{id}/files/{hash}", get(upload::address).put(upload::take))
        .route("/templates/{id}/builds/{build}", post(build::begin_v1))
        .route("/v2/templates/{id}/builds/{build}", post(build::begin))
        .route("/templates/{id}/builds/{build}/status", get(build::status))
        .route("/templates/{id}/builds/{build}/logs", get(build::logs))
}

/// Has a new sandbox run its template's start command, and waits until it is ready.
pub(super) async fn begin(e2b: &E2b, sandbox: &Sandbox, build: &Build) {
    let (start, ready) = (build.start.as_deref(), build.ready.as_deref());
    if start.is_none() && ready.is_none() {
        return;
    }
    // Whoever uses a sandbox that is gone already is told so then.
    let Ok(guest) = e2b.api.sandboxes.awake(&sandbox.id).await else { return };
    if let Err(message) = crate::template::start::begin(&guest, start, ready).await {
        e2b.api.sandboxes.note(&sandbox.id, "error", message);
    }
}

/// Somebody whose key may build, tag and remove templates.
#[derive(Debug)]
struct Builder;

impl FromRequestParts<E2b> for Builder {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, e2b: &E2b) -> Result<Self, Refused> {
        let Known(holder) = Known::from_request_parts(parts, e2b).await?;
        holder.may(Scope::Template)?;
        Ok(Self)
    }
}

/// `BuildLogEntry`.
fn entry(entry: &Entry) -> Value {
    let mut told =
        json!({ "timestamp": rfc3339_unsigned(entry.at_ms), "message": entry.message, "level": entry.level });
    if let Some(step) = &entry.step {
        told["step"] = step.as_str().into();
    }
    told
}
