//! Resolving names so that only vetted addresses are connected to: what was checked is what is used, so a name that
//! changes its answer between the check and the connection (DNS rebinding) gains nothing.
//!
//! It does not see literals: the caller checks those before it connects.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;

use super::network::{self, Private, Refused};

/// Finds the addresses of a name.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of `host`, in order of preference.
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver (`getaddrinfo`, off the async workers).
#[derive(Debug, Default, Clone, Copy)]
pub struct System;

#[async_trait]
impl Lookup for System {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// A resolver for `reqwest` that gives only addresses that the policy allows.
pub(crate) struct Vetting {
    lookup: Arc<dyn Lookup>,
    private: Private,
}

impl Vetting {
    pub(crate) fn new(lookup: Arc<dyn Lookup>, private: Private) -> Self {
        Self { lookup, private }
    }
}

impl reqwest::dns::Resolve for Vetting {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let (lookup, private) = (self.lookup.clone(), self.private.clone());
        Box::pin(async move {
            let found = lookup.lookup(name.as_str()).await?;
            let vetted = vet(name.as_str(), found, &private)?;
            Ok(Box::new(vetted.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Keeps the allowed addresses; if there were some and none is allowed, says why of the first.
fn vet(host: &str, found: Vec<IpAddr>, private: &Private) -> Result<Vec<SocketAddr>, Refused> {
    let mut refusal = None;
    let mut vetted = Vec::with_capacity(found.len());
    for address in found {
        match network::check(host, address, private) {
            Ok(()) => vetted.push(SocketAddr::new(address, 0)),
            Err(refused) => refusal = refusal.or(Some(refused)),
        }
    }
    match refusal {
        Some(refused) if vetted.is_empty() => Err(refused),
        _ => Ok(vetted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_allowed_addresses_are_left() {
        let mixed = addresses(&["10.0.0.1", "1.1.1.1", "::1"]);
        let vetted = vet("mixed.example", mixed.clone(), &Private::None).unwrap();
        assert_eq!(vetted, vec!["1.1.1.1:0".parse().unwrap()]);
        assert_eq!(vet("mixed.example", mixed, &Private::All).unwrap().len(), 3);
        assert!(vet("inside.example", addresses(&["10.0.0.1"]), &Private::None).is_err());
        assert!(vet("nothing.example", Vec::new(), &Private::None).unwrap().is_empty());
    }
}
