//! Size, memory at rest, and time to ready.
//!
//! Memory under load is measured in [`super::memory`].

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::agent::Agent;
use super::figure::{Figure, Goal, Section};
use super::program::{Running, Weight};
use super::{Bench, median};
use crate::process;

const MIB: f64 = 1024.0 * 1024.0;
/// Requests of each kind at the first use of everything.
const FIRST_USES: usize = 20;

/// The binary that ships.
pub(super) fn size(bench: &Bench) -> Result<Section> {
    let binary = &bench.programs.mote;
    let bytes = std::fs::metadata(binary).with_context(|| format!("failed to find {}", binary.display()))?.len();
    let figure = Figure::new("size", "the binary that ships", "MiB", vec![bytes as f64 / MIB]).goal(Goal::AtMost(8.0));
    Ok(Section {
        title: "Size",
        method: "`cargo xtask dist`, the default configuration.".to_owned(),
        figures: vec![figure],
    })
}

/// Process start to the first yes of `/ready`.
pub(super) fn start(bench: &Bench) -> Result<Section> {
    let fake = bench.fake_model()?;
    let agent = Agent { model_url: &fake.url, model: "fake/answer", ..Agent::default() };
    let mut times = Vec::new();
    for _ in 0..bench.effort.starts {
        // A fresh store each time: making it is part of a first start.
        let state = bench.folder("start")?;
        let running = bench.programs.mote(&agent.write(&state)?, &state)?;
        times.push(running.ready_after.as_secs_f64() * 1000.0);
    }
    let figure = Figure::new("start", "process start to `/ready`, new store", "ms", times).goal(Goal::AtMost(15.0));
    let mut figures = vec![figure];
    if let Some(python) = &bench.python {
        for (peer, what) in [("plain", "FastAPI: start to ready"), ("graph", "FastAPI + LangGraph: start to ready")] {
            let values = bench.rounds(|| {
                let state = bench.folder("peer")?;
                let running = bench.programs.peer(python, peer, (&fake.url, "fake/answer"), &state, false)?;
                Ok(running.ready_after.as_secs_f64() * 1000.0)
            })?;
            figures.push(Figure::new("peer", what, "ms", values));
        }
    }
    let method = "From the word at which a prepared shell (limits set, cgroup joined) becomes the program, to an answer; asked anew \
         every 0.2 ms.";
    Ok(Section { title: "Start", method: method.to_owned(), figures })
}

/// Memory at rest, before and after first use of everything.
pub(super) fn idle(bench: &Bench) -> Result<Section> {
    let fake = bench.fake_model()?;
    let tls = TlsServer::start(&bench.scratch)?;
    let tool = format!(
        "  - name: warm\n    description: Connects over TLS.\n    effect: read\n    timeout: 5s\n    http: {{url: \"https://localhost:{}/\", \
         allow_private: true}}\n    input: {{type: object}}\n",
        tls.port
    );
    let agent = Agent { model_url: &fake.url, model: "fake/tool-then-answer", tools: &tool, runs: None };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let state = bench.folder("idle")?;
        let mote = bench.programs.mote(&agent.write(&state)?, &state)?;
        // One run warms the TLS client: its tool begins a handshake.
        mote.ask("POST", "/run", &[], "{\"input\": \"warm\"}")?;
        std::thread::sleep(Duration::from_secs(bench.effort.idle_seconds));
        before.push(mote.weight()?);
        use_everything(&mote)?;
        std::thread::sleep(Duration::from_secs(bench.effort.idle_seconds.min(10)));
        after.push(mote.weight()?);
    }
    let mut figures = weights("idle", "Mote, idle", &before, true);
    figures.extend(weights("idle-used", "Mote, after first use of everything", &after, true));
    figures.extend(peers_at_rest(bench, &fake.url)?);
    let method = format!(
        "`VmRSS` and its parts from `/proc/PID/status`; the cgroup's figure counts anonymous memory and the page cache that the \
         process caused, so its own state on disk too. Mote: {} s after start, the TLS client warmed by a tool's handshake with a \
         server whose certificate is refused; then after {FIRST_USES} of each route, stream and tool call. Peers: after one \
         request, at rest for as long.",
        bench.effort.idle_seconds
    );
    Ok(Section { title: "Memory at rest", method, figures })
}

