//! The daemon's side: asks the keeper to start, stop and end containers, by id.
//!
//! It does not know in which order things happen to a sandbox; `lifecycle` does.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use mote_sandbox_api::capability::Support;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::request::Usage;

use super::cgroup::Meter;
use super::keeper::{Outcome, Verb};
use super::launch::{Launch, Living, Refused, Started};
use crate::keeper::client::Client;
use crate::keeper::{Outcome as Answer, Verb as Call};
use crate::network::Sockets;

/// What cgroups can bound, where a host has all of it.
const CONTROLLERS: [&str; 6] = ["cpu", "devices", "freezer", "io", "memory", "pids"];

/// The container substrate; clones share it.
#[derive(Clone, Debug)]
pub struct Containers {
    keeper: Client,
    meters: Arc<Mutex<HashMap<String, Meter>>>,
}

impl Containers {
    /// Containers of this keeper.
    #[must_use]
    pub fn new(keeper: Client) -> Self {
        Self { keeper, meters: Arc::default() }
    }

    /// Launches a sandbox in the root of its id. When this returns its first process runs, though it may not serve yet: the
    /// socket takes connections from the start.
    ///
    /// # Errors
    /// `conflict` where it lives already; `not_found` where a root or a volume is not there; `internal` with what the
    /// kernel refused. Nothing is left then but the root.
    pub async fn start(&self, launch: Launch) -> Result<Started, Failure> {
        let id = launch.id.clone();
        let answer = self.keeper.call(Call::Namespace(Verb::Start(Box::new(launch)))).await?;
        self.started(id, answer)
    }

    /// Takes over a sandbox that lives, as after a restart of the daemon.
    ///
    /// # Errors
    /// `not_found` or `gone` where it does not live.
    pub async fn adopt(&self, id: &str) -> Result<Started, Failure> {
        let answer = self.keeper.call(Call::Namespace(Verb::Adopt(id.to_owned()))).await?;
        self.started(id.to_owned(), answer)
    }

    fn started(&self, id: String, (answer, descriptors): (Answer, Vec<OwnedFd>)) -> Result<Started, Failure> {
        let Answer::Namespace(Outcome::Started { pid, guest, meter }) = answer else { return Err(unexpected()) };
        let mut descriptors = descriptors.into_iter();
        let exit = descriptors.next().ok_or_else(unexpected)?;
        let network = match (descriptors.next(), descriptors.next(), descriptors.next()) {
            (Some(tcp), Some(dns_udp), Some(dns_tcp)) => Some(Sockets { tcp, dns_udp, dns_tcp }),
            _ => None,
        };
        self.meters.lock().unwrap_or_else(PoisonError::into_inner).insert(id, meter.clone());
        Ok(Started { pid, exit, guest, meter, network })
    }

    /// Stops every process where it is; memory stays.
    ///
    /// # Errors
    /// `not_found` where it does not live; `busy` where a process cannot be stopped now: none is then.
    pub async fn freeze(&self, id: &str) -> Result<(), Failure> {
        self.done(Verb::Freeze(id.to_owned())).await
    }

    /// Lets stopped processes go on.
    ///
    /// # Errors
    /// `not_found` where it does not live.
    pub async fn thaw(&self, id: &str) -> Result<(), Failure> {
        self.done(Verb::Thaw(id.to_owned())).await
    }

    /// Ends every process and gives back namespaces, mounts, cgroups, ids and sockets; the root stays. May be repeated.
    ///
    /// # Errors
    /// `internal` or `busy` where something could not be given back.
    pub async fn end(&self, id: &str) -> Result<(), Failure> {
        self.done(Verb::End(id.to_owned())).await?;
        self.meters.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    /// What lives, whichever daemon started it.
    ///
    /// # Errors
    /// `internal` where the keeper is gone.
    pub async fn living(&self) -> Result<Vec<Living>, Failure> {
        let mut all: Vec<Living> = Vec::new();
        loop {
            let after = all.last().map(|last| last.id.clone());
            match self.keeper.call(Call::Namespace(Verb::Living(after))).await? {
                (Answer::Namespace(Outcome::Living(page)), _) if page.is_empty() => return Ok(all),
                (Answer::Namespace(Outcome::Living(page)), _) => all.extend(page),
                _ => return Err(unexpected()),
            }
        }
    }

    /// Cells that could not be got ready for sandboxes to come.
    ///
    /// # Errors
    /// `internal` where the keeper is gone.
    pub async fn refused(&self) -> Result<Refused, Failure> {
        match self.keeper.call(Call::Namespace(Verb::Refused)).await? {
            (Answer::Namespace(Outcome::Refused(refused)), _) => Ok(refused),
            _ => Err(unexpected()),
        }
    }

    /// What this host's cgroups can bound, by the names of `GET /v1/capabilities`: `cgroup.memory` and so on.
    ///
    /// # Errors
    /// `internal` where the keeper is gone.
    pub async fn enforcement(&self) -> Result<BTreeMap<String, Support>, Failure> {
        let (Answer::Namespace(Outcome::Controllers(there)), _) =
            self.keeper.call(Call::Namespace(Verb::Controllers)).await?
        else {
            return Err(unexpected());
        };
        let all = CONTROLLERS.map(|name| (format!("cgroup.{name}"), Support::no("the host has no such controller")));
        let there = there.into_iter().map(|(name, how)| (format!("cgroup.{name}"), Support::yes(how)));
        Ok(all.into_iter().chain(there).collect())
    }

    /// What a sandbox uses now, from the files of its cgroups. What does not live uses nothing.
    #[must_use]
    pub fn usage(&self, id: &str) -> Usage {
        let meter = self.meters.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        meter.map(|meter| meter.read()).unwrap_or_default()
    }

    /// How many of a sandbox's processes the kernel has ended for want of memory. What does not live has none.
    #[must_use]
    pub fn oom_kills(&self, id: &str) -> u64 {
        let meter = self.meters.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        meter.map_or(0, |meter| meter.oom_kills())
    }

    async fn done(&self, verb: Verb) -> Result<(), Failure> {
        match self.keeper.call(Call::Namespace(verb)).await? {
            (Answer::Done, _) => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> Failure {
    Failure::new(Code::Internal, "the keeper answered with something else")
}
