//! A sandbox's life over HTTP: each transition, each refusal, leases and deadlines, the warm pool, batches.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fixture::{Daemon, PATIENCE, POLL};

/// Asks for something illegal; the refusal names the state and what was asked.
async fn refused(daemon: &Daemon, id: &str, verb: &str, body: Value, state: &str, transition: &str) {
    let (status, answer) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/{verb}"), body).await;
    assert_eq!(status, StatusCode::CONFLICT, "{verb}: {answer}");
    assert_eq!(answer["code"], "illegal_transition");
    assert_eq!(answer["context"]["state"], state);
    assert_eq!(answer["context"]["transition"], transition);
    assert!(answer["message"].as_str().unwrap().contains("is not possible"), "{answer}");
}

#[tokio::test]
async fn a_whole_life() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({ "metadata": { "team": "a" } })).await;
    let of = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    assert_eq!(daemon.run(&id, "echo one > /tmp/f; cat /tmp/f").await, "one\n");
    let snapshot = daemon.done(Method::POST, &of("/snapshots"), json!({ "name": "start" })).await;
    assert_eq!(snapshot["memory"], false);
    daemon.run(&id, "echo two > /tmp/f; sleep 1000 >/dev/null 2>&1 &").await;
    let fork = daemon.done(Method::POST, &of("/fork"), json!({})).await;
    let fork = fork["items"][0]["sandbox"]["id"].as_str().unwrap().to_owned();
    let back = daemon.done(Method::POST, &of("/rollback"), json!({ "snapshot": snapshot["id"] })).await;
    assert_eq!((back["id"].as_str(), back["state"].as_str()), (Some(id.as_str()), Some("running")));
    assert_eq!(daemon.run(&id, "cat /tmp/f").await, "one\n");
    assert_eq!(daemon.run(&fork, "cat /tmp/f").await, "two\n", "a fork goes its own way");
    let listed = daemon.done(Method::GET, "/v1/sandboxes?metadata.team=a", Value::Null).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "a fork inherits metadata");
    let gone = daemon.done(Method::DELETE, &of(""), Value::Null).await;
    assert_eq!(gone["state"], "gone");
    let (status, answer) = daemon.ask(Method::POST, &of("/exec"), json!({ "command": "true" })).await;
    assert_eq!((status, answer["code"].as_str()), (StatusCode::GONE, Some("gone")));
    let (status, _) = daemon.ask(Method::DELETE, &of(""), Value::Null).await;
    assert_eq!(status, StatusCode::GONE);
}

#[tokio::test]
async fn each_illegal_transition_says_why() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({ "auto_resume": false })).await;
    refused(&daemon, &id, "resume", json!({}), "running", "resume").await;
    daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/pause"), json!({})).await;
    refused(&daemon, &id, "pause", json!({}), "paused", "pause").await;
    let (status, answer) =
        daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/exec"), json!({ "command": "true" })).await;
    assert_eq!((status, answer["code"].as_str()), (StatusCode::CONFLICT, Some("illegal_transition")));
    assert!(answer["remediation"].as_str().unwrap().contains("/resume"));
    // A snapshot of a paused sandbox leaves it paused.
    daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/snapshots"), json!({})).await;
    assert_eq!(daemon.state_of(&id).await, "paused");
}

#[tokio::test]
async fn a_pause_keeps_memory_or_only_files_and_says_which() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let of = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    daemon.run(&id, "sleep 4242 >/dev/null 2>&1 & echo $! > /tmp/pid").await;
    // By name: a new sandbox of processes gives the same numbers again.
    let alive = "grep -qsx sleep /proc/$(cat /tmp/pid)/comm && echo alive || echo dead";
    let frozen = daemon.done(Method::POST, &of("/pause"), json!({})).await;
    assert_eq!(frozen["pause"], "frozen");
    assert_eq!(daemon.run(&id, alive).await, "alive\n", "the request resumed it, its memory was kept");
    let stopped = daemon.done(Method::POST, &of("/pause"), json!({ "kind": "stopped" })).await;
    assert_eq!(stopped["pause"], "stopped");
    assert_eq!(daemon.run(&id, alive).await, "dead\n", "its files were kept, its processes were not");
}

