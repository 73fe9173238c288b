//! A worker's presence: what another process can see the end of. How it is seen is the backend's.

/// Keeps a worker's presence known; dropping it, or the end of the process in whatever way, ends that.
pub struct Presence(Option<Box<dyn std::any::Any + Send + Sync>>);

impl Presence {
    /// A presence that lasts as long as what is kept.
    pub fn kept(kept: impl std::any::Any + Send + Sync) -> Self {
        Self(Some(Box::new(kept)))
    }

    /// A presence that nobody can see the end of: leases run out.
    #[must_use]
    pub fn unseen() -> Self {
        Self(None)
    }

    /// Whether its end can be seen.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        self.0.is_some()
    }
}
