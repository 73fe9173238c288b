//! What an operator scrapes, checked by the tool that operators use.

use std::io::Write as _;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fixture::{Daemon, PATIENCE, POLL};

fn promtool(text: &str) {
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = check.spawn().expect("promtool (Debian package prometheus)");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

async fn scraped(daemon: &Daemon) -> String {
    daemon.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({"network": {"rules": []}})).await;
    daemon.run(&id, "true").await;
    daemon.exec(&id, "getent hosts refused.example").await;
    daemon.done(Method::GET, &format!("/sandboxes/{id}"), Value::Null).await;
    let text = scraped(&daemon).await;
    promtool(&text);
    for line in [
        "mote_sandbox_operation_duration_seconds_count{operation=\"create\"} 1",
        "mote_sandbox_http_requests_total{route=\"/sandboxes/{id}\",method=\"GET\",status=\"200\"} 1",
        "# TYPE mote_sandbox_network_refusals_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let refused =
        |line: &str| line.starts_with("mote_sandbox_network_refusals_total{kind=\"dns\",reason=\"no_rule\"} ");
    assert!(text.lines().any(|line| refused(line) && !line.ends_with(" 0")), "{text}");
}

#[tokio::test]
async fn a_refusal_is_counted_by_its_reason_and_by_nothing_that_a_sandbox_chooses() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({"network": {"rules": [{"verdict": "allow", "to": "*"}]}})).await;
    let dial = "python3 -c 'import socket; socket.create_connection((\"169.254.169.254\", 80), 30).recv(1)'";
    for _ in 0..2 {
        daemon.exec(&id, dial).await;
    }
    let text = scraped(&daemon).await;
    let line = "mote_sandbox_network_refusals_total{kind=\"tcp\",reason=\"special_range\"} 2";
    assert!(text.lines().any(|found| found == line), "{text}");
    let families: Vec<&str> = text.lines().filter(|line| line.starts_with("mote_sandbox_network_refusals")).collect();
    assert!(!families.iter().any(|line| line.contains(&id) || line.contains("169.254")), "{families:?}");
}

/// Processes whose parent this one is.
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let texts = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[tokio::test]
async fn what_could_not_be_got_ready_is_counted() {
    // An image that is nowhere: the warm pool stays empty.
    let nowhere = "pool: [{spec: {profile: training, image: {name: nowhere}}, size: 1}]";
    let daemon = Daemon::configured(nowhere).await;
    let count = |text: &str, kept: &str| {
        let line = format!("mote_sandbox_refill_failures_total{{kept=\"{kept}\"}} ");
        let value = text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("{kept}\n{text}"))
    };
    // What waits in the keeper, the daemon's child, for a sandbox to come is ended from outside, until it is noticed.
    let since = Instant::now();
    loop {
        let text = scraped(&daemon).await;
        if count(&text, "sandboxes") > 0 && count(&text, "namespaces") > 0 {
            break promtool(&text);
        }
        assert!(since.elapsed() < PATIENCE, "{text}\n{}", daemon.log());
        children(daemon.pid()).into_iter().flat_map(children).for_each(kill);
        tokio::time::sleep(POLL).await;
    }
    daemon.logged("nowhere").await;
}
