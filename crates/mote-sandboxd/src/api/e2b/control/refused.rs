//! What has no counterpart here: each route of E2B's that does not map answers 501 and names the feature.
//!
//! A route that E2B does not have either is not here: it answers 404 like any other.

use axum::Router;
use axum::extract::Request;
use axum::routing::{any, get, post};
use mote_sandbox_api::error::Failure;

use super::list::Known;
use crate::api::e2b::E2b;
use crate::api::e2b::failure::Refused;

/// Routes and what they would need.
pub(super) fn router() -> Router<E2b> {
    let build = || any(async |known, request| refuse(known, request, "templates.build", BUILD).await);
    let tags =
        || any(async |known, request| refuse(known, request, "templates.tags", "images have no tags of E2B's").await);
    let teams = || get(async |known, request| refuse(known, request, "teams", "keys belong to no team").await);
    Router::new()
        .route("/v3/templates", build())
        .route("/v2/templates/{id}", axum::routing::patch(template_update))
        .route("/v2/templates/{id}/builds/{build}", build())
        .route("/templates/{id}/builds/{build}/status", build())
        .route("/templates/{id}/builds/{build}/logs", build())
        .route("/templates/{id}/files/{hash}", build())
        .route("/templates/tags", tags())
        .route("/templates/{id}/tags", tags())
        .route("/teams", teams())
        .route("/teams/{id}/metrics", teams())
        .route("/teams/{id}/metrics/max", teams())
        .route("/templates", post(async |known, request| refuse(known, request, "templates.build", BUILD).await))
}

const BUILD: &str = "templates are images that the daemon's operator builds (`mote-sandboxd image build`)";

async fn refuse(_: Known, request: Request, feature: &str, why: &str) -> Refused {
    Failure::unsupported(feature, why).with("route", request.uri().path()).into()
}

pub(super) async fn template_update(known: Known, request: Request) -> Refused {
    refuse(known, request, "templates.update", "images are neither public nor private").await
}
