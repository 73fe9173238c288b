//! `cargo xtask bench service`: what Mote weighs and how fast it is, beside its peers, written to `docs/benchmarks.md`.
//!
//! Each figure is measured several times; the document says the median, the spread and the goal, and by how much a goal is
//! missed. It does not tune anything: the binary is the one that ships, the machine is as it is.

mod agent;
mod build;
mod document;
mod figure;
mod footprint;
mod http;
mod latency;
mod load;
mod machine;
mod memory;
mod program;
mod sandbox;
mod submissions;
mod throughput;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{dist, process, python, workspace};
use figure::{Section, median};
use program::{FakeModel, Programs};

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// How long the first build takes; writes it into `README.md`.
    Build,
    /// Footprint and speed of the service; writes `docs/benchmarks.md`.
    Service(Service),
    /// Speed and density of the sandbox runtime; writes `docs/benchmarks-sandbox.md`. Needs root.
    Sandbox(sandbox::Options),
}

/// Options of `bench service`.
#[derive(clap::Args)]
pub(crate) struct Service {
    /// Short and rough: for work on the bench itself. Prints, and writes no document.
    #[arg(long)]
    quick: bool,
    /// Measures this binary instead of building the one that ships.
    #[arg(long)]
    binary: Option<PathBuf>,
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
struct Effort {
    /// Repetitions of each measurement.
    rounds: usize,
    /// Seconds of load in each.
    seconds: f64,
    /// Seconds of load before each that are not measured.
    warmup: f64,
    /// Seconds from start to the idle measurement.
    idle_seconds: u64,
    /// Starts whose time to ready is taken.
    starts: usize,
    /// Runs in flight.
    in_flight: u64,
    /// Suspended tasks.
    suspended: u64,
}

const FULL: Effort = Effort {
    rounds: 3,
    seconds: 6.0,
    warmup: 2.0,
    idle_seconds: 60,
    starts: 20,
    in_flight: 10_000,
    suspended: 100_000,
};
const QUICK: Effort =
    Effort { rounds: 1, seconds: 2.0, warmup: 0.5, idle_seconds: 15, starts: 3, in_flight: 500, suspended: 2_000 };

/// What every section needs.
struct Bench {
    programs: Programs,
    effort: Effort,
    /// The peers' Python, if they are measured.
    python: Option<PathBuf>,
    /// On the disk that is measured.
    scratch: PathBuf,
}

/// One section of the document.
type Measurement = fn(&Bench) -> Result<Section>;

/// Measures and writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.what {
        What::Build => build::run(),
        What::Service(options) => service(options),
        What::Sandbox(options) => sandbox::run(options),
    }
}

fn service(options: &Service) -> Result<()> {
    let root = workspace::root();
    let target = workspace::Metadata::read()?.target_directory;
    let bench = prepare(options, &root, &target)?;
    let sections: [(&str, Measurement); 7] = [
        ("size", footprint::size),
        ("idle", footprint::idle),
        ("start", footprint::start),
        ("latency", latency::measure),
        ("throughput", throughput::measure),
        ("submission", submissions::durable),
        ("memory", memory::measure),
    ];
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for (name, section) in sections {
        if options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            println!("xtask: measuring {name}");
            match section(&bench) {
                Ok(section) => {
                    print!("{section}");
                    measured.push(section);
                }
                // The others are worth having; the document says what it lacks, and the command fails in the end.
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
        println!("xtask: docs/benchmarks.md is written by a whole run only");
        return Ok(());
    }
    let reasons = std::fs::read_to_string(root.join(document::REASONS)).unwrap_or_default();
    let mut text = document::text(&head(), &machine?, &measured, &reasons)?;
    if !failed.is_empty() {
        text.push_str(&format!("\n## Not measured in this run\n\n{}", failed.concat()));
    }
    std::fs::write(root.join("docs/benchmarks.md"), text).context("failed to write docs/benchmarks.md")?;
    println!("xtask: wrote docs/benchmarks.md");
    anyhow::ensure!(failed.is_empty(), "failed to measure {} of the sections", failed.len());
    Ok(())
}

fn head() -> document::Head<'static> {
    document::Head {
        title: "Benchmarks",
        command: "cargo xtask bench service",
        note: "The load generator, the fake model and what is measured share one machine. Each figure is the median of 3 rounds \
               unless its method says otherwise, with the lowest and the highest.",
        p99: false,
    }
}

fn prepare(options: &Service, root: &Path, target: &Path) -> Result<Bench> {
    let mote = match &options.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("failed to find {}", binary.display()))?,
        None => dist::run(&dist::Options { no_install: false })?,
    };
    // Optimised, so that the equipment is not what is measured.
    let arguments = ["build", "--package", "system-tests", "--bins", "--release"];
    process::run(&mut process::cargo(root, &arguments))?;
    let python = match options.no_peers {
        true => None,
        false => Some(python::venv(&target.join("peers-venv"), "peers", true)?.join("bin/python")),
    };
    let base = options.state.clone().unwrap_or_else(|| target.to_path_buf());
    let scratch = base.join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).with_context(|| format!("failed to make {}", scratch.display()))?;
    let release = |name: &str| target.join("release").join(name);
    let programs =
        Programs { mote, fake_model: release("fake-model"), load: release("load"), peers: root.join("xtask/peers") };
    Ok(Bench { programs, effort: if options.quick { QUICK } else { FULL }, python, scratch })
}

impl Bench {
    /// A fresh folder for one process's state.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.scratch.join(name);
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        Ok(folder)
    }

    /// One measurement a round.
    fn rounds(&self, mut measure: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
        (0..self.effort.rounds).map(|_| measure()).collect()
    }

    fn fake_model(&self) -> Result<FakeModel> {
        self.programs.fake_model()
    }
}
