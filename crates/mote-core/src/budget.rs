//! The run's own account: spend is reserved before it happens and settled after. Shared budgets are the store's.

use crate::{Limits, NanoUsd, Tokens};

/// What a model call used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spend {
    /// Tokens in, cached or not.
    pub input: Tokens,
    /// Tokens out.
    pub output: Tokens,
    /// Money.
    pub nano_usd: NanoUsd,
}

impl Spend {
    /// Tokens, in and out.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.input.saturating_add(self.output)
    }

    fn add(&mut self, other: Self) {
        *self = self.each(other, u64::saturating_add);
    }

    /// The two, amount by amount.
    fn each(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            input: of(self.input, other.input),
            output: of(self.output, other.output),
            nano_usd: of(self.nano_usd, other.nano_usd),
        }
    }
}

/// Spent and reserved so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Everything that was settled at a known cost.
    pub spent: Spend,
    /// What calls are taken to have cost of which nobody said it: lost, cut off, or failed without a word.
    pub uncertain: Spend,
    /// Of what is uncertain, calls that were lost with their workers.
    pub lost_calls: u32,
    /// What the dearest lost call of the present step is taken to have cost.
    lost: Spend,
    /// Of what is uncertain, what the run's own budget does not count: lost calls of one step beside the dearest.
    uncounted: Spend,
    /// Tokens of the open reservation; 0 without one.
    pub reserved_tokens: Tokens,
    /// Of these, for the reply.
    pub reserved_output: Tokens,
    /// Money of the open reservation.
    pub reserved_nano_usd: NanoUsd,
    /// Tokens that were spent beyond their reservations, in all.
    pub overshoot_tokens: Tokens,
    /// Money that was spent beyond its reservations, in all.
    pub overshoot_nano_usd: NanoUsd,
}

impl Budget {
    /// Reserves for a call of `input` tokens and at most `output`; fewer where the budget ends before. Returns the
    /// output tokens that the call may use, or `None` if the budget does not carry a useful call.
    pub(crate) fn reserve(&mut self, limits: &Limits, input: Tokens, output: u32) -> Option<u32> {
        // The input is an estimate: an eighth more is held back for its error.
        let input = input.saturating_add(input / 8);
        let counted = self.counted();
        let tokens_left = limits.budget_tokens.saturating_sub(counted.tokens()).checked_sub(input)?;
        let money_left = limits
            .budget_nano_usd
            .saturating_sub(counted.nano_usd)
            .checked_sub(input.saturating_mul(limits.price_input))?;
        let affordable = money_left.checked_div(limits.price_output).unwrap_or(u64::MAX);
        let output_affordable = u64::from(output).min(tokens_left).min(affordable);
        let output_affordable = u32::try_from(output_affordable).unwrap_or(u32::MAX);
        if output_affordable < limits.output_min() {
            return None;
        }
        self.reserved_tokens = input.saturating_add(u64::from(output_affordable));
        self.reserved_output = u64::from(output_affordable);
        self.reserved_nano_usd = input
            .saturating_mul(limits.price_input)
            .saturating_add(u64::from(output_affordable).saturating_mul(limits.price_output));
        Some(output_affordable)
    }

    /// What the run's limits count: known and uncertain cost, where the calls of one step that were lost with their workers
    /// count once, as the dearest of them. Task, ledger and shared budgets have all of it.
    #[must_use]
    pub fn counted(&self) -> Spend {
        let mut counted = self.spent;
        counted.add(self.counted_uncertain());
        counted
    }

    /// Of what is uncertain, what the run's limits count.
    #[must_use]
    pub fn counted_uncertain(&self) -> Spend {
        self.uncertain.each(self.uncounted, u64::saturating_sub)
    }

    /// The call under way is lost: the run's own budget counts it only beyond the dearest that the step has lost.
    pub(crate) fn lose(&mut self, call: Spend) {
        self.lost_calls = self.lost_calls.saturating_add(1);
        self.uncounted.add(self.lost.each(call, u64::min));
        self.lost = self.lost.each(call, u64::max);
    }

    /// A step begins: no call of it is lost.
    pub(crate) fn begin_step(&mut self) {
        self.lost = Spend::default();
    }

    /// Closes the reservation with what was spent, or is taken to have been spent.
    pub(crate) fn settle(&mut self, spend: Spend, uncertain: bool) {
        self.overshoot_tokens =
            self.overshoot_tokens.saturating_add(spend.tokens().saturating_sub(self.reserved_tokens));
        self.overshoot_nano_usd =
            self.overshoot_nano_usd.saturating_add(spend.nano_usd.saturating_sub(self.reserved_nano_usd));
        let account = if uncertain { &mut self.uncertain } else { &mut self.spent };
        account.add(spend);
        self.release();
    }

    /// Closes the reservation unspent.
    pub(crate) fn release(&mut self) {
        self.reserved_tokens = 0;
        self.reserved_output = 0;
        self.reserved_nano_usd = 0;
    }

    /// The open reservation: what a call that is lost is taken to have cost.
    #[must_use]
    pub fn reservation(&self) -> Spend {
        let input = self.reserved_tokens.saturating_sub(self.reserved_output);
        Spend { input, output: self.reserved_output, nano_usd: self.reserved_nano_usd }
    }

    /// Whether more was spent than the run may.
    pub(crate) fn is_exceeded(&self, limits: &Limits) -> bool {
        let counted = self.counted();
        counted.tokens() > limits.budget_tokens || counted.nano_usd > limits.budget_nano_usd
    }
}
