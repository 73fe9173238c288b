//! Making sandboxes: one after the other, from the warm pool, and a hundred at once.
//!
//! The clock runs from the request to the answer of the first program that ended inside.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::client::Client;
use super::daemon::Daemon;
use super::{Bench, peers, repeat};
use crate::bench::figure::{Figure, Goal, Section, median, percentile};

/// Between two creations from the warm pool, so that it is full again.
const REFILL: Duration = Duration::from_millis(50);

pub(super) fn milliseconds(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

/// A sandbox made, used once and removed; milliseconds to the end of the first program.
fn once(client: &mut Client, spec: &Value) -> Result<f64> {
    let started = Instant::now();
    let sandbox = client.create(spec)?;
    client.exec(&sandbox, &json!(["/bin/true"]))?;
    let took = milliseconds(started);
    client.remove(&sandbox)?;
    Ok(took)
}

/// Cold, warm, and another program in a running sandbox; the peers in turn with the cold ones.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let cold_spec = json!({"profile": "training", "resources": {"disk": "2GiB"}});
    let policy_spec = json!({"profile": "production"});
    let warm_spec = json!({"profile": "training"});
    let settings = json!({"pool": [{"spec": warm_spec, "size": 4}]});
    let daemon = Daemon::start(bench, "create", &settings)?;
    let mut client = daemon.client()?;
    let others = if bench.peers { peers::all(bench)? } else { Vec::new() };
    let (mut cold, mut with_policy) = (Vec::new(), Vec::new());
    let mut theirs = vec![Vec::new(); others.len()];
    once(&mut client, &cold_spec)?;
    repeat(bench.effort.times, |number| {
        cold.push(once(&mut client, &cold_spec)?);
        with_policy.push(once(&mut client, &policy_spec)?);
        // A quarter of the times is enough for them, and each in turn with ours.
        for (peer, times) in others.iter().zip(&mut theirs).filter(|_| number.is_multiple_of(4)) {
            times.push(peer.run_ms(number)?);
        }
        Ok(())
    })?;
    let mut warm = Vec::new();
    repeat(bench.effort.times, |_| {
        std::thread::sleep(REFILL);
        warm.push(once(&mut client, &warm_spec)?);
        Ok(())
    })?;
    let sandbox = client.create(&cold_spec)?;
    let mut exec = Vec::new();
    repeat(bench.effort.times * 2, |_| {
        let started = Instant::now();
        client.exec(&sandbox, &json!(["/bin/true"]))?;
        exec.push(milliseconds(started));
        Ok(())
    })?;
    let mut figures = vec![
        Figure::new(
            "sandbox-create-p99",
            "create to first exec finished, cold: p99",
            "ms",
            vec![percentile(&cold, 99.0)],
        )
        .goal(Goal::AtMost(15.0)),
        Figure::new("sandbox-create-policy", "the same with a network policy", "ms", with_policy)
            .goal(Goal::AtMost(5.0)),
        Figure::new("sandbox-warm", "create to first exec finished, from the warm pool", "ms", warm)
            .goal(Goal::AtMost(2.0)),
        Figure::new("sandbox-exec", "exec in a running sandbox", "ms", exec).goal(Goal::AtMost(1.5)),
    ];
    let mut first = Figure::new("sandbox-create", "create to first exec finished, cold", "ms", cold);
    first = first.goal(Goal::AtMost(5.0));
    for (peer, times) in others.iter().zip(theirs) {
        // At or under bubblewrap and crun is what is aimed at.
        if peer.name != "runc" {
            first = first.goal(Goal::AtMost(median(&times)));
        }
        figures.push(Figure::new("sandbox-peer", format!("{}: create, run, end", peer.name), "ms", times));
    }
    figures.insert(0, first);
    let method = format!(
        "{} times one after the other over one kept connection, `/bin/true` as the program, each sandbox with a copy-on-write \
         root, limits and a first process that stays; the peers on the same root in turn. Cold: the sandbox is made of nothing but \
         an image, in namespaces that the keeper keeps ready (4 of either kind). The warm pool holds 4 and has {} ms to fill \
         again.",
        bench.effort.times,
        REFILL.as_millis()
    );
    Ok(Section { title: "Create and exec", method, figures })
}

/// All at once.
pub(super) fn burst(bench: &Bench) -> Result<Section> {
    let mut figures = Vec::new();
    for (profile, what) in [("training", "without network"), ("production", "with a network policy")] {
        let daemon = Daemon::start(bench, "burst", &json!({}))?;
        let spec = json!({"profile": profile, "lease": "10m"});
        once(&mut daemon.client()?, &spec)?;
        let (mut all, mut p99) = (Vec::new(), Vec::new());
        repeat(5, |_| {
            let (took, whole) = at_once(bench, &daemon, &spec)?;
            all.push(whole);
            p99.push(percentile(&took, 99.0));
            Ok(())
        })?;
        let count = bench.effort.burst;
        figures.push(
            Figure::new("sandbox-burst", format!("{count} at once {what}: all used"), "ms", all)
                .goal(Goal::AtMost(500.0)),
        );
        figures.push(Figure::new("sandbox-burst-p99", "of them, p99", "ms", p99));
    }
    let method = "One connection each, all released at once; until the last has answered its first program. No sandbox is warm, and \
                  namespaces are ready for 4."
        .to_owned();
    Ok(Section { title: "A burst", method, figures })
}

/// Milliseconds to the end of the first program of each, and of all.
fn at_once(bench: &Bench, daemon: &Daemon, spec: &Value) -> Result<(Vec<f64>, f64)> {
    let barrier = Barrier::new(bench.effort.burst + 1);
    std::thread::scope(|scope| -> Result<(Vec<f64>, f64)> {
        let threads: Vec<_> = (0..bench.effort.burst)
            .map(|_| {
                let barrier = &barrier;
                let client = daemon.client();
                scope.spawn(move || -> Result<(f64, String, Client)> {
                    barrier.wait();
                    let mut client = client?;
                    let started = Instant::now();
                    let sandbox = client.create(spec)?;
                    client.exec(&sandbox, &json!(["/bin/true"]))?;
                    Ok((milliseconds(started), sandbox, client))
                })
            })
            .collect();
        barrier.wait();
        let started = Instant::now();
        let mut done = Vec::new();
        for thread in threads {
            done.push(thread.join().ok().context("a thread of the bench panicked")??);
        }
        let whole = milliseconds(started);
        let mut took = Vec::new();
        for (ms, sandbox, mut client) in done {
            took.push(ms);
            client.remove(&sandbox)?;
        }
        Ok((took, whole))
    })
}
