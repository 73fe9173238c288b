//! Files through the API: throughput of one large file each way, and the time of a small one.
//!
//! The file stands in the sandbox's own filesystem; what is written is in the page cache when it is answered.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::create::milliseconds;
use super::daemon::Daemon;
use super::{Bench, repeat};
use crate::bench::figure::{Figure, Section};

/// Bytes of the large file.
const LARGE: usize = 64 << 20;
/// Bytes of the small one.
const SMALL: usize = 4 << 10;

/// Both sizes, both ways.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let daemon = Daemon::start(bench, "files", &json!({}))?;
    let mut client = daemon.client()?;
    let sandbox = client.create(&json!({"profile": "production", "resources": {"disk": "4GiB", "memory": "2GiB"}}))?;
    let path = format!("/v1/sandboxes/{sandbox}/files?path=/var/tmp/bench");
    let kind = "application/octet-stream";
    let (large, small) = (vec![0x5a; LARGE], vec![0x5a; SMALL]);
    let rate = |started: Instant| LARGE as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64();
    let (mut write, mut read, mut write_small, mut read_small) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let started = Instant::now();
        client.raw("PUT", &path, kind, &large)?;
        write.push(rate(started));
        let started = Instant::now();
        let back = client.raw("GET", &path, kind, b"")?;
        read.push(rate(started));
        anyhow::ensure!(back == large, "what was read is not what was written");
    }
    repeat(bench.effort.times, |_| {
        let started = Instant::now();
        client.raw("PUT", &path, kind, &small)?;
        write_small.push(milliseconds(started));
        let started = Instant::now();
        client.raw("GET", &path, kind, b"")?;
        read_small.push(milliseconds(started));
        Ok(())
    })?;
    let figures = vec![
        Figure::new("sandbox-file-write", "write, 64 MiB", "MiB/s", write),
        Figure::new("sandbox-file-read", "read, 64 MiB", "MiB/s", read),
        Figure::new("sandbox-file-write-small", "write, 4 KiB", "ms", write_small),
        Figure::new("sandbox-file-read-small", "read, 4 KiB", "ms", read_small),
    ];
    let method = "`PUT` and `GET` of `/v1/sandboxes/{id}/files` over one connection.".to_owned();
    Ok(Section { title: "Files through the API", method, figures })
}
