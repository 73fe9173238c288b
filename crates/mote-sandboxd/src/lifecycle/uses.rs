//! Which snapshots are being read or removed: one that is read is not removed meanwhile.
//!
//! It lives in memory alone: nothing that is under way outlives the daemon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Uses that are under way, by snapshot. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Uses(Arc<Mutex<HashMap<String, Use>>>);

#[derive(Debug)]
enum Use {
    Read(usize),
    Removed,
}

/// A use, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Held {
    uses: Uses,
    snapshot: String,
}

impl Uses {
    /// Reads a snapshot; none while it is being removed.
    pub(super) fn read(&self, snapshot: &str) -> Option<Held> {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.entry(snapshot.to_owned()).or_insert(Use::Read(0)) {
            Use::Read(count) => *count += 1,
            Use::Removed => return None,
        }
        Some(Held { uses: self.clone(), snapshot: snapshot.to_owned() })
    }

    /// Removes a snapshot; none while it is read or being removed.
    pub(super) fn remove(&self, snapshot: &str) -> Option<Held> {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.contains_key(snapshot) {
            return None;
        }
        uses.insert(snapshot.to_owned(), Use::Removed);
        Some(Held { uses: self.clone(), snapshot: snapshot.to_owned() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut uses = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(&self.snapshot) {
            Some(Use::Read(count)) if *count > 1 => *count -= 1,
            _ => drop(uses.remove(&self.snapshot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_by_many_or_removed_by_one() {
        let uses = Uses::default();
        let (one, two) = (uses.read("sn1").unwrap(), uses.read("sn1").unwrap());
        drop(one);
        assert!(uses.remove("sn1").is_none(), "somebody reads it");
        assert!(uses.remove("sn2").is_some(), "another one");
        drop(two);
        let removed = uses.remove("sn1").unwrap();
        assert!(uses.read("sn1").is_none() && uses.remove("sn1").is_none());
        drop(removed);
        assert!(uses.read("sn1").is_some());
    }
}
