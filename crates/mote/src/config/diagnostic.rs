//! What is wrong with a file, and where: the diagnostics of `agent.yaml`.
//!
//! It renders; it does not decide what is wrong.

use std::fmt;
use std::path::Path;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted; production would want better.
    Warning,
    /// Worth knowing; nothing is wrong with it.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One mistake or one piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Line, from 1; 0 if it concerns the file as a whole.
    pub line: u64,
    /// Column in characters, from 1; 0 if it concerns the file as a whole.
    pub column: u64,
    /// The field: `tools[0].http.url`; empty for the file as a whole.
    pub path: String,
    /// What is wrong. Never contains a value of a field that may hold a secret.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The argument of the command line that is at fault, and not the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}

impl Diagnostic {
    /// An error that concerns the file as a whole.
    #[must_use]
    pub fn of_file(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            line: 0,
            column: 0,
            path: String::new(),
            message: message.into(),
            hint: None,
            flag: None,
        }
    }

    /// `agent.yaml:12:5: error: tools[0].timeout: …`, the hint on a line of its own; of an argument,
    /// `error: --listen 1.2.3.4:80: …`.
    #[must_use]
    pub fn render(&self, file: &Path) -> String {
        let mut text = String::new();
        if self.flag.is_none() {
            text.push_str(&file.display().to_string());
            if self.line > 0 {
                text.push_str(&format!(":{}:{}", self.line, self.column));
            }
            text.push_str(": ");
        }
        text.push_str(&format!("{}: ", self.severity));
        let subject = self.flag.as_ref().unwrap_or(&self.path);
        if !subject.is_empty() {
            text.push_str(&format!("{subject}: "));
        }
        text.push_str(&self.message);
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n    hint: {hint}"));
        }
        text
    }
}

/// The way to a field: `tools[0].http.url`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldPath(pub(super) Vec<Segment>);

/// One step of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// A field.
    Key(String),
    /// An element, from 0.
    Index(usize),
}

impl FieldPath {
    /// The field of this name at the top.
    pub(super) fn top(name: &str) -> Self {
        Self::default().key(name)
    }

    /// A field below.
    pub(super) fn key(&self, name: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Segment::Key(name.to_owned()));
        path
    }

    /// Reads what [`fmt::Display`] writes: `tools[0].http.url`.
    pub(super) fn parse(text: &str) -> Self {
        let mut path = Self::default();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let (name, indices) = part.split_once('[').unwrap_or((part, ""));
            path.0.push(Segment::Key(name.to_owned()));
            let indices = indices.split('[').filter_map(|index| index.trim_end_matches(']').parse().ok());
            path.0.extend(indices.map(Segment::Index));
        }
        path
    }

    /// An element below.
    pub(super) fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Segment::Index(index));
        path
    }

    /// Whether `self` is `other` or above it.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The name of `candidates` that `found` was probably meant to be: few edits away for its length.
pub(super) fn closest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (found.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (edits(found, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which a swap of neighbours counts once (optimal string alignment).
fn edits(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut rows = vec![vec![0usize; right.len() + 1]; left.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let substitution = usize::from(left[i - 1] != right[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + substitution);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_was_meant() {
        let names = ["timeout", "url", "headers", "allow_hosts"];
        let check = |found, expected| assert_eq!(closest(found, names.into_iter()), expected, "{found}");
        check("timout", Some("timeout"));
        check("ulr", Some("url"));
        check("header", Some("headers"));
        check("allowhosts", Some("allow_hosts"));
        check("colour", None);
    }

    #[test]
    fn renders_like_a_compiler() {
        let mut diagnostic = Diagnostic::of_file("failed to read");
        assert_eq!(diagnostic.render(Path::new("agent.yaml")), "agent.yaml: error: failed to read");
        diagnostic.line = 12;
        diagnostic.column = 5;
        diagnostic.path = FieldPath::top("tools").index(0).key("url").to_string();
        diagnostic.hint = Some("quote it".to_owned());
        assert_eq!(
            diagnostic.render(Path::new("agent.yaml")),
            "agent.yaml:12:5: error: tools[0].url: failed to read\n    hint: quote it"
        );
        diagnostic.flag = Some("--listen 1.2.3.4:80".to_owned());
        let blamed = diagnostic.render(Path::new("agent.yaml"));
        assert_eq!(blamed, "error: --listen 1.2.3.4:80: failed to read\n    hint: quote it");
    }

    #[test]
    fn a_path_is_read_as_it_is_written() {
        for text in ["", "model", "tools[0].http.url", "model.fallback[2].key"] {
            assert_eq!(FieldPath::parse(text).to_string(), text);
        }
    }
}
