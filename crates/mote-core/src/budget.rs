//! The run's own account: spend is reserved before it happens and settled after. Shared budgets are the store's.

use crate::{Limits, NanoUsd, Spender, Tokens};

structure! {
    /// What was used.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Spend {
        /// Tokens in, cached or not.
        pub input: Tokens,
        /// Tokens out.
        pub output: Tokens,
        /// Money.
        pub nano_usd: NanoUsd,
    }
}

structure! {
    /// What something cost, as far as it is known.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Cost {
        /// What was used.
        pub spend: Spend,
        /// Whether nobody said it, so that `spend` is an estimate.
        pub uncertain: bool,
    }
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

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
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
    /// Open for the model call of the present step.
    model: Spend,
    /// Open for a summary.
    summary: Spend,
    /// Open for calls, together.
    calls: Spend,
    /// Tokens that were spent beyond their reservations, in all.
    pub overshoot_tokens: Tokens,
    /// Money that was spent beyond its reservations, in all.
    pub overshoot_nano_usd: NanoUsd,
}

impl Budget {
    /// Reserves for a model call of `input` tokens and at most `output`; fewer where the budget ends before. Returns the
    /// output tokens that the call may use, or `None` if the budget does not carry a useful call.
    pub(crate) fn reserve(&mut self, limits: &Limits, input: Tokens, output: u32) -> Option<u32> {
        // The input is an estimate: an eighth more is held back for its error.
        let input = input.saturating_add(input / 8);
        let taken = self.taken();
        let tokens_left = limits.budget_tokens.saturating_sub(taken.tokens()).checked_sub(input)?;
        let money_left = limits
            .budget_nano_usd
            .saturating_sub(taken.nano_usd)
            .checked_sub(input.saturating_mul(limits.price_input))?;
        let affordable = money_left.checked_div(limits.price_output).unwrap_or(u64::MAX);
        let output_affordable = u64::from(output).min(tokens_left).min(affordable);
        let output_affordable = u32::try_from(output_affordable).unwrap_or(u32::MAX);
        if output_affordable < limits.output_min() {
            return None;
        }
        let output = u64::from(output_affordable);
        let money = input.saturating_mul(limits.price_input).saturating_add(output.saturating_mul(limits.price_output));
        self.model = Spend { input, output, nano_usd: money };
        Some(output_affordable)
    }

    /// Reserves for a summary of `input` tokens, whole or not at all.
    pub(crate) fn reserve_summary(&mut self, limits: &Limits, input: Tokens) -> bool {
        let input = input.saturating_add(input / 8);
        let output = u64::from(limits.summary);
        let price = |tokens: u64, each: u64| tokens.saturating_mul(each);
        let money = price(input, limits.summary_price_input).saturating_add(price(output, limits.summary_price_output));
        let whole = Spend { input, output, nano_usd: money };
        let fits = self.fits(limits, whole);
        if fits {
            self.summary = whole;
        }
        fits
    }

    /// Reserves what a call may cost, whole or not at all.
    pub(crate) fn reserve_call(&mut self, limits: &Limits, most: Spend) -> bool {
        let fits = self.fits(limits, most);
        if fits {
            self.calls.add(most);
        }
        fits
    }

    fn fits(&self, limits: &Limits, more: Spend) -> bool {
        let mut all = self.taken();
        all.add(more);
        all.tokens() <= limits.budget_tokens && all.nano_usd <= limits.budget_nano_usd
    }

    /// What is spent or reserved.
    fn taken(&self) -> Spend {
        let mut taken = self.counted();
        taken.add(self.reserved());
        taken
    }

    /// Everything that is reserved, for whomever.
    #[must_use]
    pub fn reserved(&self) -> Spend {
        let mut all = self.model;
        all.add(self.summary);
        all.add(self.calls);
        all
    }

    /// What is reserved for the model call: what one that is lost is taken to have cost.
    #[must_use]
    pub fn model_reservation(&self) -> Spend {
        self.model
    }

    /// What is reserved for the summary.
    #[must_use]
    pub fn summary_reservation(&self) -> Spend {
        self.summary
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

    /// Closes a reservation with what was spent, or is taken to have been spent. `reserved` is what a call had reserved.
    pub(crate) fn settle(&mut self, spender: Spender, reserved: Spend, cost: Cost) {
        let open = match spender {
            Spender::Model => self.model,
            Spender::Summary => self.summary,
            Spender::Call { .. } => reserved,
        };
        let over = cost.spend.tokens().saturating_sub(open.tokens());
        self.overshoot_tokens = self.overshoot_tokens.saturating_add(over);
        let over = cost.spend.nano_usd.saturating_sub(open.nano_usd);
        self.overshoot_nano_usd = self.overshoot_nano_usd.saturating_add(over);
        let account = if cost.uncertain { &mut self.uncertain } else { &mut self.spent };
        account.add(cost.spend);
        self.release(spender, reserved);
    }

    /// Closes a reservation unspent. `reserved` is what a call had reserved.
    pub(crate) fn release(&mut self, spender: Spender, reserved: Spend) {
        match spender {
            Spender::Model => self.model = Spend::default(),
            Spender::Summary => self.summary = Spend::default(),
            Spender::Call { .. } => self.calls = self.calls.each(reserved, u64::saturating_sub),
        }
    }

    /// Whether more was spent than the run may.
    pub(crate) fn is_exceeded(&self, limits: &Limits) -> bool {
        let counted = self.counted();
        counted.tokens() > limits.budget_tokens || counted.nano_usd > limits.budget_nano_usd
    }
}
