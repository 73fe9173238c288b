//! `unsafe` stands only where it is allowed, and each use has a SAFETY comment.
//!
//! It does not judge whether the comment is right; a reviewer does.

use super::{Outcome, RustFile};
use crate::source::word_lines;

/// Paths, or folders ending in `/`, in which `unsafe` may stand.
const ALLOWED: &[&str] = &["crates/mote-sandbox-sys/", "crates/mote/src/memory.rs", "firmware/src/board/"];
/// How far above its `unsafe` a SAFETY comment may start, lines.
const COMMENT_REACH: usize = 8;

/// Checks every Rust file.
pub(super) fn check(files: &[RustFile]) -> Outcome {
    let mut findings = Vec::new();
    for file in files {
        let allowed =
            ALLOWED.iter().any(|place| file.path == *place || (place.ends_with('/') && file.path.starts_with(place)));
        let lines: Vec<&str> = file.text.lines().collect();
        for line in word_lines(&file.masked, "unsafe") {
            if !allowed {
                findings.push(format!("{}:{line}: unsafe is not allowed in this file", file.path));
            } else if !lines[line.saturating_sub(COMMENT_REACH)..line].iter().any(|text| text.contains("SAFETY:")) {
                findings.push(format!("{}:{line}: unsafe without a SAFETY comment", file.path));
            }
        }
    }
    Outcome { rule: "unsafe", things: "files", looked_at: files.len(), findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&[RustFile::new(path, text)]).findings
    }

    #[test]
    fn unsafe_is_found_outside_its_places_only() {
        let text = "// SAFETY: x lives.\nunsafe { f(x) }\n";
        assert_eq!(
            findings("crates/mote/src/lib.rs", text),
            ["crates/mote/src/lib.rs:2: unsafe is not allowed in this file"]
        );
        assert_eq!(findings("crates/mote-sandbox-sys/src/lib.rs", text), [""; 0]);
        assert_eq!(findings("crates/mote/src/lib.rs", "#![forbid(unsafe_code)] // unsafe\n"), [""; 0]);
    }

    #[test]
    fn unsafe_without_its_comment_is_found() {
        assert_eq!(findings("crates/mote-sandbox-sys/src/lib.rs", "unsafe { f(x) }\n").len(), 1);
    }
}
