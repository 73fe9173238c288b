//! From OpenMetrics text, which the registry writes, to the Prometheus text format 0.0.4, which every scraper reads.
//!
//! It changes names and comments only; no sample's value.

/// Converts a whole exposition. A counter's family takes the name of its samples (`_total`), units and the end mark go.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 256);
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), Some(words)) => help = Some((name, words)),
            (Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, words)) = help.take().filter(|(helped, _)| *helped == name) {
                    text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
                }
                text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            // UNIT and EOF have no place in the older format.
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_their_samples() {
        let open = "# HELP jobs Jobs.\n# TYPE jobs counter\njobs_total{a=\"x\"} 1\n# HELP wait_seconds W.\n# TYPE \
                    wait_seconds histogram\n# UNIT wait_seconds seconds\nwait_seconds_sum 0.5\n# EOF\n";
        let expected = "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total{a=\"x\"} 1\n# HELP wait_seconds \
                        W.\n# TYPE wait_seconds histogram\nwait_seconds_sum 0.5\n";
        assert_eq!(to_prometheus(open), expected);
    }
}
