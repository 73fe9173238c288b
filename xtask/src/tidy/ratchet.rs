//! Lengths of files and functions: a bound for what is new, and for what was longer already a baseline that may only
//! go down.
//!
//! It does not raise the baseline; a person does, in the file, where a reviewer sees it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Outcome, RustFile};
use crate::source::functions;

/// The baseline's path from the root.
pub(super) const FILE: &str = "xtask/ratchet.toml";
/// Lines of a file.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// Lengths that are above the bound and known.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// Path to lines.
    #[serde(default)]
    files: BTreeMap<String, usize>,
    /// `path::modules::function` to lines.
    #[serde(default)]
    functions: BTreeMap<String, usize>,
}

impl Baseline {
    /// Reads the checked-in file.
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).with_context(|| format!("failed to read {FILE}"))
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Files above {FILE_LINES_MAX} lines and functions above {FUNCTION_LINES_MAX}. May only shrink:")?;
        writeln!(f, "# `cargo xtask tidy --update` lowers it. A new entry is written by hand and defended in review.")?;
        for (title, lengths) in [("files", &self.files), ("functions", &self.functions)] {
            writeln!(f, "\n[{title}]")?;
            for (name, lines) in lengths {
                writeln!(f, "\"{name}\" = {lines}")?;
            }
        }
        Ok(())
    }
}

/// Everything above its bound, as it is now.
fn measured(files: &[RustFile]) -> (usize, Baseline) {
    let mut looked_at = 0;
    let mut now = Baseline::default();
    for file in files {
        looked_at += 1;
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            now.files.insert(file.path.clone(), lines);
        }
        for function in functions(&file.masked) {
            looked_at += 1;
            if function.lines > FUNCTION_LINES_MAX {
                let mut place = vec![file.path.as_str()];
                place.extend(function.modules.iter().map(String::as_str));
                place.push(&function.name);
                // Two functions of one name in one file (methods of two types): the longer one counts.
                let length = now.functions.entry(place.join("::")).or_default();
                *length = (*length).max(function.lines);
            }
        }
    }
    (looked_at, now)
}

/// Compares every length with its bound or its baseline.
pub(super) fn check(baseline: &Baseline, files: &[RustFile]) -> Outcome {
    let (looked_at, now) = measured(files);
    let mut findings = Vec::new();
    let kinds =
        [(&now.files, &baseline.files, FILE_LINES_MAX), (&now.functions, &baseline.functions, FUNCTION_LINES_MAX)];
    for (lengths, known, max) in kinds {
        for (name, lines) in lengths {
            match known.get(name) {
                None => findings.push(format!("{name}: {lines} lines, above {max}")),
                Some(bound) if lines > bound => findings.push(format!("{name}: {lines} lines, was {bound}")),
                Some(_) => {}
            }
        }
        for name in known.keys().filter(|name| !lengths.contains_key(*name)) {
            findings.push(format!("{name}: no longer above {max}; run `cargo xtask tidy --update`"));
        }
    }
    Outcome { rule: "lengths", things: "files and functions", looked_at, findings }
}

/// The baseline with each entry at the lower of what it says and what is; what is within its bound leaves it.
pub(super) fn lowered(baseline: &Baseline, files: &[RustFile]) -> Baseline {
    let (_, now) = measured(files);
    let lower = |known: &BTreeMap<String, usize>, lengths: &BTreeMap<String, usize>| {
        let kept = known.iter().filter_map(|(name, bound)| Some((name.clone(), *bound.min(lengths.get(name)?))));
        kept.collect::<BTreeMap<_, _>>()
    };
    Baseline { files: lower(&baseline.files, &now.files), functions: lower(&baseline.functions, &now.functions) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn long_function(lines: usize) -> RustFile {
        RustFile::new("a.rs", &format!("fn long() {{\n{}}}\n", "    f();\n".repeat(lines - 2)))
    }

    fn baseline(text: &str) -> Baseline {
        Baseline::parse(text).unwrap()
    }

    #[test]
    fn a_new_length_above_the_bound_is_found() {
        assert_eq!(check(&Baseline::default(), &[long_function(70)]).findings, [""; 0]);
        assert_eq!(check(&Baseline::default(), &[long_function(71)]).findings, ["a.rs::long: 71 lines, above 70"]);
        let file = RustFile::new("b.rs", &"//\n".repeat(501));
        assert_eq!(check(&Baseline::default(), &[file]).findings, ["b.rs: 501 lines, above 500"]);
    }

    #[test]
    fn a_known_length_may_shrink_and_not_grow() {
        let known = baseline("[functions]\n\"a.rs::long\" = 90\n");
        assert_eq!(check(&known, &[long_function(80)]).findings, [""; 0]);
        assert_eq!(check(&known, &[long_function(91)]).findings, ["a.rs::long: 91 lines, was 90"]);
        assert_eq!(check(&known, &[long_function(60)]).findings.len(), 1);
    }

    #[test]
    fn an_update_lowers_and_never_raises() {
        let known = baseline("[functions]\n\"a.rs::long\" = 90\n");
        assert_eq!(lowered(&known, &[long_function(80)]).functions["a.rs::long"], 80);
        assert_eq!(lowered(&known, &[long_function(99)]).functions["a.rs::long"], 90);
        assert_eq!(lowered(&known, &[long_function(60)]), Baseline::default());
        assert_eq!(lowered(&Baseline::default(), &[long_function(99)]), Baseline::default());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let known = baseline("[files]\n\"b.rs\" = 600\n[functions]\n\"a.rs::long\" = 90\n");
        assert_eq!(baseline(&known.to_string()), known);
    }
}
