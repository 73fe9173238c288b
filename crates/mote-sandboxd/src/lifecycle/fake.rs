//! A substrate of tests: it keeps account of what is there, and fails where it is told to. It runs nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mote_sandbox_api::capability::Support;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Configuration, RawPath};
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{Change, Usage};
use mote_sandbox_api::spec::ImageSource;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::substrate::{Alive, Defaults, Found, Launch, Origin, Substrate, Taken, Whole};
use crate::filesystem::volumes::VolumeFound;
use crate::filesystem::worker::files::Order;
use crate::guest::Guest;
use crate::image::carried::Users;
use crate::image::record::Config;
use crate::transfer::{Below, Tree};

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
    /// How often a freeze finds a process that does not stop.
    pub(crate) freezes_busy: u32,
    /// Operations that fail, by name.
    pub(crate) broken: BTreeSet<&'static str>,
    /// What tells of the end of each first process, by being dropped.
    exits: BTreeMap<String, oneshot::Sender<()>>,
    /// Operations that wait while these are held, by name.
    gates: BTreeMap<&'static str, Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    world: Mutex<World>,
}

/// Turns that others get where an operation takes its time.
const TURNS: usize = 16;

impl Fake {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every first process ends by itself.
    pub(crate) fn kill_all(&self) {
        let mut world = self.world();
        world.living.clear();
        world.exits.clear();
    }

    /// Whoever watches first processes hears nothing any more: a daemon that was killed.
    pub(crate) fn deafen(&self) {
        std::mem::take(&mut self.world().exits).into_values().for_each(std::mem::forget);
    }

    /// The operation waits, before it does anything, until the answer is dropped.
    pub(crate) fn hold(&self, operation: &'static str) -> OwnedMutexGuard<()> {
        let gate = Arc::clone(self.world().gates.entry(operation).or_default());
        gate.try_lock_owned().unwrap()
    }