#[tokio::test]
async fn a_lease_pauses_or_removes_and_a_deadline_removes() {
    let daemon = Daemon::start().await;
    let pausing = daemon.create(json!({ "lease": "300ms", "on_lease_end": "pause" })).await;
    let removed = daemon.create(json!({ "lease": "300ms", "on_lease_end": "remove" })).await;
    let dated = daemon.create(json!({ "deadline": "600ms" })).await;
    daemon.until(&pausing, "paused").await;
    daemon.until(&removed, "gone").await;
    daemon.until(&dated, "gone").await;
    let reason = |sandbox: Value| sandbox["reason"].as_str().unwrap().to_owned();
    let path = |id: &str| format!("/v1/sandboxes/{id}");
    assert_eq!(reason(daemon.done(Method::GET, &path(&removed), Value::Null).await), "its lease ran out");
    assert_eq!(reason(daemon.done(Method::GET, &path(&dated), Value::Null).await), "its deadline passed");
    let renewed = daemon.done(Method::POST, &format!("/v1/sandboxes/{pausing}/renew"), json!({ "lease": "1h" })).await;
    assert!(renewed["lease_ends_ms"].as_u64() > renewed["created_ms"].as_u64());
    assert_eq!(daemon.run(&pausing, "echo awake").await, "awake\n");
}

#[tokio::test]
async fn a_warm_sandbox_is_bound_to_whoever_claims_it() {
    let daemon = Daemon::configured("pool: [{spec: {profile: training}, size: 2}]").await;
    let warm = |text: String| text.lines().any(|line| line == "mote_sandbox_warm 2");
    while !warm(daemon.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()) {
        tokio::task::yield_now().await;
    }
    let id = daemon.create(json!({ "profile": "training", "env": { "EPISODE": "7" }, "lease": "5m" })).await;
    assert_eq!(daemon.run(&id, "echo $EPISODE").await, "7\n");
    let logs = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/logs"), Value::Null).await;
    assert!(logs.to_string().contains("claimed from the warm pool"), "{logs}");
}

#[tokio::test]
async fn a_batch_is_made_whole_and_an_idempotency_key_makes_it_once() {
    let daemon = Daemon::start().await;
    let ask = || {
        let body = json!({ "count": 3, "spec": { "profile": "training", "lease": "5m" } });
        daemon.request(Method::POST, "/v1/sandboxes").header("idempotency-key", "\"k1\"").json(&body).send()
    };
    let (first, second) = tokio::join!(ask(), ask());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.status(), StatusCode::CREATED);
    let (first, second): (Value, Value) = (first.json().await.unwrap(), second.json().await.unwrap());
    assert_eq!(first, second);
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    let listed = daemon.done(Method::GET, "/v1/sandboxes", Value::Null).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    let other = daemon
        .request(Method::POST, "/v1/sandboxes")
        .header("idempotency-key", "k1")
        .json(&json!({ "count": 2 }))
        .send()
        .await
        .unwrap();
    assert_eq!(other.status(), StatusCode::CONFLICT);
    let page = daemon.done(Method::GET, "/v1/sandboxes?limit=2", Value::Null).await;
    let next = page["next"].as_str().unwrap();
    let rest = daemon.done(Method::GET, &format!("/v1/sandboxes?limit=2&cursor={next}"), Value::Null).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert!(rest["next"].is_null());
}

