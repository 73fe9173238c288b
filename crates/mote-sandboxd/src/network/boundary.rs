//! What the daemon holds for one sandbox: its policy of the moment, what it was told, its open connections, its counters.
//!
//! It serves no socket: `dns` and `proxy` do, and ask here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mote_sandbox_api::network::Verdict;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::decision::{Kind, Log, Reason, Subject};
use super::meter::{Bucket, Meter};
use super::name::Name;
use super::policy::{Compiled, Destination, Treatment};
use super::secret::Secrets;
use super::tape::Tape;
use super::told::Told;
use crate::limits::{DNS_LOOKUPS_AT_ONCE, DNS_QUERIES_PER_SECOND, TAPING_BYTES_MAX};
use crate::room::{Room as Memory, Taken};

/// A policy with what it names: the values of its secrets, its tape.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) rules: Compiled,
    pub(super) secrets: Secrets,
    pub(super) tape: Option<Arc<Tape>>,
}

/// One sandbox's boundary.
#[derive(Debug)]
pub(super) struct Boundary {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log,
    pub(super) meter: Arc<Meter>,
    pub(super) queries: Bucket,
    /// Questions of it that the resolver is at.
    lookups: AtomicUsize,
    pub(super) ended: CancellationToken,
    /// Exchanges that are held for its tape.
    taping: Arc<Memory>,
    active: RwLock<Arc<Active>>,
    told: Mutex<Told>,
    flows: Mutex<HashMap<u64, Flow>>,
    next: AtomicU64,
}

/// An open connection, as far as a change of the policy has to know it.
#[derive(Debug)]
struct Flow {
    to: SocketAddrV4,
    held: Held,
    cut: CancellationToken,
}

/// What was settled about a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// The name that it is for.
    pub(super) name: Option<Name>,
    /// Its bytes pass unread.
    pub(super) spliced: bool,
    /// It may be for another name than the one that shows.
    pub(super) hidden: bool,
}

