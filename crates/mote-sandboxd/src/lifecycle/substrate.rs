//! What carries a sandbox, as the lifecycle sees it: containers today, virtual machines on the same contract.
//!
//! It states no order of things: the lifecycle does. Every operation names sandboxes by id; those that give something back
//! (`end`, `remove`, `remove_snapshot`) may be repeated, so that a crash between two of them is mended by doing them again.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use async_trait::async_trait;
use mote_sandbox_api::capability::Support;
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::{Configuration, RawPath};
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{Change, Usage};
use mote_sandbox_api::spec::{ImageSource, Spec};

use crate::filesystem::volumes::VolumeFound;
use crate::filesystem::worker::files::Order;
use crate::guest::Guest;
use crate::image::carried::Users;
use crate::transfer::{Below, Tree};

/// Ends with what came through a pipe where it came whole; with nothing where the pipe was closed from the other side.
pub type Whole = Pin<Box<dyn Future<Output = Result<Option<Tree>, Failure>> + Send>>;

/// Where a root begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An image, by id.
    Image(String),
    /// A snapshot, by id, and the image below it.
    Snapshot {
        /// The snapshot.
        id: String,
        /// The image.
        image: String,
    },
}

/// A volume, resolved from the name that the specification gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The volume's id.
    pub id: String,
    /// Absolute path inside.
    pub path: String,
    /// Mounted read-only.
    pub read_only: bool,
}

/// What starts in a root.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The specification, complete.
    pub spec: Spec,
    /// The image below the root, by id.
    pub image: String,
    /// Its volumes.
    pub volumes: Vec<Volume>,
}

/// A sandbox whose first process lives.
pub struct Alive {
    /// The way to the first process.
    pub guest: Guest,
    /// Ends when the first process does.
    pub exit: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What holds where the specification does not say.
    pub defaults: Defaults,
}

/// What the image and the boundary say of every process, where the specification does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Environment: the image's, placeholders of secrets, the place of the authority's certificate.
    pub env: BTreeMap<String, String>,
    /// User.
    pub user: Option<String>,
    /// Working directory.
    pub cwd: Option<String>,
}

impl std::fmt::Debug for Alive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alive").finish_non_exhaustive()
    }
}

/// What a copy of a root left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// The root is made up of other trees now and has to be mounted anew, else what is written is lost.
    pub remount: bool,
}

/// A sandbox that was found alive after a restart of the daemon.
#[derive(Debug)]
pub struct Found {
    /// Which.
    pub id: String,
    /// Its processes are frozen.
    pub frozen: bool,
}

