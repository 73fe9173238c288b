//! The HTTP surfaces: the native one and, beside it, adapters for other clients. Only this folder knows HTTP.
//!
//! A surface is thin: it reads a request, calls the lifecycle or the guest, and writes the answer.

pub mod access;
mod code;
mod e2b;
pub mod failure;
mod gather;
pub mod native;
mod observe;
pub mod preview;
mod scope;
mod secret;
mod swerex;

use std::sync::Arc;

use axum::Router;
use tokio_util::sync::CancellationToken;

use crate::code::Interpreter;
use crate::descriptor::Shares;
use crate::image::Images;
use crate::lifecycle::Sandboxes;
use crate::limits;
use crate::network::Network;
use crate::telemetry::metrics::Metrics;
use crate::template::Templates;
use access::Keys;

/// What every surface stands on; clones share it.
#[derive(Clone, Debug)]
pub struct Api {
    /// The sandboxes.
    pub sandboxes: Sandboxes,
    /// Who may ask.
    pub keys: Arc<Keys>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Previews are served at `PORT-ID.DOMAIN`.
    pub domain: Arc<str>,
    /// What roots start from.
    pub images: Images,
    /// Templates that callers build.
    pub templates: Templates,
    /// The network boundary: what previews may reach, and what was decided.
    pub network: Network,
    /// Sandboxes made through E2B's API that do not say so reach every public destination.
    pub open_egress_default: bool,
    /// Connections that previews hold.
    pub previews: preview::Connections,
    /// Cancelled when the daemon stops: streams end by themselves.
    pub closing: CancellationToken,
}

/// What the server holds at once where descriptors are not short, and how long it waits.
pub(crate) const SERVER: mote_http::Limits = mote_http::Limits {
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

/// A server of every surface.
pub fn server(api: &Api) -> mote_http::Server {
    let connections = Shares::now().clients;
    mote_http::Server::new(router(api), mote_http::Limits { connections, ..SERVER })
}

/// The same behind TLS: what is answered with an address says so.
pub fn server_over_tls(api: &Api) -> mote_http::Server {
    let connections = Shares::now().clients;
    mote_http::Server::new(router(api).layer(axum::Extension(OverTls)), mote_http::Limits { connections, ..SERVER })
}

/// In the extensions of a request that came over TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverTls;

/// Every surface in one router.
pub fn router(api: &Api) -> Router {
    let interpreter = Interpreter::new(api.sandboxes.clock().clone(), {
        let sandboxes = api.sandboxes.clone();
        std::sync::Arc::new(move |id: &str| sandboxes.oom_kills(id))
    });
    let inner = native::router(api).merge(code::native(api, &interpreter)).merge(swerex::router(api, &interpreter));
    // Inside, so that the pattern that matched is known; around, so that no surface goes unseen.
    let router = observe::layer(inner, api);
    let router = e2b::around(api, &interpreter, router);
    observe::layer(router, api)
}
