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

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        // Each `RandomState` is keyed from the operating system's randomness.
        std::collections::hash_map::RandomState::new().build_hasher().finish()
    }
}

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
