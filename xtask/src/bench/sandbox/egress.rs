//! What the daemon's proxy costs: requests and throughput from inside, beside the same client on the host.
//!
//! The server is a thread of this program on the host's loopback, which the policy names.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Bench;
use super::create::percentile;
use super::daemon::Daemon;
use crate::bench::figure::{Figure, Section};

/// Bytes of the large answer.
const LARGE: usize = 256 << 20;

/// Inside and outside.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let server = TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
    let address = server.local_addr()?;
    std::thread::spawn(move || {
        server.incoming().flatten().for_each(|stream| drop(std::thread::spawn(|| serve(stream))))
    });
    let daemon = Daemon::start(bench, "egress", &json!({}))?;
    let mut client = daemon.client()?;
    let policy = json!({"rules": [{"verdict": "allow", "to": "127.0.0.0/8"}], "private_ranges": ["127.0.0.0/8"]});
    // Loopback inside is the sandbox's own; this address is the host's, and only the daemon can reach it.
    let port = address.port();
    let sandbox = client.create(&json!({"profile": "production", "network": policy}))?;
    let times = bench.effort.times;
    let small = |host: &str| curl(&format!("http://{host}:{port}/small?[1-{times}]"), "%{time_total}\\n");
    let large = |host: &str| curl(&format!("http://{host}:{port}/large"), "%{speed_download}\\n");
    let inside = |client: &mut super::client::Client, command: Vec<String>| client.exec(&sandbox, &json!(command));
    let outside = |command: Vec<String>| -> Result<String> {
        let output = Command::new(&command[0]).args(&command[1..]).output().context("failed to start curl")?;
        ensure!(output.status.success(), "curl ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let through = numbers(&inside(&mut client, small("127.1.2.3"))?, 1e3);
    let direct = numbers(&outside(small("127.0.0.1"))?, 1e3);
    let through_rate = numbers(&inside(&mut client, large("127.1.2.3"))?, 1.0 / f64::from(1 << 20));
    let direct_rate = numbers(&outside(large("127.0.0.1"))?, 1.0 / f64::from(1 << 20));
    let figures = vec![
        Figure::new("sandbox-proxy-p99", "a request through the proxy: p99", "ms", vec![percentile(&through, 99.0)]),
        Figure::new("sandbox-proxy", "a request through the proxy", "ms", through),
        Figure::new("sandbox-proxy-direct", "the same without", "ms", direct),
        Figure::new("sandbox-proxy-rate", "256 MiB through the proxy", "MiB/s", through_rate),
        Figure::new("sandbox-proxy-rate-direct", "the same without", "MiB/s", direct_rate),
    ];
    let method = format!("curl, {times} requests, each on a connection of its own; then one large answer.");
    Ok(Section { title: "Egress proxy", method, figures })
}

fn curl(url: &str, write: &str) -> Vec<String> {
    [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--no-keepalive",
        "--header",
        "connection: close",
        "--output",
        "/dev/null",
        "--write-out",
        write,
        url,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn numbers(text: &str, factor: f64) -> Vec<f64> {
    text.lines().filter_map(|line| line.trim().parse::<f64>().ok()).map(|value| value * factor).collect()
}

/// One request, one answer.
fn serve(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut line) = (String::new(), String::new());
    if reader.read_line(&mut first).is_err() {
        return;
    }
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
        line.clear();
    }
    let length = if first.contains("/large") { LARGE } else { 2 };
    let mut stream = reader.into_inner();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    let block = [b'x'; 64 << 10];
    let mut left = length;
    while left > 0 {
        let now = left.min(block.len());
        if stream.write_all(&block[..now]).is_err() {
            return;
        }
        left -= now;
    }
}
