//! Reads what a sandbox used from the files of its cgroups, which needs no privilege.
//!
//! It does not know the disk's or the network's use: `filesystem` and `network` do.

use std::path::{Path, PathBuf};

use mote_sandbox_api::request::Usage;
use serde::{Deserialize, Serialize};

/// Folders of a sandbox's cgroups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// A folder for each controller; absent where the host has no such controller.
    V1 {
        /// Of `memory`.
        memory: Option<PathBuf>,
        /// Of `cpuacct`.
        cpu: Option<PathBuf>,
        /// Of `cpu`.
        #[serde(default)]
        quota: Option<PathBuf>,
        /// Of `pids`.
        pids: Option<PathBuf>,
    },
    /// One folder.
    V2(PathBuf),
}

impl Meter {
    /// What is used now. What cannot be read counts as nothing: the sandbox may just have ended.
    #[must_use]
    pub fn read(&self) -> Usage {
        let mut usage = Usage { oom_kills: self.oom_kills(), ..Usage::default() };
        match self {
            Self::V1 { memory, cpu, quota, pids } => {
                if let Some(folder) = memory {
                    usage.memory_bytes = number(folder, "memory.usage_in_bytes");
                    usage.memory_bytes_max = number(folder, "memory.limit_in_bytes");
                }
                usage.cpu_us = cpu.as_deref().map_or(0, |folder| number(folder, "cpuacct.usage") / 1000);
                usage.cpu_throttled_us =
                    quota.as_deref().map_or(0, |folder| field(folder, "cpu.stat", "throttled_time") / 1000);
                usage.pids = pids.as_deref().map_or(0, |folder| number(folder, "pids.current"));
            }
            Self::V2(folder) => {
                usage.memory_bytes = number(folder, "memory.current");
                usage.memory_bytes_max = number(folder, "memory.max");
                usage.cpu_us = field(folder, "cpu.stat", "usage_usec");
                usage.cpu_throttled_us = field(folder, "cpu.stat", "throttled_usec");
                usage.pids = number(folder, "pids.current");
            }
        }
        usage
    }
}

impl Meter {
    /// How many processes the kernel has ended for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        match self {
            Self::V1 { memory, .. } => {
                memory.as_deref().map_or(0, |folder| field(folder, "memory.oom_control", "oom_kill"))
            }
            Self::V2(folder) => field(folder, "memory.events", "oom_kill"),
        }
    }
}

/// A file that holds one number. `max`, and what cannot be read, is 0.
fn number(folder: &Path, file: &str) -> u64 {
    std::fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A number of a file of names and numbers.
fn field(folder: &Path, file: &str, name: &str) -> u64 {
    let find = |text: String| {
        text.lines().find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name)?.1.trim().parse().ok())
    };
    std::fs::read_to_string(folder.join(file)).ok().and_then(find).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_versions_are_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("memory.usage_in_bytes", "4096\n");
        write("memory.limit_in_bytes", "8192\n");
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        write("cpuacct.usage", "5000000\n");
        write("pids.current", "7\n");
        write("memory.current", "4096\n");
        write("memory.max", "8192\n");
        write("memory.events", "low 0\noom 9\noom_kill 3\n");
        write("cpu.stat", "usage_usec 5000\nuser_usec 1\nthrottled_usec 60\nthrottled_time 60000\n");
        let one = Some(folder.path().to_owned());
        let v1 = Meter::V1 { memory: one.clone(), cpu: one.clone(), quota: one.clone(), pids: one }.read();
        let v2 = Meter::V2(folder.path().to_owned()).read();
        assert_eq!(v1, v2);
        assert_eq!(
            (v1.cpu_us, v1.cpu_throttled_us, v1.memory_bytes, v1.memory_bytes_max, v1.pids, v1.oom_kills),
            (5000, 60, 4096, 8192, 7, 3)
        );
    }
}
