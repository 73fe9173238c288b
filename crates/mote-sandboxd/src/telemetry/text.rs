//! From OpenMetrics text, which the registry writes, to the Prometheus text format 0.0.4, for what reads nothing newer.
//!
//! It changes names and comments only; no sample's value.

use std::fmt::Write as _;

/// Converts a whole exposition. A counter's family takes the name of its samples (`_total`); units and the end mark go.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    for line in open_metrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        // Writing to a String cannot fail.
        let _ = match words.as_slice() {
            // Kept until the kind is known.
            ["#", "HELP", name, words] => {
                help = Some((*name, *words));
                Ok(())
            }
            ["#", "TYPE", name, kind] => {
                let suffix = if *kind == "counter" { "_total" } else { "" };
                if let Some((_, words)) = help.take().filter(|(of, _)| of == name) {
                    let _ = writeln!(text, "# HELP {name}{suffix} {words}");
                }
                writeln!(text, "# TYPE {name}{suffix} {kind}")
            }
            ["#", ..] => Ok(()),
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_named_as_its_samples_are() {
        let open = "# HELP asked Requests.\n# TYPE asked counter\nasked_total{a=\"b c\"} 2\n# HELP took_seconds Time.\n\
                    # TYPE took_seconds histogram\n# UNIT took_seconds seconds\ntook_seconds_count 1\n# EOF\n";
        let text = "# HELP asked_total Requests.\n# TYPE asked_total counter\nasked_total{a=\"b c\"} 2\n\
                    # HELP took_seconds Time.\n# TYPE took_seconds histogram\ntook_seconds_count 1\n";
        assert_eq!(prometheus(open), text);
    }
}
