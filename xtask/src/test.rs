//! `cargo xtask test`: installs what the tests need, builds what they run, and runs them all.
//!
//! It starts no server itself: the tests that need one start it on a free port and stop it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{dist, guest, local_model, packages, process, python, workspace};

/// Targets without an operating system that the core has to build for.
const BARE_TARGETS: [&str; 2] = ["riscv32imac-unknown-none-elf", "riscv32imc-unknown-none-elf"];
/// Programs that tests run, with the Debian package that brings each.
const PROGRAMS: [(&str, &str); 15] = [
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    ("python3", "python3-venv"),
    // What the sandbox daemon itself runs.
    ("mkfs.btrfs", "btrfs-progs"),
    ("nft", "nftables"),
    // Images, from a real registry.
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    // A database that writes while its sandbox is snapshot, forked and rolled back. It is not on Debian's search path.
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    // Clients, and what makes the networks that they are tried in.
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("sudo", "sudo"),
];

/// The filter that stands for the tests on a live model.
const LIVE: &str = "live";
/// The module of those tests. They run by themselves, one at a time: a model takes the processor.
const LIVE_TESTS: &str = "live_model::";

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs only tests whose name contains this; `live`: only those on a live model, which other filters leave out.
    filter: Option<String>,
    /// Takes what is installed as it is, and fails where something is missing.
    #[arg(long)]
    no_install: bool,
}

/// Installs, builds, runs.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let target = workspace::Metadata::read()?.target_directory;
    let filter = options.filter.as_deref();
    if filter == Some(LIVE) {
        let plain = build(&root, &target, "plain", &["--bins"])?;
        return live(&root, &plain, !options.no_install);
    }
    if !options.no_install {
        install_programs(&root)?;
        install_targets(&root)?;
    }
    let venv = python::venv(&target.join("test-venv"), "tests", !options.no_install)?;
    let crash_points = ["--bins", "--features", "mote/crash-points,mote-sandboxd/crash-points"];
    let crash = build(&root, &target, "crash", &crash_points)?;
    // Last, so that `target/debug/mote` is left without crash points.
    let plain = build(&root, &target, "plain", &["--bins"])?;
    let init = dist::sandbox_init(&root, &target, !options.no_install)?;
    for bare in BARE_TARGETS {
        let arguments = ["build", "--package", "mote-core", "--package", "mote-wire", "--target", bare];
        process::run(&mut process::cargo(&root, &arguments)).with_context(|| bare_advice(bare))?;
    }
    let guest = guest::make(&target)?;
    let mut tests = process::cargo(&root, &["test", "--workspace", "--no-fail-fast"]);
    tests.env("MOTE_SANDBOX_INIT_BIN", init).env("MOTE_GUEST", guest);
    // The daemon's crash points do nothing unless one is named.
    tests.env("MOTE_SANDBOXD_BIN", crash.join("mote-sandboxd"));
    tests.env("MOTE_BIN", plain.join("mote")).env("MOTE_CRASH_BIN", crash.join("mote")).env("MOTE_TEST_VENV", venv);
    // Requests to loopback must not go through a proxy that the surroundings may name.
    tests.env("NO_PROXY", "127.0.0.1,localhost").args(filter).args(["--", "--skip", LIVE_TESTS]);
    process::run(&mut tests)?;
    if filter.is_none() {
        live(&root, &plain, !options.no_install)?;
    }
    println!("xtask: every test passed");
    Ok(())
}

/// Installs a small model, and runs the tests on it, which print what they do.
fn live(root: &Path, plain: &Path, install: bool) -> Result<()> {
    let model = local_model::ensure(install)?;
    // With the features of the whole workspace: one package by itself would be compiled anew.
    let arguments = ["test", "--workspace", "--test", "main", LIVE_TESTS, "--", "--nocapture", "--test-threads", "1"];
    let mut tests = process::cargo(root, &arguments);
    tests.env("MOTE_BIN", plain.join("mote")).env("MOTE_LOCAL_MODEL", model).env("NO_PROXY", "127.0.0.1,localhost");
    process::run(&mut tests)?;
    println!("xtask: every test on a live model passed");
    Ok(())
}

/// Builds the programs with the features of the whole workspace, so that both variants and the tests share every dependency,
/// and copies them to a folder where the next build does not replace them.
fn build(root: &Path, target: &Path, variant: &str, selection: &[&str]) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--workspace"];
    arguments.extend(selection);
    process::run(&mut process::cargo(root, &arguments))?;
    let folder = target.join(variant);
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    for program in ["mote", "mote-sandboxd"] {
        let from = target.join("debug").join(program);
        // Renamed into place: another test run may be executing the earlier copy.
        let fresh = folder.join(format!("{program}.{}", std::process::id()));
        std::fs::copy(&from, &fresh).with_context(|| format!("failed to copy {}", from.display()))?;
        let to = folder.join(program);
        std::fs::rename(&fresh, &to).with_context(|| format!("failed to name {}", to.display()))?;
    }
    Ok(folder)
}

/// Debian packages that are missing: installed as root, named otherwise.
fn install_programs(root: &Path) -> Result<()> {
    let more: &[&str] = if python::can_make_venvs(root) { &[] } else { &["python3-venv"] };
    let programs: Vec<_> = PROGRAMS.into_iter().chain(guest::PROGRAMS).collect();
    packages::ensure(root, &programs, more)
}

/// The standard library for the bare targets, through rustup where it is.
fn install_targets(root: &Path) -> Result<()> {
    if !process::found("rustup") {
        return Ok(());
    }
    let installed = process::output(&mut process::command(root, "rustup", &["target", "list", "--installed"]))?;
    for bare in BARE_TARGETS.iter().filter(|bare| !installed.lines().any(|line| line == **bare)) {
        process::run(&mut process::command(root, "rustup", &["target", "add", bare]))
            .with_context(|| bare_advice(bare))?;
    }
    Ok(())
}

fn bare_advice(target: &str) -> String {
    format!(
        "failed to build for {target}: where `rustup target add {target}` does not work, Debian's own toolchain does: \
         apt-get install rustc-web cargo-web rust-web-src lld, then RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
         /usr/bin/cargo build -Zbuild-std=core -p mote-core -p mote-wire --target {target}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_for_a_bare_target_names_it_and_the_way_round() {
        let advice = bare_advice(BARE_TARGETS[0]);
        assert!(advice.contains(BARE_TARGETS[0]) && advice.contains("rustc-web"), "{advice}");
    }
}
