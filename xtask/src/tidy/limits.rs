//! Every limit says what it limits and in which unit: each constant of a `limits.rs`, or of a file in a folder `limits`, has a doc
//! comment.
//!
//! It does not find limits that were written elsewhere.

use super::{Outcome, RustFile};

/// Checks every `limits.rs`.
pub(super) fn check(files: &[RustFile]) -> Outcome {
    let mut looked_at = 0;
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with("/limits.rs") || file.path.contains("src/limits/")) {
        let mut above = "";
        for (number, line) in file.text.lines().map(str::trim).enumerate() {
            if line.starts_with("pub const ") || line.starts_with("pub(crate) const ") || line.starts_with("const ") {
                looked_at += 1;
                if !above.starts_with("///") {
                    findings.push(format!("{}:{}: a limit without a doc comment", file.path, number + 1));
                }
            }
            if !line.starts_with("#[") {
                above = line;
            }
        }
    }
    Outcome { rule: "limits", things: "limits", looked_at, findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_without_a_comment_is_found_and_other_files_are_left_alone() {
        let good = RustFile::new("src/limits.rs", "/// Bytes.\n#[allow(x)]\npub const A: u8 = 1;\n");
        let bad = RustFile::new("src/limits.rs", "/// Bytes.\npub const A: u8 = 1;\npub const B: u8 = 1;\n");
        let other = RustFile::new("src/lib.rs", "pub const B: u8 = 1;\n");
        assert!(check(&[good]).findings.is_empty());
        assert_eq!(check(&[bad]).findings, ["src/limits.rs:3: a limit without a doc comment"]);
        assert_eq!(check(&[other]).looked_at, 0);
    }
}
