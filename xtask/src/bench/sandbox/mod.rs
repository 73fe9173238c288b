//! `cargo xtask bench sandbox`: how fast sandboxes are made, used, snapshotted and reset, beside bubblewrap, crun and runc
//! on the same root in the same run; written to `docs/benchmarks-sandbox.md`.
//!
//! It needs root, as the daemon does. It tunes nothing: the binaries are those that ship, durability and policy on.

mod client;
mod create;
mod daemon;
mod density;
mod egress;
mod episodes;
mod files;
mod peers;
mod states;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figure::Section;
use super::{document, machine};
use crate::{dist, packages, process, workspace};

/// The document.
const DOCUMENT: &str = "docs/benchmarks-sandbox.md";
/// What the measured root holds beside Debian's essential packages.
const ROOT_PACKAGES: &str = "curl,ca-certificates";

/// What is run beside the daemon, with the Debian package that brings each.
const PROGRAMS: [(&str, &str); 8] = [
    ("bwrap", "bubblewrap"),
    ("crun", "crun"),
    ("runc", "runc"),
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("curl", "curl"),
];

/// Options of `bench sandbox`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Short and rough: for work on the bench itself. Prints, and writes no document.
    #[arg(long)]
    quick: bool,
    /// Folder of `mote-sandboxd` and `mote-sandbox-init`, instead of building those that ship.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Leaves the peers out.
    #[arg(long)]
    no_peers: bool,
    /// Only sections whose name contains this; prints, and writes no document.
    #[arg(long)]
    only: Option<String>,
    /// Where state is written: on the disk to be measured.
    #[arg(long)]
    state: Option<PathBuf>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Repetitions of each short operation.
    pub(super) times: usize,
    /// Repetitions of each operation that takes long to prepare.
    pub(super) states: usize,
    /// Sandboxes made at once.
    pub(super) burst: usize,
    /// Sandboxes that live idle.
    pub(super) alive: usize,
    /// Files in the trees that are snapshotted.
    pub(super) trees: &'static [u32],
    /// Seconds of each loop.
    pub(super) seconds: u64,
}

/// How long one series of measurements may take: what is slower than that is measured less often.
const SERIES: Duration = Duration::from_secs(30);

const FULL: Effort =
    Effort { times: 200, states: 50, burst: 100, alive: 1000, trees: &[1, 5_000, 50_000], seconds: 10 };
const QUICK: Effort = Effort { times: 20, states: 5, burst: 20, alive: 50, trees: &[1, 1_000], seconds: 2 };

/// What every section needs.
pub(super) struct Bench {
    pub(super) effort: Effort,
    /// Folder of the daemon and the init.
    pub(super) binaries: PathBuf,
    /// A Debian root that everybody runs in.
    pub(super) root: PathBuf,
    /// On the disk that is measured.
    pub(super) scratch: PathBuf,
    pub(super) peers: bool,
}

impl Drop for Bench {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.scratch).ok();
    }
}

/// One section of the document.
type Measurement = fn(&Bench) -> Result<Section>;

/// Set in this program's second self.
const APART: &str = "MOTE_BENCH_APART";

