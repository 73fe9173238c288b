//! The bounds and the use of the sandbox, read from its cgroups as they are seen inside: version 1 or 2.
//!
//! It does not know how they are shown: `text` does.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::limits::VIEW_SOURCE_BYTES_MAX;

/// Ticks in a second, as `/proc/stat` counts them (`USER_HZ`).
pub(super) const TICKS_PER_SECOND: u64 = 100;
/// Microseconds of a tick.
const TICK_US: u64 = 1_000_000 / TICKS_PER_SECOND;

/// Where to read. What is not there bounds nothing. The files stay open: opening one takes six times as long as reading it.
#[derive(Debug)]
pub(super) struct Cgroups {
    memory_max: Source,
    memory_used: Source,
    memory_statistics: Source,
    swap_used: Source,
    swap: Swap,
    cpu: Quota,
    times: Times,
}

/// The bound on swapped memory: of it alone, or of it with memory.
#[derive(Debug)]
enum Swap {
    Alone(Source),
    WithMemory(Source),
}

/// The bound on processors: two files, or one with both numbers.
#[derive(Debug)]
enum Quota {
    V1 { quota: Source, period: Source },
    V2(Source),
}

/// Time that was used, in ticks or in microseconds.
#[derive(Debug)]
enum Times {
    Ticks(Source),
    Microseconds(Source),
}

/// A file that may be absent.
#[derive(Debug)]
struct Source(Option<File>);

impl Source {
    fn open(folder: Option<&Path>, name: &str) -> Self {
        Self(folder.and_then(|folder| File::open(folder.join(name)).ok()))
    }

    /// Does something with the text; nothing where it cannot be read.
    fn with<T>(&self, take: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let mut buffer = [0; VIEW_SOURCE_BYTES_MAX];
        let length = self.0.as_ref()?.read_at(&mut buffer, 0).ok()?;
        take(std::str::from_utf8(&buffer[..length]).ok()?)
    }

    /// The one number; nothing for `max`, and for what is less than nothing.
    fn number(&self) -> Option<u64> {
        self.with(|text| text.trim().parse().ok())
    }

    /// Every name with its number.
    fn each(&self, mut take: impl FnMut(&str, u64)) {
        self.with(|text| {
            for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
                if let Ok(value) = value.trim().parse() {
                    take(name, value);
                }
            }
            Some(())
        });
    }
}

/// Memory in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// The bound; none where the host alone bounds it.
    pub(super) max: Option<u64>,
    pub(super) used: u64,
    /// The bound on swapped memory.
    pub(super) swap_max: Option<u64>,
    pub(super) swap_used: u64,
    pub(super) file: u64,
    pub(super) anonymous: u64,
    pub(super) mapped: u64,
    pub(super) shared: u64,
    pub(super) dirty: u64,
    pub(super) writeback: u64,
    pub(super) active_file: u64,
    pub(super) inactive_file: u64,
    pub(super) active_anonymous: u64,
    pub(super) inactive_anonymous: u64,
    pub(super) unevictable: u64,
    pub(super) slab_reclaimable: u64,
    pub(super) slab_unreclaimable: u64,
}

impl Cgroups {
    /// Looks below a folder for the one hierarchy, or for those of single controllers.
    pub(super) fn find(folder: &Path) -> Self {
        if folder.join("cgroup.procs").exists() {
            let open = |name: &str| Source::open(Some(folder), name);
            return Self {
                memory_max: open("memory.max"),
                memory_used: open("memory.current"),
                memory_statistics: open("memory.stat"),
                swap_used: open("memory.swap.current"),
                swap: Swap::Alone(open("memory.swap.max")),
                cpu: Quota::V2(open("cpu.max")),
                times: Times::Microseconds(open("cpu.stat")),
            };
        }
        let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let open = |controller: &str, name: &str| {
            let found = names.iter().find(|name| name.split(',').any(|each| each == controller));
            Source::open(found.map(|found| folder.join(found)).as_deref(), name)
        };
        Self {
            memory_max: open("memory", "memory.limit_in_bytes"),
            memory_used: open("memory", "memory.usage_in_bytes"),
            memory_statistics: open("memory", "memory.stat"),
            // Among the statistics.
            swap_used: Source(None),
            swap: Swap::WithMemory(open("memory", "memory.memsw.limit_in_bytes")),
            cpu: Quota::V1 { quota: open("cpu", "cpu.cfs_quota_us"), period: open("cpu", "cpu.cfs_period_us") },
            times: Times::Ticks(open("cpuacct", "cpuacct.stat")),
        }
    }

    pub(super) fn memory(&self) -> Memory {
        let bound = |source: &Source| source.number().filter(|max| *max < UNBOUNDED_V1);
        let max = bound(&self.memory_max);
        let swap_max = match &self.swap {
            Swap::Alone(source) => source.number(),
            Swap::WithMemory(source) => bound(source).zip(max).map(|(both, memory)| both.saturating_sub(memory)),
        };
        let mut memory = Memory {
            max,
            used: self.memory_used.number().unwrap_or(0),
            swap_max,
            swap_used: self.swap_used.number().unwrap_or(0),
            ..Memory::default()
        };
        // Version 1 tells the group's own beside what is of those below as well; version 2 the latter alone.
        let is_first = matches!(self.swap, Swap::WithMemory(_));
        self.memory_statistics.each(|name, value| {
            let name = if is_first { name.strip_prefix("total_").unwrap_or("") } else { name };
            if let Some(field) = memory.field(name) {
                *field = value;
            }
        });
        memory
    }

