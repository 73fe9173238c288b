//! A substrate of tests: it keeps account of what is there, and fails where it is told to. It runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mote_sandbox_api::capability::Support;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Configuration;
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{Change, Usage};
use mote_sandbox_api::spec::ImageSource;
use tokio::sync::Notify;

use super::substrate::{Alive, Defaults, Found, Launch, Origin, Substrate, Taken};
use crate::guest::Guest;

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) roots: BTreeSet<String>,
    /// Sandboxes with processes; whether these are frozen.
    pub(crate) living: BTreeMap<String, bool>,
    pub(crate) snapshots: BTreeSet<String>,
    pub(crate) volumes: BTreeSet<String>,
    pub(crate) configured: Vec<Configuration>,
    /// Network policies that were put in place of others.
    pub(crate) policies: BTreeMap<String, Policy>,
    pub(crate) starts: usize,
    pub(crate) oom: bool,
    /// A snapshot asks for the root to be mounted anew.
    pub(crate) remounts: bool,
    /// Operations that fail, by name.
    pub(crate) broken: BTreeSet<&'static str>,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    world: Mutex<World>,
    died: std::sync::Arc<Notify>,
    /// While it is held, `snapshot` waits.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

impl Fake {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every first process ends by itself.
    pub(crate) fn kill_all(&self) {
        self.world().living.clear();
        self.died.notify_waiters();
    }

    fn may(&self, operation: &'static str) -> Result<MutexGuard<'_, World>, Failure> {
        let world = self.world();
        if world.broken.contains(operation) {
            return Err(Failure::new(Code::Internal, format!("{operation} is broken")));
        }
        Ok(world)
    }

    fn alive(&self, id: &str) -> Alive {
        let died = std::sync::Arc::clone(&self.died);
        Alive {
            guest: Guest::new(PathBuf::from(format!("/nowhere/{id}"))),
            exit: Box::pin(async move { died.notified().await }),
            defaults: Defaults::default(),
        }
    }
}

#[async_trait]
impl Substrate for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn features(&self) -> BTreeMap<String, Support> {
        BTreeMap::new()
    }
    fn enforcement(&self) -> BTreeMap<String, Support> {
        BTreeMap::new()
    }
    async fn image(&self, _: &ImageSource) -> Result<String, Failure> {
        self.may("image").map(|_| "im0".to_owned())
    }
    async fn root(&self, id: &str, _: &Origin, _: Option<u64>) -> Result<(), Failure> {
        self.may("root")?.roots.insert(id.to_owned());
        Ok(())
    }
    async fn start(&self, id: &str, _: Launch) -> Result<Alive, Failure> {
        let mut world = self.may("start")?;
        assert!(world.roots.contains(id), "a process starts in a root");
        world.starts += 1;
        assert!(world.living.insert(id.to_owned(), false).is_none(), "it lives already");
        drop(world);
        Ok(self.alive(id))
    }
    async fn adopt(&self, id: &str, _: Launch) -> Result<Alive, Failure> {
        drop(self.may("adopt")?);
        Ok(self.alive(id))
    }
    async fn configure(&self, _: &Guest, configuration: Configuration) -> Result<(), Failure> {
        self.may("configure")?.configured.push(configuration);
        Ok(())
    }
    async fn sync(&self, _: &Guest) -> Result<(), Failure> {
        Ok(())
    }
    async fn freeze(&self, id: &str) -> Result<(), Failure> {
        self.may("freeze")?.living.insert(id.to_owned(), true);
        Ok(())
    }
    async fn thaw(&self, id: &str) -> Result<(), Failure> {
        self.may("thaw")?.living.insert(id.to_owned(), false);
        Ok(())
    }
    async fn end(&self, id: &str) -> Result<(), Failure> {
        self.may("end")?.living.remove(id);
        Ok(())
    }
    async fn remove(&self, id: &str) -> Result<(), Failure> {
        let mut world = self.may("remove")?;
        assert!(!world.living.contains_key(id), "processes end before their root");
        world.roots.remove(id);
        Ok(())
    }
    async fn snapshot(&self, _: &str, snapshot: &str, _: Option<&Guest>) -> Result<Taken, Failure> {
        self.world().snapshots.insert(snapshot.to_owned());
        let _gate = self.gate.lock().await;
        self.may("snapshot").map(|world| Taken { remount: world.remounts })
    }
    async fn rollback_begin(&self, _: &str, snapshot: &str) -> Result<(), Failure> {
        assert!(self.may("rollback_begin")?.snapshots.contains(snapshot), "the snapshot is there");
        Ok(())
    }
    async fn rollback(&self, id: &str, snapshot: &str) -> Result<(), Failure> {
        let world = self.may("rollback")?;
        assert!(!world.living.contains_key(id), "processes end before their root is replaced");
        assert!(world.snapshots.contains(snapshot), "the snapshot is there");
        Ok(())
    }
    async fn fork(&self, _: &str, to: &str, _: Option<&Guest>) -> Result<Taken, Failure> {
        self.may("fork")?.roots.insert(to.to_owned());
        Ok(Taken::default())
    }
    async fn remove_snapshot(&self, snapshot: &str) -> Result<(), Failure> {
        self.may("remove_snapshot")?.snapshots.remove(snapshot);
        Ok(())
    }
    async fn diff(&self, _: &str) -> Result<Vec<Change>, Failure> {
        self.may("diff").map(|_| Vec::new())
    }
    async fn commit(&self, _: &str, name: &str, _: &str) -> Result<(String, Taken), Failure> {
        self.may("commit").map(|_| (format!("sha256:{name}"), Taken::default()))
    }
    async fn volume(&self, id: &str) -> Result<(), Failure> {
        self.may("volume")?.volumes.insert(id.to_owned());
        Ok(())
    }
    async fn remove_volume(&self, id: &str) -> Result<(), Failure> {
        self.may("remove_volume")?.volumes.remove(id);
        Ok(())
    }
    async fn living(&self) -> Result<Vec<Found>, Failure> {
        Ok(self.world().living.iter().map(|(id, frozen)| Found { id: id.clone(), frozen: *frozen }).collect())
    }
    async fn held(&self) -> Result<(Vec<String>, Vec<String>), Failure> {
        let world = self.world();
        Ok((world.roots.iter().cloned().collect(), world.snapshots.iter().cloned().collect()))
    }
    async fn usage(&self, _: &str) -> Result<Usage, Failure> {
        Ok(Usage { oom_kills: u64::from(self.world().oom), ..Usage::default() })
    }
    fn check_policy(&self, _: &str, _: &Policy) -> Result<(), Failure> {
        Ok(())
    }
    async fn prepare_policy(&self, _: &str, _: &Policy, _: &Guest) -> Result<BTreeMap<String, String>, Failure> {
        self.may("prepare_policy").map(|_| BTreeMap::new())
    }
    async fn policy(&self, id: &str, policy: &Policy) -> Result<(), Failure> {
        self.may("policy")?.policies.insert(id.to_owned(), policy.clone());
        Ok(())
    }
}
