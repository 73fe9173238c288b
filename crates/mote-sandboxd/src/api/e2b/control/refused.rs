//! What has no counterpart here: each route of E2B's that does not map answers 501 and names the feature.
//!
//! A route that E2B does not have either is not here: it answers 404 like any other.

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use mote_sandbox_api::error::Failure;

use super::list::Known;
use crate::api::e2b::E2b;
use crate::api::e2b::failure::Refused;

/// Routes and what they would need.
pub(super) fn router() -> Router<E2b> {
    let teams = || get(async |known, request| refuse(known, request, "teams", "keys belong to no team").await);
    Router::new()
        .route("/teams", teams())
        .route("/teams/{id}/metrics", teams())
        .route("/teams/{id}/metrics/max", teams())
}

async fn refuse(_: Known, request: Request, feature: &str, why: &str) -> Refused {
    Failure::unsupported(feature, why).with("route", request.uri().path()).into()
}
