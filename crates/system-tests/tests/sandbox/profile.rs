//! The two profiles, end to end: one code path, two sets of defaults, and what the daemon says of both.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Daemon, Options};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;

async fn sandbox(daemon: &Daemon, id: &str) -> Value {
    daemon.done(Method::GET, &format!("/v1/sandboxes/{id}"), Value::Null).await
}

/// The time from its creation to the end of its lease and to its deadline, in milliseconds.
fn spans(sandbox: &Value) -> (u64, u64) {
    let at = |name: &str| sandbox[name].as_u64().unwrap();
    (at("lease_ends_ms") - at("created_ms"), at("deadline_ms") - at("created_ms"))
}

/// Ends the daemon as a crash does, lets days go by for every sandbox that it kept, and starts it again.
async fn days_go_by(daemon: &mut Daemon, days: u64) {
    let span = i64::try_from(days * DAY).unwrap();
    daemon.kill();
    let db = rusqlite::Connection::open(daemon.state().join("daemon/sandboxd.db")).unwrap();
    for field in ["created_ms", "lease_ends_ms", "deadline_ms"] {
        let shift = format!(
            "UPDATE sandboxes SET record = json_set(record, '$.{field}', json_extract(record, '$.{field}') - ?) \
             WHERE json_extract(record, '$.{field}') IS NOT NULL"
        );
        db.execute(&shift, [span]).unwrap();
    }
    drop(db);
    daemon.restart().await;
}

