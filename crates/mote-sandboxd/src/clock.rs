//! Time and entropy as parameters: the one place where the daemon reads the ambient clock.
//!
//! It does not schedule anything: `lifecycle::timers` does.

use std::sync::Arc;

/// Milliseconds since the Unix epoch.
pub type UnixMs = u64;

/// A source of wall time, so that a test may put its own in place.
pub trait Clock: Send + Sync + 'static {
    /// Now, milliseconds since the Unix epoch.
    fn now_ms(&self) -> UnixMs;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct System;

impl Clock for System {
    #[allow(clippy::disallowed_methods, reason = "the one ambient clock")]
    fn now_ms(&self) -> UnixMs {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Random bytes from the operating system, fit for secrets.
///
/// # Errors
/// `internal` where the operating system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], mote_sandbox_api::error::Failure> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| {
        mote_sandbox_api::error::Failure::new(
            mote_sandbox_api::error::Code::Internal,
            "the operating system gave no randomness",
        )
    })?;
    Ok(bytes)
}

/// A new id: a prefix of two letters and 20 characters of base 32 (100 random bits), lower case.
///
/// # Errors
/// As [`random`].
pub fn new_id(prefix: &str) -> Result<String, mote_sandbox_api::error::Failure> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut id = String::with_capacity(prefix.len() + 20);
    id.push_str(prefix);
    for byte in random::<20>()? {
        id.push(char::from(ALPHABET[usize::from(byte & 31)]));
    }
    Ok(id)
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_fit_a_host_name() {
        let (one, other) = (new_id("sb").unwrap(), new_id("sb").unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 22);
        assert!(one.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    }
}
