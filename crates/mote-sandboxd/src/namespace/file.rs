//! Small files of the kernel and of the run directory: read whole, written with one call.
//!
//! It does not sync: what it writes means nothing after a reboot.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use mote_sandbox_api::error::{Code, Failure};

/// `internal`: what could not be done, and why.
pub(super) fn failed(what: impl Display, error: impl Display) -> Failure {
    Failure::new(Code::Internal, format!("failed to {what}: {error}"))
}

/// Writes an existing file with one call, as files of the kernel want it.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| failed(format_args!("write {text:?} to {}", path.display()), error))
}

/// Reads a file whole.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| failed(format_args!("read {}", path.display()), error))
}
