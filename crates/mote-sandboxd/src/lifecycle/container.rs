//! The container substrate as the lifecycle sees it: namespaces, roots, the network boundary and the guest, each by id.
//!
//! It decides nothing: it only says which part carries out what, and in which order where two have to.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use mote_sandbox_api::capability::Support;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Configuration, RawPath};
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{Change, Usage};
use mote_sandbox_api::spec::ImageSource;

use super::substrate::{Alive, Defaults, Found, Launch, Origin, Substrate, Taken, Whole};
use super::trust;
use crate::clock::SharedClock;
use crate::descriptor;
use crate::filesystem::keeper::{self as roots, Kind};
use crate::filesystem::recipe::Lower;
use crate::filesystem::volumes::VolumeFound;
use crate::filesystem::work::Source as Tree;
use crate::filesystem::worker::Compression;
use crate::filesystem::worker::files::Order;
use crate::filesystem::{Filesystem, id::Id};
use crate::guest::Guest;
use crate::image::Images;
use crate::image::carried::Users;
use crate::limits::{DIFF_CHANGES_MAX, QUIET_PAUSE, QUIET_TRIES};
use crate::namespace::{Containers, Launch as Plan, Mount, Source, Started};
use crate::network::Network;
use crate::transfer::{Below, Tree as Content};

/// What containers are made of.
pub struct Container {
    /// Namespaces, cgroups and first processes.
    pub containers: Containers,
    /// Roots, snapshots and volumes.
    pub filesystem: Filesystem,
    /// What roots start from.
    pub images: Images,
    /// What a volume may be charged with, in bytes.
    pub volume_bytes: u64,
    /// Wall time.
    pub clock: SharedClock,
    /// What sandboxes may reach.
    pub network: Network,
    /// What this host can enforce, found at start.
    pub enforcement: BTreeMap<String, Support>,
    /// What a sandbox can be asked here, found at start.
    pub features: BTreeMap<String, Support>,
}

impl Container {
    async fn alive(&self, id: &str, started: Started, launch: &Launch) -> Result<Alive, Failure> {
        let exit = descriptor::watch(started.exit)
            .map_err(|error| Failure::new(Code::Internal, format!("failed to watch a first process: {error}")))?;
        let guest = Guest::new(started.guest);
        let image = self.images.get(&launch.image).await?.config;
        let mut env = image.env;
        if let (Some(sockets), Some(policy)) = (started.network, &launch.spec.network) {
            self.network.attach(id, sockets, policy).await?;
            env.extend(self.trust(&guest, policy).await?);
            env.extend(self.network.placeholders(id, policy));
        }
        Ok(Alive {
            guest,
            exit: Box::pin(async move {
                // Readable once the process ended; an error means that there is nothing to watch any more.
                let _ = exit.readable().await;
            }),
            defaults: Defaults { env, user: image.user, cwd: image.cwd },
        })
    }

    /// Where TLS is terminated for a sandbox, its programs are told to trust the daemon's authority.
    async fn trust(&self, guest: &Guest, policy: &Policy) -> Result<BTreeMap<String, String>, Failure> {
        let inspects = policy.rules.iter().any(|rule| rule.inspect || !rule.headers.is_empty());
        if !inspects && policy.secrets.is_empty() && policy.tape.is_none() {
            return Ok(BTreeMap::new());
        }
        trust::establish(guest, self.network.authority()).await
    }

    /// Whether no process but the first lives, so that a root can change under it. One that has just ended is counted for a
    /// moment longer.
    async fn is_quiet(&self, id: &str) -> bool {
        // Live snapshots need no quiet.
        if self.features.get("snapshot.live").is_some_and(|live| live.available) {
            return self.containers.usage(id).pids <= 1;
        }
        for _ in 0..QUIET_TRIES {
            if self.containers.usage(id).pids <= 1 {
                return true;
            }
            tokio::time::sleep(QUIET_PAUSE).await;
        }
        false
    }
}

