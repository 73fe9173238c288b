//! The programs of a measurement: Mote, the fake model, the peers; started, waited for, weighed and always ended.
//!
//! It does not load them.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::http;

/// How long a program may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// File descriptors that a measured program may have: one a run in flight, and some.
const OPEN_FILES: u32 = 65_536;
/// Where version 1 of the memory controller is mounted.
const CGROUP_V1: &str = "/sys/fs/cgroup/memory";
/// Where version 2 is mounted.
const CGROUP_V2: &str = "/sys/fs/cgroup";

/// Where the programs are.
pub(super) struct Programs {
    pub(super) mote: PathBuf,
    pub(super) fake_model: PathBuf,
    pub(super) load: PathBuf,
    /// The folder of the peers' sources.
    pub(super) peers: PathBuf,
}

/// A running program. Dropping it kills it.
pub(super) struct Running {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(super) address: String,
    /// From its exec to the first answer of `/ready` that says yes.
    pub(super) ready_after: Duration,
    cgroup: Option<PathBuf>,
}

/// What a process weighs, KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weight {
    /// `VmRSS`.
    pub(super) rss: f64,
    /// `RssAnon`.
    pub(super) anonymous: f64,
    /// `RssFile`.
    pub(super) file: f64,
    /// Charged to a cgroup of its own: anonymous, and the page cache that it caused. `None` where none could be made.
    pub(super) cgroup: Option<f64>,
}

/// A running fake model.
pub(super) struct FakeModel {
    running: Child,
    /// `http://127.0.0.1:PORT`.
    pub(super) url: String,
}

#[derive(Deserialize)]
struct Announcement {
    url: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.child);
        if let Some(folder) = &self.cgroup {
            std::fs::remove_dir(folder).ok();
        }
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        end(&mut self.running);
    }
}

fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

impl Programs {
    /// Starts the fake model on a free port.
    pub(super) fn fake_model(&self) -> Result<FakeModel> {
        let mut running = Command::new(&self.fake_model)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", self.fake_model.display()))?;
        let mut line = String::new();
        if let Some(out) = running.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        match serde_json::from_str::<Announcement>(&line) {
            Ok(announcement) => Ok(FakeModel { running, url: announcement.url }),
            Err(_) => {
                end(&mut running);
                bail!("failed to start the fake model: it says {line:?}")
            }
        }
    }

    /// Starts `mote serve` and waits until it is ready.
    pub(super) fn mote(&self, agent: &Path, state: &Path) -> Result<Running> {
        let port = free_port()?;
        let mut arguments = vec!["serve".to_owned(), agent.to_string_lossy().into_owned()];
        arguments.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
        arguments.extend(["--state".to_owned(), state.to_string_lossy().into_owned()]);
        start(&self.mote, &arguments, &[], state, port)
    }

    /// Starts a peer under uvicorn, one process, as Mote is one.
    pub(super) fn peer(
        &self,
        python: &Path,
        peer: &str,
        model: (&str, &str),
        state: &Path,
        durable: bool,
    ) -> Result<Running> {
        let port = free_port()?.to_string();
        let app = format!("{peer}:app");
        let folder = self.peers.to_string_lossy();
        let arguments =
            ["-m", "uvicorn", &app, "--app-dir", &folder, "--port", &port, "--no-access-log", "--log-level", "warning"];
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let file = state.join("peer.sqlite").to_string_lossy().into_owned();
        let (url, name) = (format!("{}/v1", model.0), model.1.to_owned());
        let mut variables =
            vec![("PEER_MODEL_URL", url), ("PEER_MODEL", name), ("PYTHONDONTWRITEBYTECODE", "1".to_owned())];
        if durable {
            variables.push(("PEER_STATE", file));
        }
        start(python, &arguments, &variables, state, port.parse()?)
    }
}

/// Starts a program in a memory cgroup of its own where one can be made, with its output in its state folder.
fn start(
    program: &Path,
    arguments: &[String],
    variables: &[(&str, String)],
    state: &Path,
    port: u16,
) -> Result<Running> {
    let cgroup = new_cgroup();
    let log = state.join("output.log");
    // The shell raises the limit of open files and joins the cgroup, says so, and becomes the program at a word. Joining
    // waits for the kernel (some 5 ms), which is no part of the program's start.
    let join =
        cgroup.as_ref().map_or_else(String::new, |folder| format!("echo $$ > {}/cgroup.procs; ", folder.display()));
    let script = format!(
        "ulimit -n {OPEN_FILES} 2>/dev/null || ulimit -n $(ulimit -H -n); {join}log=$1; shift; echo prepared; read -r go; \
         exec \"$0\" \"$@\" < /dev/null > \"$log\" 2>&1"
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).arg(program).arg(&log).args(arguments);
    command.envs(variables.iter().map(|(name, value)| (name, value))).env("NO_PROXY", "127.0.0.1,localhost");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
    let (word, prepared) = (child.stdin.take(), child.stdout.take());
    let mut running = Running { child, address: format!("127.0.0.1:{port}"), ready_after: Duration::ZERO, cgroup };
    let mut line = String::new();
    BufReader::new(prepared.context("failed to hear the shell")?).read_line(&mut line)?;
    let started = Instant::now();
    word.context("failed to speak to the shell")?.write_all(b"go\n").context("failed to start the program")?;
    while !http::ask(&running.address, "GET", "/ready", &[], "").is_ok_and(|answer| answer.status == 200) {
        if let Some(status) = running.child.try_wait()? {
            let output = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("failed to start {}: {status}: {}", program.display(), output.trim());
        }
        if started.elapsed() > PATIENCE {
            bail!("failed to start {}: not ready after {} s", program.display(), PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    running.ready_after = started.elapsed();
    Ok(running)
}

impl Running {
    /// `http://127.0.0.1:PORT/path`.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// One request, which has to succeed.
    pub(super) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Result<String> {
        let answer = http::ask(&self.address, method, path, headers, body)?;
        if answer.status >= 400 {
            bail!("failed to ask {method} {path}: status {}: {}", answer.status, answer.body.trim());
        }
        Ok(answer.body)
    }

    /// What it weighs now.
    pub(super) fn weight(&self) -> Result<Weight> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        let kib = |name: &str| field(&status, name).with_context(|| format!("failed to find {name} in {path}"));
        let cgroup = self.cgroup.as_ref().and_then(|folder| {
            let files = ["memory.current", "memory.usage_in_bytes"];
            let text = files.iter().find_map(|file| std::fs::read_to_string(folder.join(file)).ok())?;
            text.trim().parse::<f64>().ok().map(|bytes| bytes / 1024.0)
        });
        Ok(Weight { rss: kib("VmRSS:")?, anonymous: kib("RssAnon:")?, file: kib("RssFile:")?, cgroup })
    }
}

/// A number of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn new_cgroup() -> Option<PathBuf> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("mote-bench-{}-{number}", std::process::id());
    let makes = |base: &str, probe: &str| {
        let folder = Path::new(base).join(&name);
        std::fs::create_dir(&folder).ok()?;
        if folder.join(probe).exists() {
            return Some(folder);
        }
        std::fs::remove_dir(&folder).ok();
        None
    };
    makes(CGROUP_V1, "memory.usage_in_bytes").or_else(|| makes(CGROUP_V2, "memory.current"))
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("failed to find a free port")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_process_status_is_a_number_of_kib() {
        let status = "Name:\tmote\nVmRSS:\t    3124 kB\nRssAnon:\t     900 kB\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "RssFile:")), (Some(3124.0), None));
    }
}