    async fn pass(&self, operation: &'static str) -> Result<MutexGuard<'_, World>, Failure> {
        let gate = self.world().gates.get(operation).cloned();
        if let Some(gate) = gate {
            drop(gate.lock().await);
        }
        self.may(operation)
    }

    fn may(&self, operation: &'static str) -> Result<MutexGuard<'_, World>, Failure> {
        let world = self.world();
        if world.broken.contains(operation) {
            return Err(Failure::new(Code::Internal, format!("{operation} is broken")));
        }
        Ok(world)
    }

    fn alive(&self, id: &str) -> Alive {
        let (exit, ended) = oneshot::channel();
        self.world().exits.insert(id.to_owned(), exit);
        Alive {
            guest: Guest::new(PathBuf::from(format!("/nowhere/{id}"))),
            exit: Box::pin(async move { drop(ended.await) }),
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
        self.pass("image").await.map(|_| "im0".to_owned())
    }
    async fn root(&self, id: &str, _: &Origin, _: Option<u64>) -> Result<(), Failure> {
        self.pass("root").await?.roots.insert(id.to_owned());
        Ok(())
    }
    async fn start(&self, id: &str, _: Launch) -> Result<Alive, Failure> {
        let mut world = self.pass("start").await?;
        assert!(world.roots.contains(id), "a process starts in a root");
        world.starts += 1;
        assert!(world.living.insert(id.to_owned(), false).is_none(), "it lives already");
        drop(world);
        Ok(self.alive(id))
    }
    async fn adopt(&self, id: &str, _: Launch) -> Result<Alive, Failure> {
        drop(self.pass("adopt").await?);
        Ok(self.alive(id))
    }
    async fn configure(&self, _: &Guest, configuration: Configuration) -> Result<(), Failure> {
        self.pass("configure").await?.configured.push(configuration);
        Ok(())
    }
    async fn sync(&self, _: &Guest) -> Result<(), Failure> {
        Ok(())
    }
    async fn freeze(&self, id: &str) -> Result<(), Failure> {
        let mut world = self.pass("freeze").await?;
        if world.freezes_busy > 0 {
            world.freezes_busy -= 1;
            return Err(Failure::new(Code::Busy, "a process does not stop"));
        }
        world.living.insert(id.to_owned(), true);
        Ok(())
    }
    async fn thaw(&self, id: &str) -> Result<(), Failure> {
        self.pass("thaw").await?.living.insert(id.to_owned(), false);
        Ok(())
    }
    async fn end(&self, id: &str) -> Result<(), Failure> {
        {
            let mut world = self.pass("end").await?;
            world.living.remove(id);
            world.exits.remove(id);
        }
        // Whoever watches the first process notices before this returns.
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
    async fn remove(&self, id: &str) -> Result<(), Failure> {
        let mut world = self.pass("remove").await?;
        assert!(!world.living.contains_key(id), "processes end before their root");
        world.roots.remove(id);
        Ok(())
    }
    async fn snapshot(&self, _: &str, snapshot: &str, _: Option<&Guest>) -> Result<Taken, Failure> {
        // Half of it is there where it fails.
        self.world().snapshots.insert(snapshot.to_owned());
        self.pass("snapshot").await.map(|world| Taken { remount: world.remounts })
    }
    async fn rollback_begin(&self, _: &str, snapshot: &str) -> Result<(), Failure> {
        assert!(self.pass("rollback_begin").await?.snapshots.contains(snapshot), "the snapshot is there");
        Ok(())
    }
    async fn rollback(&self, id: &str, snapshot: &str) -> Result<(), Failure> {
        let world = self.pass("rollback").await?;
        assert!(!world.living.contains_key(id), "processes end before their root is replaced");
        assert!(world.snapshots.contains(snapshot), "the snapshot is there");
        Ok(())
    }
    async fn fork(&self, _: &str, to: &str, _: Option<&Guest>) -> Result<Taken, Failure> {
        self.pass("fork").await?.roots.insert(to.to_owned());
        Ok(Taken::default())
    }
    async fn remove_snapshot(&self, snapshot: &str) -> Result<(), Failure> {
        self.pass("remove_snapshot").await?.snapshots.remove(snapshot);
        Ok(())
    }
    async fn diff(&self, _: &str) -> Result<Vec<Change>, Failure> {
        self.pass("diff").await.map(|_| Vec::new())
    }
    async fn commit(&self, _: &str, name: &str, _: &str) -> Result<(String, Taken), Failure> {
        self.pass("commit").await.map(|_| (format!("sha256:{name}"), Taken::default()))
    }
    async fn below(&self, image: &str) -> Result<Below, Failure> {
        let image = image.to_owned();
        self.may("below").map(|_| Below { image, config: Config::default(), host_programs: false })
    }
    async fn export(&self, _: &str, sink: OwnedFd) -> Result<(), Failure> {
        use std::io::Write as _;
        let written = std::fs::File::from(sink).write_all(b"the files");
        drop(self.may("export")?);
        written.map_err(|error| Failure::new(Code::Internal, error.to_string()))
    }
    async fn import(&self, snapshot: &str, _: &Below, _: OwnedFd, whole: Whole) -> Result<(String, Tree), Failure> {
        self.world().snapshots.insert(snapshot.to_owned());
        let tree = whole.await?.ok_or_else(|| Failure::new(Code::Internal, "the pipe was closed"))?;
        drop(self.may("import")?);
        Ok((format!("sha256:{}", tree.digest), tree))
    }
    async fn forget_imports(&self, _: &Users) -> Result<HashSet<String>, Failure> {
        self.may("forget_imports").map(|_| HashSet::new())
    }
    async fn volume(&self, id: &str) -> Result<(), Failure> {
        self.pass("volume").await?.volumes.insert(id.to_owned());
        Ok(())
    }
    async fn remove_volume(&self, id: &str) -> Result<(), Failure> {
        self.pass("remove_volume").await?.volumes.remove(id);
        Ok(())
    }
    async fn volume_files(&self, id: &str, _: RawPath, _: Order) -> Result<VolumeFound, Failure> {
        self.may("volume_files").map(|_| ())?;
        Err(Failure::not_found("volume", id))
    }
    async fn living(&self) -> Result<Vec<Found>, Failure> {
        Ok(self.world().living.iter().map(|(id, frozen)| Found { id: id.clone(), frozen: *frozen }).collect())
    }
    async fn held(&self) -> Result<(Vec<String>, Vec<String>), Failure> {
        let world = self.world();
        Ok((world.roots.iter().cloned().collect(), world.snapshots.iter().cloned().collect()))
    }
    fn oom_kills(&self, _: &str) -> u64 {
        u64::from(self.world().oom)
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