fn plan(id: &str, launch: &Launch) -> Plan {
    let volumes = launch.volumes.iter().map(|volume| Mount {
        source: Source::Volume(volume.id.clone()),
        path: volume.path.clone(),
        read_only: volume.read_only,
    });
    let data = launch.spec.data.iter().map(|data| Mount {
        source: Source::Data(data.source.clone().into()),
        path: data.path.clone(),
        read_only: true,
    });
    Plan {
        id: id.to_owned(),
        hostname: id.to_owned(),
        network: launch.spec.network.is_some(),
        resources: launch.spec.resources.clone(),
        mounts: volumes.chain(data).collect(),
    }
}

/// What was asked to be given back and is not there was given back before.
fn given_back(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.code == Code::NotFound => Ok(()),
        result => result,
    }
}

#[async_trait]
impl Substrate for Container {
    fn name(&self) -> &'static str {
        "container"
    }

    fn features(&self) -> BTreeMap<String, Support> {
        self.features.clone()
    }

    fn enforcement(&self) -> BTreeMap<String, Support> {
        self.enforcement.clone()
    }

    async fn image(&self, source: &ImageSource) -> Result<String, Failure> {
        Ok(self.images.resolve(source, self.clock.now_ms()).await?.id)
    }

    async fn root(&self, id: &str, origin: &Origin, disk_bytes: Option<u64>) -> Result<(), Failure> {
        let origin = match origin {
            Origin::Image(image) => roots::Origin::Image(self.images.get(image).await?.lower),
            Origin::Snapshot { id, .. } => roots::Origin::Snapshot(Id::new("snapshot", id)?),
        };
        self.filesystem.root_new(id, origin, disk_bytes).await
    }

    async fn start(&self, id: &str, launch: Launch) -> Result<Alive, Failure> {
        let started = self.containers.start(plan(id, &launch)).await?;
        self.alive(id, started, &launch).await
    }

    async fn adopt(&self, id: &str, launch: Launch) -> Result<Alive, Failure> {
        let started = self.containers.adopt(id).await?;
        self.alive(id, started, &launch).await
    }

    async fn configure(&self, guest: &Guest, configuration: Configuration) -> Result<(), Failure> {
        guest.configure(configuration).await
    }

    async fn sync(&self, guest: &Guest) -> Result<(), Failure> {
        guest.sync().await
    }

    async fn freeze(&self, id: &str) -> Result<(), Failure> {
        self.containers.freeze(id).await
    }

    async fn thaw(&self, id: &str) -> Result<(), Failure> {
        self.containers.thaw(id).await
    }

    async fn end(&self, id: &str) -> Result<(), Failure> {
        self.network.detach(id);
        given_back(self.containers.end(id).await)
    }

    async fn remove(&self, id: &str) -> Result<(), Failure> {
        given_back(self.filesystem.remove(id).await)
    }

    async fn snapshot(&self, id: &str, snapshot: &str, _: Option<&Guest>) -> Result<Taken, Failure> {
        let remount = self.filesystem.snapshot(id, snapshot, self.is_quiet(id).await).await?;
        Ok(Taken { remount })
    }

    async fn rollback_begin(&self, id: &str, snapshot: &str) -> Result<(), Failure> {
        self.filesystem.rollback_begin(id, snapshot).await
    }

    async fn rollback(&self, id: &str, _: &str) -> Result<(), Failure> {
        self.filesystem.rollback_end(id).await
    }

    async fn fork(&self, from: &str, to: &str, _: Option<&Guest>) -> Result<Taken, Failure> {
        let remount = self.filesystem.fork(from, to, self.is_quiet(from).await).await?;
        Ok(Taken { remount })
    }

    async fn remove_snapshot(&self, snapshot: &str) -> Result<(), Failure> {
        given_back(self.filesystem.remove_snapshot(snapshot).await)
    }

    async fn diff(&self, id: &str) -> Result<Vec<Change>, Failure> {
        let difference = self.images.diff(id).await?;
        if difference.truncated {
            let message = format!("more than {DIFF_CHANGES_MAX} files differ");
            return Err(Failure::new(Code::TooLarge, message).with("limit", DIFF_CHANGES_MAX));
        }
        Ok(difference.changes)
    }

    async fn commit(&self, id: &str, name: &str, below: &str) -> Result<(String, Taken), Failure> {
        let config = self.images.get(below).await?.config;
        let quiet = self.is_quiet(id).await;
        let (image, remount) = self.images.commit(id, name, &config, quiet, self.clock.now_ms()).await?;
        Ok((image.id, Taken { remount }))
    }

    async fn below(&self, image: &str) -> Result<Below, Failure> {
        let found = self.images.get(image).await?;
        let host_programs = found.lower.iter().any(|tree| matches!(tree, Lower::Host | Lower::HostPrograms));
        Ok(Below { image: found.id, config: found.config, host_programs })
    }

    async fn export(&self, snapshot: &str, sink: OwnedFd) -> Result<(), Failure> {
        self.filesystem.export(Tree::Snapshot(Id::new("snapshot", snapshot)?), sink).await.map(drop)
    }

    async fn import(
        &self,
        snapshot: &str,
        below: &Below,
        source: OwnedFd,
        whole: Whole,
    ) -> Result<(String, Content), Failure> {
        if below.host_programs {
            // Before anything is received that could not be used.
            self.filesystem.usable(vec![Lower::HostPrograms]).await?;
        }
        let filling = self.filesystem.fill(&format!("{snapshot}.import"), None).await?;
        let (unpacked, whole) = tokio::join!(filling.add(source, Compression::None, false), whole);
        let tree = match (whole, unpacked) {
            // What is wrong with the file is the cause of what is wrong with what came through the pipe.
            (Err(failure), _) | (Ok(_), Err(failure)) => Err(failure),
            (Ok(Some(tree)), Ok(unpacked)) if unpacked.digest == tree.digest => Ok(tree),
            (Ok(_), Ok(_)) => Err(Failure::new(Code::Internal, "what was unpacked of a snapshot is not what came")),
        };
        let tree = match tree {
            Ok(tree) => tree,
            Err(failure) => {
                // At once: its space may be what the rest of the daemon waits for.
                filling.abandon().await?;
                return Err(failure);
            }
        };
        let image = self.images.carry(snapshot, below, &tree, filling, self.clock.now_ms()).await?;
        Ok((image.id, tree))
    }

    async fn forget_imports(&self, users: &Users) -> Result<HashSet<String>, Failure> {
        self.images.forget_carried(users).await
    }

    async fn volume(&self, id: &str) -> Result<(), Failure> {
        self.filesystem.volume_new(id, Some(self.volume_bytes)).await
    }

    async fn remove_volume(&self, id: &str) -> Result<(), Failure> {
        given_back(self.filesystem.remove_volume(id).await)
    }

    async fn volume_files(&self, id: &str, path: RawPath, order: Order) -> Result<VolumeFound, Failure> {
        self.filesystem.volume_files(id, path, order).await
    }

    async fn living(&self) -> Result<Vec<Found>, Failure> {
        let living = self.containers.living().await?;
        Ok(living.into_iter().map(|living| Found { id: living.id, frozen: living.frozen }).collect())
    }

    async fn held(&self) -> Result<(Vec<String>, Vec<String>), Failure> {
        Ok((self.filesystem.list(Kind::Roots).await?, self.filesystem.list(Kind::Snapshots).await?))
    }

    fn oom_kills(&self, id: &str) -> u64 {
        self.containers.oom_kills(id)
    }

    async fn usage(&self, id: &str) -> Result<Usage, Failure> {
        let charge = self.filesystem.usage(id).await.unwrap_or_default();
        let usage = self.containers.usage(id);
        let network = self.network.usage(id).unwrap_or_default();
        Ok(Usage {
            disk_bytes: charge.bytes,
            disk_bytes_max: charge.bytes_max,
            sent_bytes: network.sent_bytes,
            received_bytes: network.received_bytes,
            ..usage
        })
    }

    fn check_policy(&self, id: &str, policy: &Policy) -> Result<(), Failure> {
        self.network.check(id, policy)
    }

    async fn prepare_policy(
        &self,
        id: &str,
        policy: &Policy,
        guest: &Guest,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut env = self.trust(guest, policy).await?;
        env.extend(self.network.placeholders(id, policy));
        Ok(env)
    }

    async fn policy(&self, id: &str, policy: &Policy) -> Result<(), Failure> {
        self.network.update(id, policy).await
    }
}
