//! Tokens estimated from bytes, and calibrated by what providers report: no tokenizer, which would cost tens of MiB.
//!
//! Estimates decide trimming and reservations; what is paid is settled from a provider's own usage.

/// Bytes per token of a text nobody has measured yet, in thousandths. English prose has about 4, JSON and code about 3:
/// an estimate errs on the side of more tokens.
const BYTES_PER_TOKEN_MILLI: u64 = 3_500;
/// What a calibration may reach. Below: dense scripts, above: long runs of one character.
const BYTES_PER_TOKEN_MILLI_MIN: u64 = 1_000;
const BYTES_PER_TOKEN_MILLI_MAX: u64 = 8_000;
/// Observations smaller than this say more about a provider's framing than about the text.
const BYTES_OBSERVED_MIN: u64 = 512;
/// The weight of one observation: an eighth.
const WEIGHT: u64 = 8;

/// Tokens that so many bytes are likely to be, uncalibrated.
#[must_use]
pub fn estimate_tokens(bytes: usize) -> u64 {
    Calibration::default().tokens(bytes)
}

/// Bytes per token as observed so far: a value, kept and shared as its owner likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calibration {
    bytes_per_token_milli: u64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { bytes_per_token_milli: BYTES_PER_TOKEN_MILLI }
    }
}

impl Calibration {
    /// Tokens that so many bytes are likely to be; rounded up.
    #[must_use]
    pub fn tokens(&self, bytes: usize) -> u64 {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        bytes.saturating_mul(1_000).div_ceil(self.bytes_per_token_milli)
    }

    /// The calibration after a request of so many bytes was counted as so many tokens.
    #[must_use]
    pub fn observe(self, bytes: usize, tokens: u64) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes < BYTES_OBSERVED_MIN || tokens == 0 {
            return self;
        }
        let seen = bytes.saturating_mul(1_000) / tokens;
        let seen = seen.clamp(BYTES_PER_TOKEN_MILLI_MIN, BYTES_PER_TOKEN_MILLI_MAX);
        let sum = self.bytes_per_token_milli.saturating_mul(WEIGHT - 1).saturating_add(seen);
        Self { bytes_per_token_milli: sum / WEIGHT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_round_up() {
        assert_eq!(estimate_tokens(0), 0);
        assert_eq!(estimate_tokens(1), 1);
        assert_eq!(estimate_tokens(3_500), 1_000);
        assert!(estimate_tokens(usize::MAX) > 0);
    }

    #[test]
    fn observations_pull_the_estimate_towards_them() {
        let mut calibration = Calibration::default();
        for _ in 0..100 {
            calibration = calibration.observe(10_000, 5_000);
        }
        assert_eq!(calibration.tokens(10_000).abs_diff(5_000) / 50, 0, "within a percent of what was seen");
        let once = Calibration::default().observe(10_000, 5_000);
        assert!(once.tokens(10_000) < 4_000, "one observation does not overturn the rest");
    }

    #[test]
    fn absurd_observations_do_little() {
        let calibration = Calibration::default();
        assert_eq!(calibration.observe(10, 1_000), calibration, "too small to say anything");
        assert_eq!(calibration.observe(10_000, 0), calibration);
        let mut absurd = calibration;
        for _ in 0..1_000 {
            absurd = absurd.observe(usize::MAX, 1);
        }
        assert!(absurd.tokens(8_000) >= 1_000);
    }
}
