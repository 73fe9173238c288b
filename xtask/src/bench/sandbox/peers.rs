//! bubblewrap, crun and runc from Debian: each makes a container on the same root, runs one program to its end, and ends.
//!
//! They do less than a sandbox of Mote's: no copy-on-write root, no quota, no policy, nothing that stays.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Bench;
use crate::process;

/// One peer.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its name and Debian package.
    pub(super) name: &'static str,
    bundle: PathBuf,
    root: PathBuf,
}

/// Those that are installed, or an error that says what to install.
pub(super) fn all(bench: &Bench) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for (name, program, package) in
        [("bubblewrap", "bwrap", "bubblewrap"), ("crun", "crun", "crun"), ("runc", "runc", "runc")]
    {
        ensure!(process::found(program), "{program} is missing (Debian package {package})");
        let bundle = bench.folder(&format!("bundle-{name}"))?;
        if name != "bubblewrap" {
            write_bundle(name, &bundle, &bench.root)?;
        }
        peers.push(Peer { name, bundle, root: bench.root.clone() });
    }
    Ok(peers)
}

/// The runtime's own default specification, with `/bin/true` on our root and no terminal.
fn write_bundle(runtime: &str, bundle: &Path, root: &Path) -> Result<()> {
    process::output(&mut process::command(bundle, runtime, &["spec"]))?;
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    spec["root"] = json!({"path": root, "readonly": true});
    std::fs::write(&file, spec.to_string()).context("failed to write the bundle")
}

impl Peer {
    /// Milliseconds from the start of the program to its end.
    pub(super) fn run_ms(&self, number: usize) -> Result<f64> {
        let mut command = match self.name {
            "bubblewrap" => {
                let mut command = Command::new("bwrap");
                command.arg("--ro-bind").arg(&self.root).arg("/");
                command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--unshare-all", "/bin/true"]);
                command
            }
            runtime => {
                let mut command = Command::new(runtime);
                command.args(["run", "--bundle"]).arg(&self.bundle);
                command.arg(format!("mote-bench-{}-{number}", std::process::id()));
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let started = Instant::now();
        let status = command.status().with_context(|| format!("failed to start {}", self.name))?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }
}
