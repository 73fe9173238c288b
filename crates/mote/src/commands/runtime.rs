//! The tokio runtime of a command.
//!
//! It does not choose what runs on it.

use anyhow::Context;

/// A runtime on the command's own thread: for clients and for `run`.
pub(crate) fn single() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the async runtime")
}
