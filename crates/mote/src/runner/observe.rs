//! What the runner tells the operator: metrics and log lines. It never decides anything.

use std::time::Duration;

use super::Shared;
use super::batch::Step;
use super::drive::Driver;

/// A commit took this long.
pub(super) fn committed(_shared: &Shared, _took: Duration) {}

/// A lease was lost to another worker.
pub(super) fn lease_lost(_shared: &Shared) {}

/// A step is durable.
pub(super) fn step(_driver: &Driver, _step: &Step) {}
