//! Memory of many runs at once: waiting for a model, and suspended.
//!
//! Memory at rest is measured in [`super::footprint`].

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::agent::Agent;
use super::figure::{Figure, Goal, Section};
use super::program::{Running, Weight};
use super::{Bench, load};

/// Connections that submit.
const CONNECTIONS: usize = 32;
/// How long the tasks may take to get to where they wait.
const PATIENCE: Duration = Duration::from_secs(900);
/// Growth below this is none: pages move that much by themselves, KiB.
const NO_GROWTH_KIB: f64 = 1024.0;

/// Both.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let (mut figures, suspended) = (in_flight(bench)?, suspended(bench)?);
    figures.extend(suspended);
    let method = format!(
        "`VmRSS`, and `RssAnon` of it. {} tasks wait for a model that does not answer, each with its connection to the fake model, \
         without TLS; what the last {} of them add, a task. Then {} tasks wait for a signal; what the last {} of them add in all. \
         The first ones of each bring code, pools and caches into memory, which later ones share.",
        bench.effort.in_flight,
        rest(bench.effort.in_flight),
        bench.effort.suspended,
        rest(bench.effort.suspended)
    );
    Ok(Section { title: "Memory of many runs", method, figures })
}

/// Tasks that come after the first tenth.
fn rest(tasks: u64) -> u64 {
    tasks - tasks / 10
}

fn in_flight(bench: &Bench) -> Result<Vec<Figure>> {
    let fake = bench.fake_model()?;
    let runs = bench.effort.in_flight;
    let agent = Agent { model_url: &fake.url, model: "fake/hang", runs: Some(runs), ..Agent::default() };
    let (mut rss, mut anonymous) = (Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let state = bench.folder("in-flight")?;
        let mote = bench.programs.mote(&agent.write(&state)?, &state)?;
        let grown = growth(bench, &mote, "running", runs)?;
        rss.push(grown.rss / rest(runs) as f64);
        anonymous.push(grown.anonymous / rest(runs) as f64);
    }
    let what = format!("a run in flight, of {runs}");
    let figure = Figure::new("in-flight", what, "KiB", rss).goal(Goal::AtMost(10.0));
    Ok(vec![figure, Figure::new("in-flight", "of it anonymous", "KiB", anonymous)])
}

fn suspended(bench: &Bench) -> Result<Vec<Figure>> {
    let fake = bench.fake_model()?;
    let tasks = bench.effort.suspended;
    let tools = "  - builtin: wait_for_signal\n";
    let agent = Agent { model_url: &fake.url, model: "fake/tool-then-answer", tools, ..Agent::default() };
    let state = bench.folder("suspended")?;
    let mote = bench.programs.mote(&agent.write(&state)?, &state)?;
    let grown = growth(bench, &mote, "waiting", tasks)?;
    let what = format!("{tasks} suspended tasks: growth in all");
    // Code that is given back at rest and comes in again is no growth, so the goal is held against anonymous memory.
    let anonymous = Figure::new("suspended", "of it anonymous", "KiB", vec![grown.anonymous]);
    Ok(vec![Figure::new("suspended", what, "KiB", vec![grown.rss]), anonymous.goal(Goal::AtMost(NO_GROWTH_KIB))])
}

/// What all but the first tenth of the tasks add, once all of them have the status.
fn growth(bench: &Bench, mote: &Running, status: &str, tasks: u64) -> Result<Weight> {
    submit(bench, mote, tasks / 10)?;
    await_status(mote, status, tasks / 10)?;
    settle(mote)?;
    let before = mote.weight()?;
    submit(bench, mote, rest(tasks))?;
    await_status(mote, status, tasks)?;
    settle(mote)?;
    let after = mote.weight()?;
    let grown = |part: fn(&Weight) -> f64| (part(&after) - part(&before)).max(0.0);
    Ok(Weight { rss: grown(|weight| weight.rss), anonymous: grown(|weight| weight.anonymous), ..Weight::default() })
}

fn submit(bench: &Bench, mote: &Running, tasks: u64) -> Result<()> {
    load::run(&bench.programs, &mote.url("/tasks"), "{\"input\":\"hello\"}", &load::requests(CONNECTIONS, tasks))
        .map(|_| ())
}

/// Waits until so many tasks have the status, as the service's own metrics count them.
fn await_status(mote: &Running, status: &str, tasks: u64) -> Result<()> {
    let started = Instant::now();
    loop {
        let text = mote.ask("GET", "/metrics", &[], "")?;
        let now = gauge(&text, status);
        if now.is_some_and(|now| now >= tasks as f64) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!(
                "failed to get {tasks} tasks to the status {status}: {} after {} s",
                now.unwrap_or(0.0),
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// The value of the gauge of tasks by state.
fn gauge(metrics: &str, status: &str) -> Option<f64> {
    let label = format!("state=\"{status}\"");
    let mut lines = metrics.lines().filter(|line| line.starts_with("mote_tasks{") && line.contains(&label));
    lines.next()?.rsplit(' ').next()?.parse().ok()
}

/// Until memory has stopped moving.
fn settle(mote: &Running) -> Result<()> {
    let mut last = mote.weight()?.rss;
    for _ in 0..30 {
        std::thread::sleep(Duration::from_secs(1));
        let now = mote.weight()?.rss;
        if (now - last).abs() < 64.0 {
            break;
        }
        last = now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_of_a_state_is_found() {
        let metrics = "# TYPE mote_tasks gauge\nmote_tasks{state=\"running\"} 7\nmote_tasks{state=\"waiting\"} 12\n";
        assert_eq!((gauge(metrics, "waiting"), gauge(metrics, "queued")), (Some(12.0), None));
    }
}
