//! `kill -9` of the daemon, anywhere: what lived is adopted, what was half-made is given back, nothing leaks.
//!
//! That nothing leaks is the fixture's last word in every test here: processes, mounts, loop devices, cgroups, namespaces and
//! descriptors, each of its own daemon.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Daemon, Options};

#[tokio::test]
async fn what_lives_is_adopted_with_its_processes_and_its_files() {
    let mut daemon = Daemon::start().await;
    let lives = daemon.create(json!({ "env": { "NAME": "kept" } })).await;
    let paused = daemon.create(json!({})).await;
    daemon.run(&lives, "echo kept > /tmp/f; sleep 4242 >/dev/null 2>&1 & echo $! > /tmp/pid").await;
    daemon.run(&paused, "sleep 4242 >/dev/null 2>&1 & echo $! > /tmp/pid").await;
    daemon.done(Method::POST, &format!("/v1/sandboxes/{paused}/pause"), json!({})).await;
    daemon.restart().await;
    assert_eq!(daemon.state_of(&lives).await, "running");
    assert_eq!(daemon.state_of(&paused).await, "paused");
    for id in [&lives, &paused] {
        daemon.run(id, "kill -0 $(cat /tmp/pid)").await;
    }
    assert_eq!(daemon.run(&lives, "cat /tmp/f; echo $NAME").await, "kept\nkept\n");
    // The lease that was given out before still ends it.
    daemon.done(Method::POST, &format!("/v1/sandboxes/{lives}/renew"), json!({ "lease": "100ms" })).await;
    daemon.until(&lives, "paused").await;
}

/// Does something with a sandbox while the daemon is made to end at `point`; what becomes of the sandbox then.
async fn crashed(point: &str, verb: &str, expected: &[&str]) {
    let mut daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    daemon.run(&id, "echo before > /tmp/f").await;
    let snapshot = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/snapshots"), json!({})).await;
    daemon.run(&id, "echo after > /tmp/f").await;
    if verb == "resume" {
        daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/pause"), json!({})).await;
    }
    daemon.crash_at(point).await;
    let (method, path, body) = match verb {
        "create" => (Method::POST, "/v1/sandboxes".to_owned(), json!({})),
        "remove" => (Method::DELETE, format!("/v1/sandboxes/{id}"), Value::Null),
        "rollback" => (Method::POST, format!("/v1/sandboxes/{id}/rollback"), json!({ "snapshot": snapshot["id"] })),
        verb => (Method::POST, format!("/v1/sandboxes/{id}/{verb}"), json!({})),
    };
    let request = daemon.request(method, &path).json(&body).send().await;
    assert!(request.is_err(), "{point}: the daemon answered: {request:?}");
    daemon.ended().await;
    daemon.restart().await;
    let state = daemon.state_of(&id).await;
    assert!(expected.contains(&state.as_str()), "{point}: {state}\n{}", daemon.log());
    let listed = daemon.done(Method::GET, "/v1/sandboxes", Value::Null).await;
    let left = listed["items"].as_array().unwrap();
    assert!(left.iter().all(|sandbox| sandbox["id"] == id.as_str()), "{point}: {left:?}");
    let snapshots = daemon.done(Method::GET, "/v1/snapshots", Value::Null).await;
    assert_eq!(snapshots["items"].as_array().unwrap().len(), 1, "{point}: a half-made snapshot is no snapshot");
    if state != "gone" {
        let content = if verb == "rollback" { "before\n" } else { "after\n" };
        assert_eq!(daemon.run(&id, "cat /tmp/f").await, content, "{point}");
    }
    assert_eq!(daemon.stop(), Vec::<String>::new(), "{point}");
}

#[tokio::test]
async fn amid_a_creation() {
    for point in ["create.after_intent", "create.after_root", "create.after_start"] {
        crashed(point, "create", &["running"]).await;
    }
}

#[tokio::test]
async fn amid_a_pause_or_a_resume() {
    crashed("pause.after_intent", "pause", &["running"]).await;
    crashed("pause.after_effect", "pause", &["paused"]).await;
    crashed("resume.after_effect", "resume", &["running"]).await;
}