impl Boundary {
    pub(super) fn new(sandbox: &str, active: Active, shared: Arc<Shared>) -> Self {
        Self {
            shared,
            log: Log::new(sandbox),
            meter: Arc::new(Meter::new(active.rules.bandwidth_bytes)),
            queries: Bucket::new(Some(DNS_QUERIES_PER_SECOND)),
            lookups: AtomicUsize::new(0),
            ended: CancellationToken::new(),
            taping: Memory::new(TAPING_BYTES_MAX),
            active: RwLock::new(Arc::new(active)),
            told: Mutex::default(),
            flows: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// The policy of this moment.
    pub(super) fn active(&self) -> Arc<Active> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another policy in place, and cuts the connections that it does not allow.
    pub(super) fn change(&self, active: Active) {
        self.meter.set_rate(active.rules.bandwidth_bytes);
        let active = Arc::new(active);
        let before =
            std::mem::replace(&mut *self.active.write().unwrap_or_else(PoisonError::into_inner), active.clone());
        // What was begun on a tape, or off it, does not go on the other way.
        let other_world = before.rules.tape != active.rules.tape;
        let cut: Vec<_> = {
            let flows = self.flows();
            let refused = |Flow { to, held, .. }: &Flow| match self.judge(&active, *to, held.name.as_ref()) {
                // What is to be read from now on does not go on unread, nor what hides a name where names matter now.
                Ok(treatment) => {
                    other_world || (held.spliced && treatment.inspect) || (held.hidden && !treatment.any_name)
                }
                Err(_) => true,
            };
            flows
                .values()
                .filter(|flow| refused(flow))
                .map(|flow| (flow.to, flow.held.name.clone(), flow.cut.clone()))
                .collect()
        };
        for (to, name, token) in cut {
            token.cancel();
            self.deny(Kind::Tcp, Reason::Changed, subject(to, name.as_ref()));
        }
    }

    /// Puts other values of the secrets in place, under the policy that is there.
    pub(super) fn renew(&self, secrets: Secrets) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        *active = Arc::new(Active { rules: active.rules.clone(), secrets, tape: active.tape.clone() });
    }

    /// Decides about a connection under the policy of this moment, and notes what was decided. No change of the policy falls
    /// between the two: either it finds the connection as it is, or the decision is made again.
    ///
    /// # Errors
    /// The reason for which it is refused.
    pub(super) fn settle<T>(
        &self,
        entry: &Entry,
        decide: impl Fn(&Active) -> Result<(T, Held), Reason>,
    ) -> Result<(Arc<Active>, T), Reason> {
        loop {
            let active = self.active();
            let (decided, held) = decide(&active)?;
            entry.hold(held);
            if Arc::ptr_eq(&active, &self.active()) {
                return Ok((active, decided));
            }
        }
    }

    /// Decides about a destination under a policy, held to what the sandbox was told.
    pub(super) fn judge(&self, active: &Active, to: SocketAddrV4, name: Option<&Name>) -> Result<Treatment, Reason> {
        let told = name.is_some_and(|name| self.told().was_told(name, *to.ip(), Instant::now()));
        active.rules.judge(&Destination { address: IpAddr::V4(*to.ip()), port: to.port(), name, told })
    }

    /// The names that an address was told for.
    pub(super) fn names(&self, address: Ipv4Addr) -> Vec<Name> {
        self.told().names(address, Instant::now())
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn allow(&self, kind: Kind, reason: Reason, subject: Subject) {
        self.log.record((self.shared.now_ms)(), kind, Verdict::Allow, reason, subject);
    }

    pub(super) fn deny(&self, kind: Kind, reason: Reason, subject: Subject) {
        self.shared.refused(kind, reason);
        self.log.record((self.shared.now_ms)(), kind, Verdict::Deny, reason, subject);
    }

    /// Enters a connection into the table, where the policy and all sandboxes together leave room for one.
    pub(super) fn enter(self: &Arc<Self>, to: SocketAddrV4) -> Result<Entry, Reason> {
        let cut = self.ended.child_token();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let limit = self.active().rules.connections;
        let mut flows = self.flows();
        if flows.len() >= limit as usize || !self.shared.room.take(flows.len()) {
            return Err(Reason::Connections);
        }
        flows.insert(number, Flow { to, held: Held::default(), cut: cut.clone() });
        Ok(Entry { boundary: self.clone(), number, cut })
    }

    /// A place for one question to the resolver, where this sandbox and all together leave room for one.
    pub(super) fn look_up(self: &Arc<Self>) -> Option<Lookup> {
        let take = |own: usize| (own < DNS_LOOKUPS_AT_ONCE).then_some(own + 1);
        let own = self.lookups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        if self.shared.lookups.take(own) {
            return Some(Lookup(self.clone()));
        }
        self.lookups.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Memory for one exchange that is taped.
    pub(super) fn taping(&self) -> Taken<2> {
        Taken::new([Arc::clone(&self.taping), Arc::clone(&self.shared.taping)])
    }

    /// Connections open now.
    pub(super) fn open(&self) -> usize {
        self.flows().len()
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<u64, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question to the resolver, until it is dropped.
#[derive(Debug)]
pub(super) struct Lookup(Arc<Boundary>);

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.lookups.fetch_sub(1, Ordering::Relaxed);
        self.0.shared.lookups.give_back();
    }
}

/// A connection in the table, until it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    boundary: Arc<Boundary>,
    number: u64,
    cut: CancellationToken,
}

impl Entry {
    /// Notes what was settled about the connection, so that a change of the policy is held against it.
    fn hold(&self, held: Held) {
        if let Some(flow) = self.boundary.flows().get_mut(&self.number) {
            flow.held = held;
        }
    }

    /// Cancelled where the connection is no longer allowed, or its sandbox is gone.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.boundary.flows().remove(&self.number);
        self.boundary.shared.room.give_back();
    }
}

/// What a decision is about.
pub(super) fn subject(to: SocketAddrV4, name: Option<&Name>) -> Subject {
    Subject { name: name.map(ToString::to_string), address: Some(IpAddr::V4(*to.ip())), port: Some(to.port()) }
}
