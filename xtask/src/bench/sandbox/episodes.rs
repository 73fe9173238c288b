//! The rollout loop: reset by rollback, run, read the result; episodes a second, one and sixteen wide.
//!
//! It asks no model: the part of an episode that is the runtime's is what is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::Bench;
use super::daemon::Daemon;
use crate::bench::figure::{Figure, Section};

/// Both widths.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let daemon = Daemon::start(bench, "episodes", &json!({}))?;
    let figures = [1, 16]
        .into_iter()
        .map(|width| {
            let rate = episodes(bench, &daemon, width)?;
            Ok(Figure::new("sandbox-episodes", format!("episodes, {width} wide"), "a second", vec![rate]))
        })
        .collect::<Result<Vec<_>>>()?;
    let method = format!(
        "{} s each. An episode: roll back to a snapshot, run a shell that writes a file, read the file through the API.",
        bench.effort.seconds
    );
    Ok(Section { title: "Rollout loop", method, figures })
}

fn episodes(bench: &Bench, daemon: &Daemon, width: usize) -> Result<f64> {
    let time = Duration::from_secs(bench.effort.seconds);
    let started = Instant::now();
    let count = std::thread::scope(|scope| -> Result<u64> {
        let threads: Vec<_> = (0..width)
            .map(|_| {
                scope.spawn(move || -> Result<u64> {
                    let mut client = daemon.client()?;
                    let sandbox = client.create(&json!({"profile": "training", "lease": "10m"}))?;
                    let path = format!("/v1/sandboxes/{sandbox}");
                    let snapshot = client.ask("POST", &format!("{path}/snapshots"), &json!({}))?;
                    let mut count = 0;
                    while started.elapsed() < time {
                        client.ask("POST", &format!("{path}/rollback"), &json!({"snapshot": snapshot["id"]}))?;
                        client.exec(&sandbox, &json!("echo 42 > /tmp/result"))?;
                        client.raw("GET", &format!("{path}/files?path=/tmp/result"), "application/json", b"")?;
                        count += 1;
                    }
                    client.remove(&sandbox)?;
                    Ok(count)
                })
            })
            .collect();
        let mut count = 0;
        for thread in threads {
            count += thread.join().ok().context("a thread of the bench panicked")??;
        }
        Ok(count)
    })?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}
