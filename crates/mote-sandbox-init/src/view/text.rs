//! The text of the files, in the forms of `proc(5)`.
//!
//! It reads no file and no clock.

use std::fmt::Write as _;

use super::cgroup::{Memory, TICKS_PER_SECOND};

/// What the files said before: the host's.
#[derive(Debug, Default)]
pub(super) struct Host {
    memory: Vec<Line>,
    /// Of one processor.
    processor: String,
    /// Seconds since the epoch: `/proc/PID/stat` counts from there.
    boot: u64,
    pub(super) processors: u32,
}

/// A line of `/proc/meminfo`.
#[derive(Debug)]
struct Line {
    /// With its colon, as wide as the kernel writes it.
    label: String,
    value: u64,
    unit: &'static str,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (name, rest) = line.split_once(':')?;
        let value = rest.split_whitespace().next()?.parse().ok()?;
        let unit = if rest.ends_with(" kB") { " kB" } else { "" };
        Some(Self { label: format!("{:<16}", format!("{name}:")), value, unit })
    }

    fn name(&self) -> &str {
        self.label.split(':').next().unwrap_or_default()
    }
}

impl Host {
    pub(super) fn parse(memory: &str, processors: &str, statistics: &str, online: &str) -> Self {
        let boot = statistics.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        Self {
            memory: memory.lines().filter_map(Line::parse).collect(),
            processor: processors.split("\n\n").next().unwrap_or_default().trim_end().to_owned(),
            boot: boot.unwrap_or(0),
            processors: count(online),
        }
    }

    fn memory_kb(&self, name: &str) -> Option<u64> {
        self.memory.iter().find(|line| line.name() == name).map(|line| line.value)
    }
}

/// Processors in a list as the kernel writes it: `0-3,8`. At least one.
fn count(list: &str) -> u32 {
    let each = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)?.saturating_add(1))
    });
    each.fold(0, u32::saturating_add).max(1)
}

/// Processors for a bound in thousandths: what is begun counts, and no more than the host has.
pub(super) fn processors(host: u32, milli: Option<u64>) -> u32 {
    let wanted = milli.map_or(host, |milli| u32::try_from(milli.div_ceil(1000)).unwrap_or(u32::MAX));
    wanted.clamp(1, host.max(1))
}

/// `/proc/meminfo`: the host's lines, in their order, with what is so here; what nobody knows of a sandbox is 0.
pub(super) fn memory(host: &Host, memory: &Memory) -> String {
    let kb = |bytes: u64| bytes / 1024;
    let total = memory.max.map_or(u64::MAX, kb).min(host.memory_kb("MemTotal").unwrap_or(u64::MAX));
    let free = total.saturating_sub(kb(memory.used));
    let reclaimable = kb(memory.active_file + memory.inactive_file + memory.slab_reclaimable);
    let swap = memory.swap_max.map_or(u64::MAX, kb).min(host.memory_kb("SwapTotal").unwrap_or(0));
    let here = |name: &str, host: u64| match name {
        "MemTotal" => total,
        "MemFree" => free,
        "MemAvailable" => (free + reclaimable).min(total),
        "Cached" => kb(memory.file),
        "Active" => kb(memory.active_file + memory.active_anonymous),
        "Inactive" => kb(memory.inactive_file + memory.inactive_anonymous),
        "Active(anon)" => kb(memory.active_anonymous),
        "Inactive(anon)" => kb(memory.inactive_anonymous),
        "Active(file)" => kb(memory.active_file),
        "Inactive(file)" => kb(memory.inactive_file),
        "Unevictable" => kb(memory.unevictable),
        "SwapTotal" => swap,
        "SwapFree" => swap.saturating_sub(kb(memory.swap_used)),
        "Dirty" => kb(memory.dirty),
        "Writeback" => kb(memory.writeback),
        "AnonPages" => kb(memory.anonymous),
        "Mapped" => kb(memory.mapped),
        "Shmem" => kb(memory.shared),
        "KReclaimable" | "SReclaimable" => kb(memory.slab_reclaimable),
        "SUnreclaim" => kb(memory.slab_unreclaimable),
        "Slab" => kb(memory.slab_reclaimable + memory.slab_unreclaimable),
        "CommitLimit" => total + swap,
        // Properties of the machine, by which programs lay out their memory.
        "Hugepagesize" | "VmallocTotal" => host,
        _ => 0,
    };
    let mut text = String::with_capacity(host.memory.len() * 32);
    for line in &host.memory {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}{:>8}{}", line.label, here(line.name(), line.value), line.unit);
    }
    text
}

