//! The HTTP surfaces: the native one and, beside it, adapters for other clients. Only this folder knows HTTP.
//!
//! A surface is thin: it reads a request, calls the lifecycle or the guest, and writes the answer.

pub mod access;
pub mod failure;
pub mod native;
mod observe;
pub mod preview;
pub mod server;

use std::sync::Arc;

use axum::Router;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Sandboxes;
use crate::network::Network;
use crate::telemetry::metrics::Metrics;
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
    /// The network boundary: what previews may reach, and what was decided.
    pub network: Network,
    /// Cancelled when the daemon stops: streams end by themselves.
    pub closing: CancellationToken,
}

/// Every surface in one router.
pub fn router(api: &Api) -> Router {
    let router = native::router(api);
    let router = preview::layer(router, api);
    observe::layer(router, api)
}
