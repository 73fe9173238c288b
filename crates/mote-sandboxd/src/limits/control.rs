//! Limits of E2B's control plane: previews' hosts, pauses, secrets' metadata, the history of what sandboxes use.
//!
//! Leases and pages stand with the daemon's others.

use std::time::Duration;

/// How long a port inside that speaks TLS may take to set it up.
pub const PREVIEW_TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of what a policy gives as `Host` to ports inside: a name of DNS, and a port.
pub const INGRESS_HOST_BYTES_MAX: usize = 253 + 6;
/// Ports inside of which a policy says that they speak TLS.
pub const INGRESS_TLS_PORTS_MAX: usize = 64;
/// Times that it is tried to freeze a sandbox whose processes did not all stop.
pub const FREEZE_ROUNDS: u32 = 20;
/// Time between two of them.
pub const FREEZE_ROUND_PAUSE: Duration = Duration::from_millis(100);
/// Entries of a secret's metadata. These bounds are E2B's.
pub const SECRET_METADATA_ENTRIES_MAX: usize = 32;
/// Bytes of a key of it.
pub const SECRET_METADATA_KEY_BYTES_MAX: usize = 128;
/// Bytes of a value of it.
pub const SECRET_METADATA_VALUE_BYTES_MAX: usize = 1024;
/// Bytes of all of it.
pub const SECRET_METADATA_BYTES_MAX: usize = 8192;
/// How often what a sandbox uses is measured for its history, at first; each time that the history is full, half as often.
pub const METRICS_SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Points of a sandbox's history; then every second one is dropped. At first they are 40 minutes.
pub const METRICS_POINTS_MAX: usize = 480;
/// A point as young as this is told as what a sandbox uses now.
pub const METRICS_POINT_FRESH: Duration = Duration::from_secs(1);
/// Sandboxes whose use is told in one answer.
pub const METRICS_SANDBOXES_TOLD_MAX: usize = 100;
