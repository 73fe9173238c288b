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
/// `MOTE_STOP_AT` stops it instead (SIGSTOP), so that a test can wake it where it must find itself fenced.
#[cfg(feature = "crash-points")]
pub fn point(name: &'static str) {
    static CRASH: Target = Target::new("MOTE_CRASH_AT");
    static STOP: Target = Target::new("MOTE_STOP_AT");
    if CRASH.reached(name) {
        std::process::abort();
    }
    if STOP.reached(name) {
        // It cannot fail: the process may signal itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
    }
}

/// The point that a variable names, and how often it was passed.
#[cfg(feature = "crash-points")]
struct Target {
    variable: &'static str,
    named: std::sync::OnceLock<Option<(String, u64)>>,
    passed: std::sync::atomic::AtomicU64,
}

#[cfg(feature = "crash-points")]
impl Target {
    const fn new(variable: &'static str) -> Self {
        Self { variable, named: std::sync::OnceLock::new(), passed: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Counts a passage; whether it is the one.
    #[allow(clippy::disallowed_methods, reason = "set by the crash matrix for the whole process")]
    fn reached(&self, name: &str) -> bool {
        let named = self.named.get_or_init(|| {
            let text = std::env::var(self.variable).ok()?;
            let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
            Some((name.to_owned(), nth.parse().unwrap_or(1)))
        });
        let Some((target, nth)) = named else { return false };
        target == name && self.passed.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == *nth
    }
}

/// Nothing: crash points are not in this build.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_name: &'static str) {}
