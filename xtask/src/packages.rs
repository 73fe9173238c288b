//! Debian packages that a command of this program needs: installed as root, named otherwise.
//!
//! It does not say which: each command has its own list.

use std::path::Path;

use anyhow::{Result, bail};

use crate::process;

/// Installs the packages of those programs that are not on the path, and `more`.
pub(crate) fn ensure(root: &Path, programs: &[(&str, &'static str)], more: &[&'static str]) -> Result<()> {
    let mut missing: Vec<&str> =
        programs.iter().filter(|(name, _)| !process::found(name)).map(|(_, package)| *package).collect();
    missing.extend(more);
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let line = missing.join(" ");
    if !is_root(root) || !process::found("apt-get") {
        bail!("failed to find what is needed: install these packages, then run again: apt-get install {line}");
    }
    let arguments = [&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat();
    let mut install = process::command(root, "apt-get", &arguments);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    if process::run(&mut install).is_err() {
        // The package lists may be old, or absent.
        process::run(&mut process::command(root, "apt-get", &["update", "--quiet"]))?;
        process::run(&mut install)?;
    }
    Ok(())
}

/// Whether this program has root's power.
pub(crate) fn is_root(root: &Path) -> bool {
    process::output(&mut process::command(root, "id", &["-u"])).is_ok_and(|id| id.trim() == "0")
}
