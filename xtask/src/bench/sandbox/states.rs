//! Snapshot, rollback and fork, with few and with many files, on btrfs and on overlay.
//!
//! It asserts nothing about independence of the number of files: the figures stand side by side.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Bench;
use super::client::Client;
use super::create::milliseconds;
use super::daemon::Daemon;
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
        let fill =
            format!("mkdir -p /tmp/../srv/tree && cd /srv/tree && seq 1 {} | split -l 1 -a 5 - f && sync", self.files);
        let result = client.ask(
            "POST",
            &format!("/v1/sandboxes/{sandbox}/exec"),
            &json!({"command": fill, "user": "root", "timeout": "5m"}),
        )?;
        anyhow::ensure!(result["exit"]["code"] == 0, "failed to write the files: {result}");
        let (mut snapshots, mut rollbacks, mut forks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.times {
            client.ask(
                "POST",
                &format!("/v1/sandboxes/{sandbox}/exec"),
                &json!({"command": "date > /srv/tree/faaaaa", "user": "root"}),
            )?;
            let started = Instant::now();
            let snapshot = client.ask("POST", &format!("/v1/sandboxes/{sandbox}/snapshots"), &json!({}))?;
            snapshots.push(milliseconds(started));
            let snapshot = snapshot["id"].as_str().context("a snapshot without an id")?.to_owned();
            let started = Instant::now();
            client.ask("POST", &format!("/v1/sandboxes/{sandbox}/rollback"), &json!({"snapshot": snapshot}))?;
            client.exec(&sandbox, &json!(["/bin/true"]))?;
            rollbacks.push(milliseconds(started));
            let started = Instant::now();
            let made = client.ask("POST", &format!("/v1/sandboxes/{sandbox}/fork"), &json!({}))?;
            let fork = first_id(&made)?;
            client.exec(&fork, &json!(["/bin/true"]))?;
            forks.push(milliseconds(started));
            client.remove(&fork)?;
        }
        client.remove(&sandbox)?;
        let name = |what: &str| format!("{}, {} files: {what}", self.filesystem, self.files);
        Ok(vec![
            Figure::new("sandbox-snapshot", name("snapshot"), "ms", snapshots).goal(Goal::AtMost(5.0)),
            Figure::new("sandbox-rollback", name("rollback to first exec"), "ms", rollbacks).goal(Goal::AtMost(10.0)),
            Figure::new("sandbox-fork", name("fork to first exec"), "ms", forks).goal(Goal::AtMost(10.0)),
        ])
    }
}

/// The id of the one sandbox in an answer to a fork.
fn first_id(made: &Value) -> Result<String> {
    let list = made.as_array().or_else(|| made["sandboxes"].as_array());
    let one = list.and_then(|list| list.first()).unwrap_or(made);
    let one = if one["sandbox"].is_object() { &one["sandbox"] } else { one };
    Ok(one["id"].as_str().with_context(|| format!("a fork without an id: {made}"))?.to_owned())
}