/// This program again, in a mount namespace of its own: whatever is mounted meanwhile goes with it. In it there is no second
/// cgroup hierarchy beside those of version 1, with which crun does not start.
fn run_apart() -> Result<()> {
    let own = std::env::current_exe().context("failed to find this program")?;
    let script = "test -d /sys/fs/cgroup/memory && umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", script]).arg(own);
    command.args(std::env::args_os().skip(1)).env(APART, "1");
    let status = command.status().context("failed to start unshare (Debian package util-linux)")?;
    ensure!(status.success(), "failed to measure: {status}");
    Ok(())
}

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    if std::env::var_os(APART).is_none() {
        return run_apart();
    }
    let workspace = workspace::root();
    let bench = prepare(options)?;
    let sections: [(&str, Measurement); 7] = [
        ("create", create::measure),
        ("burst", create::burst),
        ("density", density::measure),
        ("states", states::measure),
        ("episodes", episodes::measure),
        ("files", files::measure),
        ("egress", egress::measure),
    ];
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for (name, section) in sections {
        if options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            println!("xtask: measuring {name}");
            let started = Instant::now();
            let result = section(&bench);
            println!("xtask: measured {name} for {:.0} s", started.elapsed().as_secs_f64());
            match result {
                Ok(section) => {
                    print!("{section}");
                    measured.push(section);
                }
                Err(error) => {
                    println!("xtask: failed to measure {name}: {error:#}");
                    failed.push(format!("- {name}: {error:#}\n"));
                }
            }
        }
    }
    let machine = machine::describe(&bench.scratch);
    std::fs::remove_dir_all(&bench.scratch).ok();
    if options.quick || options.only.is_some() || options.no_peers {
        println!("xtask: {DOCUMENT} is written by a whole run only");
        return Ok(());
    }
    let reasons = std::fs::read_to_string(workspace.join(document::REASONS)).unwrap_or_default();
    let head = document::Head {
        title: "Benchmarks of the sandbox runtime",
        command: "cargo xtask bench sandbox",
        note: "The client, the daemon and the sandboxes share one machine. Each figure is the median, with the 99th percentile, \
               unless its method says otherwise.",
        p99: true,
    };
    let mut text = document::text(&head, &machine?, &measured, &reasons)?;
    if !failed.is_empty() {
        text.push_str(&format!("\n## Not measured in this run\n\n{}", failed.concat()));
    }
    std::fs::write(workspace.join(DOCUMENT), text).with_context(|| format!("failed to write {DOCUMENT}"))?;
    println!("xtask: wrote {DOCUMENT}");
    ensure!(failed.is_empty(), "failed to measure {} of the sections", failed.len());
    Ok(())
}

fn prepare(options: &Options) -> Result<Bench> {
    let target = workspace::Metadata::read()?.target_directory;
    ensure!(packages::is_root(&target), "failed to measure sandboxes: the daemon needs root at its start");
    packages::ensure(&target, &PROGRAMS, &[])?;
    let binaries = match &options.binaries {
        Some(folder) => folder.canonicalize().with_context(|| format!("failed to find {}", folder.display()))?,
        None => {
            dist::run(&dist::Options { no_install: false })?.parent().context("the binary has no folder")?.to_owned()
        }
    };
    let root = debian_root(&target)?;
    let base = options.state.clone().unwrap_or_else(|| target.clone());
    let scratch = base.join(format!("bench-sandbox-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).with_context(|| format!("failed to make {}", scratch.display()))?;
    let effort = if options.quick { QUICK } else { FULL };
    Ok(Bench { effort, binaries, root, scratch, peers: !options.no_peers })
}

/// A small Debian root, made once.
fn debian_root(target: &Path) -> Result<PathBuf> {
    let root = target.join("bench-root");
    if !root.join("bin/true").exists() {
        let fresh = target.join("bench-root.new");
        std::fs::remove_dir_all(&fresh).ok();
        let place = fresh.to_string_lossy().into_owned();
        let include = format!("--include={ROOT_PACKAGES}");
        let arguments = ["--variant=minbase", "--quiet", &include, "bookworm", &place];
        process::run(&mut process::command(target, "mmdebstrap", &arguments))
            .context("failed to make a Debian root (Debian package mmdebstrap)")?;
        std::fs::rename(&fresh, &root).with_context(|| format!("failed to name {}", root.display()))?;
    }
    Ok(root)
}

/// Repeats until it has been done so often, or for so long that enough is known.
pub(super) fn repeat(times: usize, mut once: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let started = Instant::now();
    for number in 0..times {
        once(number)?;
        if started.elapsed() > SERIES {
            println!("xtask: {} of {times} times: it is slow", number + 1);
            break;
        }
    }
    Ok(())
}

impl Bench {
    /// A fresh folder.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.scratch.join(name);
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        Ok(folder)
    }
}
