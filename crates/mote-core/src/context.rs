//! The context as sizes: a ring of units, the task's input beside it, and counters of what was folded away.
//!
//! A unit is a message, or an assistant message with its calls and all their results: it is kept whole or folded whole.
//! No text is here; the driver maps unit ids to messages.

use crate::{Array, Limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Unit {
    id: u32,
    tokens: u32,
}

/// The context of a run. `UNITS` is the most units that it keeps beside the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<const UNITS: usize> {
    units: Array<Unit, UNITS>,
    input: Unit,
    next: u32,
    folded_units: u32,
    folded_tokens: u64,
}

/// The context cannot be made to fit.
pub(crate) struct Overflow;

impl<const UNITS: usize> Context<UNITS> {
    pub(crate) fn new() -> Self {
        Self { units: Array::new(), input: Unit::default(), next: 0, folded_units: 0, folded_tokens: 0 }
    }

    /// First unit that is still in the context; the input is in it whatever its id.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.units.as_slice().first().map_or(self.next, |unit| unit.id)
    }

    /// Id that the next unit gets.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Id of the input's unit.
    #[must_use]
    pub fn input(&self) -> u32 {
        self.input.id
    }

    /// Units folded away so far.
    #[must_use]
    pub fn folded_units(&self) -> u32 {
        self.folded_units
    }

    /// Tokens folded away so far.
    #[must_use]
    pub fn folded_tokens(&self) -> u64 {
        self.folded_tokens
    }

    /// Tokens in the context, the input included.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let units: u64 = self.units.as_slice().iter().map(|unit| u64::from(unit.tokens)).sum();
        units.saturating_add(u64::from(self.input.tokens))
    }

    /// Puts the task's input in place. It is never folded: a run that forgot its task could not finish it.
    pub(crate) fn set_input(&mut self, tokens: u32) {
        self.input = Unit { id: self.next, tokens };
        self.next += 1;
    }

    /// Adds a unit; folds the oldest where the ring is full.
    pub(crate) fn push(&mut self, tokens: u32, units_max: u16) {
        while self.units.len() >= usize::from(units_max).min(UNITS) && self.fold_oldest() {}
        let unit = Unit { id: self.next, tokens };
        self.next += 1;
        if self.units.push(unit).is_err() {
            self.count_folded(unit);
        }
    }

    /// Adds to the newest unit: a result belongs to its call.
    pub(crate) fn grow(&mut self, tokens: u32) {
        if let Some(unit) = self.units.as_mut_slice().last_mut() {
            unit.tokens = unit.tokens.saturating_add(tokens);
        }
    }

    /// Folds the oldest units if the context is above what is usable, down to the low-water mark, so that the packet's
    /// beginning, and with it the provider's cache, then stays as it is for many turns. The newest unit stays.
    pub(crate) fn trim(&mut self, limits: &Limits) -> Result<(), Overflow> {
        let usable = u64::from(limits.usable());
        if self.tokens() <= usable {
            return Ok(());
        }
        let low_water = usable.saturating_mul(u64::from(limits.low_water.min(100))) / 100;
        self.trim_to(low_water);
        if self.tokens() <= usable { Ok(()) } else { Err(Overflow) }
    }

    /// Folds the oldest units until at most `tokens` are left or only the newest unit is.
    pub(crate) fn trim_to(&mut self, tokens: u64) {
        while self.tokens() > tokens && self.units.len() > 1 && self.fold_oldest() {}
    }

    fn fold_oldest(&mut self) -> bool {
        let Some(unit) = self.units.pop_front() else { return false };
        self.count_folded(unit);
        true
    }

    fn count_folded(&mut self, unit: Unit) {
        self.folded_units = self.folded_units.saturating_add(1);
        self.folded_tokens = self.folded_tokens.saturating_add(u64::from(unit.tokens));
    }
}
