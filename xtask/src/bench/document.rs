//! `docs/benchmarks.md`: everything that was measured, with goals, misses and reasons. Written by the command alone.
//!
//! It does not measure, and it does not know why a goal is missed: people write that in [`REASONS`].

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};

use super::figure::{Figure, Section, number};

/// Why goals are missed, by the figure's id.
pub(super) const REASONS: &str = "xtask/bench-reasons.toml";

/// How the document begins.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) title: &'a str,
    /// What writes it.
    pub(super) command: &'a str,
    /// What has to be known to read it.
    pub(super) note: &'a str,
    /// The 99th percentile has a column: there are many values a figure.
    pub(super) p99: bool,
}

/// The whole document.
pub(super) fn text(head: &Head<'_>, machine: &[(&str, String)], sections: &[Section], reasons: &str) -> Result<String> {
    let reasons: BTreeMap<String, String> =
        toml::from_str(reasons).with_context(|| format!("failed to read {REASONS}"))?;
    let mut out = format!("# {}\n\nWritten by `{}`; do not edit. {}\n\n", head.title, head.command, head.note);
    for (name, value) in machine {
        writeln!(out, "- {name}: {value}")?;
    }
    missed(&mut out, sections, &reasons)?;
    for section in sections {
        writeln!(out, "\n## {}\n\n{}\n", section.title, section.method)?;
        let (name, line) = if head.p99 { (" p99 |", "---:|") } else { ("", "") };
        writeln!(
            out,
            "| figure | median |{name} lowest to highest | unit | goal | |\n|---|---:|{line}---:|---|---|---|"
        )?;
        for figure in &section.figures {
            row(&mut out, figure, head.p99)?;
        }
    }
    Ok(out)
}

fn row(out: &mut String, figure: &Figure, with_p99: bool) -> Result<()> {
    let (low, high) = figure.spread();
    let spread = if figure.values.len() > 1 { format!("{} to {}", number(low), number(high)) } else { String::new() };
    let (middle, goals, verdict) = (number(figure.median()), figure.goals_text(), figure.verdict());
    let p99 = match (with_p99, figure.values.len()) {
        (false, _) => String::new(),
        (true, 0..=1) => " |".to_owned(),
        (true, _) => format!(" {} |", number(figure.p99())),
    };
    writeln!(out, "| {} | {middle} |{p99} {spread} | {} | {goals} | {verdict} |", figure.what, figure.unit)?;
    Ok(())
}

/// What is missed, first of all, because a reader looks for it.
fn missed(out: &mut String, sections: &[Section], reasons: &BTreeMap<String, String>) -> Result<()> {
    out.push_str("\n## Missed goals\n\n");
    let figures = sections.iter().flat_map(|section| &section.figures);
    let missed: Vec<&Figure> = figures.filter(|figure| !matches!(figure.verdict().as_str(), "" | "met")).collect();
    if missed.is_empty() {
        out.push_str("None.\n");
    }
    for figure in missed {
        let why = reasons.get(figure.id).map_or("why is not known yet.", String::as_str);
        writeln!(out, "- {}: {} {}, {}: {why}", figure.what, number(figure.median()), figure.unit, figure.verdict())?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::figure::Goal;
    use super::*;

    #[test]
    fn a_missed_goal_stands_first_with_its_reason() {
        let figures = vec![
            Figure::new("size", "the binary", "MiB", vec![9.0]).goal(Goal::AtMost(8.0)),
            Figure::new("start", "start", "ms", vec![5.0, 7.0, 6.0]).goal(Goal::AtMost(15.0)),
        ];
        let sections = [Section { title: "Size", method: "How.".to_owned(), figures }];
        let head = Head { title: "Benchmarks", command: "cargo xtask bench", note: "Note.", p99: false };
        let text = text(&head, &[("kernel", "Linux".to_owned())], &sections, "size = \"SQLite.\"\n").unwrap();
        assert!(text.contains("- the binary: 9 MiB, above 8 by 12.5 %: SQLite.\n"), "{text}");
        assert!(text.contains("| start | 6 | 5 to 7 | ms | <= 15 | met |\n"), "{text}");
        assert!(text.contains("- kernel: Linux\n"), "{text}");
    }
}
