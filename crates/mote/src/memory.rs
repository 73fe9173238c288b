//! Gives the pages of the program's own text back to the kernel once starting is over: most of them are used once.
//!
//! They are clean and file-backed, so that the next use reads them from the page cache. It touches nothing that was ever
//! written: not the data, not the heap, not the part that the loader relocated.
#![allow(unsafe_code, reason = "one madvise over the program's own read-only mappings")]

use std::ffi::c_void;
use std::io;

/// A mapping of the executable, as `/proc/self/maps` shows it (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
}

/// Gives back the executable's text and the read-only data before it; returns how many bytes of mappings that is.
///
/// # Errors
/// Those of reading `/proc/self/maps`, or of the kernel.
pub fn release_text() -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let executable = std::fs::read_link("/proc/self/exe")?;
    let mappings = releasable(&maps, &executable.to_string_lossy());
    let mut released = 0;
    for mapping in &mappings {
        let length = mapping.end - mapping.start;
        // SAFETY: the range is one whole mapping of the running executable, private, backed by its file and never
        // writable, so that no page of it was ever changed. `MADV_DONTNEED` drops the pages from this process; the next
        // access, this very code's included, reads the same bytes from the file.
        unsafe { rustix::mm::madvise(mapping.start as *mut c_void, length, rustix::mm::Advice::LinuxDontNeed) }?;
        released += length;
    }
    Ok(released)
}

/// The executable's text, and its read-only mappings before the text. Those after it hold what the loader relocated
/// (RELRO): written once, they have no file to come back from.
fn releasable(maps: &str, executable: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.ends_with(executable)) {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
        let Some(mapping) = parse(range) else { continue };
        match mode {
            "r--p" => found.push(mapping),
            "r-xp" => {
                found.push(mapping);
                return found;
            }
            // Something writable before the text: not a layout that this knows.
            _ => return Vec::new(),
        }
    }
    // No text was found: then nothing here is known to be it.
    Vec::new()
}

fn parse(range: &str) -> Option<Mapping> {
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    (start < end).then_some(Mapping { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_and_what_stands_before_it_is_given_back() {
        let maps = "\
1000-2000 r--p 00000000 fe:00 7 /usr/bin/mote
2000-5000 r-xp 00001000 fe:00 7 /usr/bin/mote
5000-6000 r--p 00004000 fe:00 7 /usr/bin/mote
6000-7000 rw-p 00005000 fe:00 7 /usr/bin/mote
8000-9000 r--p 00000000 fe:00 8 /usr/lib/libc.so";
        let expected = vec![Mapping { start: 0x1000, end: 0x2000 }, Mapping { start: 0x2000, end: 0x5000 }];
        assert_eq!(releasable(maps, "/usr/bin/mote"), expected);
        assert_eq!(releasable(maps, "/usr/bin/other"), []);
        assert_eq!(releasable("1000-2000 rw-p 0 fe:00 7 /usr/bin/mote", "/usr/bin/mote"), []);
        assert_eq!(releasable("nonsense /usr/bin/mote", "/usr/bin/mote"), []);
    }

    #[test]
    fn the_program_goes_on_after_its_text_was_given_back() {
        assert!(release_text().unwrap() > 0);
        assert_eq!(releasable("", ""), []);
    }
}
