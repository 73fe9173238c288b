//! The addresses that a sandbox was told for names: what a connection to a name is held to.
//!
//! It resolves nothing and judges nothing. It forgets: after a while, and the oldest first where there are too many.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::name::Name;
use crate::limits::{TOLD_ADDRESSES_MAX, TOLD_KEPT, TOLD_NAMES_MAX};

/// First of the addresses that stand for names while a tape is replayed: 198.18.0.0/15, kept for benchmarks (RFC 2544).
const STAND_INS: u32 = u32::from_be_bytes([198, 18, 0, 1]);

/// What one sandbox was told.
#[derive(Debug, Default)]
pub struct Told {
    addresses: HashMap<Ipv4Addr, Vec<(Name, Instant)>>,
    stand_ins: u32,
}

impl Told {
    /// Remembers that an address was told for a name.
    pub fn tell(&mut self, name: &Name, address: Ipv4Addr, now: Instant) {
        if !self.addresses.contains_key(&address) && self.addresses.len() >= TOLD_ADDRESSES_MAX {
            self.make_room(now);
        }
        let names = self.addresses.entry(address).or_default();
        names.retain(|(other, told)| other != name && is_fresh(*told, now));
        if names.len() >= TOLD_NAMES_MAX {
            names.remove(0);
        }
        names.push((name.clone(), now));
    }

    /// The names that an address was told for.
    #[must_use]
    pub fn names(&self, address: Ipv4Addr, now: Instant) -> Vec<Name> {
        let names = self.addresses.get(&address).map_or(&[][..], Vec::as_slice);
        names.iter().filter(|(_, told)| is_fresh(*told, now)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether an address was told for a name.
    #[must_use]
    pub fn was_told(&self, name: &Name, address: Ipv4Addr, now: Instant) -> bool {
        let names = self.addresses.get(&address).map_or(&[][..], Vec::as_slice);
        names.iter().any(|(other, told)| other == name && is_fresh(*told, now))
    }

    /// An address of the range for benchmarks that stands for a name whose real address is not asked for: the same for as
    /// long as it is remembered.
    pub fn stand_in(&mut self, name: &Name, now: Instant) -> Ipv4Addr {
        let known = self.addresses.iter().find(|(_, names)| names.iter().any(|(other, _)| other == name));
        let address = known.map_or_else(
            || {
                let next = Ipv4Addr::from(STAND_INS + self.stand_ins);
                self.stand_ins = (self.stand_ins + 1) % (1 << 16);
                next
            },
            |(address, _)| *address,
        );
        self.tell(name, address, now);
        address
    }

    fn make_room(&mut self, now: Instant) {
        self.addresses.retain(|_, names| {
            names.retain(|(_, told)| is_fresh(*told, now));
            !names.is_empty()
        });
        if self.addresses.len() >= TOLD_ADDRESSES_MAX {
            let last = |names: &[(Name, Instant)]| names.last().map(|(_, told)| *told);
            let oldest = self.addresses.iter().min_by_key(|(_, names)| last(names)).map(|(address, _)| *address);
            oldest.map(|address| self.addresses.remove(&address));
        }
    }
}

fn is_fresh(told: Instant, now: Instant) -> bool {
    now.saturating_duration_since(told) < TOLD_KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_is_remembered_for_a_while_and_for_its_name_alone() {
        let (mut told, address) = (Told::default(), Ipv4Addr::new(1, 2, 3, 4));
        told.tell(&name("a.example"), address, Instant::now());
        assert!(told.was_told(&name("a.example"), address, Instant::now()));
        assert!(!told.was_told(&name("b.example"), address, Instant::now()));
        told.tell(&name("b.example"), address, Instant::now());
        assert_eq!(told.names(address, Instant::now()), [name("a.example"), name("b.example")]);
        tokio::time::advance(TOLD_KEPT).await;
        assert!(!told.was_told(&name("a.example"), address, Instant::now()));
        assert_eq!(told.names(address, Instant::now()), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_names_pushes_out_the_oldest() {
        let mut told = Told::default();
        let count = u32::try_from(TOLD_ADDRESSES_MAX).unwrap();
        for at in 0..=count {
            told.tell(&name("a.example"), Ipv4Addr::from(at), Instant::now());
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(told.addresses.len(), TOLD_ADDRESSES_MAX);
        assert!(!told.was_told(&name("a.example"), Ipv4Addr::from(0), Instant::now()));
        assert!(told.was_told(&name("a.example"), Ipv4Addr::from(count), Instant::now()));
        for at in 0..2 * TOLD_NAMES_MAX {
            told.tell(&name(&format!("n{at}.example")), Ipv4Addr::from(count), Instant::now());
        }
        assert_eq!(told.names(Ipv4Addr::from(count), Instant::now()).len(), TOLD_NAMES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stand_in_stays_with_its_name() {
        let mut told = Told::default();
        let first = told.stand_in(&name("a.example"), Instant::now());
        assert_ne!(told.stand_in(&name("b.example"), Instant::now()), first);
        assert_eq!(told.stand_in(&name("a.example"), Instant::now()), first);
        assert!(told.was_told(&name("a.example"), first, Instant::now()));
    }
}
