//! Where the programs under test are: named by the environment, or built once a test run with cargo.
//!
//! It does not start them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, bail};

/// The `mote` binary: `$MOTE_BIN`, or built now.
///
/// # Errors
/// When it does not build.
pub fn mote() -> anyhow::Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(BUILT.get_or_init(|| named_or_built("MOTE_BIN", "mote", &[])))
}

/// The `mote` binary with crash points: `$MOTE_CRASH_BIN`, or built now.
///
/// # Errors
/// When it does not build.
pub fn mote_with_crash_points() -> anyhow::Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(BUILT.get_or_init(|| named_or_built("MOTE_CRASH_BIN", "mote-crash", &["--features", "crash-points"])))
}

/// The `mote-sandboxd` binary: `$MOTE_SANDBOXD_BIN`, or built now for musl, as it ships: resolving, threads and memory are the C
/// library's. With crash points: they do nothing unless one is named.
///
/// # Errors
/// When it does not build: the target `x86_64-unknown-linux-musl` has to be installed.
pub fn mote_sandboxd() -> anyhow::Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(BUILT.get_or_init(|| {
        let arguments = ["--features", "crash-points", "--target", &musl()];
        named_or_built_of("MOTE_SANDBOXD_BIN", "mote-sandboxd", "mote-sandboxd", &arguments)
    }))
}

/// The `mote-sandbox-init` binary, static: `$MOTE_SANDBOX_INIT_BIN`, or built now for musl.
///
/// # Errors
/// When it does not build: the target `x86_64-unknown-linux-musl` has to be installed.
pub fn mote_sandbox_init() -> anyhow::Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    found(BUILT.get_or_init(|| {
        let target = ["--target", &musl()];
        named_or_built_of("MOTE_SANDBOX_INIT_BIN", "mote-sandbox-init", "mote-sandbox-init", &target)
    }))
}

/// The target of what ships.
fn musl() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

fn found(built: &'static Result<PathBuf, String>) -> anyhow::Result<&'static Path> {
    built.as_deref().map_err(|why| anyhow::anyhow!("{why}"))
}

fn named_or_built(variable: &str, copy: &str, features: &[&str]) -> Result<PathBuf, String> {
    named_or_built_of(variable, copy, "mote", features)
}

fn named_or_built_of(variable: &str, copy: &str, package: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    match environment(variable) {
        Some(path) => Ok(PathBuf::from(path)),
        None => build(copy, package, arguments).map_err(|error| format!("{error:#}")),
    }
}

/// Tests may be pointed at other programs and folders by the environment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place of the test equipment that reads the environment")]
pub fn environment(variable: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

/// The folder for what tests build: beside the test binary's own profile folder.
///
/// # Errors
/// When the test binary's place is unknown.
pub fn scratch() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("failed to find the test binary")?;
    let target = test.ancestors().nth(3).context("failed to find the target folder")?;
    let scratch = target.join("system-tests");
    std::fs::create_dir_all(&scratch).with_context(|| format!("failed to make {}", scratch.display()))?;
    Ok(scratch)
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// Builds, then copies: both variants are built under one name, so that their dependencies are compiled once.
fn build(copy: &str, package: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let cargo = environment("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", package, "--bin", package, "--message-format", "json"]);
    command.args(arguments).current_dir(workspace());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().context("failed to run cargo")?;
    if !output.status.success() {
        bail!("failed to build {package}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == package)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built {package} but does not say where"))?;
    let folder = scratch()?;
    let to = folder.join(copy);
    // Renamed into place: another test run may be executing the earlier copy.
    let fresh = folder.join(format!("{copy}.{}", std::process::id()));
    std::fs::copy(&executable, &fresh).with_context(|| format!("failed to copy {}", executable.display()))?;
    std::fs::rename(&fresh, &to).with_context(|| format!("failed to name {}", to.display()))?;
    Ok(to)
}