/// What carries sandboxes.
#[async_trait]
pub trait Substrate: Send + Sync + 'static {
    /// As in a specification: `container`.
    fn name(&self) -> &'static str;
    /// What this host can do, by name, for `GET /v1/capabilities`.
    fn features(&self) -> BTreeMap<String, Support>;
    /// What this host can enforce, by name.
    fn enforcement(&self) -> BTreeMap<String, Support>;

    /// The id of an image; it is imported or pulled where it has to be.
    async fn image(&self, source: &ImageSource) -> Result<String, Failure>;
    /// Makes a sandbox's root.
    async fn root(&self, id: &str, origin: &Origin, disk_bytes: Option<u64>) -> Result<(), Failure>;
    /// Starts the first process in a root that was made, and attaches the network.
    async fn start(&self, id: &str, launch: Launch) -> Result<Alive, Failure>;
    /// Takes over what [`Self::living`] told of.
    async fn adopt(&self, id: &str, launch: Launch) -> Result<Alive, Failure>;
    /// Tells the guest what is known only now.
    async fn configure(&self, guest: &Guest, configuration: Configuration) -> Result<(), Failure>;
    /// Writes everything dirty to the filesystem.
    async fn sync(&self, guest: &Guest) -> Result<(), Failure>;
    /// Stops the processes where they are; memory stays.
    async fn freeze(&self, id: &str) -> Result<(), Failure>;
    /// Lets frozen processes go on.
    async fn thaw(&self, id: &str) -> Result<(), Failure>;
    /// Ends every process, and gives back namespaces, cgroups, mounts and the network; the root stays. May be repeated.
    async fn end(&self, id: &str) -> Result<(), Failure>;
    /// Removes the root. May be repeated.
    async fn remove(&self, id: &str) -> Result<(), Failure>;

    /// Takes a snapshot of the root. `guest` is there where processes live and are not frozen.
    async fn snapshot(&self, id: &str, snapshot: &str, guest: Option<&Guest>) -> Result<Taken, Failure>;
    /// Gets ready what [`Self::rollback`] puts in place, while processes may still live.
    async fn rollback_begin(&self, id: &str, snapshot: &str) -> Result<(), Failure>;
    /// Puts a snapshot in the place of the root of a sandbox whose processes were ended.
    async fn rollback(&self, id: &str, snapshot: &str) -> Result<(), Failure>;
    /// Copies the root to a new sandbox's.
    async fn fork(&self, from: &str, to: &str, guest: Option<&Guest>) -> Result<Taken, Failure>;
    /// Removes a snapshot. May be repeated.
    async fn remove_snapshot(&self, snapshot: &str) -> Result<(), Failure>;
    /// What differs from the image.
    async fn diff(&self, id: &str) -> Result<Vec<Change>, Failure>;
    /// Makes an image of the root as it is, above the image `below`; answers with its id.
    async fn commit(&self, id: &str, name: &str, below: &str) -> Result<(String, Taken), Failure>;

    /// What a snapshot's image says, for whoever makes the snapshot anew elsewhere.
    async fn below(&self, image: &str) -> Result<Below, Failure>;
    /// Writes the files of a snapshot into a pipe, as one stream.
    async fn export(&self, snapshot: &str, sink: OwnedFd) -> Result<(), Failure>;
    /// Makes a snapshot of the stream that a pipe brings, where `whole` comes to say that it came whole. Nothing is left of
    /// it otherwise but what [`Self::remove_snapshot`] and [`Self::forget_imports`] remove. Answers with the id of the image
    /// below it, and what the files are.
    async fn import(
        &self,
        snapshot: &str,
        below: &Below,
        source: OwnedFd,
        whole: Whole,
    ) -> Result<(String, Tree), Failure>;
    /// Forgets what imported snapshots started from and nobody uses. Answers the ids of images that sandboxes alone use.
    async fn forget_imports(&self, users: &Users) -> Result<HashSet<String>, Failure>;

    /// Makes a volume.
    async fn volume(&self, id: &str) -> Result<(), Failure>;
    /// Removes a volume. May be repeated.
    async fn remove_volume(&self, id: &str) -> Result<(), Failure>;
    /// Looks at or changes one path of a volume, whether or not a sandbox mounts it.
    async fn volume_files(&self, id: &str, path: RawPath, order: Order) -> Result<VolumeFound, Failure>;

    /// What lives now.
    async fn living(&self) -> Result<Vec<Found>, Failure>;
    /// Ids of the roots and of the snapshots that are there, those without a record included.
    async fn held(&self) -> Result<(Vec<String>, Vec<String>), Failure>;
    /// How many processes of a sandbox the kernel has ended for want of memory since it was started last.
    fn oom_kills(&self, id: &str) -> u64;
    /// What a sandbox uses.
    async fn usage(&self, id: &str) -> Result<Usage, Failure>;
    /// Whether a network policy is sound and what it names is there.
    fn check_policy(&self, id: &str, policy: &Policy) -> Result<(), Failure>;
    /// Makes a sandbox ready for another network policy, which does not hold yet; answers with what it adds to the environment.
    async fn prepare_policy(
        &self,
        id: &str,
        policy: &Policy,
        guest: &Guest,
    ) -> Result<BTreeMap<String, String>, Failure>;
    /// Another network policy from now on. The guest is not asked: nothing inside can keep it from holding.
    async fn policy(&self, id: &str, policy: &Policy) -> Result<(), Failure>;
}
