//! A thousand idle sandboxes: what each costs the host.
//!
//! It reads the host's own accounts; nothing else may run meanwhile.

use anyhow::{Context, Result};
use serde_json::json;

use super::Bench;
use super::daemon::Daemon;
use crate::bench::figure::{Figure, Goal, Section};

/// KiB of memory in use, and KiB of it that the kernel keeps for itself.
fn memory() -> Result<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
    let kib = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    let used = kib("MemTotal:") - kib("MemAvailable:");
    let kernel = kib("Slab:") + kib("KernelStack:") + kib("PageTables:") + kib("Percpu:") + kib("SecPageTables:");
    Ok((used, kernel))
}

/// Memory before and after.
pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let daemon = Daemon::start(bench, "density", &json!({}))?;
    let mut client = daemon.client()?;
    let spec = json!({"profile": "training", "lease": "1h", "network": null});
    let first = client.create(&spec)?;
    client.exec(&first, &json!(["/bin/true"]))?;
    let (used_before, kernel_before) = memory()?;
    for _ in 0..bench.effort.alive {
        client.create(&spec)?;
    }
    let (used, kernel) = memory()?;
    let each = |now: f64, before: f64| vec![(now - before) / bench.effort.alive as f64];
    let figures = vec![
        Figure::new("sandbox-idle", "an idle sandbox, host memory", "KiB", each(used, used_before))
            .goal(Goal::AtMost(1024.0)),
        Figure::new("sandbox-idle-kernel", "of it the kernel's own", "KiB", each(kernel, kernel_before)),
    ];
    let method = format!(
        "`MemTotal - MemAvailable` of the host before and after {} sandboxes without network, divided by their number; the \
         kernel's part is slab, stacks, page tables and per-CPU memory.",
        bench.effort.alive
    );
    Ok(Section { title: "Idle sandboxes", method, figures })
}
