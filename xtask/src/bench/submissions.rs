//! Durable submissions: how many tasks a second are on disk before they are answered.
//!
//! The tasks' runs hang at the model, so that what is measured is submission and not running.

use anyhow::Result;

use super::Bench;
use super::agent::Agent;
use super::figure::{Figure, Goal, Section};
use super::{load, machine};

const CONNECTIONS: usize = 64;

/// Mote, beside the disk.
pub(super) fn durable(bench: &Bench) -> Result<Section> {
    let fake = bench.fake_model()?;
    let agent = Agent { model_url: &fake.url, model: "fake/hang", runs: Some(1), ..Agent::default() };
    let (mut rates, mut p99, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let state = bench.folder("submission")?;
        disk.push(machine::fsync_rate(&state)?);
        let mote = bench.programs.mote(&agent.write(&state)?, &state)?;
        let arguments = load::closed(CONNECTIONS, bench.effort.seconds, bench.effort.warmup);
        let outcome = load::run(&bench.programs, &mote.url("/tasks"), "{\"input\":\"hello\"}", &arguments)?;
        rates.push(outcome.per_second);
        p99.push(outcome.p99_ms());
    }
    let rate = Figure::new("submission", "`POST /tasks`, durable", "tasks/s", rates);
    let figures = vec![
        rate.goal(Goal::AtLeast(5000.0)).goal(Goal::AtLeast(10_000.0)),
        Figure::new("submission-p99", "`POST /tasks`: p99", "ms", p99),
        Figure::new("disk", "the disk's own fsyncs, one after the other", "fsyncs/s", disk),
    ];
    let method = format!(
        "Closed loop, {CONNECTIONS} connections, {} s a round after {} s of warming; an answer goes out when the task is on disk \
         (`synchronous=FULL`). One run at a time, whose model never answers.",
        bench.effort.seconds, bench.effort.warmup
    );
    Ok(Section { title: "Durable submission", method, figures })
}
