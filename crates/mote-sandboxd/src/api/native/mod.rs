//! The native API: `/v1`, and what a probe or a scraper asks.
//!
//! A file a resource. `docs/sandbox-http.md` is written from the routes here.

mod body;
mod exec;
mod files;
mod host;
pub(in crate::api) mod idempotency;
mod ports;
mod sandboxes;
mod stored;
mod stream;

use axum::Router;
use axum::routing::{any, delete, get, post, put};

use super::Api;

/// The routes.
pub fn router(api: &Api) -> Router {
    Router::new()
        .route("/v1/sandboxes", post(sandboxes::create).get(sandboxes::list))
        .route("/v1/sandboxes/{id}", get(sandboxes::get).delete(sandboxes::remove))
        .route("/v1/sandboxes/{id}/connect", post(sandboxes::connect))
        .route("/v1/sandboxes/{id}/pause", post(sandboxes::pause))
        .route("/v1/sandboxes/{id}/resume", post(sandboxes::resume))
        .route("/v1/sandboxes/{id}/renew", post(sandboxes::renew))
        .route("/v1/sandboxes/{id}/snapshots", post(sandboxes::snapshot))
        .route("/v1/sandboxes/{id}/rollback", post(sandboxes::rollback))
        .route("/v1/sandboxes/{id}/fork", post(sandboxes::fork))
        .route("/v1/sandboxes/{id}/diff", get(sandboxes::diff))
        .route("/v1/sandboxes/{id}/commit", post(sandboxes::commit))
        .route("/v1/sandboxes/{id}/logs", get(sandboxes::logs))
        .route("/v1/sandboxes/{id}/usage", get(sandboxes::usage))
        .route("/v1/sandboxes/{id}/network", put(sandboxes::network))
        .route("/v1/sandboxes/{id}/exec", post(exec::exec))
        .route("/v1/sandboxes/{id}/stream", get(stream::stream))
        .route("/v1/sandboxes/{id}/processes", get(exec::processes))
        .route("/v1/sandboxes/{id}/processes/{pid}/signal", post(exec::signal))
        .route("/v1/sandboxes/{id}/files", get(files::read).put(files::write).delete(files::remove))
        .route("/v1/sandboxes/{id}/files/stat", get(files::stat))
        .route("/v1/sandboxes/{id}/files/list", get(files::list))
        .route("/v1/sandboxes/{id}/files/directory", post(files::directory))
        .route("/v1/sandboxes/{id}/files/move", post(files::rename))
        .route("/v1/sandboxes/{id}/files/watch", get(files::watch))
        .route("/v1/sandboxes/{id}/ports/{port}", any(ports::root))
        .route("/v1/sandboxes/{id}/ports/{port}/", any(ports::root))
        .route("/v1/sandboxes/{id}/ports/{port}/{*rest}", any(ports::below))
        .route("/v1/sandboxes/{id}/network/decisions", get(sandboxes::decisions))
        .route("/v1/snapshots", get(stored::snapshots))
        .route("/v1/snapshots/{id}", delete(stored::remove_snapshot))
        .route("/v1/volumes", get(stored::volumes).post(stored::create_volume))
        .route("/v1/volumes/{name}", delete(stored::remove_volume))
        .route("/v1/images", get(stored::images).post(stored::import_image))
        .route("/v1/images/{name}", delete(stored::remove_image))
        .route("/v1/secrets", get(stored::secrets))
        .route("/v1/secrets/{name}", put(stored::put_secret).delete(stored::remove_secret))
        .route("/v1/capabilities", get(host::capabilities))
        .route("/health", get(host::health))
        .route("/ready", get(host::ready))
        .route("/metrics", get(host::metrics))
        .fallback(host::nowhere)
        .with_state(api.clone())
}