fn peers_at_rest(bench: &Bench, model_url: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let Some(python) = &bench.python else { return Ok(figures) };
    for (peer, what) in [("plain", "FastAPI + uvicorn"), ("graph", "FastAPI + LangGraph")] {
        let state = bench.folder("peer")?;
        let running = bench.programs.peer(python, peer, (model_url, "fake/answer"), &state, false)?;
        running.ask("POST", "/run", &[], "{\"input\": \"warm\"}")?;
        std::thread::sleep(Duration::from_secs(bench.effort.idle_seconds.min(10)));
        figures.extend(weights("peer", what, &[running.weight()?], false));
    }
    Ok(figures)
}

/// Each route, stream and tool.
fn use_everything(mote: &Running) -> Result<()> {
    for turn in 0..FIRST_USES {
        let body = format!("{{\"input\": \"use {turn}\", \"session\": \"s{turn}\"}}");
        mote.ask("POST", "/run", &[], &body)?;
        mote.ask("POST", "/run", &["accept: text/event-stream"], &body)?;
        let key = format!("idempotency-key: \"key-{turn}\"");
        let task = mote.ask("POST", "/tasks", &[&key], &body)?;
        let task: serde_json::Value = serde_json::from_str(task.trim()).context("failed to read the task")?;
        let id = task["id"].as_str().context("failed to read the task: no id")?;
        // Ends with the task.
        mote.ask("GET", &format!("/tasks/{id}/events"), &["accept: text/event-stream"], "")?;
        for path in [&format!("/tasks/{id}"), "/tasks", &format!("/sessions/s{turn}")] {
            mote.ask("GET", path, &[], "")?;
        }
        for path in ["/health", "/ready", "/metrics", "/openapi.json", "/v1/tools"] {
            mote.ask("GET", path, &[], "")?;
        }
    }
    Ok(())
}

/// Figures of one weight in each round.
fn weights(id: &'static str, what: &str, weights: &[Weight], goals: bool) -> Vec<Figure> {
    let mib = |part: fn(&Weight) -> f64| weights.iter().map(|weight| part(weight) / 1024.0).collect::<Vec<_>>();
    let mut rss = Figure::new(id, format!("{what}: RSS"), "MiB", mib(|weight| weight.rss));
    if goals {
        rss = rss.goal(Goal::AtMost(6.0)).goal(Goal::AtMost(4.0));
    }
    let mut figures = vec![
        rss,
        Figure::new(id, format!("{what}: of it anonymous"), "MiB", mib(|weight| weight.anonymous)),
        Figure::new(id, format!("{what}: of it file"), "MiB", mib(|weight| weight.file)),
    ];
    let cgroup: Vec<f64> = weights.iter().filter_map(|weight| weight.cgroup).map(|kib| kib / 1024.0).collect();
    if median(&cgroup) > 0.0 {
        figures.push(Figure::new(id, format!("{what}: cgroup"), "MiB", cgroup));
    }
    figures
}

/// A TLS server with a certificate that nobody trusts: a client does all of its part up to the verification.
struct TlsServer {
    child: Child,
    port: u16,
}

impl TlsServer {
    fn start(folder: &Path) -> Result<Self> {
        let subject = ["-subj", "/CN=localhost", "-days", "2", "-keyout", "tls.key", "-out", "tls.crt"];
        let key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        process::output(&mut process::command(folder, "openssl", &[&key[..], &subject[..]].concat()))?;
        let port = super::program::free_port()?;
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-key", "tls.key", "-cert", "tls.crt", "-accept", &port.to_string()])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start openssl s_server")?;
        Ok(Self { child, port })
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