#[tokio::test]
async fn training_is_alone_brief_warm_and_reset_by_rollback() {
    let daemon = Daemon::configured("pool: [{spec: {profile: training}, size: 3}]").await;
    let warm = |text: String| text.lines().any(|line| line == "mote_sandbox_warm 3");
    while !warm(daemon.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let body = json!({ "count": 3, "spec": { "profile": "training" } });
    let batch = daemon.done(Method::POST, "/v1/sandboxes", body).await;
    let made: Vec<&Value> = batch["items"].as_array().unwrap().iter().map(|item| &item["sandbox"]).collect();
    assert_eq!(made.len(), 3, "{batch}");
    for one in &made {
        assert_eq!(spans(one).0, 30 * SECOND, "{one}");
        let path = format!("/v1/sandboxes/{}/logs", one["id"].as_str().unwrap());
        let logs = daemon.done(Method::GET, &path, Value::Null).await;
        assert!(logs.to_string().contains("claimed from the warm pool"), "{logs}");
    }
    let id = made[0]["id"].as_str().unwrap();
    let of = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    // Nothing is reached, and nothing can be opened.
    assert_eq!(daemon.run(id, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await, "lo\n");
    let host = daemon.url().rsplit_once(':').unwrap().1;
    let reach = format!("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {host}), 5)'");
    assert_ne!(daemon.exec(id, &reach).await["exit"], json!({"code": 0}));
    let open = json!({ "rules": [{ "verdict": "allow", "to": "*" }] });
    let (status, answer) = daemon.ask(Method::PUT, &of("/network"), open).await;
    assert_eq!((status, answer["context"]["feature"].as_str()), (StatusCode::NOT_IMPLEMENTED, Some("network")));
    // Episodes: each begins as the one before it did, whatever that did, with a life of its own.
    daemon.run(id, "mkdir /opt/episode; echo 0 > /opt/episode/score").await;
    let start = daemon.done(Method::POST, &of("/snapshots"), json!({})).await;
    let mut ends = 0;
    for episode in 1..=3 {
        assert_eq!(
            daemon.run(id, "ls /opt/episode; cat /opt/episode/score; pgrep -c sleep || true").await,
            "score\n0\n0\n"
        );
        daemon
            .run(
                id,
                &format!(
                    "cd /opt/episode; echo {episode} > score; rm -rf /etc/*; touch x; sleep 4242 >/dev/null 2>&1 &"
                ),
            )
            .await;
        let back = daemon.done(Method::POST, &of("/rollback"), json!({ "snapshot": start["id"] })).await;
        assert_eq!((back["id"].as_str(), back["state"].as_str()), (Some(id), Some("running")));
        let lease = back["lease_ends_ms"].as_u64().unwrap();
        assert!(lease > ends, "its lease runs anew: {back}");
        ends = lease;
    }
    // A life that nobody renews is over after the lease, for good.
    daemon.done(Method::POST, &of("/renew"), json!({ "lease": "50ms" })).await;
    daemon.until(id, "gone").await;
}

#[tokio::test]
async fn production_lasts_across_days_of_pause_and_wakes_by_itself() {
    let mut daemon = Daemon::start().await;
    let id = daemon.create(json!({ "env": { "NAME": "kept" } })).await;
    let of = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
    assert_eq!(spans(&sandbox(&daemon, &id).await), (40 * MINUTE, 30 * DAY));
    // What it reaches is the policy's matter, from the first moment: nothing at first, and changed while it runs.
    let rules = json!({ "rules": [{ "verdict": "allow", "to": "pypi.org", "ports": [443] }] });
    daemon.done(Method::PUT, &of("/network"), rules).await;
    // Memory that outlasts what follows.
    let hold = "python3 -c 'import os, signal
n = [41]
def more(*_):
    n[0] += 1; open(\"/tmp/n\", \"w\").write(str(n[0])); os.rename(\"/tmp/n\", \"/tmp/told\")
signal.signal(signal.SIGUSR1, more); open(\"/tmp/ready\", \"w\")
while True: signal.pause()' >/dev/null 2>&1 & echo $! > /tmp/pid; until [ -e /tmp/ready ]; do :; done";
    daemon.run(&id, hold).await;
    // Nobody gives a sign: it is paused, not removed.
    daemon.done(Method::POST, &of("/renew"), json!({ "lease": "50ms" })).await;
    daemon.until(&id, "paused").await;
    assert_eq!(sandbox(&daemon, &id).await["pause"], "frozen");
    daemon.done(Method::POST, &of("/renew"), json!({ "lease": "40m" })).await;
    days_go_by(&mut daemon, 3).await;
    assert_eq!(daemon.state_of(&id).await, "paused");
    // A request that needs it wakes it, with what it held.
    let wake = "kill -USR1 $(cat /tmp/pid); until [ -e /tmp/told ]; do :; done; cat /tmp/told; echo $NAME";
    assert_eq!(daemon.run(&id, wake).await, "42kept\n");
    let awake = sandbox(&daemon, &id).await;
    assert_eq!(awake["state"], "running");
    assert!(spans(&awake).0 >= 3 * DAY + 40 * MINUTE, "its lease runs anew: {awake}");
    // With the filesystem alone it costs no memory, and wakes as well.
    daemon.run(&id, "echo kept > /opt/f").await;
    daemon.done(Method::POST, &of("/pause"), json!({ "kind": "stopped" })).await;
    days_go_by(&mut daemon, 20).await;
    assert_eq!(daemon.state_of(&id).await, "paused");
    assert_eq!(daemon.run(&id, "cat /opt/f; echo $NAME").await, "kept\nkept\n");
    // Its deadline is kept by nobody.
    daemon.done(Method::POST, &of("/pause"), json!({})).await;
    days_go_by(&mut daemon, 7).await;
    daemon.until(&id, "gone").await;
    assert_eq!(sandbox(&daemon, &id).await["reason"], "its deadline passed");
}

#[tokio::test]
async fn both_profiles_are_told_with_what_this_host_enforces() {
    let daemon = Daemon::configured("profiles: {training: {lease: 45s}}").await;
    let told = daemon.done(Method::GET, "/v1/capabilities", Value::Null).await;
    let (training, production) = (&told["profiles"]["training"], &told["profiles"]["production"]);
    assert_eq!(
        (&training["lease"], &production["lease"]),
        (&json!("45s"), &json!("40m")),
        "the operator's own is told"
    );
    assert_eq!((&training["on_lease_end"], &production["on_lease_end"]), (&json!("remove"), &json!("pause")));
    assert_eq!((&training["auto_resume"], &production["auto_resume"]), (&json!(false), &json!(true)));
    assert_eq!((&training["network"], &production["network"]), (&Value::Null, &json!({ "ingress_token": true })));
    assert_eq!(production["deadline"], "30d");
    for profile in [training, production] {
        for bound in ["memory", "cpu_milli", "pids", "disk"] {
            assert!(!profile["resources"][bound].is_null(), "{bound}: {profile}");
        }
    }
    // What cannot be had is said, with the reason, and nothing stands in for it.
    for absent in ["clock.offset", "entropy.seed", "snapshot.memory"] {
        assert_eq!(told["features"][absent]["available"], false, "{absent}");
        assert!(told["features"][absent]["detail"].as_str().unwrap().len() > 10, "{absent}: {told}");
    }
    let is = |told: &Value, part: &str, name: &str| told[part][name]["available"].as_bool().unwrap();
    assert_eq!((is(&told, "features", "snapshot.live"), is(&told, "enforcement", "disk_quota")), (true, true));
    let names = [
        "user_namespaces",
        "seccomp",
        "network_policy",
        "cgroup.memory",
        "cgroup.cpu",
        "cgroup.pids",
        "cgroup.freezer",
    ];
    for name in names.into_iter().chain(["daemon.user", "daemon.capabilities", "daemon.landlock"]) {
        assert!(is(&told, "enforcement", name), "{name}: {told}");
    }
    // Another host's truth: on plain directories the same daemon says the opposite of both.
    let config = "filesystem: plain".to_owned();
    let plain = Daemon::start_with(Options { config, folder: Some("/dev/shm"), ..Options::default() }).await;
    let told = plain.done(Method::GET, "/v1/capabilities", Value::Null).await;
    assert_eq!((is(&told, "features", "snapshot.live"), is(&told, "enforcement", "disk_quota")), (false, false));
}
