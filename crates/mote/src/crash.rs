//! Named crash points: places around commits and effects where a test kills the process.
//!
//! Without the feature `crash-points` a point is nothing at all, so that the binary that ships has none.

/// Every crash point, in the order in which a run passes them.
pub const POINTS: &[&str] = &[
    "submit.before",
    "submit.after",
    "claim.after",
    "store.before_commit",
    "store.after_commit",
    "run.before_commit",
    "run.after_commit",
    "model.before_call",
    "model.after_call",
    "tool.before_call",
    "tool.after_call",
    "finish.before_commit",
    "finish.after_commit",
];

/// Ends the process here, as `kill -9` would, if `MOTE_CRASH_AT` names this point: `NAME` or `NAME:N` for the Nth passage.
#[cfg(feature = "crash-points")]
#[allow(clippy::disallowed_methods, reason = "set by the crash matrix for the whole process")]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static TARGET: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let target = TARGET.get_or_init(|| {
        let text = std::env::var("MOTE_CRASH_AT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), nth.parse().unwrap_or(1)))
    });
    if let Some((target, nth)) = target
        && target == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        std::process::abort();
    }
}

/// Nothing: crash points are not in this build.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_name: &'static str) {}
