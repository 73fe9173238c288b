//! What the operating system knows of this process: the `process_*` metrics that Prometheus clients share.
//!
//! Read from `/proc/self` at each scrape. Where that does not exist, only the start time is shown.

use std::fmt::Error;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Linux reports CPU time to programs in hundredths of a second on every architecture (`USER_HZ`, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since the epoch.
    pub(super) start_time: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let mut gauge = |name: &str, help: &str, value: f64| -> Result<(), Error> {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge("process_start_time_seconds", "Start of the process, seconds since the epoch.", self.start_time)?;
        if let Some(status) = Status::read() {
            gauge("process_resident_memory_bytes", "Resident memory.", status.resident)?;
            gauge("process_anonymous_memory_bytes", "Resident memory that no file backs.", status.anonymous)?;
            gauge("process_virtual_memory_bytes", "Virtual memory.", status.virtual_size)?;
            gauge("process_threads", "Threads.", status.threads)?;
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The listing itself is one of them.
            let open = u32::try_from(entries.count().saturating_sub(1)).unwrap_or(u32::MAX);
            gauge("process_open_fds", "Open file descriptors.", f64::from(open))?;
        }
        if let Some(max) = max_fds() {
            gauge("process_max_fds", "Largest number of open file descriptors.", max)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let metric = ConstCounter::new(seconds);
            let help = "CPU time, user and system.";
            metric.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}

struct Status {
    resident: f64,
    anonymous: f64,
    virtual_size: f64,
    threads: f64,
}

impl Status {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/status").ok()?;
        let number = |name: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line[name.len()..].split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            resident: number("VmRSS:")? * 1024.0,
            anonymous: number("RssAnon:")? * 1024.0,
            virtual_size: number("VmSize:")? * 1024.0,
            threads: number("Threads:")?,
        })
    }
}

fn max_fds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    line["Max open files".len()..].split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}
