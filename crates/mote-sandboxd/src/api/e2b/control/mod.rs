//! E2B's control plane: sandboxes, snapshots, templates, secrets and volumes as far as they map.
//!
//! Each handler calls the lifecycle; what has no counterpart answers 501 and names the feature.

mod body;
mod list;
mod network;
mod refused;
mod sandbox;
mod stored;
mod template;
#[cfg(test)]
mod tests;
mod volume;

use axum::Router;
use axum::routing::{get, post, put};

use super::E2b;

/// The routes (E2B's SDKs 2.x).
pub(super) fn router() -> Router<E2b> {
    Router::new()
        .route("/sandboxes", get(list::running).post(sandbox::create))
        .route("/v2/sandboxes", get(list::page).post(sandbox::create_v2))
        .route("/sandboxes/metrics", get(list::metrics))
        .route("/sandboxes/{id}", get(sandbox::get).delete(sandbox::kill))
        .route("/sandboxes/{id}/pause", post(sandbox::pause))
        .route("/sandboxes/{id}/resume", post(sandbox::resume))
        .route("/sandboxes/{id}/connect", post(sandbox::connect))
        .route("/v2/sandboxes/{id}/connect", post(sandbox::connect))
        .route("/sandboxes/{id}/timeout", post(sandbox::timeout))
        .route("/sandboxes/{id}/refreshes", post(sandbox::refresh))
        .route("/sandboxes/{id}/network", put(sandbox::network))
        .route("/sandboxes/{id}/fork", post(sandbox::fork))
        .route("/sandboxes/{id}/snapshots", post(sandbox::snapshot))
        .route("/sandboxes/{id}/rollback", post(sandbox::rollback))
        .route("/sandboxes/{id}/metrics", get(sandbox::metrics))
        .route("/sandboxes/{id}/logs", get(sandbox::logs))
        .route("/v2/sandboxes/{id}/logs", get(sandbox::logs_v2))
        .route("/snapshots", get(stored::snapshots))
        .route("/secrets", get(stored::secrets).post(stored::create_secret))
        .route("/secrets/{name}", get(stored::secret).post(stored::update_secret).delete(stored::remove_secret))
        .route("/volumes", get(stored::volumes).post(stored::create_volume))
        .route("/volumes/{name}", get(stored::volume).delete(stored::remove_volume))
        .merge(template::router())
        .merge(volume::router())
        .merge(refused::router())
}
