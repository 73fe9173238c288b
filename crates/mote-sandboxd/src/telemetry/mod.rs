//! What an operator sees: logs as JSON lines, metrics for Prometheus.
//!
//! Neither holds output of processes, environments, bodies or secrets.

pub mod logs;
pub mod metrics;
mod share;
mod text;
pub mod trace;
