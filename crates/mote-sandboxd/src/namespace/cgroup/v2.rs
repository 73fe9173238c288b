//! Version 2: one hierarchy for all controllers.
//!
//! It denies no devices: version 2 does that with a BPF program, and the nodes that a sandbox has are not made by it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::Resources;
use rustix::io::Errno;

use super::super::file::{failed, read, write};
use super::{CPU_PERIOD_US, Device, Groups, Meter, cpu_quota_us};
use crate::limits::FREEZE_TRIES;

const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "io"];

/// This daemon's folder.
#[derive(Debug)]
pub struct Hierarchy {
    folder: PathBuf,
    available: Vec<String>,
}

impl Hierarchy {
    /// Makes this daemon's folder below the group that the caller is in. A group with controllers for others holds no
    /// process itself, so its processes (daemon and keeper, where a service manager gave them a group) move to one beside.
    ///
    /// # Errors
    /// `unsupported` where the group has no controllers; `internal` with what the kernel refused.
    pub fn open(own: &Path, instance: &str) -> Result<Self, Failure> {
        let offered = read(&own.join("cgroup.controllers"))?;
        let available: Vec<String> = CONTROLLERS
            .iter()
            .filter(|name| offered.split_ascii_whitespace().any(|each| each == **name))
            .map(|&name| name.to_owned())
            .collect();
        if available.is_empty() {
            let what = format!("failed to bound sandboxes: the cgroup {} has no controllers", own.display());
            return Err(
                Failure::unsupported("cgroups", what).remedy("start the daemon with Delegate=yes, or as root's own")
            );
        }
        if delegate(own, &available).is_err() {
            let beside = own.join("mote-supervisor");
            make(&beside)?;
            for process in read(&own.join("cgroup.procs"))?.lines() {
                write(&beside.join("cgroup.procs"), process)?;
            }
            delegate(own, &available)?;
        }
        let folder = own.join(format!("mote-{instance}"));
        make(&folder)?;
        delegate(&folder, &available)?;
        Ok(Self { folder, available })
    }

    fn has(&self, controller: &str) -> bool {
        self.available.iter().any(|each| each == controller)
    }
}

