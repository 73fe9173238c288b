//! How long operations of the lifecycle take, as histograms.
//!
//! It does not expose them: `telemetry::metrics` registers the family.

use std::fmt::Write as _;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

/// Upper bounds of the buckets, in seconds: from a claim of the warm pool to a pull of an image.
const BUCKETS: [f64; 14] = [0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// From the request to a usable sandbox.
    Create,
    /// Pause, of either kind.
    Pause,
    /// Resume.
    Resume,
    /// A live snapshot.
    Snapshot,
    /// A rollback, to a usable sandbox.
    Rollback,
    /// All forks of one request, to usable sandboxes.
    Fork,
    /// A commit to an image.
    Commit,
    /// From the request to gone.
    Remove,
    /// A gathered exec, from start to end.
    Exec,
}

impl EncodeLabelValue for Operation {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Create => "create",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Snapshot => "snapshot",
            Self::Rollback => "rollback",
            Self::Fork => "fork",
            Self::Commit => "commit",
            Self::Remove => "remove",
            Self::Exec => "exec",
        })
    }
}

/// The label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Label {
    /// What was measured.
    pub operation: Operation,
}

/// The histograms.
#[derive(Debug, Clone)]
pub struct Durations(pub Family<Label, Histogram, fn() -> Histogram>);

impl Default for Durations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BUCKETS)))
    }
}

/// An operation that is under way. Only one that succeeds is measured.
#[derive(Debug)]
pub struct Taken<'a> {
    durations: &'a Durations,
    operation: Operation,
    since: Instant,
}

impl Durations {
    /// Starts measuring.
    #[must_use]
    pub fn start(&self, operation: Operation) -> Taken<'_> {
        Taken { durations: self, operation, since: Instant::now() }
    }
}

impl Taken<'_> {
    /// It succeeded.
    pub fn done(self) {
        let label = Label { operation: self.operation };
        self.durations.0.get_or_create(&label).observe(self.since.elapsed().as_secs_f64());
    }
}
