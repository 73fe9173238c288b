//! The daemon under measurement: started on a fresh state with a root as its image, and always ended with all it made.
//!
//! It does not measure.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Bench;
use super::client::Client;
use crate::bench::http;
use crate::bench::program::free_port;

/// How long the daemon may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running daemon. Dropping it ends it, with its sandboxes.
pub(super) struct Daemon {
    child: Child,
    program: PathBuf,
    config: PathBuf,
    /// `127.0.0.1:PORT`.
    pub(super) address: String,
    key: String,
}

impl Daemon {
    /// Starts it; `settings` go over the configuration.
    pub(super) fn start(bench: &Bench, name: &str, settings: &Value) -> Result<Self> {
        let state = bench.folder(name)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut config = json!({
            "listen": address,
            "state": state.join("state"),
            "run": state.join("run"),
            "image": {"directory": bench.root},
            "image_directories": [bench.root],
            "on_stop": "remove",
            "sandboxes_max": 5000,
            "log": "warn",
        });
        for (field, value) in settings.as_object().into_iter().flatten() {
            config[field] = value.clone();
        }
        let file = state.join("config.yaml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).context("failed to write the daemon's configuration")?;
        let program = bench.binaries.join("mote-sandboxd");
        let child = serve(&program, &file, &state.join("output.log"))?;
        let mut daemon = Self { child, program, config: file, address, key: String::new() };
        daemon.wait_ready(&state)?;
        daemon.key = key(&state.join("state/daemon"))?;
        Ok(daemon)
    }

    fn wait_ready(&mut self, state: &Path) -> Result<()> {
        let started = Instant::now();
        while !http::ask(&self.address, "GET", "/ready", &[], "").is_ok_and(|answer| answer.status == 200) {
            let ended = self.child.try_wait()?;
            if ended.is_some() || started.elapsed() > PATIENCE {
                let output = std::fs::read_to_string(state.join("output.log")).unwrap_or_default();
                bail!("failed to start mote-sandboxd: {ended:?}: {}", output.trim());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A connection of its own.
    pub(super) fn client(&self) -> Result<Client> {
        Client::new(&self.address, &self.key)
    }
}

/// The key that the first start wrote for the command line.
fn key(state: &Path) -> Result<String> {
    let file: PathBuf = state.join("admin.key");
    let text = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn serve(program: &Path, config: &Path, log: &Path) -> Result<Child> {
    let log = std::fs::File::create(log)?;
    let mut command = Command::new(program);
    command.args(["serve", "--config"]).arg(config);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("failed to start mote-sandboxd")
}

/// Asks it to end, which removes its sandboxes; whether it did in time.
fn end(child: &mut Child) -> bool {
    Command::new("kill").arg(child.id().to_string()).status().ok();
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        if let Ok(Some(_)) = child.try_wait() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended_before = matches!(self.child.try_wait(), Ok(Some(_)));
        if !ended_before && end(&mut self.child) {
            return;
        }
        // Its sandboxes outlive one that crashed or hangs. The next one takes them over, and removes them.
        self.child.kill().ok();
        self.child.wait().ok();
        let log = self.config.with_file_name("cleaning.log");
        let Ok(mut next) = serve(&self.program, &self.config, &log) else { return };
        let started = Instant::now();
        while started.elapsed() < PATIENCE
            && !http::ask(&self.address, "GET", "/ready", &[], "").is_ok_and(|answer| answer.status == 200)
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        if !end(&mut next) {
            next.kill().ok();
            next.wait().ok();
        }
    }
}
