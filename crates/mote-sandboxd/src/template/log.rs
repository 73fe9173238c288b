//! The log of a build: entries in their order, within a bound that what programs print cannot push the build's own words out of.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::{SharedClock, UnixMs};
use crate::limits::{TEMPLATE_LOG_BYTES_MAX, TEMPLATE_LOG_ENTRY_BYTES, TEMPLATE_LOG_LINE_BYTES_MAX};

/// How much an entry matters; E2B's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// How something was done.
    Debug,
    /// What is done.
    Info,
    /// What was left out.
    Warn,
    /// What failed.
    Error,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the epoch.
    pub at_ms: UnixMs,
    /// How much it matters.
    pub level: Level,
    /// Text.
    pub message: String,
    /// `base`, the number of a step from 1, or `finalize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// A log that is being written.
pub struct Log {
    clock: SharedClock,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: Vec<Entry>,
    /// Bytes of what programs printed.
    printed: usize,
    is_cut: bool,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what the build itself says: a bounded number of times.
    pub fn say(&self, level: Level, step: Option<&str>, message: &str) {
        let entry = self.entry(level, step, message);
        self.kept().entries.push(entry);
    }

    /// Adds a line that a program printed, as long as there is room.
    pub fn print(&self, level: Level, step: &str, message: &str) {
        let entry = self.entry(level, Some(step), message);
        let mut kept = self.kept();
        kept.printed += entry.message.len() + TEMPLATE_LOG_ENTRY_BYTES;
        if kept.printed <= TEMPLATE_LOG_BYTES_MAX {
            kept.entries.push(entry);
        } else if !kept.is_cut {
            kept.is_cut = true;
            let message = format!("the log holds {TEMPLATE_LOG_BYTES_MAX} bytes: further output is left out");
            kept.entries.push(Entry { message, level: Level::Warn, ..entry });
        }
    }

    fn entry(&self, level: Level, step: Option<&str>, message: &str) -> Entry {
        Entry { at_ms: self.clock.now_ms(), level, message: bounded(message), step: step.map(str::to_owned) }
    }

    /// Every entry so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.kept().entries.clone()
    }

    /// The last entries of a step.
    #[must_use]
    pub fn last_of(&self, step: &str, most: usize) -> Vec<Entry> {
        let kept = self.kept();
        let of_step: Vec<&Entry> = kept.entries.iter().filter(|entry| entry.step.as_deref() == Some(step)).collect();
        of_step[of_step.len().saturating_sub(most)..].iter().map(|entry| (*entry).clone()).collect()
    }
}

/// The beginning of a text that is too long, which then ends in a mark.
fn bounded(text: &str) -> String {
    if text.len() <= TEMPLATE_LOG_LINE_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=TEMPLATE_LOG_LINE_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Lines of a stream of bytes. A line without an end is cut where it is longer than an entry.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Adds bytes, and hands on each line that they end.
    pub fn add(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' || self.0.len() >= TEMPLATE_LOG_LINE_BYTES_MAX {
                self.end(&mut line);
            }
            if *byte != b'\n' {
                self.0.push(*byte);
            }
        }
    }

    /// Hands on what has no end yet.
    pub fn end(&mut self, mut line: impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.0);
        if !text.trim().is_empty() {
            line(text.trim());
        }
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::System;

    #[test]
    fn what_programs_print_is_bounded_and_the_builds_own_words_are_not_lost() {
        let log = Log::new(Arc::new(System));
        let line = "x".repeat(1000);
        for _ in 0..2 * TEMPLATE_LOG_BYTES_MAX / line.len() {
            log.print(Level::Info, "1", &line);
        }
        log.say(Level::Error, Some("1"), "it failed");
        let entries = log.entries();
        let bytes: usize = entries.iter().map(|entry| entry.message.len()).sum();
        assert!(bytes > TEMPLATE_LOG_BYTES_MAX / 2 && bytes <= TEMPLATE_LOG_BYTES_MAX, "{bytes}");
        assert!(entries[entries.len() - 2].message.contains("further output is left out"));
        assert_eq!(entries.last().unwrap().message, "it failed");
        assert_eq!(log.last_of("1", 1)[0].message, "it failed");
    }

    #[test]
    fn output_is_cut_into_lines_and_a_line_without_an_end_too() {
        let mut lines = Lines::default();
        let mut told = Vec::new();
        lines.add(b"one\n\n tw", |line| told.push(line.to_owned()));
        lines.add("o é\n".as_bytes(), |line| told.push(line.to_owned()));
        lines.add(&vec![b'x'; TEMPLATE_LOG_LINE_BYTES_MAX + 1], |line| told.push(line.to_owned()));
        lines.end(|line| told.push(line.to_owned()));
        assert_eq!(told[..2], ["one", "two é"]);
        assert_eq!((told[2].len(), told[3].as_str(), told.len()), (TEMPLATE_LOG_LINE_BYTES_MAX, "x", 4));
    }
}
