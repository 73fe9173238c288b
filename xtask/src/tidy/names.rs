//! No file or folder of source is named after nothing in particular.
//!
//! It does not judge other names.

use std::collections::BTreeMap;

use super::Outcome;

/// Names that become a place for everything.
const FORBIDDEN: &[&str] = &["common", "helper", "helpers", "imp", "misc", "util", "utils"];

/// Checks every Rust file's path.
pub(super) fn check(files: &BTreeMap<String, String>) -> Outcome {
    let mut looked_at = 0;
    let mut findings = Vec::new();
    for path in files.keys().filter(|path| path.ends_with(".rs")) {
        looked_at += 1;
        let stem = path.trim_end_matches(".rs");
        if let Some(part) = stem.split('/').find(|part| FORBIDDEN.contains(part)) {
            findings.push(format!("{path}: `{part}` says nothing of what is in it"));
        }
    }
    Outcome { rule: "names", things: "paths", looked_at, findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_names_are_found_in_files_and_folders() {
        let paths = ["crates/mote/src/utils.rs", "crates/mote/src/common/mod.rs", "crates/mote/src/store/mod.rs"];
        let files = paths.iter().map(|path| ((*path).to_owned(), String::new())).collect();
        let outcome = check(&files);
        assert_eq!((outcome.looked_at, outcome.findings.len()), (3, 2), "{outcome:?}");
    }
}
