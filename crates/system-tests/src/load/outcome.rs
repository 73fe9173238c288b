//! What came of a load: counts, and percentiles of the time that answers took.
//!
//! Every sample is kept, so percentiles are exact. It does not drop outliers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What came of a load. Times are of answers with a status below 400, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Answers with a status below 400.
    pub good: u64,
    /// Other answers, and requests without an answer.
    pub bad: u64,
    /// From the first request to the last answer, seconds.
    pub seconds: f64,
    /// Good answers a second.
    pub per_second: f64,
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Longest.
    pub max_us: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The first thing that went wrong.
    pub first_error: Option<String>,
}

/// Samples under way.
#[derive(Debug, Default)]
pub(super) struct Samples {
    times_us: Vec<u64>,
    bad: u64,
    statuses: BTreeMap<u16, u64>,
    first_error: Option<String>,
}

impl Samples {
    /// One answer, or why there is none.
    pub(super) fn add(&mut self, took: Duration, answer: anyhow::Result<u16>) {
        match answer {
            Ok(status) => {
                *self.statuses.entry(status).or_default() += 1;
                if status < 400 {
                    self.times_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                } else {
                    self.bad += 1;
                    self.first_error.get_or_insert_with(|| format!("status {status}"));
                }
            }
            Err(error) => {
                self.bad += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    /// Those of another connection.
    pub(super) fn merge(&mut self, other: Self) {
        self.times_us.extend(other.times_us);
        self.bad += other.bad;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
    }

    /// Sums up.
    pub(super) fn outcome(mut self, elapsed: Duration) -> Outcome {
        self.times_us.sort_unstable();
        let good = self.times_us.len() as u64;
        let seconds = elapsed.as_secs_f64();
        let at = |thousandths| percentile(&self.times_us, thousandths);
        Outcome {
            good,
            bad: self.bad,
            seconds,
            per_second: if seconds > 0.0 { good as f64 / seconds } else { 0.0 },
            p50_us: at(500),
            p90_us: at(900),
            p99_us: at(990),
            p999_us: at(999),
            max_us: at(1000),
            statuses: self.statuses,
            first_error: self.first_error,
        }
    }
}

/// Nearest rank: the smallest sample that at least so many thousandths of all are not above. 0 without samples.
fn percentile(sorted: &[u64], thousandths: usize) -> u64 {
    let rank = (sorted.len() * thousandths).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted: Vec<u64> = (1..=200).collect();
        let found: Vec<u64> = [500, 900, 990, 999, 1000].iter().map(|at| percentile(&sorted, *at)).collect();
        assert_eq!(found, [100, 180, 198, 200, 200]);
        assert_eq!((percentile(&[], 500), percentile(&[7], 990)), (0, 7));
    }

    #[test]
    fn a_bad_answer_counts_and_gives_no_time() {
        let mut samples = Samples::default();
        samples.add(Duration::from_micros(10), Ok(202));
        samples.add(Duration::from_micros(90), Ok(503));
        samples.add(Duration::from_micros(90), Err(anyhow::anyhow!("reset")));
        let outcome = samples.outcome(Duration::from_secs(2));
        assert_eq!((outcome.good, outcome.bad, outcome.max_us, outcome.per_second), (1, 2, 10, 0.5));
        assert_eq!(outcome.first_error.as_deref(), Some("status 503"));
    }
}