fn make(folder: &Path) -> Result<(), Failure> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(failed(format_args!("make the cgroup {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

fn delegate(folder: &Path, controllers: &[String]) -> Result<(), Failure> {
    let text: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    write(&folder.join("cgroup.subtree_control"), &text.join(" "))
}

impl Groups for Hierarchy {
    fn create(&self, name: &str) -> Result<(), Failure> {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).map_err(|error| failed(format_args!("make the cgroup {}", folder.display()), error))
    }

    fn enter(&self, name: &str) -> Result<(), Failure> {
        write(&self.folder.join(name).join("cgroup.procs"), "0")
    }

    fn limit(&self, name: &str, resources: &Resources, device: Option<Device>) -> Result<(), Failure> {
        let folder = self.folder.join(name);
        if let Some(bytes) = resources.memory.filter(|_| self.has("memory")) {
            write(&folder.join("memory.max"), &bytes.to_string())?;
            let swap = folder.join("memory.swap.max");
            if swap.exists() {
                write(&swap, "0")?;
            }
            // What the kernel ends for want of memory, it ends whole, or one process alone: alone, as on version 1.
            let group = folder.join("memory.oom.group");
            if group.exists() {
                write(&group, "0")?;
            }
        }
        if let Some(cpu_milli) = resources.cpu_milli.filter(|_| self.has("cpu")) {
            write(&folder.join("cpu.max"), &format!("{} {CPU_PERIOD_US}", cpu_quota_us(cpu_milli)))?;
        }
        if let Some(pids) = resources.pids.filter(|_| self.has("pids")) {
            write(&folder.join("pids.max"), &pids.to_string())?;
        }
        if let (Some(bytes), Some(Device { major, minor })) = (resources.io.filter(|_| self.has("io")), device) {
            write(&folder.join("io.max"), &format!("{major}:{minor} rbps={bytes} wbps={bytes}"))?;
        }
        Ok(())
    }

    fn freeze(&self, name: &str, frozen: bool) -> Result<(), Failure> {
        let file = self.folder.join(name).join("cgroup.freeze");
        write(&file, if frozen { "1" } else { "0" })?;
        for _ in 0..FREEZE_TRIES {
            if self.is_frozen(name) == frozen {
                return Ok(());
            }
            super::pause();
        }
        if frozen {
            write(&file, "0")?;
        }
        Err(Failure::new(
            Code::Busy,
            "failed to stop the processes: one of them is in a system call that cannot be stopped",
        ))
    }

    fn is_frozen(&self, name: &str) -> bool {
        let events = fs::read_to_string(self.folder.join(name).join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    }

    fn processes(&self, name: &str) -> Vec<u32> {
        let text = fs::read_to_string(self.folder.join(name).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        match rustix::fs::rmdir(self.folder.join(name)) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Failure::new(Code::Busy, format!("failed to remove the cgroup {name}: {error}"))),
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn shown(&self, name: &str) -> Vec<(String, PathBuf)> {
        vec![(String::new(), self.folder.join(name))]
    }

    fn meter(&self, name: &str) -> Meter {
        Meter::V2(self.folder.join(name))
    }

    fn controllers(&self) -> Vec<(&'static str, String)> {
        let mut there: Vec<_> = CONTROLLERS
            .into_iter()
            .filter(|name| self.has(name))
            .map(|name| (name, format!("cgroup v2 {name}")))
            .collect();
        there.push(("freezer", "cgroup v2 freeze".to_owned()));
        there
    }
}

impl Drop for Hierarchy {
    /// Removes this daemon's folder where no sandbox is left in it.
    fn drop(&mut self) {
        let _ = rustix::fs::rmdir(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A folder that looks like a delegated group; its files only keep what is written.
    fn group(controllers: &str) -> tempfile::TempDir {
        let own = tempfile::tempdir().unwrap();
        fs::write(own.path().join("cgroup.controllers"), controllers).unwrap();
        for folder in [own.path().to_owned(), own.path().join("mote-t")] {
            let _ = fs::create_dir(&folder);
            fs::write(folder.join("cgroup.subtree_control"), "").unwrap();
        }
        own
    }

    #[test]
    fn bounds_are_written_in_the_forms_of_version_2() {
        let own = group("cpuset cpu io memory pids\n");
        let groups = Hierarchy::open(own.path(), "t").unwrap();
        groups.create("7").unwrap();
        let folder = own.path().join("mote-t/7");
        for file in ["memory.max", "memory.swap.max", "cpu.max", "pids.max", "io.max"] {
            fs::write(folder.join(file), "max").unwrap();
        }
        let resources =
            Resources { memory: Some(1 << 20), cpu_milli: Some(500), pids: Some(9), disk: None, io: Some(1000) };
        groups.limit("7", &resources, Some(Device { major: 8, minor: 1 })).unwrap();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        // The files of a plain folder keep the tail of what stood there, had it been longer.
        assert_eq!(read("memory.max"), "1048576");
        assert!(read("memory.swap.max").starts_with('0'));
        assert_eq!(read("cpu.max"), "50000 100000");
        assert!(read("pids.max").starts_with('9'));
        assert_eq!(read("io.max"), "8:1 rbps=1000 wbps=1000");
        assert_eq!(fs::read_to_string(own.path().join("cgroup.subtree_control")).unwrap(), "+memory +cpu +pids +io");
        assert_eq!(groups.names(), ["7"]);
    }

    #[test]
    fn a_group_without_controllers_is_no_place_for_sandboxes() {
        let own = group("\n");
        assert_eq!(Hierarchy::open(own.path(), "t").unwrap_err().code, Code::Unsupported);
    }
}
