//! The state folder: where the store's file is.
//!
//! It opens the store; what stands in it is the store's concern.

use std::path::{Path, PathBuf};

use anyhow::Context;
use mote::service::STORE_FILE as FILE;
use mote::store::sqlite::{Options, SqliteStore};

use super::exit::Exit;

/// The store's file.
pub(crate) fn file(state: &Path) -> PathBuf {
    state.join(FILE)
}

/// Opens the store of a folder that has one.
pub(crate) fn open_existing(state: &Path) -> Result<SqliteStore, Exit> {
    let file = file(state);
    if !file.is_file() {
        return Err(Exit::usage(format!("there is no store in {} (--state); {FILE} is not there", state.display())));
    }
    Ok(SqliteStore::open(&file, Options::default()).context("failed to open the store")?)
}
