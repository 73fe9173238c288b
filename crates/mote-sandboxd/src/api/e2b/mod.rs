//! E2B's HTTP surface, so that E2B's SDKs work unmodified: an adapter over the lifecycle, the guest and the interpreter.
//!
//! `docs/sandbox-e2b.md` says which SDK versions it is tested with, what maps and what answers 501. It keeps nothing that
//! outlives the daemon.

mod control;
mod ended;
mod envd;
mod failure;
mod gateway;
mod metrics;
mod query;
mod signature;
#[cfg(test)]
pub(in crate::api) mod tests;
mod timestamp;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio::sync::Semaphore;

use super::{Api, observe};
use crate::code::Interpreter;
use crate::limits::{SIGNATURE_SEARCHES_PER_SECOND, VOLUME_REQUESTS_MAX};
use crate::network::meter::Bucket;

/// Port of the data plane.
pub(super) const ENVD_PORT: u16 = 49983;
/// Port of the code interpreter.
pub(super) const CODE_PORT: u16 = 49999;

/// What the adapter stands on; clones share it.
#[derive(Clone, Debug)]
pub(super) struct E2b {
    api: Api,
    interpreter: Interpreter,
    watchers: Arc<envd::watcher::Watchers>,
    meter: Arc<metrics::Meter>,
    /// Requests for files of volumes that are carried out.
    volumes: Arc<Semaphore>,
    /// Signed addresses whose sandbox has to be looked for.
    searches: Arc<Bucket>,
}

/// `routes`, with E2B's control plane beside them, and before them the way into sandboxes.
pub(super) fn around(api: &Api, interpreter: &Interpreter, routes: Router) -> Router {
    let e2b = E2b {
        api: api.clone(),
        interpreter: interpreter.clone(),
        watchers: Arc::default(),
        meter: Arc::default(),
        volumes: Arc::new(Semaphore::new(VOLUME_REQUESTS_MAX)),
        searches: Arc::new(Bucket::new(Some(SIGNATURE_SEARCHES_PER_SECOND))),
    };
    // Ends with the daemon; what it measures is lost then.
    tokio::spawn(api.closing.clone().run_until_cancelled_owned(metrics::keep(e2b.clone())));
    // E2B addresses a sandbox by port and path: so does the route that a request is counted under.
    let ports = gateway::Ports {
        envd: observe::layer_of(":49983", envd::router().with_state(e2b.clone()), api),
        code: observe::layer_of(":49999", super::code::router(), api),
    };
    let control = observe::layer(control::router().with_state(e2b.clone()), api);
    let gateway = gateway::Gateway { e2b, ports: Arc::new(ports) };
    // Around every route, so that no path is looked at where the host or a header names a sandbox.
    let routes = Router::new().fallback_service(routes.merge(control));
    routes.layer(from_fn_with_state(gateway, gateway::direct))
}
