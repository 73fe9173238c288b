//! Counters from the start: each with the label values that it can take, at zero. A rate over a counter that appears with
//! its first event misses that event, and an alert on an absent series never fires.
//!
//! Values that only a client brings (a method that no route has) appear when they come.

use super::families::{HttpLabels, TokenLabels, ToolLabels, ToolOutcome, name};
use super::{Metrics, route_label};

const STATUSES: [&str; 3] = ["completed", "failed", "cancelled"];
const BUDGET_LINES: [&str; 5] = ["run", "agent", "tenant", "user", "session"];
const OVERLOADS: [&str; 2] = ["runs", "queued_tasks"];
const RETRIED: [&str; 2] = ["model", "tool"];
const TOKENS: [&str; 5] = ["input", "cache_read", "cache_write", "output", "reasoning"];
const TOKENS_UNCERTAIN: [&str; 2] = ["input", "output"];
const TOOL_OUTCOMES: [&str; 9] =
    ["ok", "error", "suspended", "not_sent", "refused", "unknown", "forbidden", "timeout", "invalid"];
const SPANS: [&str; 3] = ["exported", "dropped", "failed"];
const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// What the configuration and the router's table know.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// Provider and name of each model.
    pub models: Vec<(&'a str, &'a str)>,
    /// Names of the tools.
    pub tools: Vec<&'a str>,
    /// Method and template of each route.
    pub routes: &'a [(&'static str, &'static str)],
}

impl Metrics {
    /// Shows every counter at zero that has not counted yet.
    pub fn declare(&self, known: &Known<'_>) {
        let families = &self.families;
        for (family, label, values) in [
            (&families.tasks_finished, "status", &STATUSES[..]),
            (&families.budget_refusals, "line", &BUDGET_LINES),
            (&families.overloads, "limit", &OVERLOADS),
            (&families.retries, "call", &RETRIED),
            (&families.spans, "result", &SPANS),
        ] {
            for value in values {
                drop(family.get_or_create(&name(label, value)));
            }
        }
        for (provider, model) in &known.models {
            for kind in TOKENS {
                let (provider, model) = ((*provider).to_owned(), (*model).to_owned());
                drop(families.tokens.get_or_create(&TokenLabels { provider, model, r#type: kind }));
            }
            for kind in TOKENS_UNCERTAIN {
                let (provider, model) = ((*provider).to_owned(), (*model).to_owned());
                drop(families.tokens_uncertain.get_or_create(&TokenLabels { provider, model, r#type: kind }));
            }
        }
        for tool in &known.tools {
            drop(families.effects_unknown.get_or_create(&ToolLabels { tool: (*tool).to_owned() }));
            for outcome in TOOL_OUTCOMES {
                drop(families.tool_calls.get_or_create(&ToolOutcome { tool: (*tool).to_owned(), outcome }));
            }
        }
        for (method, route) in known.routes {
            for status in CLASSES {
                drop(families.http_requests.get_or_create(&HttpLabels { method, route: route_label(route), status }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of docs/observability.md that are counters: name and labels.
    fn documented() -> Vec<(String, Vec<String>)> {
        let document = include_str!("../../../../../docs/observability.md");
        let row = |line: &str| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let name = cells.first()?.strip_prefix("`mote_")?.strip_suffix('`')?;
            let labels = cells.get(2)?.split(',').map(|label| label.trim().trim_matches('`').to_owned());
            (cells.get(1) == Some(&"counter"))
                .then(|| (format!("mote_{name}"), labels.filter(|label| !label.is_empty()).collect()))
        };
        document.lines().filter_map(row).collect()
    }

    #[test]
    fn every_documented_counter_is_there_at_zero_with_its_labels() {
        let metrics = Metrics::new("0", 0);
        let known =
            Known { models: vec![("openai", "m")], tools: vec!["pay"], routes: &[("GET", "/health"), ("GET", "")] };
        metrics.declare(&known);
        let text = metrics.render();
        let counters = documented();
        assert!(counters.len() >= 15, "{counters:?}");
        for (counter, labels) in counters {
            let samples: Vec<&str> =
                text.lines().filter(|line| line.split(['{', ' ']).next() == Some(&counter)).collect();
            assert!(!samples.is_empty(), "{counter} is missing in\n{text}");
            for sample in samples {
                assert!(sample.ends_with(" 0") || sample.ends_with(" 0.0"), "{sample}");
                assert!(labels.iter().all(|label| sample.contains(&format!("{label}=\""))), "{sample}: {labels:?}");
            }
        }
        for sample in [
            "mote_budget_refusals_total{line=\"session\"} 0",
            "mote_tool_calls_total{tool=\"pay\",outcome=\"unknown\"} 0",
        ] {
            assert!(text.lines().any(|line| line == sample), "{sample}");
        }
    }
}