#[tokio::test]
async fn amid_a_snapshot_or_a_fork() {
    for point in ["snapshot.after_intent", "snapshot.after_effect"] {
        crashed(point, "snapshots", &["running"]).await;
    }
    crashed("fork.after_copy", "fork", &["running"]).await;
}

#[tokio::test]
async fn amid_a_rollback() {
    for point in ["rollback.after_intent", "rollback.after_end", "rollback.after_root"] {
        crashed(point, "rollback", &["running"]).await;
    }
}

#[tokio::test]
async fn amid_a_removal() {
    for point in ["remove.after_intent", "remove.after_end", "remove.after_root"] {
        crashed(point, "remove", &["gone"]).await;
    }
}

#[tokio::test]
async fn between_an_effect_and_its_answer_a_key_makes_nothing_twice() {
    let mut daemon = Daemon::start().await;
    daemon.crash_at("reply.after_effect").await;
    let ask = |daemon: &Daemon| {
        let request = daemon.request(Method::POST, "/v1/sandboxes").header("idempotency-key", "k");
        request.json(&json!({ "count": 4 })).send()
    };
    let request = ask(&daemon).await;
    assert!(request.is_err(), "the daemon answered: {request:?}");
    daemon.ended().await;
    daemon.restart().await;
    let ids = |page: &Value| {
        let of = |item: &Value| item["id"].as_str().or(item["sandbox"]["id"].as_str()).unwrap().to_owned();
        let mut ids: Vec<String> = page["items"].as_array().unwrap().iter().map(of).collect();
        ids.sort();
        ids
    };
    let answer: Value = ask(&daemon).await.unwrap().json().await.unwrap();
    let listed = daemon.done(Method::GET, "/v1/sandboxes", Value::Null).await;
    assert_eq!(ids(&answer).len(), 4, "{answer}");
    assert_eq!(ids(&listed), ids(&answer), "each was made once");
    let again: Value = ask(&daemon).await.unwrap().json().await.unwrap();
    assert_eq!(again, answer);
}

#[tokio::test]
async fn processes_that_ended_while_the_daemon_was_away_leave_a_rested_sandbox_or_none() {
    let mut daemon = Daemon::start_with(Options::default()).await;
    let keeps = daemon.create(json!({})).await;
    daemon.run(&keeps, "echo kept > /tmp/f").await;
    let training = daemon.create(json!({ "profile": "training", "lease": "5m" })).await;
    daemon.kill();
    for pid in daemon.processes() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    daemon.restart().await;
    assert_eq!(daemon.state_of(&keeps).await, "paused");
    assert_eq!(daemon.state_of(&training).await, "gone");
    assert_eq!(daemon.run(&keeps, "cat /tmp/f").await, "kept\n");
}

#[tokio::test]
async fn the_end_of_the_first_process_is_told() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    daemon.kill_first_processes();
    daemon.until(&id, "failed").await;
    let sandbox = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    assert!(sandbox["reason"].as_str().unwrap().contains("ended unexpectedly"), "{sandbox}");
    daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
}

/// The program is there and cannot be run: as where it is missing, an error of the start that names the package.
#[tokio::test]
async fn a_first_start_without_the_program_for_pools_says_what_to_install() {
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    let text = format!("listen: 127.0.0.1:0\nstate: {}\nfilesystem: btrfs\n", folder.path().join("state").display());
    let init = system_tests::process::binary::mote_sandbox_init().unwrap().display();
    std::fs::write(&config, format!("{text}init: {init}\n")).unwrap();
    let script = "for at in $(which -a mkfs.btrfs); do mount --bind /dev/null $(realpath $at); done; exec \"$@\"";
    let mut daemon = tokio::process::Command::new("unshare");
    daemon.args(["--mount", "sh", "-c", script, "sh"]).arg(system_tests::process::binary::mote_sandboxd().unwrap());
    daemon.args(["serve", "--config"]).arg(&config).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(crate::fixture::PATIENCE, daemon.output()).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        !output.status.success() && said.contains("mkfs.btrfs") && said.contains("apt install btrfs-progs"),
        "{said}"
    );
}
