//! E2B's HTTP surface, so that E2B's SDKs work unmodified: an adapter over the lifecycle, the guest and the interpreter.
//!
//! `docs/sandbox-e2b.md` says which SDK versions it is tested with, what maps and what answers 501. It keeps nothing that
//! outlives the daemon.

mod control;
mod envd;
mod failure;
mod gateway;
mod metrics;
mod query;
mod signature;
#[cfg(test)]
mod tests;
mod timestamp;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;

use super::Api;
use crate::code::Interpreter;

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
}

/// `routes`, with E2B's control plane beside them, and before them the way into sandboxes.
pub(super) fn around(api: &Api, interpreter: &Interpreter, routes: Router) -> Router {
    let e2b =
        E2b { api: api.clone(), interpreter: interpreter.clone(), watchers: Arc::default(), meter: Arc::default() };
    let ports = gateway::Ports { envd: envd::router().with_state(e2b.clone()), code: super::code::router() };
    let gateway = gateway::Gateway { e2b: e2b.clone(), ports: Arc::new(ports) };
    super::preview::layer(routes.merge(control::router().with_state(e2b)), api)
        .layer(from_fn_with_state(gateway, gateway::direct))
}
