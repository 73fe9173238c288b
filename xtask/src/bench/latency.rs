//! What `POST /run` adds to the model's own time, at a rate and not at a maximum.
//!
//! It does not look for the highest rate; [`super::throughput`] does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Bench;
use super::agent::Agent;
use super::figure::{Figure, Goal, Section};
use super::load;

/// Requests a second.
const RATE: u32 = 200;
/// A model that answers after 50 ms.
const MODEL: &str = "fake/slow-50ms";
/// A file system without a disk: an fsync there costs nothing.
const MEMORY: &str = "/dev/shm";

/// Percentiles a round, milliseconds.
#[derive(Default)]
struct Added {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Added {
    fn figures(self, id: &'static str, what: &str) -> [Figure; 2] {
        [
            Figure::new(id, format!("{what}: p50"), "ms", self.p50),
            Figure::new(id, format!("{what}: p99"), "ms", self.p99),
        ]
    }
}

/// Mote on disk, Mote without a disk, and the peers, each less what the model alone takes.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let fake = bench.fake_model()?;
    let alone = alone(bench, &fake.url)?;
    let agent = Agent { model_url: &fake.url, model: MODEL, ..Agent::default() };
    let mote = |state: PathBuf| {
        let mut added = Added::default();
        for _ in 0..bench.effort.rounds {
            clear(&state)?;
            let mote = bench.programs.mote(&agent.write(&state)?, &state)?;
            add(bench, &mote.url("/run"), alone, &mut added)?;
        }
        std::fs::remove_dir_all(&state).ok();
        anyhow::Ok(added)
    };
    let on_disk = mote(bench.folder("latency")?)?;
    let mut figures = Vec::new();
    let in_memory = Path::new(MEMORY).join(format!("mote-bench-{}", std::process::id()));
    let without_disk = if Path::new(MEMORY).is_dir() { Some(mote(in_memory)?) } else { None };
    let fsync = without_disk.as_ref().map(|other| {
        let less = |disk: &[f64], memory: &[f64]| {
            disk.iter().zip(memory).map(|(disk, memory)| (disk - memory).max(0.0)).collect()
        };
        Added { p50: less(&on_disk.p50, &other.p50), p99: less(&on_disk.p99, &other.p99) }
    });
    let [p50, p99] = on_disk.figures("latency", "Mote adds");
    figures.extend([p50, p99.goal(Goal::AtMost(5.0))]);
    figures.extend(fsync.into_iter().flat_map(|fsync| fsync.figures("latency-fsync", "of it fsync")));
    figures.extend(
        without_disk.into_iter().flat_map(|added| added.figures("latency-memory", "Mote adds, state in memory")),
    );
    figures.extend(peers(bench, &fake.url, alone)?);
    let method = format!(
        "Open loop, {RATE} requests a second, each timed from when it was due; {} s a round after {} s of warming. The model \
         answers after 50 ms; asked directly in the same way it takes {:.2} ms at p50 and {:.2} ms at p99, and these are \
         subtracted from p50 and p99. A run without tools commits at most twice. The fsync's part is what the same run takes \
         less with its state in `{MEMORY}`.",
        bench.effort.seconds, bench.effort.warmup, alone.0, alone.1
    );
    Ok(Section { title: "Added latency", method, figures })
}

/// What the model takes when it is asked directly: p50 and p99, milliseconds.
fn alone(bench: &Bench, model_url: &str) -> Result<(f64, f64)> {
    let url = format!("{model_url}/v1/chat/completions");
    let body =
        format!("{{\"model\":\"{MODEL}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}");
    let outcome =
        load::run(&bench.programs, &url, &body, &load::open(RATE, bench.effort.seconds, bench.effort.warmup))?;
    Ok((outcome.p50_ms(), outcome.p99_ms()))
}

fn add(bench: &Bench, url: &str, alone: (f64, f64), added: &mut Added) -> Result<()> {
    let arguments = load::open(RATE, bench.effort.seconds, bench.effort.warmup);
    let outcome = load::run(&bench.programs, url, "{\"input\":\"hello\"}", &arguments)?;
    added.p50.push(outcome.p50_ms() - alone.0);
    added.p99.push(outcome.p99_ms() - alone.1);
    Ok(())
}

fn clear(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).ok();
    std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))
}

fn peers(bench: &Bench, model_url: &str, alone: (f64, f64)) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let Some(python) = &bench.python else { return Ok(figures) };
    let kinds = [
        ("plain", false, "FastAPI, not durable, adds"),
        ("plain", true, "FastAPI, durable, adds"),
        ("graph", false, "FastAPI + LangGraph, not durable, adds"),
        ("graph", true, "FastAPI + LangGraph, durable, adds"),
    ];
    for (peer, durable, what) in kinds {
        let mut added = Added::default();
        for _ in 0..bench.effort.rounds {
            let state = bench.folder("peer")?;
            let running = bench.programs.peer(python, peer, (model_url, MODEL), &state, durable)?;
            add(bench, &running.url("/run"), alone, &mut added)?;
        }
        figures.extend(added.figures("peer", what));
    }
    Ok(figures)
}
