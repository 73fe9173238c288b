//! Named crash points: places around durable intents and their effects where a test kills the daemon.
//!
//! Without the feature `crash-points` a point is nothing at all, so that the binary that ships has none.

/// Every crash point.
pub const POINTS: &[&str] = &[
    "create.after_intent",
    "create.after_root",
    "create.after_start",
    "pause.after_intent",
    "pause.after_effect",
    "resume.after_effect",
    "snapshot.after_intent",
    "snapshot.after_effect",
    "rollback.after_intent",
    "rollback.after_end",
    "rollback.after_root",
    "fork.after_copy",
    "import.after_intent",
    "import.amid",
    "import.after_layer",
    "import.after_image",
    "import.after_snapshot",
    "remove.after_intent",
    "remove.after_end",
    "remove.after_root",
    "reply.after_effect",
    "template.begun",
    "template.before_image",
    "template.after_image",
];

/// Ends the process here, as `kill -9` would, where `MOTE_CRASH_AT` names this point: `NAME`, or `NAME:N` for the Nth passage.
#[cfg(feature = "crash-points")]
#[allow(clippy::disallowed_methods, reason = "set by the tests of recovery for the whole process")]
pub fn point(name: &'static str) {
    use std::sync::atomic::{AtomicU64, Ordering};

    static NAMED: std::sync::OnceLock<Option<(String, u64)>> = std::sync::OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let named = NAMED.get_or_init(|| {
        let text = std::env::var("MOTE_CRASH_AT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), nth.parse().unwrap_or(1)))
    });
    if let Some((target, nth)) = named
        && target == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        // It cannot fail: a process may signal itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}

/// Nothing: crash points are not in this build.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_name: &'static str) {}
