//! Every named limit of the test equipment. It does not hold limits of the product; `mote::limits` does.

use std::time::Duration;

/// Connections that may wait to be accepted by a fake server.
pub const BACKLOG: u32 = 8192;
/// Largest request body that a fake server reads, bytes.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Requests that a fake server remembers; older ones are forgotten first.
pub const RECORDED_MAX: usize = 10_000;
/// Bytes of text in one streamed delta, unless the plan says otherwise.
pub const DELTA_BYTES: usize = 24;
/// How long a test waits for something that must happen. Generous: it bounds a hang, it measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition without an event of its own is looked at.
pub const POLL: Duration = Duration::from_millis(20);
/// Lines of a process's output that are kept.
pub const OUTPUT_LINES_MAX: usize = 100_000;
/// Requests that the open-loop load generator may have in flight; at more, the target is not keeping up.
pub const LOAD_IN_FLIGHT_MAX: usize = 20_000;
/// How long a client keeps a connection that it does not use: less than the servers do (30 s). A test that waits for a
/// program in between does not see a server's close, and would send its next request into it.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(10);
