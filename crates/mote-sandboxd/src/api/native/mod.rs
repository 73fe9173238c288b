//! The native API: `/v1`, and what a probe or a scraper asks.
//!
//! A file a resource. `docs/sandbox-http.md` is written from the routes here.

mod body;
pub(in crate::api) mod exec;
mod files;
mod host;
pub(in crate::api) mod idempotency;
mod openapi;
mod ports;
mod sandboxes;
mod stored;
mod stream;
mod transfer;

use axum::Router;
use axum::routing::{MethodRouter, any, delete, get, post, put};

use super::Api;

/// Every route with its methods. `openapi` describes each of them.
fn routes() -> Vec<(&'static str, MethodRouter<Api>)> {
    vec![
        ("/v1/sandboxes", post(sandboxes::create).get(sandboxes::list)),
        ("/v1/sandboxes/{id}", get(sandboxes::get).delete(sandboxes::remove)),
        ("/v1/sandboxes/{id}/connect", post(sandboxes::connect)),
        ("/v1/sandboxes/{id}/pause", post(sandboxes::pause)),
        ("/v1/sandboxes/{id}/resume", post(sandboxes::resume)),
        ("/v1/sandboxes/{id}/renew", post(sandboxes::renew)),
        ("/v1/sandboxes/{id}/snapshots", post(sandboxes::snapshot)),
        ("/v1/sandboxes/{id}/rollback", post(sandboxes::rollback)),
        ("/v1/sandboxes/{id}/fork", post(sandboxes::fork)),
        ("/v1/sandboxes/{id}/diff", get(sandboxes::diff)),
        ("/v1/sandboxes/{id}/commit", post(sandboxes::commit)),
        ("/v1/sandboxes/{id}/logs", get(sandboxes::logs)),
        ("/v1/sandboxes/{id}/usage", get(sandboxes::usage)),
        ("/v1/sandboxes/{id}/network", put(sandboxes::network)),
        ("/v1/sandboxes/{id}/exec", post(exec::exec)),
        ("/v1/sandboxes/{id}/stream", get(stream::stream)),
        ("/v1/sandboxes/{id}/processes", get(exec::processes)),
        ("/v1/sandboxes/{id}/processes/{pid}/signal", post(exec::signal)),
        ("/v1/sandboxes/{id}/files", get(files::read).put(files::write).delete(files::remove)),
        ("/v1/sandboxes/{id}/files/stat", get(files::stat)),
        ("/v1/sandboxes/{id}/files/list", get(files::list)),
        ("/v1/sandboxes/{id}/files/directory", post(files::directory)),
        ("/v1/sandboxes/{id}/files/link", post(files::link)),
        ("/v1/sandboxes/{id}/files/move", post(files::rename)),
        ("/v1/sandboxes/{id}/files/watch", get(files::watch)),
        ("/v1/sandboxes/{id}/ports/{port}", any(ports::root)),
        ("/v1/sandboxes/{id}/ports/{port}/", any(ports::root)),
        ("/v1/sandboxes/{id}/ports/{port}/{*rest}", any(ports::below)),
        ("/v1/sandboxes/{id}/network/decisions", get(sandboxes::decisions)),
        ("/v1/snapshots", get(stored::snapshots).post(transfer::import)),
        ("/v1/snapshots/{id}", delete(stored::remove_snapshot)),
        ("/v1/snapshots/{id}/export", get(transfer::export)),
        ("/v1/volumes", get(stored::volumes).post(stored::create_volume)),
        ("/v1/volumes/{name}", delete(stored::remove_volume)),
        ("/v1/images", get(stored::images).post(stored::import_image)),
        ("/v1/images/{name}", delete(stored::remove_image)),
        ("/v1/secrets", get(stored::secrets)),
        ("/v1/secrets/{name}", put(stored::put_secret).delete(stored::remove_secret)),
        ("/v1/capabilities", get(host::capabilities)),
        ("/health", get(host::health)),
        ("/ready", get(host::ready)),
        ("/metrics", get(host::metrics)),
        ("/openapi.json", get(openapi::serve)),
    ]
}

/// The routes.
pub fn router(api: &Api) -> Router {
    let router = Router::new().fallback(host::nowhere);
    routes().into_iter().fold(router, |router, (path, methods)| router.route(path, methods)).with_state(api.clone())
}
