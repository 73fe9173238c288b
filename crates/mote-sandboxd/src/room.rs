//! Bytes of memory that something may hold at once, over all for whom it does: bodies that are read, exchanges that are taped,
//! events that wait.
//!
//! It allocates nothing: who holds bytes says so before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Room for so many bytes.
#[derive(Debug)]
pub struct Room {
    taken: AtomicU64,
    most: u64,
}

impl Room {
    /// Room that nobody has taken any of.
    #[must_use]
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { taken: AtomicU64::new(0), most })
    }

    /// Bytes that may be taken in all.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// What one holder has taken of some rooms; it is given back when this is dropped.
#[derive(Debug)]
pub struct Taken<const ROOMS: usize> {
    rooms: [Arc<Room>; ROOMS],
    bytes: u64,
}

impl<const ROOMS: usize> Taken<ROOMS> {
    /// Holds nothing yet.
    #[must_use]
    pub const fn new(rooms: [Arc<Room>; ROOMS]) -> Self {
        Self { rooms, bytes: 0 }
    }

    /// Takes more in every room, or in none; whether there was room.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        for (at, room) in self.rooms.iter().enumerate() {
            if !room.take(bytes) {
                for room in &self.rooms[..at] {
                    room.taken.fetch_sub(bytes, Ordering::Relaxed);
                }
                return false;
            }
        }
        self.bytes += bytes;
        true
    }
}

impl<const ROOMS: usize> Drop for Taken<ROOMS> {
    fn drop(&mut self) {
        for room in &self.rooms {
            room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_leaves_what_another_may_have_and_gives_back_what_it_had() {
        let (all, own) = (Room::new(100), Room::new(60));
        let mut one = Taken::new([Arc::clone(&all), Arc::clone(&own)]);
        assert!(one.grow(60) && !one.grow(1), "its own room is full");
        let mut other = Taken::new([Arc::clone(&all), Room::new(60)]);
        assert!(other.grow(40) && !other.grow(1), "all of it is taken");
        assert!(!other.grow(usize::MAX));
        drop(one);
        assert!(other.grow(20));
        drop(other);
        assert!(Taken::new([all]).grow(100) && Taken::new([own]).grow(60));
    }
}
