//! Resolves names on the host without a thread: by what the host's files say, or by asking one named server.
//!
//! It does not know who asks and judges no answer: `dns` does, and bounds how many ask at once. IPv4 alone: no sandbox has a way
//! out over IPv6. A resolver as a library would bring a second cache, a pool of connections and its own tries; what is needed
//! of it is a question over UDP, for which the message format (`hickory-proto`, there for the sandboxes' side) is enough.

mod host;
mod question;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::time::{Instant, timeout};

use self::host::Files;
use super::name::Name;
use crate::limits::{
    DNS_ADDRESSES_MAX, DNS_CACHE_MAX, DNS_LOOKUP_TIMEOUT, DNS_TRIES, DNS_TRY_TIMEOUT, DNS_TTL_SECONDS_DEFAULT,
    DNS_TTL_SECONDS_MAX,
};

/// Who resolves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// What `/etc/hosts` and `/etc/resolv.conf` of the host say.
    #[default]
    System,
    /// One server.
    Server(SocketAddr),
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such name.
    #[error("there is no such name")]
    NoName,
    /// The name is there, and has no address of IPv4.
    #[error("the name has no address of IPv4")]
    NoAddress,
    /// Every server failed or refused; the last one so.
    #[error("the resolver answered: {0}")]
    Server(ResponseCode),
    /// No server answered in time.
    #[error("the resolver did not answer in time")]
    Timeout,
    /// A server cannot be asked.
    #[error("failed to ask the resolver: {0}")]
    Io(std::io::ErrorKind),
    /// What came is no answer to what was asked.
    #[error("the resolver's answer cannot be read")]
    Malformed,
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// The addresses of a name, and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// At least one.
    pub addresses: Vec<Ipv4Addr>,
    /// Seconds.
    pub ttl: u32,
}

#[derive(Debug)]
enum Source {
    Host(Files),
    Server(SocketAddr),
}

/// A resolver with its cache.
#[derive(Debug)]
pub struct Resolver {
    source: Source,
    cache: Mutex<HashMap<Name, (Instant, Addresses)>>,
}

impl Resolver {
    /// A resolver with an empty cache.
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        Self::of(match upstream {
            Upstream::System => Source::Host(Files::of_the_host()),
            Upstream::Server(server) => Source::Server(server),
        })
    }

    fn of(source: Source) -> Self {
        Self { source, cache: Mutex::default() }
    }

    /// Resolves a name by asking.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn resolve(&self, name: &Name) -> Result<Addresses, Error> {
        let mut found = match &self.source {
            Source::Host(files) => {
                let said = files.said().await;
                match said.hosts.get(name) {
                    Some(addresses) => Addresses { addresses: addresses.clone(), ttl: DNS_TTL_SECONDS_DEFAULT },
                    None => ask(&said.servers, said.tries, said.patience, name).await?,
                }
            }
            Source::Server(server) => ask(&[*server], DNS_TRIES, DNS_TRY_TIMEOUT, name).await?,
        };
        found.addresses.truncate(DNS_ADDRESSES_MAX);
        found.ttl = found.ttl.min(DNS_TTL_SECONDS_MAX);
        self.keep(name, &found, Instant::now());
        Ok(found)
    }

    /// What was answered a moment ago, and still holds at `now`.
    #[must_use]
    pub fn known(&self, name: &Name, now: Instant) -> Option<Addresses> {
        let cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (until, addresses) = cache.get(name)?;
        let left = until.checked_duration_since(now)?;
        let ttl = u32::try_from(left.as_secs()).unwrap_or(DNS_TTL_SECONDS_MAX);
        (ttl > 0).then(|| Addresses { ttl, ..addresses.clone() })
    }

    fn keep(&self, name: &Name, found: &Addresses, now: Instant) {
        let mut cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if cache.len() >= DNS_CACHE_MAX {
            cache.retain(|_, (until, _)| *until > now);
            if cache.len() >= DNS_CACHE_MAX {
                cache.clear();
            }
        }
        cache.insert(name.clone(), (now + Duration::from_secs(found.ttl.into()), found.clone()));
    }
}

/// Asks servers in their order, until one says what is or is not.
async fn ask(servers: &[SocketAddr], tries: u32, patience: Duration, name: &Name) -> Result<Addresses, Error> {
    let asking = async {
        let mut last = Error::Timeout;
        for server in (0..tries).flat_map(|_| servers) {
            match timeout(patience, question::ask(*server, name)).await {
                Ok(Err(Error::NoName)) => return Err(Error::NoName),
                Ok(Err(Error::NoAddress)) => return Err(Error::NoAddress),
                Ok(Err(error)) => last = error,
                Ok(found) => return found,
                Err(_) => last = Error::Timeout,
            }
        }
        Err(last)
    };
    timeout(DNS_LOOKUP_TIMEOUT, asking).await.unwrap_or(Err(Error::Timeout))
}

#[cfg(test)]
mod tests;
