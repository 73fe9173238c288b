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
        self.trim_to(limits.low_water_mark());
        if self.tokens() <= usable { Ok(()) } else { Err(Overflow) }
    }

    /// Folds the oldest units until at most `tokens` are left or only the newest unit is.
    pub(crate) fn trim_to(&mut self, tokens: u64) {
        while self.tokens() > tokens && self.units.len() > 1 && self.fold_oldest() {}
    }

    /// The oldest units whose summary would bring the context down to `tokens`: the first, the last, and their size. Never
    /// the newest unit.
    pub(crate) fn oldest(&self, tokens: u64) -> Option<(u32, u32, u64)> {
        let (newest, older) = self.units.as_slice().split_last()?;
        let (mut left, mut size, mut through) = (self.tokens(), 0, None);
        for unit in older.iter().take_while(|unit| unit.id < newest.id) {
            if left <= tokens {
                break;
            }
            left = left.saturating_sub(u64::from(unit.tokens));
            size += u64::from(unit.tokens);
            through = Some(unit.id);
        }
        through.map(|through| (older.first().map_or(through, |first| first.id), through, size))
    }

    /// Size of the units from `from` to `through` that are still there.
    pub(crate) fn size(&self, from: u32, through: u32) -> u64 {
        let within = self.units.as_slice().iter().filter(|unit| (from..=through).contains(&unit.id));
        within.map(|unit| u64::from(unit.tokens)).sum()
    }

    /// Puts a summary in the place of every unit up to `through`; it takes that unit's id.
    pub(crate) fn compact(&mut self, through: u32, tokens: u32, units_max: u16) {
        while self.units.as_slice().first().is_some_and(|unit| unit.id <= through) && self.fold_oldest() {}
        // The units that the summary is of may have been folded meanwhile, and others have taken their room.
        let room = usize::from(units_max).min(UNITS);
        while self.units.len() >= room && self.units.len() > 1 && self.fold_oldest() {}
        if self.units.len() < room {
            // There is room: this cannot fail.
            let _ = self.units.push_front(Unit { id: through, tokens });
        }
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
