//! Bounds on what a sandbox uses, and what it used: cgroups, version 1 and version 2 behind one trait.
//!
//! It does not bound the disk: quota groups of the pool do.

mod meter;
pub mod v1;
pub mod v2;

use std::path::{Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::Resources;

pub use meter::Meter;

use crate::limits::FREEZE_PAUSE_NS;

/// The cgroups of one daemon's sandboxes. A sandbox's are named by its slot.
pub trait Groups: std::fmt::Debug {
    /// Makes the groups of a slot, without bounds.
    ///
    /// # Errors
    /// `internal` with what the kernel refused.
    fn create(&self, name: &str) -> Result<(), Failure>;

    /// Moves the calling process, which has one thread, into the groups.
    ///
    /// # Errors
    /// `internal` with what the kernel refused.
    fn enter(&self, name: &str) -> Result<(), Failure>;

    /// Sets bounds; what is absent is not bounded. `device` is the block device under the sandbox's root, for its
    /// bound on input and output.
    ///
    /// # Errors
    /// `internal` with what the kernel refused.
    fn limit(&self, name: &str, resources: &Resources, device: Option<Device>) -> Result<(), Failure>;

    /// Stops every process, or lets them go on. Returns when it is so.
    ///
    /// # Errors
    /// `internal` with what the kernel refused.
    fn freeze(&self, name: &str, frozen: bool) -> Result<(), Failure>;

    /// Whether every process is stopped.
    fn is_frozen(&self, name: &str) -> bool;

    /// Ids of the processes in the groups.
    fn processes(&self, name: &str) -> Vec<u32>;

    /// Removes the groups, which hold no process any more. Those that are gone already are none.
    ///
    /// # Errors
    /// `busy` where a process is left.
    fn remove(&self, name: &str) -> Result<(), Failure>;

    /// Names of the groups that are there.
    fn names(&self) -> Vec<String>;

    /// Where the use of a sandbox can be read.
    fn meter(&self, name: &str) -> Meter;

    /// Where a sandbox finds its own bounds below `/sys/fs/cgroup`, by the place there (nothing for the folder itself): what
    /// sizes itself by them (Java, Go, Node) looks there.
    fn shown(&self, name: &str) -> Vec<(String, PathBuf)>;

    /// What can be bounded here, by name (`memory`, `cpu`, `pids`, `io`, `freezer`, `devices`), and how.
    fn controllers(&self) -> Vec<(&'static str, String)>;
}

/// A block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Period of the CPU's bound in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// CPU time in one period, in microseconds, for thousandths of a processor. The kernel takes no less than 1 ms.
fn cpu_quota_us(cpu_milli: u32) -> u64 {
    (u64::from(cpu_milli) * CPU_PERIOD_US / 1000).max(1000)
}

/// Lets processes on their way to being stopped get there.
pub(super) fn pause() {
    let moment = rustix::thread::Timespec { tv_sec: 0, tv_nsec: FREEZE_PAUSE_NS };
    let _ = rustix::thread::nanosleep(&moment);
}

/// Finds the host's cgroups, and makes the parent of this daemon's, below the group that the calling process is in.
///
/// # Errors
/// `unsupported` where neither version is mounted with a controller for memory.
pub fn open(instance: &str) -> Result<Box<dyn Groups>, Failure> {
    let mounts = super::file::read(Path::new("/proc/self/mountinfo"))?;
    let own = super::file::read(Path::new("/proc/self/cgroup"))?;
    let host = Host::parse(&mounts, &own);
    if host.v1.iter().any(|hierarchy| hierarchy.controllers.iter().any(|name| name == "memory")) {
        return Ok(Box::new(v1::Hierarchies::open(&host.v1, instance)?));
    }
    match host.v2 {
        Some(own) => Ok(Box::new(v2::Hierarchy::open(&own, instance)?)),
        None => Err(Failure::new(Code::Unsupported, "failed to find cgroups: neither version 1 nor 2 is mounted")
            .with("feature", "cgroups")),
    }
}

/// A hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its controllers.
    pub controllers: Vec<String>,
    /// The group that this process is in.
    pub own: PathBuf,
}

/// What is mounted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Host {
    v1: Vec<Mounted>,
    /// The group that this process is in.
    v2: Option<PathBuf>,
}

impl Host {
    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn parse(mounts: &str, own: &str) -> Self {
        let mut host = Self::default();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<_> = left.split(' ').collect();
            let right: Vec<_> = right.split(' ').collect();
            let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (left.as_slice(), right.as_slice()) else {
                continue;
            };
            let group_of = |controllers: &str| {
                own.lines().find_map(|line| {
                    let (_, rest) = line.split_once(':')?;
                    let (names, path) = rest.split_once(':')?;
                    let same = names == controllers || names.split(',').any(|name| name == controllers);
                    same.then(|| place(Path::new(point), root, path))
                })
            };
            match *kind {
                "cgroup2" => host.v2 = group_of(""),
                "cgroup" => {
                    let known = ["cpu", "cpuacct", "memory", "pids", "freezer", "devices", "blkio"];
                    let controllers: Vec<String> =
                        options.split(',').filter(|name| known.contains(name)).map(str::to_owned).collect();
                    if let Some(own) = controllers.first().and_then(|first| group_of(first)) {
                        host.v1.push(Mounted { controllers, own });
                    }
                }
                _ => {}
            }
        }
        host
    }
}

/// Where a group stands that the kernel names from the hierarchy's root, of which the mount shows `root`.
fn place(point: &Path, root: &str, group: &str) -> PathBuf {
    let below = Path::new(group).strip_prefix(root).unwrap_or_else(|_| Path::new(""));
    if below.as_os_str().is_empty() { point.to_owned() } else { point.join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS_V1: &str = "\
30 29 0:25 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN_V1: &str = "9:name=systemd:/\n4:memory:/process/a b\n2:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn hierarchies_of_version_1_are_found_with_the_own_group() {
        let host = Host::parse(MOUNTS_V1, OWN_V1);
        let mounted = |names: &[&str], own: &str| Mounted {
            controllers: names.iter().map(|&name| name.to_owned()).collect(),
            own: PathBuf::from(own),
        };
        let expected = vec![
            mounted(&["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct"),
            mounted(&["memory"], "/sys/fs/cgroup/memory/process/a b"),
        ];
        assert_eq!(host.v1, expected);
        assert_eq!(host.v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn in_a_container_the_own_group_is_counted_from_what_is_mounted() {
        let mounts = "40 39 0:30 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(Host::parse(mounts, "0::/docker/1/x\n").v2, Some(PathBuf::from("/sys/fs/cgroup/x")));
    }

    #[test]
    fn a_share_of_a_processor_is_never_too_small_for_the_kernel() {
        assert_eq!([cpu_quota_us(1), cpu_quota_us(500), cpu_quota_us(2000)], [1000, 50_000, 200_000]);
    }
}
