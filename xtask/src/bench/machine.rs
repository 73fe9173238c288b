//! The machine that was measured on, and what its disk can do.
//!
//! It names no host: what is said is what another person needs to compare.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;

/// How long the disk is measured.
const DISK_TIME: Duration = Duration::from_secs(3);

/// Lines for the document's head.
pub(super) fn describe(folder: &Path) -> Result<Vec<(&'static str, String)>> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = value(&memory, "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / f64::from(1 << 20);
    let said = |program: &str, arguments: &[&str]| {
        process::output(&mut process::command(folder, program, arguments)).unwrap_or_default().trim().to_owned()
    };
    Ok(vec![
        ("date", said("date", &["-u", "+%Y-%m-%d"])),
        ("commit", said_in_tree(&["rev-parse", "--short", "HEAD"])),
        ("processor", format!("{} x {}", cores, value(&cpu, "model name"))),
        ("memory", format!("{memory:.1} GiB")),
        ("kernel", said("uname", &["-sr"])),
        (
            "file system",
            said("findmnt", &["--noheadings", "--output", "FSTYPE", "--target", &folder.to_string_lossy()]),
        ),
        ("disk", format!("{:.0} fsyncs a second of 4 KiB each, one after the other", fsync_rate(folder)?)),
        ("Rust", said("rustc", &["--version"])),
    ])
}

fn said_in_tree(arguments: &[&str]) -> String {
    let root = crate::workspace::root();
    process::output(&mut process::command(&root, "git", arguments)).unwrap_or_default().trim().to_owned()
}

/// What stands behind `name` and a colon.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
}

/// Fsyncs a second of a 4 KiB page written in place, as a write-ahead log in its steady state does.
pub(super) fn fsync_rate(folder: &Path) -> Result<f64> {
    let path = folder.join("fsync");
    let place = || format!("failed to write {}", path.display());
    let mut file = File::create(&path).with_context(place)?;
    let page = [0x5a_u8; 4096];
    for _ in 0..64 {
        file.write_all(&page).with_context(place)?;
    }
    file.sync_all().with_context(place)?;
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < DISK_TIME {
        file.seek(SeekFrom::Start(u64::from(count % 64) * 4096)).with_context(place)?;
        file.write_all(&page).with_context(place)?;
        file.sync_data().with_context(place)?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path).ok();
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_behind_its_name() {
        assert_eq!(value("processor\t: 0\nmodel name\t: A chip\n", "model name"), "A chip");
        assert_eq!(value("", "model name"), "");
    }
}
