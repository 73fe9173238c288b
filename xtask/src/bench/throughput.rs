//! `POST /run` over a model that answers at once, as fast as it goes, beside the peers.
//!
//! It does not say what an answer takes at a given rate; [`super::latency`] does.

use anyhow::Result;

use super::Bench;
use super::agent::Agent;
use super::figure::{Figure, Section};
use super::{load, median};

/// Connections, each with one request at a time.
const CONNECTIONS: usize = 32;
const MODEL: &str = "fake/answer";

/// Mote and the peers.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let fake = bench.fake_model()?;
    let agent = Agent { model_url: &fake.url, model: MODEL, ..Agent::default() };
    let mote = bench.rounds(|| {
        let state = bench.folder("throughput")?;
        let mote = bench.programs.mote(&agent.write(&state)?, &state)?;
        rate(bench, &mote.url("/run"))
    })?;
    let own = median(&mote);
    let mut figures = vec![Figure::new("throughput", "Mote, durable", "runs/s", mote)];
    let kinds = [
        ("plain", false, "FastAPI, not durable"),
        ("plain", true, "FastAPI, durable"),
        ("graph", false, "FastAPI + LangGraph, not durable"),
        ("graph", true, "FastAPI + LangGraph, durable"),
    ];
    for (peer, durable, what) in kinds {
        let Some(python) = &bench.python else { break };
        let values = bench.rounds(|| {
            let state = bench.folder("peer")?;
            let running = bench.programs.peer(python, peer, (&fake.url, MODEL), &state, durable)?;
            rate(bench, &running.url("/run"))
        })?;
        let ratio = own / median(&values);
        figures.push(Figure::new("peer", what, "runs/s", values));
        figures.push(Figure::new("ratio", format!("Mote, durable, against {what}"), "times", vec![ratio]));
    }
    let method = format!(
        "Closed loop, {CONNECTIONS} connections, {} s a round after {} s of warming. One process each; the load generator and \
         the fake model share the machine with it. Durable means a full fsync before the model is asked and before the answer \
         goes out.",
        bench.effort.seconds, bench.effort.warmup
    );
    Ok(Section { title: "Throughput", method, figures })
}

fn rate(bench: &Bench, url: &str) -> Result<f64> {
    let arguments = load::closed(CONNECTIONS, bench.effort.seconds, bench.effort.warmup);
    Ok(load::run(&bench.programs, url, "{\"input\":\"hello\"}", &arguments)?.per_second)
}
