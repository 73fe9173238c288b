//! What the daemon's proxy costs: requests and throughput from inside, beside the same client on the host.
//!
//! Daemon and server are in two network namespaces of the bench's own, with a link between them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::thread::LinkNameSpaceType;
use serde_json::json;

use super::Bench;
use super::daemon::Daemon;
use crate::bench::figure::{Figure, Section, percentile};
use crate::process;

/// Bytes of the large answer.
const LARGE: usize = 256 << 20;
/// Addresses of the server and of the daemon's side: of a range kept for documents (RFC 5737).
const SERVER: &str = "198.51.100.1";
const CLIENT: &str = "198.51.100.2";

/// Inside and outside.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let world = World::new()?;
    // A thread is in a network namespace of its own choice, and so are the threads and programs that it starts.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| World::enter(&world.near).and_then(|()| measure_here(bench, &world.far)));
        inside.join().map_err(|_| anyhow::anyhow!("a thread of the bench panicked"))?
    })
}

/// Two network namespaces and a link between them: the server is not on the daemon's own host, which no policy may name.
/// Dropping it removes both.
struct World {
    near: String,
    far: String,
}

impl World {
    fn new() -> Result<Self> {
        let name = |end: &str| format!("mote-bench-{}-{end}", std::process::id());
        let world = Self { near: name("near"), far: name("far") };
        let ip = |line: String| {
            let words: Vec<&str> = line.split_whitespace().collect();
            process::output(&mut process::command(Path::new("/"), "ip", &words)).map(drop)
        };
        let World { near, far } = &world;
        ip(format!("netns add {near}"))?;
        ip(format!("netns add {far}"))?;
        ip(format!("-n {near} link add link0 type veth peer name link0 netns {far}"))?;
        for (end, address) in [(near, CLIENT), (far, SERVER)] {
            ip(format!("-n {end} address add {address}/24 dev link0"))?;
            ip(format!("-n {end} link set link0 up"))?;
            ip(format!("-n {end} link set lo up"))?;
        }
        Ok(world)
    }

    fn enter(name: &str) -> Result<()> {
        let namespace = std::fs::File::open(Path::new("/run/netns").join(name))?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("failed to enter a network namespace")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status().ok();
        }
    }
}

/// The server, in a thread in the far namespace; its address.
fn start_server(far: &str) -> Result<SocketAddr> {
    let listening = std::thread::scope(|scope| {
        let far = scope.spawn(|| -> Result<TcpListener> {
            World::enter(far)?;
            TcpListener::bind((SERVER, 0)).context("failed to listen")
        });
        far.join().map_err(|_| anyhow::anyhow!("a thread of the bench panicked"))?
    })?;
    let address = listening.local_addr()?;
    std::thread::spawn(move || {
        listening.incoming().flatten().for_each(|stream| drop(std::thread::spawn(|| serve(stream))))
    });
    Ok(address)
}

fn measure_here(bench: &Bench, far: &str) -> Result<Section> {
    let address = start_server(far)?;
    let daemon = Daemon::start(bench, "egress", &json!({}))?;
    let mut client = daemon.client()?;
    let policy = json!({"rules": [{"verdict": "allow", "to": format!("{SERVER}/32")}]});
    let port = address.port();
    let sandbox = client.create(&json!({"profile": "production", "network": policy}))?;
    let times = bench.effort.times;
    let small = curl(&format!("http://{SERVER}:{port}/small?[1-{times}]"), "%{time_total}\\n");
    let large = curl(&format!("http://{SERVER}:{port}/large"), "%{speed_download}\\n");
    let inside = |client: &mut super::client::Client, command: &[String]| client.exec(&sandbox, &json!(command));
    let outside = |command: &[String]| -> Result<String> {
        let output = Command::new(&command[0]).args(&command[1..]).output().context("failed to start curl")?;
        ensure!(output.status.success(), "curl ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let through = numbers(&inside(&mut client, &small)?, 1e3);
    let direct = numbers(&outside(&small)?, 1e3);
    let through_rate = numbers(&inside(&mut client, &large)?, 1.0 / f64::from(1 << 20));
    let direct_rate = numbers(&outside(&large)?, 1.0 / f64::from(1 << 20));
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
        "--max-time",
        "40",
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
