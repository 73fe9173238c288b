//! How many connections all sandboxes may have open together, and how many questions to the resolver: each takes descriptors
//! that the daemon and every other sandbox need, too.
//!
//! It does not know whose a place is, but how many its sandbox has already.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::{EGRESS_CONNECTIONS_FEW, EGRESS_RESERVED_PERCENT};

/// Places for connections, or for questions.
#[derive(Debug)]
pub(super) struct Room {
    taken: AtomicUsize,
    places: usize,
}

impl Room {
    pub(super) const fn new(places: usize) -> Self {
        Self { taken: AtomicUsize::new(0), places }
    }

    /// Takes a place for a sandbox that has `own` already; whether there was one. The last places are for those with few, so
    /// that some with many do not shut out the others.
    pub(super) fn take(&self, own: usize) -> bool {
        let reserved = self.places * EGRESS_RESERVED_PERCENT / 100;
        let places = if own < EGRESS_CONNECTIONS_FEW { self.places } else { self.places - reserved };
        let take = |taken: usize| (taken < places).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Gives a place back.
    pub(super) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_with_many_leave_room_for_those_with_few() {
        let room = Room::new(100);
        let greedy = (0..1000).filter(|own| room.take(*own)).count();
        assert_eq!(greedy, 75);
        assert!((0..16).all(|own| room.take(own)), "another one is served");
        assert!(!room.take(16), "and is greedy itself beyond");
        room.give_back();
        assert!(room.take(15));
        assert_eq!((0..).take_while(|_| room.take(0)).count(), 9, "no more than there are");
    }
}
