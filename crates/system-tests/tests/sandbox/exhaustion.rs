//! What would use the host up meets the sandbox's own bounds: files without content, output without end. The daemon and its
//! other sandboxes answer meanwhile.

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::fixture::Daemon;

/// Bytes of output in a flood.
const FLOOD: u64 = 192 << 20;
/// What the daemon's memory may grow by, whatever is printed: what one gathered answer takes, several times over.
pub(crate) const DAEMON_GROWTH_MAX: u64 = 96 << 20;
/// What the first process of a sandbox may take in all.
const INIT_MAX: u64 = 24 << 20;

/// The most memory that a process of the host had, in bytes.
pub(crate) fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The first processes of the daemon's sandboxes: those with the number 1 inside.
fn first_processes(daemon: &Daemon) -> Vec<u32> {
    let is_first = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        ids.split_whitespace().skip(1).last() == Some("1")
    };
    daemon.processes().into_iter().filter(is_first).collect()
}

/// Runs a line in one sandbox while another one is asked again and again; its result, and how often the other answered.
async fn meanwhile(daemon: &Daemon, id: &str, line: &str, other: &str) -> (Value, usize) {
    let flood = daemon.exec(id, line);
    tokio::pin!(flood);
    let mut answered = 0;
    loop {
        tokio::select! {
            result = &mut flood => return (result, answered),
            said = daemon.run(other, "echo here") => {
                assert_eq!(said, "here\n");
                answered += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_million_empty_files_meet_the_quota_and_can_be_removed_again() {
    let daemon = Daemon::start().await;
    let greedy = daemon.create(json!({ "resources": { "disk": "24MiB" } })).await;
    let other = daemon.create(json!({})).await;
    let script = "
import os
n = 0
try:
    while n < 1_000_000:
        if n % 1000 == 0: os.makedirs(f'/opt/many/{n // 1000}')
        os.close(os.open(f'/opt/many/{n // 1000}/{n % 1000}', os.O_CREAT | os.O_WRONLY)); n += 1
except OSError as error:
    print(n, os.strerror(error.errno))";
    daemon.put(&greedy, "/opt/many.py", script).await;
    let (result, answered) = meanwhile(&daemon, &greedy, "python3 /opt/many.py", &other).await;
    let said = result["stdout"].as_str().unwrap();
    let (count, why) = said.trim().split_once(' ').unwrap_or_else(|| panic!("nothing bounds them: {result}"));
    assert!(count.parse::<u32>().unwrap() > 1000, "{said}");
    assert!(["Disk quota exceeded", "No space left on device"].contains(&why), "{said}");
    assert!(answered > 0, "another sandbox answers meanwhile");
    // The bound is its own: the other one writes, and it goes on itself once there is room.
    daemon.run(&other, "for n in 1 2 3 4 5 6 7 8 9; do echo x > /opt/f$n; done").await;
    daemon.run(&greedy, "rm -rf /opt/many && sync -f /opt && echo x > /opt/again").await;
    let usage = daemon.done(Method::GET, &format!("/v1/sandboxes/{greedy}/usage"), Value::Null).await;
    assert!(usage["disk_bytes"].as_u64() <= usage["disk_bytes_max"].as_u64(), "{usage}");
}

#[tokio::test]
async fn a_flood_of_output_is_cut_and_counted_and_takes_no_more_memory() {
    let daemon = Daemon::start().await;
    let (loud, other) = (daemon.create(json!({})).await, daemon.create(json!({})).await);
    daemon.run(&loud, "true").await;
    let before = peak(daemon.pid());
    let half = FLOOD / 2;
    let line = format!("head -c {half} /dev/zero | tr '\\0' o & head -c {half} /dev/zero | tr '\\0' e >&2; wait");
    let (result, answered) = meanwhile(&daemon, &loud, &line, &other).await;
    let (out, err) = (result["stdout"].as_str().unwrap(), result["stderr"].as_str().unwrap());
    assert!(out.bytes().all(|byte| byte == b'o') && err.bytes().all(|byte| byte == b'e'));
    let told = (out.len() + err.len()) as u64 + result["truncated_bytes"].as_u64().unwrap();
    assert_eq!((told, result["exit"].clone()), (FLOOD, json!({"code": 0})), "what was cut is counted");
    assert!(!out.is_empty() && out.len() < 8 << 20, "{}", out.len());
    assert!(answered > 0, "another sandbox answers meanwhile");
    let grown = peak(daemon.pid()) - before;
    assert!(grown < DAEMON_GROWTH_MAX, "the daemon grew by {grown} bytes");
    let first: Vec<u64> = first_processes(&daemon).into_iter().map(peak).collect();
    assert!(!first.is_empty() && first.iter().all(|bytes| *bytes < INIT_MAX), "{first:?}");
}

/// A process over a WebSocket; its id inside, and the connection.
async fn streamed(
    daemon: &Daemon,
    id: &str,
    line: &str,
    detached: bool,
) -> (u64, impl futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin) {
    let url = format!("{}/v1/sandboxes/{id}/stream", daemon.url().replacen("http", "ws", 1));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", daemon.key().parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let start = json!({ "start": { "argv": ["sh", "-c", line], "user": "root", "detached": detached } });
    socket.send(Message::text(start.to_string())).await.unwrap();
    let started: Value = match socket.next().await.unwrap().unwrap() {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    };
    (started["started"]["pid"].as_u64().unwrap_or_else(|| panic!("{started}")), socket)
}

/// Bytes that a process inside has written.
async fn written(daemon: &Daemon, id: &str, pid: u64) -> u64 {
    let text = daemon.run(id, &format!("grep wchar /proc/{pid}/io")).await;
    text.split_whitespace().last().unwrap().parse().unwrap()
}

#[tokio::test]
async fn output_that_nobody_reads_is_dropped_or_held_back() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    daemon.run(&id, "true").await;
    let before = peak(daemon.pid());
    // Its client has gone: it goes on, and what it says is nobody's.
    let (orphan, connection) = streamed(&daemon, &id, "exec yes orphan", true).await;
    drop(connection);
    while written(&daemon, &id, orphan).await < FLOOD {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    daemon.run(&id, &format!("kill -9 {orphan}")).await;
    // Its client is there and does not read: it waits.
    let (held, mut connection) = streamed(&daemon, &id, "exec yes held", false).await;
    let mut same = 0;
    let mut last = written(&daemon, &id, held).await;
    while same < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let now = written(&daemon, &id, held).await;
        same = if now == last { same + 1 } else { 0 };
        assert!(now < FLOOD, "{now} bytes went somewhere");
        last = now;
    }
    // As soon as the client reads, it goes on.
    let mut read = 0;
    while read < last + (1 << 20) {
        read += connection.next().await.unwrap().unwrap().into_data().len() as u64;
    }
    drop(connection);
    let gone = format!("while [ -e /proc/{held} ]; do :; done; echo gone");
    assert_eq!(daemon.run(&id, &gone).await, "gone\n", "it ends with its client");
    let grown = peak(daemon.pid()) - before;
    assert!(grown < DAEMON_GROWTH_MAX, "the daemon grew by {grown} bytes");
    let first: Vec<u64> = first_processes(&daemon).into_iter().map(peak).collect();
    assert!(!first.is_empty() && first.iter().all(|bytes| *bytes < INIT_MAX), "{first:?}");
}

/// Descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn what_sandboxes_held_of_descriptors_is_given_back_by_the_daemon_and_by_its_keeper() {
    let daemon = Daemon::start().await;
    let keepers = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).unwrap();
    let keeper: u32 = keepers.split_whitespace().next().unwrap().parse().unwrap();
    let held = || (descriptors(daemon.pid()), descriptors(keeper));
    let life = async || {
        let id = daemon.create(json!({ "network": { "rules": [{ "verdict": "allow", "to": "*" }] } })).await;
        let of = |rest: &str| format!("/v1/sandboxes/{id}{rest}");
        daemon.exec(&id, "getent hosts nowhere.invalid").await;
        let cell = daemon.request(Method::POST, &of("/code/execute")).json(&json!({ "code": "1 + 1" }));
        assert!(cell.send().await.unwrap().text().await.unwrap().contains('2'));
        let snapshot = daemon.done(Method::POST, &of("/snapshots"), json!({})).await;
        daemon.done(Method::POST, &of("/rollback"), json!({ "snapshot": snapshot["id"] })).await;
        daemon.done(Method::POST, &of("/pause"), json!({ "kind": "stopped" })).await;
        daemon.run(&id, "true").await;
        daemon.done(Method::DELETE, &of(""), Value::Null).await;
        let path = format!("/v1/snapshots/{}", snapshot["id"].as_str().unwrap());
        daemon.done(Method::DELETE, &path, Value::Null).await;
    };
    // What is opened once and kept is open after the first.
    life().await;
    let quiet = async || {
        // Until nothing changes any more: what waits is made ready, and what has ended is let go of.
        let (mut last, mut same) = (held(), 0);
        while same < 50 {
            tokio::time::sleep(crate::fixture::POLL).await;
            let now = held();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    };
    let before = quiet().await;
    for _ in 0..10 {
        life().await;
    }
    let since = tokio::time::Instant::now();
    let mut after = quiet().await;
    // A descriptor for each life would be ten more.
    while after.0 >= before.0 + 5 || after.1 >= before.1 + 5 {
        assert!(
            since.elapsed() < crate::fixture::PATIENCE,
            "the daemon and its keeper hold {after:?}, before {before:?}"
        );
        after = quiet().await;
    }
}
