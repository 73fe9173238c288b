//! Logs: the daemon's own, for machines, and what happened to each sandbox, for its holder.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::Daemon;

async fn journal(daemon: &Daemon, id: &str, after: u64) -> Vec<Value> {
    let page = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/logs?after={after}"), Value::Null).await;
    page["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_daemons_log_is_one_object_a_line_and_holds_nothing_of_what_runs_inside() {
    let mut daemon = Daemon::start().await;
    let id = daemon.create(json!({ "env": { "NAME": "in-the-environment" } })).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let exec = |command: &str| {
        let path = format!("/v1/sandboxes/{id}/exec?");
        let request = daemon.request(Method::POST, path.trim_end_matches('?'));
        let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
        request.json(&json!({ "command": command, "env": { "A": "in-the-request" } })).send()
    };
    assert!(
        exec("echo on-standard-output; echo on-standard-error >&2 # in-the-command")
            .await
            .unwrap()
            .status()
            .is_success()
    );
    daemon.put(&id, "/opt/in-the-path", "in-the-file").await;
    // What a caller names is data, whatever it looks like.
    let name = "x\\\"}\\n{\\\"level\\\":\\\"FORGED";
    let (status, _) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/snapshots"), json!({ "name": name })).await;
    assert!(status.is_client_error());
    daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    // The end of the daemon writes what waits.
    drop(daemon.stop());
    let log = daemon.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    for line in &lines {
        for field in ["time", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
        assert!(["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&line["level"].as_str().unwrap()), "{line}");
    }
    let traced = lines.iter().find(|line| line["trace_id"] == trace).unwrap_or_else(|| panic!("no trace: {log}"));
    assert_eq!((&traced["method"], &traced["route"]), (&json!("POST"), &json!("/v1/sandboxes/{id}/exec")));
    for private in ["in-the-", "on-standard-", "FORGED", daemon.key()] {
        assert!(!log.contains(private), "{private}: {log}");
    }
}

#[tokio::test]
async fn what_happened_to_a_sandbox_is_told_in_order_and_within_bounds() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let of = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    let snapshot = daemon.done(Method::POST, &of("/snapshots"), json!({})).await;
    daemon.done(Method::POST, &of("/fork"), json!({})).await;
    daemon.done(Method::POST, &of("/rollback"), json!({ "snapshot": snapshot["id"] })).await;
    daemon.done(Method::POST, &of("/pause"), json!({})).await;
    daemon.done(Method::POST, &of("/resume"), json!({})).await;
    daemon.done(Method::PUT, &of("/network"), json!({})).await;
    let told = journal(&daemon, &id, 0).await;
    let mut place = 0;
    for word in ["created", "snapshot", "forked", "rolled back", "paused", "resumed", "network policy"] {
        let at = told[place..].iter().position(|line| line["message"].as_str().unwrap().contains(word));
        place += at.unwrap_or_else(|| panic!("{word}: {told:?}")) + 1;
    }
    let numbers: Vec<u64> = told.iter().map(|line| line["number"].as_u64().unwrap()).collect();
    assert!(
        numbers.is_sorted() && told.iter().all(|line| line["level"] == "info" && line["at_ms"].is_u64()),
        "{told:?}"
    );
    // Only what is new, for whoever comes back.
    let last = *numbers.last().unwrap();
    assert_eq!(journal(&daemon, &id, last).await, Vec::<Value>::new());
    // A flood pushes the oldest out, and the gap shows.
    for _ in 0..530 {
        daemon.done(Method::PUT, &of("/network"), json!({})).await;
    }
    let told = journal(&daemon, &id, 0).await;
    assert_eq!(told.len(), 512);
    assert!(told[0]["number"].as_u64() > Some(1), "{}", told[0]);
    // The end is told to those who come late.
    daemon.done(Method::DELETE, &of(""), Value::Null).await;
    let last = journal(&daemon, &id, told.last().unwrap()["number"].as_u64().unwrap()).await;
    assert!(last.iter().any(|line| line["message"].as_str().unwrap().contains("removed")), "{last:?}");
}

#[tokio::test]
async fn the_operator_chooses_how_much_is_logged() {
    let mut daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    daemon.run(&id, "true").await;
    daemon.logged("a program ended").await;
    drop(daemon.stop());
    let mut daemon = Daemon::configured("log: warn,mote_sandboxd::service=info").await;
    let id = daemon.create(json!({})).await;
    daemon.run(&id, "true").await;
    // The end of the daemon writes what waits.
    drop(daemon.stop());
    assert!(!daemon.log().contains("a program ended") && daemon.log().contains("listening"), "{}", daemon.log());
}