#[tokio::test]
async fn a_caller_that_went_away_comes_back_with_its_key_and_finds_what_it_asked_for() {
    let daemon = Daemon::start().await;
    let request = || {
        let request = daemon.request(Method::POST, "/v1/sandboxes").header("idempotency-key", "k");
        request.json(&json!({ "count": 4 })).send()
    };
    let first = tokio::spawn(request());
    loop {
        let listed = daemon.done(Method::GET, "/v1/sandboxes", Value::Null).await;
        if !listed["items"].as_array().unwrap().is_empty() {
            break;
        }
    }
    // The connection ends with it.
    first.abort();
    let answer: Value = request().await.unwrap().json().await.unwrap();
    assert_eq!(answer["items"].as_array().unwrap().len(), 4, "{answer}");
    let listed = daemon.done(Method::GET, "/v1/sandboxes", Value::Null).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 4, "{listed}");
}

#[tokio::test]
async fn back_pressure_says_when_to_come_again() {
    let daemon = Daemon::configured("sandboxes_max: 1").await;
    daemon.create(json!({})).await;
    let response = daemon.request(Method::POST, "/v1/sandboxes").json(&json!({})).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "exhausted");
}

#[tokio::test]
async fn metrics_tell_of_each_sandbox_and_of_durations() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    daemon.run(&id, "true").await;
    let metrics = async || {
        let open =
            daemon.request(Method::GET, "/metrics").header("accept", "application/openmetrics-text;version=1.0.0");
        open.send().await.unwrap().text().await.unwrap()
    };
    // What has ended is counted until the kernel has let go of it.
    let alone = format!("mote_sandbox_pids{{sandbox=\"{id}\"}} 1\n");
    let since = Instant::now();
    let mut text = metrics().await;
    while !text.contains(&alone) {
        assert!(since.elapsed() < PATIENCE, "{text}");
        tokio::time::sleep(POLL).await;
        text = metrics().await;
    }
    assert!(text.contains("mote_sandbox_operation_duration_seconds_count{operation=\"create\"} 1"), "{text}");
    assert!(text.contains("mote_sandbox_sandboxes{state=\"running\"} 1"));
    // Each figure of each sandbox is its own: two that did nothing have used less than one that did.
    let hungry = daemon.create(json!({ "resources": { "memory": "64MiB" } })).await;
    let work = "python3 -c 'x = bytearray(400 << 20)'; head -c 8M /dev/urandom > /opt/data; sync -f /opt; \
                python3 -c 'sum(range(3000000))'; exit 0";
    daemon.run(&hungry, work).await;
    let since = Instant::now();
    let of = |text: &str, name: &str, id: &str| -> f64 {
        let line = format!("mote_sandbox_{name}{{sandbox=\"{id}\"}} ");
        let value = text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok());
        value.unwrap_or_else(|| panic!("{line}: {text}"))
    };
    // They are measured anew after a moment.
    let mut text = metrics().await;
    while of(&text, "oom_kills_total", &hungry) < 1.0 {
        assert!(since.elapsed() < PATIENCE, "{text}");
        tokio::time::sleep(POLL).await;
        text = metrics().await;
    }
    for (name, least) in [("cpu_seconds_total", 0.01), ("disk_bytes", f64::from(8 << 20)), ("oom_kills_total", 1.0)] {
        assert!(of(&text, name, &hungry) >= least && of(&text, name, &hungry) > of(&text, name, &id), "{name}: {text}");
    }
    for name in ["memory_bytes", "memory_limit_bytes"] {
        assert!((1.0..=f64::from(64 << 20)).contains(&of(&text, name, &hungry)), "{name}: {text}");
    }
    for name in ["network_sent_bytes_total", "network_received_bytes_total"] {
        assert!(of(&text, name, &hungry) < 1.0, "{name}: it has no network: {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_callers_trace_reaches_the_process() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let response = daemon
        .request(Method::POST, &format!("/v1/sandboxes/{id}/exec"))
        .header("traceparent", trace)
        .json(&json!({ "command": "echo $TRACEPARENT" }))
        .send()
        .await
        .unwrap();
    let result: Value = response.json().await.unwrap();
    assert_eq!(result["stdout"].as_str().unwrap().trim(), trace);
    daemon.logged("0af7651916cd43dd8448eb211c80319c").await;
}
