//! The HTTP clients that tools share: one for each policy, built when first used.
//!
//! A client follows no redirect, takes no proxy from the environment and connects to vetted addresses only. It does not
//! check literal addresses or hosts; the tool does, before each hop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{TOOL_CONNECT_TIMEOUT, TOOL_IDLE_CONNECTION, TOOL_IDLE_CONNECTIONS_PER_HOST};
use crate::tls;
use crate::tools::policy::network::Private;
use crate::tools::policy::resolver::{Lookup, System, Vetting};

/// What a client may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Which private addresses it may connect to.
    pub private: Private,
    /// Whether each request opens its own connection. A kept one may be closed by the backend just as a request is
    /// written, and whether it was processed is then unknown: writes do not take that risk.
    pub fresh: bool,
}

/// Shared clients.
pub struct Clients {
    lookup: Arc<dyn Lookup>,
    built: Mutex<HashMap<Policy, reqwest::Client>>,
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(Arc::new(System))
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    /// Clients that find names through `lookup`.
    #[must_use]
    pub fn new(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup, built: Default::default() }
    }

    /// The client of a policy.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn get(&self, policy: &Policy) -> Result<reqwest::Client, tls::Error> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = built.get(policy) {
            return Ok(client.clone());
        }
        let idle = if policy.fresh { 0 } else { TOOL_IDLE_CONNECTIONS_PER_HOST };
        let client = tls::http_client(None)?
            .dns_resolver(Arc::new(Vetting::new(self.lookup.clone(), policy.private.clone())))
            .connect_timeout(TOOL_CONNECT_TIMEOUT)
            .pool_idle_timeout(TOOL_IDLE_CONNECTION)
            .pool_max_idle_per_host(idle)
            .user_agent(concat!("mote/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| tls::Error::Client(error.to_string()))?;
        built.insert(policy.clone(), client.clone());
        Ok(client)
    }
}
