//! How long operations of the lifecycle take, as histograms; how often nothing could be got ready for them.
//!
//! It does not expose them: `telemetry::metrics` registers the families.

use std::fmt::Write as _;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
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

/// What is kept ready for sandboxes to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kept {
    /// The keeper's namespaces, with a first process that waits for orders.
    Namespaces,
    /// Sandboxes of the warm pool.
    Sandboxes,
}

impl EncodeLabelValue for Kept {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::Sandboxes => "sandboxes",
        })
    }
}

/// The label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Stock {
    /// What could not be made.
    pub kept: Kept,
}

/// How often something could not be got ready. A sandbox is then made when it is asked for: slower, or told why it cannot.
#[derive(Debug, Clone)]
pub struct Refills(pub Family<Stock, Counter>);

impl Default for Refills {
    fn default() -> Self {
        let family = Family::default();
        // There from the start, so that the first failure is an increase.
        for kept in [Kept::Namespaces, Kept::Sandboxes] {
            drop(family.get_or_create(&Stock { kept }));
        }
        Self(family)
    }
}

impl Refills {
    /// Counts failures.
    pub fn failed(&self, kept: Kept, count: u64) {
        self.0.get_or_create(&Stock { kept }).inc_by(count);
    }
}
