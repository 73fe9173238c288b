//! Every module begins with a `//!` header that says what it is responsible for.
//!
//! It does not read the header; a reviewer does.

use super::{Outcome, RustFile};

/// Checks every Rust file.
pub(super) fn check(files: &[RustFile]) -> Outcome {
    let bare = files.iter().filter(|file| !has_header(&file.text));
    let findings = bare.map(|file| format!("{}: has no `//!` header", file.path)).collect();
    Outcome { rule: "headers", things: "modules", looked_at: files.len(), findings }
}

/// The first line that is neither empty nor an inner attribute starts a header.
fn has_header(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("#!["));
    lines.next().is_some_and(|line| line.starts_with("//!") && line.len() > 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_header_is_found() {
        for good in ["//! Runs.\n", "#![no_std]\n\n//! Runs.\n"] {
            assert!(check(&[RustFile::new("a.rs", good)]).findings.is_empty(), "{good}");
        }
        for bad in ["", "fn main() {}\n", "// Runs.\n", "//!\nfn main() {}\n"] {
            assert_eq!(check(&[RustFile::new("a.rs", bad)]).findings.len(), 1, "{bad}");
        }
    }
}
