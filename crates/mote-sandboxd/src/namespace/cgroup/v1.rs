//! Version 1: a hierarchy for each controller.
//!
//! It does not share one group among controllers that happen to be mounted together: each hierarchy has its own, once.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::Resources;
use rustix::io::Errno;

use super::super::file::{failed, write};
use super::{CPU_PERIOD_US, Device, Groups, Meter, Mounted, cpu_quota_us};
use crate::limits::FREEZE_TRIES;

/// Devices that a sandbox's processes may open (`c MAJOR:MINOR`): null, zero, full, random, urandom, tty, ptmx, terminals.
const DEVICES: [&str; 8] =
    ["c 1:3 rw", "c 1:5 rw", "c 1:7 rw", "c 1:8 rw", "c 1:9 rw", "c 5:0 rw", "c 5:2 rw", "c 136:* rw"];

/// The hierarchies of the host, with this daemon's folder in each.
#[derive(Debug)]
pub struct Hierarchies {
    all: Vec<Mounted>,
}

impl Hierarchies {
    /// Makes this daemon's folder in each hierarchy, below the group that the caller is in.
    ///
    /// # Errors
    /// `internal` where a folder cannot be made.
    pub fn open(mounted: &[Mounted], instance: &str) -> Result<Self, Failure> {
        let mut all: Vec<Mounted> = Vec::new();
        for hierarchy in mounted {
            let folder = hierarchy.own.join(format!("mote-{instance}"));
            // Mounted twice, or each controller linked to the same hierarchy: once is enough.
            if all.iter().any(|other| other.own == folder) {
                continue;
            }
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(failed(format_args!("make the cgroup {}", folder.display()), error));
                }
                _ => all.push(Mounted { controllers: hierarchy.controllers.clone(), own: folder }),
            }
        }
        Ok(Self { all })
    }

    /// The folder of a controller for one sandbox.
    fn of(&self, controller: &str, name: &str) -> Option<PathBuf> {
        let has = |hierarchy: &&Mounted| hierarchy.controllers.iter().any(|each| each == controller);
        self.all.iter().find(has).map(|hierarchy| hierarchy.own.join(name))
    }
}

impl Groups for Hierarchies {
    fn create(&self, name: &str) -> Result<(), Failure> {
        for hierarchy in &self.all {
            let folder = hierarchy.own.join(name);
            fs::create_dir(&folder)
                .map_err(|error| failed(format_args!("make the cgroup {}", folder.display()), error))?;
        }
        if let Some(folder) = self.of("devices", name) {
            write(&folder.join("devices.deny"), "a")?;
            for device in DEVICES {
                write(&folder.join("devices.allow"), device)?;
            }
        }
        Ok(())
    }

    fn enter(&self, name: &str) -> Result<(), Failure> {
        for hierarchy in &self.all {
            // `tasks` and not `cgroup.procs`: for the only thread of the caller the kernel then waits for no other
            // processor (measured: 12 ms less).
            write(&hierarchy.own.join(name).join("tasks"), "0")?;
        }
        Ok(())
    }

    fn limit(&self, name: &str, resources: &Resources, device: Option<Device>) -> Result<(), Failure> {
        if let (Some(bytes), Some(folder)) = (resources.memory, self.of("memory", name)) {
            write(&folder.join("memory.limit_in_bytes"), &bytes.to_string())?;
            let with_swap = folder.join("memory.memsw.limit_in_bytes");
            if with_swap.exists() {
                write(&with_swap, &bytes.to_string())?;
            }
        }
        if let (Some(cpu_milli), Some(folder)) = (resources.cpu_milli, self.of("cpu", name)) {
            write(&folder.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
            write(&folder.join("cpu.cfs_quota_us"), &cpu_quota_us(cpu_milli).to_string())?;
        }
        if let (Some(pids), Some(folder)) = (resources.pids, self.of("pids", name)) {
            write(&folder.join("pids.max"), &pids.to_string())?;
        }
        if let (Some(bytes), Some(folder), Some(Device { major, minor })) =
            (resources.io, self.of("blkio", name), device)
        {
            for file in ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"] {
                write(&folder.join(file), &format!("{major}:{minor} {bytes}"))?;
            }
        }
        Ok(())
    }

    fn freeze(&self, name: &str, frozen: bool) -> Result<(), Failure> {
        let Some(folder) = self.of("freezer", name) else {
            return Err(Failure::unsupported(
                "freezer",
                "failed to stop the processes: the host has no freezer cgroup",
            ));
        };
        let state = folder.join("freezer.state");
        write(&state, if frozen { "FROZEN" } else { "THAWED" })?;
        // Freezing is done when the kernel says so; a process in the middle of a system call takes a moment.
        for _ in 0..FREEZE_TRIES {
            if self.is_frozen(name) == frozen {
                return Ok(());
            }
            super::pause();
        }
        if frozen {
            write(&state, "THAWED")?;
        }
        Err(Failure::new(
            Code::Busy,
            "failed to stop the processes: one of them is in a system call that cannot be stopped",
        ))
    }

    fn is_frozen(&self, name: &str) -> bool {
        let state = self.of("freezer", name).and_then(|folder| fs::read_to_string(folder.join("freezer.state")).ok());
        state.is_some_and(|state| state.trim() == "FROZEN")
    }

    fn processes(&self, name: &str) -> Vec<u32> {
        let mut processes: Vec<u32> = Vec::new();
        for hierarchy in &self.all {
            let text = fs::read_to_string(hierarchy.own.join(name).join("cgroup.procs")).unwrap_or_default();
            processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        for hierarchy in &self.all {
            match rustix::fs::rmdir(hierarchy.own.join(name)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => {
                    return Err(Failure::new(Code::Busy, format!("failed to remove the cgroup {name}: {error}")));
                }
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for hierarchy in &self.all {
            let entries = fs::read_dir(&hierarchy.own).into_iter().flatten().filter_map(Result::ok);
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            names.extend(folders.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    fn shown(&self, name: &str) -> Vec<(String, PathBuf)> {
        let shown = self.all.iter().filter(|hierarchy| {
            hierarchy.controllers.iter().any(|each| ["cpu", "cpuacct", "memory", "pids"].contains(&each.as_str()))
        });
        shown.map(|hierarchy| (hierarchy.controllers.join(","), hierarchy.own.join(name))).collect()
    }

    fn meter(&self, name: &str) -> Meter {
        Meter::V1 {
            memory: self.of("memory", name),
            cpu: self.of("cpuacct", name),
            quota: self.of("cpu", name),
            pids: self.of("pids", name),
        }
    }

    fn controllers(&self) -> Vec<(&'static str, String)> {
        let names = [
            ("memory", "memory", "cgroup v1 memory"),
            ("cpu", "cpu", "cgroup v1 cpu (quota)"),
            ("pids", "pids", "cgroup v1 pids"),
            (
                "io",
                "blkio",
                "cgroup v1 blkio: direct and synchronous input and output only, not what is written back later",
            ),
            ("freezer", "freezer", "cgroup v1 freezer"),
            ("devices", "devices", "cgroup v1 devices: an allow list"),
        ];
        let there = names.into_iter().filter(|(_, controller, _)| self.of(controller, "").is_some());
        there.map(|(name, _, how)| (name, how.to_owned())).collect()
    }
}

impl Drop for Hierarchies {
    /// Removes this daemon's folders where no sandbox is left in them.
    fn drop(&mut self) {
        for hierarchy in &self.all {
            let _ = rustix::fs::rmdir(&hierarchy.own);
        }
    }
}