/// `/proc/cpuinfo`: as many as there are here, all like the host's first.
pub(super) fn processor_list(host: &Host, processors: u32) -> String {
    let mut text = String::new();
    for number in 0..processors {
        for line in host.processor.lines() {
            let name = line.split(':').next().unwrap_or_default().trim_end();
            let value = match name {
                "processor" | "core id" | "apicid" | "initial apicid" => number,
                "siblings" | "cpu cores" => processors,
                _ => {
                    text.push_str(line);
                    text.push('\n');
                    continue;
                }
            };
            let label = line.split(':').next().unwrap_or_default();
            let _ = writeln!(text, "{label}: {value}");
        }
        text.push('\n');
    }
    text
}

/// `/sys/devices/system/cpu/online`.
pub(super) fn online(processors: u32) -> String {
    if processors > 1 { format!("0-{}\n", processors - 1) } else { "0\n".to_owned() }
}

/// `/proc/stat`: the time that the sandbox used, as if it were spread over its processors; the rest since the beginning was idle.
pub(super) fn statistics(host: &Host, processors: u32, (user, system): (u64, u64), age_ms: u64) -> String {
    let all = age_ms * TICKS_PER_SECOND / 1000 * u64::from(processors);
    let idle = all.saturating_sub(user + system);
    let mut text = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for number in 0..processors {
        // The first ones get what does not divide.
        let share = |ticks: u64| (ticks + u64::from(processors - 1 - number)) / u64::from(processors);
        let _ = writeln!(text, "cpu{number} {} 0 {} {} 0 0 0 0 0 0", share(user), share(system), share(idle));
    }
    let _ = write!(
        text,
        "intr 0\nctxt 0\nbtime {}\nprocesses 0\nprocs_running 1\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        host.boot
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: &str = "\
MemTotal:       24684092 kB
MemFree:         9570044 kB
MemAvailable:   20905836 kB
Cached:         11016312 kB
SwapTotal:       1000000 kB
SwapFree:         900000 kB
Committed_AS:     551324 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
";
    const PROCESSORS: &str =
        "processor\t: 0\nmodel name\t: Some\nsiblings\t: 8\n\nprocessor\t: 1\nmodel name\t: Other\n\n";
    const STATISTICS: &str = "cpu  1 2 3\ncpu0 1 2 3\nintr 5 1 2\nbtime 1796079837\nprocesses 9\n";

    fn host() -> Host {
        Host::parse(MEMORY, PROCESSORS, STATISTICS, "0-7\n")
    }

    #[test]
    fn memory_is_that_of_the_sandbox_in_the_lines_of_the_host() {
        let memory = Memory {
            max: Some(512 << 20),
            used: 200 << 20,
            swap_max: Some(0),
            file: 100 << 20,
            inactive_file: 60 << 20,
            active_file: 40 << 20,
            ..Memory::default()
        };
        let expected = "\
MemTotal:         524288 kB
MemFree:          319488 kB
MemAvailable:     421888 kB
Cached:           102400 kB
SwapTotal:             0 kB
SwapFree:              0 kB
Committed_AS:          0 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
";
        assert_eq!(super::memory(&host(), &memory), expected);
    }

    #[test]
    fn without_a_bound_the_host_is_the_bound() {
        let text = super::memory(&host(), &Memory { used: 1 << 30, ..Memory::default() });
        assert!(text.starts_with("MemTotal:       24684092 kB\nMemFree:        23635516 kB\n"), "{text}");
        assert!(text.contains("SwapTotal:       1000000 kB\n"), "{text}");
        assert_eq!(processors(8, None), 8);
    }

    #[test]
    fn processors_that_are_begun_count_and_the_host_has_no_more() {
        for (milli, expected) in [(1, 1), (1000, 1), (1001, 2), (2500, 3), (64_000, 8)] {
            assert_eq!(processors(8, Some(milli)), expected, "{milli}");
        }
    }

    #[test]
    fn each_processor_is_listed_with_its_number() {
        let text = processor_list(&host(), 2);
        let each = |number: u32| format!("processor\t: {number}\nmodel name\t: Some\nsiblings\t: 2\n\n");
        assert_eq!(text, each(0) + &each(1));
        assert_eq!((online(1).as_str(), online(4).as_str()), ("0\n", "0-3\n"));
        assert_eq!((count("0-3,8\n"), count("0\n"), count("")), (5, 1, 1));
    }

    #[test]
    fn time_that_was_not_used_was_idle() {
        let text = statistics(&host(), 2, (101, 50), 10_000);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cpu  101 0 50 1849 0 0 0 0 0 0");
        assert_eq!(lines[1..3], ["cpu0 51 0 25 925 0 0 0 0 0 0", "cpu1 50 0 25 924 0 0 0 0 0 0"]);
        assert!(text.contains("\nbtime 1796079837\n"), "{text}");
    }
}
