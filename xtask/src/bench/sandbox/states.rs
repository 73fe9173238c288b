//! Snapshot, rollback and fork, with few and with many files, on btrfs and on overlay.
//!
//! It asserts nothing about independence of the number of files: the figures stand side by side.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::client::Client;
use super::create::milliseconds;
use super::daemon::Daemon;
use super::{Bench, repeat};
use crate::bench::figure::{Figure, Goal, Section};

/// Both filesystems.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let mut figures = Vec::new();
    for filesystem in ["btrfs", "overlay"] {
        let daemon = Daemon::start(bench, filesystem, &json!({"filesystem": filesystem}))?;
        let mut client = daemon.client()?;
        for files in bench.effort.trees {
            let tree = Tree { filesystem, files: *files, times: bench.effort.states };
            figures.extend(tree.measure(&mut client).with_context(|| format!("{filesystem}, {files} files"))?);
        }
    }
    let method = format!(
        "{} times each in one sandbox whose own tree holds that many files, one of them written before each snapshot. Rollback \
         and fork count to the end of the first program.",
        bench.effort.states
    );
    Ok(Section { title: "Snapshot, rollback, fork", method, figures })
}

struct Tree {
    filesystem: &'static str,
    files: u32,
    times: usize,
}

impl Tree {
    fn measure(&self, client: &mut Client) -> Result<Vec<Figure>> {
        let sandbox =
            client.create(&json!({"profile": "production", "resources": {"disk": "4GiB", "memory": "2GiB"}}))?;
        let path = format!("/v1/sandboxes/{sandbox}");
        let shell = |client: &mut Client, line: &str| {
            let asked = json!({"command": line, "user": "root", "timeout": "50s"});
            let result = client.ask("POST", &format!("{path}/exec"), &asked)?;
            anyhow::ensure!(result["exit"]["code"] == 0, "failed to run {line:?}: {result}");
            Ok(())
        };
        let files = self.files;
        let fill = format!("mkdir /srv/tree && cd /srv/tree && seq 1 {files} | split -l 1 -a 5 - f && sync -f .");
        shell(client, &fill)?;
        let take = |client: &mut Client| -> Result<Value> {
            Ok(client.ask("POST", &format!("{path}/snapshots"), &json!({}))?["id"].take())
        };
        let base = take(client)?;
        let (mut snapshots, mut rollbacks, mut forks) = (Vec::new(), Vec::new(), Vec::new());
        repeat(self.times, |_| {
            shell(client, "date > /srv/tree/faaaaa")?;
            let started = Instant::now();
            let snapshot = take(client)?;
            snapshots.push(milliseconds(started));
            let started = Instant::now();
            client.ask("POST", &format!("{path}/rollback"), &json!({"snapshot": snapshot}))?;
            client.exec(&sandbox, &json!(["/bin/true"]))?;
            rollbacks.push(milliseconds(started));
            let started = Instant::now();
            let made = client.ask("POST", &format!("{path}/fork"), &json!({}))?;
            let fork = first_id(&made)?;
            client.exec(&fork, &json!(["/bin/true"]))?;
            forks.push(milliseconds(started));
            client.remove(&fork)?;
            // On overlay each snapshot is a layer more: back to the first.
            client.ask("POST", &format!("{path}/rollback"), &json!({"snapshot": base}))?;
            let snapshot = snapshot.as_str().context("a snapshot without an id")?;
            client.raw("DELETE", &format!("/v1/snapshots/{snapshot}"), "application/json", b"").map(drop)
        })?;
        client.remove(&sandbox)?;
        let name = |what: &str| format!("{}, {} files: {what}", self.filesystem, self.files);
        let ids = match self.filesystem {
            "btrfs" => ["sandbox-snapshot-btrfs", "sandbox-rollback-btrfs", "sandbox-fork-btrfs"],
            _ => ["sandbox-snapshot-overlay", "sandbox-rollback-overlay", "sandbox-fork-overlay"],
        };
        Ok(vec![
            Figure::new(ids[0], name("snapshot"), "ms", snapshots).goal(Goal::AtMost(5.0)),
            Figure::new(ids[1], name("rollback to first exec"), "ms", rollbacks).goal(Goal::AtMost(10.0)),
            Figure::new(ids[2], name("fork to first exec"), "ms", forks).goal(Goal::AtMost(10.0)),
        ])
    }
}

/// The id of the one sandbox in an answer to a fork.
fn first_id(made: &Value) -> Result<String> {
    Ok(made["items"][0]["sandbox"]["id"].as_str().with_context(|| format!("a fork without an id: {made}"))?.to_owned())
}