    /// The bound on processors, in thousandths.
    pub(super) fn cpu_milli(&self) -> Option<u64> {
        let (quota, period) = match &self.cpu {
            Quota::V1 { quota, period } => (quota.number()?, period.number()?),
            Quota::V2(source) => source.with(|text| {
                let (quota, period) = text.trim().split_once(' ')?;
                Some((quota.parse().ok()?, period.parse().ok()?))
            })?,
        };
        (period > 0).then(|| u64::saturating_mul(quota, 1000) / period)
    }

    /// Time spent in programs and in the kernel, in ticks.
    pub(super) fn cpu_ticks(&self) -> (u64, u64) {
        let (mut user, mut system) = (0, 0);
        match &self.times {
            Times::Ticks(source) => source.each(|name, ticks| match name {
                "user" => user = ticks,
                "system" => system = ticks,
                _ => {}
            }),
            Times::Microseconds(source) => source.each(|name, us| match name {
                "user_usec" => user = us / TICK_US,
                "system_usec" => system = us / TICK_US,
                _ => {}
            }),
        }
        (user, system)
    }
}

/// What version 1 says where there is no bound: as many pages as fit into a signed number.
const UNBOUNDED_V1: u64 = i64::MAX as u64 / 2;

impl Memory {
    /// Where a number goes by its name in either version.
    fn field(&mut self, name: &str) -> Option<&mut u64> {
        Some(match name {
            "file" | "cache" => &mut self.file,
            "anon" | "rss" => &mut self.anonymous,
            "file_mapped" | "mapped_file" => &mut self.mapped,
            "shmem" => &mut self.shared,
            "file_dirty" | "dirty" => &mut self.dirty,
            "file_writeback" | "writeback" => &mut self.writeback,
            "active_file" => &mut self.active_file,
            "inactive_file" => &mut self.inactive_file,
            "active_anon" => &mut self.active_anonymous,
            "inactive_anon" => &mut self.inactive_anonymous,
            "unevictable" => &mut self.unevictable,
            "slab_reclaimable" => &mut self.slab_reclaimable,
            "slab_unreclaimable" => &mut self.slab_unreclaimable,
            "swap" => &mut self.swap_used,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn both_versions_are_read_alike() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (root.path().join("first"), root.path().join("second"));
        write(
            &first.join("memory"),
            &[
                ("memory.limit_in_bytes", "1048576\n"),
                ("memory.memsw.limit_in_bytes", "1048576\n"),
                ("memory.usage_in_bytes", "8192\n"),
                ("memory.stat", "cache 1\ntotal_cache 4096\ntotal_inactive_file 2048\ntotal_rss 512\n"),
            ],
        );
        write(
            &first.join("cpu,cpuacct"),
            &[
                ("cpu.cfs_quota_us", "150000\n"),
                ("cpu.cfs_period_us", "100000\n"),
                ("cpuacct.stat", "user 7\nsystem 3\n"),
            ],
        );
        write(
            &second,
            &[
                ("cgroup.procs", ""),
                ("memory.max", "1048576\n"),
                ("memory.swap.max", "0\n"),
                ("memory.current", "8192\n"),
                ("memory.stat", "anon 512\nfile 4096\ninactive_file 2048\n"),
                ("cpu.max", "150000 100000\n"),
                ("cpu.stat", "usage_usec 100000\nuser_usec 70000\nsystem_usec 30000\n"),
            ],
        );
        let expected = Memory {
            max: Some(1_048_576),
            used: 8192,
            swap_max: Some(0),
            file: 4096,
            anonymous: 512,
            inactive_file: 2048,
            ..Memory::default()
        };
        for folder in [&first, &second] {
            let cgroups = Cgroups::find(folder);
            assert_eq!(cgroups.memory(), expected);
            assert_eq!((cgroups.cpu_milli(), cgroups.cpu_ticks()), (Some(1500), (7, 3)));
        }
    }

    #[test]
    fn what_has_no_bound_is_told_as_that() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (root.path().join("first"), root.path().join("second"));
        write(&first.join("memory"), &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        write(&first.join("cpu"), &[("cpu.cfs_quota_us", "-1\n"), ("cpu.cfs_period_us", "100000\n")]);
        write(&second, &[("cgroup.procs", ""), ("memory.max", "max\n"), ("cpu.max", "max 100000\n")]);
        for folder in [&first, &second, &root.path().join("nothing")] {
            let cgroups = Cgroups::find(folder);
            assert_eq!((cgroups.memory().max, cgroups.cpu_milli()), (None, None), "{}", folder.display());
        }
    }
}
