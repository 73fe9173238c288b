//! A measured figure: its values, its unit, its goal, and by how much the goal is missed.
//!
//! It does not measure.

use std::fmt;

/// Which way a goal lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

impl Goal {
    /// How far the value is on the wrong side, percent of the goal; 0 if the goal is met.
    pub(super) fn missed_percent(self, value: f64) -> f64 {
        match self {
            Self::AtMost(goal) => ((value / goal - 1.0) * 100.0).max(0.0),
            Self::AtLeast(goal) => ((1.0 - value / goal) * 100.0).max(0.0),
        }
    }
}

/// One figure.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    /// Stable; `xtask/bench-reasons.toml` says under it why a goal is missed.
    pub(super) id: &'static str,
    /// What it is.
    pub(super) what: String,
    /// Its unit.
    pub(super) unit: &'static str,
    /// A value a round.
    pub(super) values: Vec<f64>,
    /// What must hold, then what is aimed at.
    pub(super) goals: Vec<Goal>,
}

impl Figure {
    /// A figure without a goal.
    pub(super) fn new(id: &'static str, what: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { id, what: what.into(), unit, values, goals: Vec::new() }
    }

    /// With a goal.
    pub(super) fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    /// The value that stands for it.
    pub(super) fn median(&self) -> f64 {
        median(&self.values)
    }

    /// Lowest and highest value.
    pub(super) fn spread(&self) -> (f64, f64) {
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        (low, self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// The value below which 99 % of the values lie.
    pub(super) fn p99(&self) -> f64 {
        percentile(&self.values, 99.0)
    }

    /// `<= 6, goal 4`.
    pub(super) fn goals_text(&self) -> String {
        let text = |goal: &Goal| match goal {
            Goal::AtMost(value) => format!("<= {}", number(*value)),
            Goal::AtLeast(value) => format!(">= {}", number(*value)),
        };
        self.goals.iter().map(text).collect::<Vec<_>>().join(", goal ")
    }

    /// `met`, or by how much each goal is missed.
    pub(super) fn verdict(&self) -> String {
        let missed = self.goals.iter().map(|goal| (goal, goal.missed_percent(self.median())));
        let missed: Vec<String> = missed
            .filter(|(_, percent)| *percent > 0.0)
            .map(|(goal, percent)| match goal {
                Goal::AtMost(value) => format!("above {} by {} %", number(*value), number(percent)),
                Goal::AtLeast(value) => format!("below {} by {} %", number(*value), number(percent)),
            })
            .collect();
        match (self.goals.is_empty(), missed.is_empty()) {
            (true, _) => String::new(),
            (false, true) => "met".to_owned(),
            (false, false) => missed.join("; "),
        }
    }
}

/// A group of figures with what has to be known to read them.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// Its title.
    pub(super) title: &'static str,
    /// How it was measured.
    pub(super) method: String,
    /// What came out.
    pub(super) figures: Vec<Figure>,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for figure in &self.figures {
            let (low, high) = figure.spread();
            let (middle, low, high) = (number(figure.median()), number(low), number(high));
            let p99 = number(figure.p99());
            let spread = format!("({low} to {high}, p99 {p99})");
            writeln!(f, "  {:<58} {middle:>9} {} {spread} {}", figure.what, figure.unit, figure.verdict())?;
        }
        Ok(())
    }
}

/// The middle value; the mean of the two middle ones where their number is even. 0 without values.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The value below which `percent` of the values lie. 0 without values.
pub(super) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Three significant digits at most after the point, none for large numbers.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[])), (2.0, 2.5, 0.0));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&values, 99.0), percentile(&[7.0], 99.0), percentile(&[], 99.0)), (198.0, 7.0, 0.0));
    }

    #[test]
    fn a_missed_goal_says_by_how_much_and_a_met_one_says_so() {
        let figure =
            |value| Figure::new("id", "what", "MiB", vec![value]).goal(Goal::AtMost(6.0)).goal(Goal::AtMost(4.0));
        assert_eq!(figure(4.0).verdict(), "met");
        assert_eq!(figure(5.0).verdict(), "above 4 by 25 %");
        assert_eq!(figure(9.0).verdict(), "above 6 by 50 %; above 4 by 125 %");
        assert_eq!(figure(9.0).goals_text(), "<= 6, goal <= 4");
        let rate = Figure::new("id", "what", "/s", vec![2500.0]).goal(Goal::AtLeast(5000.0));
        assert_eq!(rate.verdict(), "below 5000 by 50 %");
        assert_eq!(Figure::new("id", "what", "/s", vec![1.0]).verdict(), "");
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.0, 4.0, 2.345, 12.34, 12345.6].iter().map(|value| number(*value)).collect();
        assert_eq!(shown, ["0", "4", "2.35", "12.3", "12346"]);
    }
}
