//! The data plane as E2B's `envd` serves it on port 49983: RPCs over processes and files, and files over plain HTTP.
//!
//! Nothing runs inside the sandbox for it: each request becomes an operation of the guest.

mod connect;
mod entry;
mod files;
mod filesystem;
mod host;
mod process;
mod unzip;
mod upload;
pub(super) mod watcher;
mod wording;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use super::E2b;

/// The version of `envd` whose behaviour this is; the SDKs ask less of an older one.
pub(super) const VERSION: &str = "0.6.4";

/// The routes of a sandbox that was reached.
pub(super) fn router() -> Router<E2b> {
    Router::new()
        .route("/process.Process/{method}", post(process::call))
        .route("/filesystem.Filesystem/{method}", post(filesystem::call))
        // A form's files pass through in frames; what they may take is the disk's bound.
        .route("/files", get(files::download).post(upload::upload).layer(DefaultBodyLimit::disable()))
        .route("/files/compose", post(files::compose))
        .route("/metrics", get(host::metrics))
        .route("/envs", get(host::environment))
}
