//! Time and entropy as parameters: the one place where the service reads the ambient clock.
//!
//! It does not schedule anything; sleeping belongs to the drivers.

use std::sync::Arc;

/// Milliseconds since the Unix epoch.
pub type UnixMs = u64;

/// A source of wall time and of randomness, so that a test or a simulation may put its own in place.
pub trait Clock: Send + Sync + 'static {
    /// Now, milliseconds since the Unix epoch.
    fn now_ms(&self) -> UnixMs;
    /// Milliseconds since the machine started, on a clock that nobody sets and that goes on while the process or the machine
    /// stands still: for leases.
    fn boot_ms(&self) -> u64;
    /// 64 random bits, for ids and jitter; not for secrets.
    fn random(&self) -> u64;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clock and the operating system's randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct System;

impl Clock for System {
    #[allow(clippy::disallowed_methods, reason = "the one ambient clock")]
    fn now_ms(&self) -> UnixMs {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    fn boot_ms(&self) -> u64 {
        let time = rustix::time::clock_gettime(BOOT_CLOCK);
        let part = |number: i64| u64::try_from(number).unwrap_or(0);
        part(time.tv_sec).saturating_mul(1_000).saturating_add(part(time.tv_nsec) / 1_000_000)
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        // Each `RandomState` is keyed from the operating system's randomness.
        std::collections::hash_map::RandomState::new().build_hasher().finish()
    }
}

/// Counts the time in which the machine sleeps too.
#[cfg(target_os = "linux")]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
/// Counts the time in which the machine sleeps, where that is known.
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

/// A new id: `prefix_` and 26 characters of Crockford base 32, sortable by time (48 bits of milliseconds, 80 random).
#[must_use]
pub fn new_id(prefix: &str, clock: &dyn Clock) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let time = u128::from(clock.now_ms() & ((1 << 48) - 1));
    let random = (u128::from(clock.random()) << 16) | u128::from(clock.random() & 0xffff);
    let bits = (time << 80) | random;
    let mut id = String::with_capacity(prefix.len() + 27);
    id.push_str(prefix);
    id.push('_');
    for shift in (0..26).rev() {
        let index = (bits >> (shift * 5)) & 31;
        id.push(char::from(ALPHABET[index as usize]));
    }
    id
}
