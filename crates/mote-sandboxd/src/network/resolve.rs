//! Resolves names on the host: by the system's resolver, or by asking one named server.
//!
//! It does not know who asks and judges no answer: `dns` does. IPv4 alone: no sandbox has a way out over IPv6.

use std::collections::HashMap;
use std::ffi::CString;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::rand::SecureRandom;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{self, RData, RecordType};
use mote_sandbox_sys::resolve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::name::Name;
use crate::limits::{
    DNS_ADDRESSES_MAX, DNS_CACHE_MAX, DNS_MESSAGE_BYTES_MAX, DNS_SYSTEM_AT_ONCE, DNS_TRIES, DNS_TRY_TIMEOUT,
    DNS_TTL_SECONDS_DEFAULT, DNS_TTL_SECONDS_MAX,
};

/// Who resolves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// The system's resolver, as `/etc/resolv.conf` and `/etc/nsswitch.conf` set it up.
    #[default]
    System,
    /// One server.
    Server(SocketAddr),
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such name, or it has no address of IPv4.
    #[error("there is no such name")]
    NoName,
    /// The resolver did not answer, or said that it failed.
    #[error("failed to resolve: {0}")]
    Failed(String),
}

/// The addresses of a name, and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// At least one.
    pub addresses: Vec<Ipv4Addr>,
    /// Seconds.
    pub ttl: u32,
}

/// A resolver with its cache.
#[derive(Debug)]
pub struct Resolver {
    upstream: Upstream,
    cache: Mutex<HashMap<Name, (Instant, Addresses)>>,
    /// Threads that the system's resolver may take: the runtime has as many again for everything else.
    threads: Semaphore,
}

impl Resolver {
    /// A resolver with an empty cache.
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream, cache: Mutex::default(), threads: Semaphore::new(DNS_SYSTEM_AT_ONCE) }
    }

    /// Resolves a name.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn resolve(&self, name: &Name) -> Result<Addresses, Error> {
        if let Some(known) = self.cached(name, Instant::now()) {
            return Ok(known);
        }
        let mut found = match self.upstream {
            Upstream::System => {
                let _thread = self.threads.acquire().await.map_err(|error| Error::Failed(error.to_string()))?;
                system(name).await?
            }
            Upstream::Server(server) => ask(server, name).await?,
        };
        found.addresses.truncate(DNS_ADDRESSES_MAX);
        if found.addresses.is_empty() {
            return Err(Error::NoName);
        }
        found.ttl = found.ttl.min(DNS_TTL_SECONDS_MAX);
        self.keep(name, &found, Instant::now());
        Ok(found)
    }

    fn cached(&self, name: &Name, now: Instant) -> Option<Addresses> {
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

async fn system(name: &Name) -> Result<Addresses, Error> {
    // With a dot at the end: the host's search list is not tried.
    let name = CString::new(format!("{name}.")).map_err(|_| Error::NoName)?;
    let asked = tokio::task::spawn_blocking(move || resolve::addresses(&name)).await;
    match asked.map_err(|error| Error::Failed(error.to_string()))? {
        Ok(addresses) => Ok(Addresses { addresses, ttl: DNS_TTL_SECONDS_DEFAULT }),
        Err(resolve::Error::NoName) => Err(Error::NoName),
        Err(error) => Err(Error::Failed(error.to_string())),
    }
}

async fn ask(server: SocketAddr, name: &Name) -> Result<Addresses, Error> {
    let mut last = Error::Failed("no answer".to_owned());
    for _ in 0..DNS_TRIES {
        match timeout(DNS_TRY_TIMEOUT, attempt(server, name)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(Error::NoName)) => return Err(Error::NoName),
            Ok(Err(error)) => last = error,
            Err(_) => last = Error::Failed(format!("no answer from {server} in time")),
        }
    }
    Err(last)
}

async fn attempt(server: SocketAddr, name: &Name) -> Result<Addresses, Error> {
    let failed = |error: std::io::Error| Error::Failed(error.to_string());
    let asked = rr::Name::from_ascii(format!("{name}.")).map_err(|error| Error::Failed(error.to_string()))?;
    let id = random_id()?;
    let query = query(id, &asked)?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // A socket a question, so that each has a port of its own; connected, so that only the server can answer.
    let socket = UdpSocket::bind(any).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    socket.send(&query).await.map_err(failed)?;
    let mut buffer = vec![0; DNS_MESSAGE_BYTES_MAX];
    let answer = loop {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        // What does not answer this question is passed over: it may be forged, and the true answer still under way.
        match Message::from_vec(&buffer[..length]) {
            Ok(message) if answers(&message, id, &asked) => break message,
            Ok(_) | Err(_) => {}
        }
    };
    if !answer.metadata.truncation {
        return addresses(&answer, &asked);
    }
    let mut stream = TcpStream::connect(server).await.map_err(failed)?;
    let length = u16::try_from(query.len()).map_err(|_| Error::Failed("the question is too long".to_owned()))?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await.map_err(failed)?;
    let length = stream.read_u16().await.map_err(failed)?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await.map_err(failed)?;
    let answer = Message::from_vec(&buffer).map_err(|error| Error::Failed(error.to_string()))?;
    if !answers(&answer, id, &asked) {
        return Err(Error::Failed(format!("{server} answered another question")));
    }
    addresses(&answer, &asked)
}

fn random_id() -> Result<u16, Error> {
    let mut id = [0; 2];
    aws_lc_rs::rand::SystemRandom::new().fill(&mut id).map_err(|_| Error::Failed("no randomness".to_owned()))?;
    Ok(u16::from_be_bytes(id))
}

fn query(id: u16, name: &rr::Name) -> Result<Vec<u8>, Error> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().map_err(|error| Error::Failed(error.to_string()))
}

fn answers(message: &Message, id: u16, name: &rr::Name) -> bool {
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && matches!(&message.queries[..], [one] if one.name() == name && one.query_type() == RecordType::A)
}

/// The addresses at the end of the chain of aliases that begins at the name asked for.
fn addresses(message: &Message, asked: &rr::Name) -> Result<Addresses, Error> {
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Err(Error::NoName),
        code => return Err(Error::Failed(code.to_string())),
    }
    let (mut name, mut ttl) = (asked.clone(), u32::MAX);
    // No chain is longer than the answer has records.
    for _ in 0..=message.answers.len() {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == name => Some((target.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { break };
        name = target;
        ttl = ttl.min(alias_ttl);
    }
    let mut addresses = Vec::new();
    for record in &message.answers {
        if let RData::A(address) = &record.data
            && record.name == name
        {
            addresses.push(address.0);
            ttl = ttl.min(record.ttl);
        }
    }
    Ok(Addresses { addresses, ttl })
}
