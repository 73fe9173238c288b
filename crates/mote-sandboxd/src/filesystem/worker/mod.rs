//! What works on trees in a process of its own: this program, started again by the keeper with no more than it needs.
//!
//! It decides nothing and answers to nobody but the one that started it.

use std::process::ExitCode;

/// The hidden subcommand that `main` hands to [`main`].
pub const SUBCOMMAND: &str = "tree-worker";
/// Empties the trash that is the standard input.
pub(super) const SWEEP: &str = "sweep";

/// Does what the keeper started this process for.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let done = match arguments.first().map(String::as_str) {
        Some(SWEEP) => {
            rustix::io::dup(std::io::stdin()).map_err(Into::into).and_then(|trash| super::pool::empty(&trash))
        }
        _ => Err(std::io::Error::from(std::io::ErrorKind::InvalidInput)),
    };
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
