//! Gives the pages of the program's own text and constants back to the kernel while it is idle: most are used once, and
//! what an idle process runs brings in 64 KiB for each page that it touches.
//!
//! They are clean and file-backed, so that the next use reads them from the page cache. It touches nothing that was ever
//! written: not the data, not the heap, not the part that the loader relocated.
#![allow(unsafe_code, reason = "madvise over the program's own read-only mappings")]

use std::ffi::c_void;
use std::io;
use std::time::Duration;

/// A mapping of the executable, as `/proc/self/smaps` shows it (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
}

/// The executable's text and constants.
#[derive(Debug)]
pub struct Text(Vec<Mapping>);

impl Text {
    /// Finds them: the executable's mappings that cannot be written and of which no page was ever changed.
    ///
    /// # Errors
    /// Those of reading `/proc/self`.
    pub fn find() -> io::Result<Self> {
        let maps = std::fs::read_to_string("/proc/self/smaps")?;
        let executable = std::fs::read_link("/proc/self/exe")?;
        Ok(Self(releasable(&maps, &executable.to_string_lossy())))
    }

    /// Gives them back; returns how many bytes of mappings that is.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn release(&self) -> io::Result<usize> {
        let mut released = 0;
        for mapping in &self.0 {
            let length = mapping.end - mapping.start;
            // SAFETY: the range is one whole mapping of the running executable, private, backed by its file, not
            // writable, and without a page of its own when it was found, so that none was ever changed (`find`); nothing
            // here makes text or constants writable later. `MADV_DONTNEED` drops the pages from this process; the next
            // access, this very code's included, reads the same bytes from the file.
            unsafe { rustix::mm::madvise(mapping.start as *mut c_void, length, rustix::mm::Advice::LinuxDontNeed) }?;
            released += length;
        }
        Ok(released)
    }
}

/// Processor time that this process has used so far.
#[must_use]
pub fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// The executable's read-only mappings without a page of their own. One that the loader relocated before it was
/// protected (RELRO) has some, and no file that they could come back from.
fn releasable(smaps: &str, executable: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(mapping) = parse(line) {
            let mode = line.split_ascii_whitespace().nth(1).unwrap_or_default();
            let fits = line.ends_with(executable) && matches!(mode, "r--p" | "r-xp");
            candidate = fits.then_some(mapping);
        } else if let Some(kib) = line.strip_prefix("Anonymous:") {
            // The last word on it; a kernel that does not say so gives nothing to release.
            found.extend(candidate.take().filter(|_| kib.trim() == "0 kB"));
        }
    }
    found
}

/// The range at the beginning of a mapping's first line.
fn parse(line: &str) -> Option<Mapping> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    (start < end).then_some(Mapping { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_changed_is_given_back() {
        let smaps = "\
1000-2000 r--p 00000000 fe:00 7 /usr/bin/mote
Rss:                   4 kB
Anonymous:             0 kB
2000-5000 r-xp 00001000 fe:00 7 /usr/bin/mote
Anonymous:             0 kB
5000-6000 r--p 00004000 fe:00 7 /usr/bin/mote
Anonymous:             0 kB
6000-7000 r--p 00005000 fe:00 7 /usr/bin/mote
Anonymous:             4 kB
7000-8000 rw-p 00006000 fe:00 7 /usr/bin/mote
Anonymous:             0 kB
8000-9000 r--p 00000000 fe:00 8 /usr/lib/libc.so
Anonymous:             0 kB
9000-a000 r--p 00000000 fe:00 7 /usr/bin/mote
Rss:                   4 kB";
        let expected = [(0x1000, 0x2000), (0x2000, 0x5000), (0x5000, 0x6000)];
        assert_eq!(releasable(smaps, "/usr/bin/mote"), expected.map(|(start, end)| Mapping { start, end }));
        assert_eq!(releasable(smaps, "/usr/bin/other"), []);
        assert_eq!(releasable("nonsense /usr/bin/mote", "/usr/bin/mote"), []);
    }

    #[test]
    fn the_program_goes_on_after_its_text_was_given_back() {
        let text = Text::find().unwrap();
        assert!(text.release().unwrap() > 0);
        assert_eq!(text.release().unwrap(), text.release().unwrap());
        assert!(processor_time() > Duration::ZERO);
    }
}
