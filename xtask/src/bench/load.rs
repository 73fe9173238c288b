//! Runs the load generator of `crates/system-tests` and reads what it says.
//!
//! It does not generate load in this process: that would share its memory and its timer with the bench.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::program::Programs;
use crate::process;

/// What the load generator says, as far as it is used here.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Outcome {
    pub(super) good: u64,
    pub(super) bad: u64,
    pub(super) per_second: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) first_error: Option<String>,
}

impl Outcome {
    /// Median, milliseconds.
    pub(super) fn p50_ms(&self) -> f64 {
        self.p50_us as f64 / 1000.0
    }

    /// 99th percentile, milliseconds.
    pub(super) fn p99_ms(&self) -> f64 {
        self.p99_us as f64 / 1000.0
    }
}

/// Loads `url` as the further arguments say. Answers other than success make the figure worthless: an error.
pub(super) fn run(programs: &Programs, url: &str, body: &str, arguments: &[String]) -> Result<Outcome> {
    let mut command = process::command(&programs.peers, &programs.load.to_string_lossy(), &[url, "--body", body]);
    let text = process::output(command.args(arguments))?;
    let outcome: Outcome = serde_json::from_str(text.trim()).context("failed to read what the load generator says")?;
    if outcome.bad > 0 {
        let (bad, all) = (outcome.bad, outcome.bad + outcome.good);
        bail!("failed to load {url}: {bad} of {all} requests went wrong: {}", outcome.first_error.unwrap_or_default());
    }
    Ok(outcome)
}

/// Arguments of a closed loop for a time.
pub(super) fn closed(connections: usize, seconds: f64, warmup: f64) -> Vec<String> {
    flags(&[
        ("--connections", connections.to_string()),
        ("--seconds", seconds.to_string()),
        ("--warmup", warmup.to_string()),
    ])
}

/// Arguments of a closed loop of so many requests.
pub(super) fn requests(connections: usize, requests: u64) -> Vec<String> {
    flags(&[("--connections", connections.to_string()), ("--requests", requests.to_string())])
}

/// Arguments of an open loop.
pub(super) fn open(rate: u32, seconds: f64, warmup: f64) -> Vec<String> {
    let shape = ("--shape", "open".to_owned());
    flags(&[shape, ("--rate", rate.to_string()), ("--seconds", seconds.to_string()), ("--warmup", warmup.to_string())])
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]).collect()
}
