//! Money for people: nano-USD in dollars, exact. Machines get integers; whatever a person reads goes through here.
//!
//! It does not round: two amounts that differ never look alike.

/// Nano-USD in a dollar.
const NANO: u64 = 1_000_000_000;
/// Decimals that are always shown.
const DECIMALS_MIN: usize = 2;

/// An amount in dollars with as many decimals as it needs: `$0.50`, `$0.0016`, `$12.00`.
#[must_use]
pub fn dollars(nano_usd: u64) -> String {
    let decimals = format!("{:09}", nano_usd % NANO);
    let significant = decimals.trim_end_matches('0').len().max(DECIMALS_MIN);
    format!("${}.{}", nano_usd / NANO, &decimals[..significant])
}

/// What a call needs and what a budget has left, of each kind that the budget bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// Nano-USD needed and left, where money is bounded.
    pub nano_usd: Option<(u64, u64)>,
    /// Tokens needed and left, where tokens are bounded.
    pub tokens: Option<(u64, u64)>,
}

impl Shortfall {
    /// Of a need and what is left; `None` where nothing bounds it.
    #[must_use]
    pub fn new(needs_nano_usd: u64, left_nano_usd: Option<u64>, needs_tokens: u64, left_tokens: Option<u64>) -> Self {
        Self {
            nano_usd: left_nano_usd.map(|left| (needs_nano_usd, left)),
            tokens: left_tokens.map(|left| (needs_tokens, left)),
        }
    }
}

impl Shortfall {
    /// Whether anything is short.
    #[must_use]
    pub fn is_short(&self) -> bool {
        [self.nano_usd, self.tokens].into_iter().flatten().any(|(needs, left)| needs > left)
    }
}

impl std::fmt::Display for Shortfall {
    /// `needs $0.0016, $0.0015 left`: only what is short, or all that is bounded where nothing seems to be.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_short = |(needs, left): &(u64, u64)| needs > left;
        let money = |(needs, left)| format!("needs {}, {} left", dollars(needs), dollars(left));
        let tokens = |(needs, left)| format!("needs {needs} tokens, {left} left");
        let short = [self.nano_usd.filter(is_short).map(money), self.tokens.filter(is_short).map(tokens)];
        let all = [self.nano_usd.map(money), self.tokens.map(tokens)];
        let shown = if short.iter().any(Option::is_some) { short } else { all };
        f.write_str(&shown.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_short() {
        for (nano_usd, expected) in [
            (0, "$0.00"),
            (1, "$0.000000001"),
            (1_600_000, "$0.0016"),
            (500_000_000, "$0.50"),
            (1_234_500_000, "$1.2345"),
            (12_000_000_000, "$12.00"),
            (u64::MAX, "$18446744073.709551615"),
        ] {
            assert_eq!(dollars(nano_usd), expected);
        }
    }

    #[test]
    fn a_shortfall_names_what_is_short() {
        let short = Shortfall::new(1_600_000, Some(1_500_000), 40, Some(100));
        assert_eq!(short.to_string(), "needs $0.0016, $0.0015 left");
        let both = Shortfall::new(2, Some(1), 40, Some(39));
        assert_eq!(both.to_string(), "needs $0.000000002, $0.000000001 left; needs 40 tokens, 39 left");
        assert_eq!(Shortfall::new(1, None, 1, Some(5)).to_string(), "needs 1 tokens, 5 left");
    }
}
