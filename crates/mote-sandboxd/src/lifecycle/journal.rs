//! What happened to a sandbox lately, for `GET /v1/sandboxes/{id}/logs`: a bounded ring of lines.
//!
//! It keeps neither output nor environment of processes, so that no secret is in it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;
use crate::limits::{JOURNAL_LINE_BYTES_MAX, JOURNAL_LINES_MAX};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Line {
    /// Counts up from 1; a gap means that lines were dropped.
    pub number: u64,
    /// Milliseconds since the epoch.
    pub at_ms: UnixMs,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// What happened.
    pub message: String,
}

/// The ring.
#[derive(Debug, Default)]
pub struct Journal {
    lines: VecDeque<Line>,
    written: u64,
}

impl Journal {
    /// Adds a line; the oldest falls out where the ring is full.
    pub fn write(&mut self, at_ms: UnixMs, level: &str, mut message: String) {
        if message.len() > JOURNAL_LINE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(JOURNAL_LINE_BYTES_MAX));
            message.push('…');
        }
        if self.lines.len() >= JOURNAL_LINES_MAX {
            self.lines.pop_front();
        }
        self.written += 1;
        self.lines.push_back(Line { number: self.written, at_ms, level: level.to_owned(), message });
    }

    /// The lines behind a number, oldest first.
    #[must_use]
    pub fn after(&self, number: u64) -> Vec<Line> {
        self.lines.iter().filter(|line| line.number > number).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_stays_within_the_bound() {
        let mut journal = Journal::default();
        for number in 0..JOURNAL_LINES_MAX + 10 {
            journal.write(0, "info", format!("{number}"));
        }
        let lines = journal.after(0);
        assert_eq!(lines.len(), JOURNAL_LINES_MAX);
        assert_eq!(lines[0].number, 11);
    }
}
