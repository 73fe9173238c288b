//! Where steps of a recipe are done: a sandbox of its own for each, made, used, and gone when the step is done or failed.
//!
//! What a recipe runs is confined as everything in a sandbox is; it reaches what the operator's policy for builds allows,
//! through the daemon's boundary. It does not know recipes or keys.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Configuration, Exit, FileTarget, Start};
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::spec::Resources;
use tokio::io::AsyncWriteExt as _;

use crate::filesystem::keeper::{Kind, Origin};
use crate::filesystem::recipe::Lower;
use crate::filesystem::{Committed, Filesystem};
use crate::guest::{Event, Guest};
use crate::limits::{
    BUILD_DISK_BYTES_MAX, BUILD_OUTPUT_BYTES_KEPT, BUILD_PIDS_MAX, BUILD_STEP_TIMEOUT, BUNDLE_BYTES_MAX,
    GUEST_START_TIMEOUT,
};
use crate::namespace::{Containers, Launch};
use crate::network::Network;

/// Beginning of the ids of sandboxes in which a command builds images. They are nobody else's: a daemon leaves them alone.
pub const PREFIX: &str = "build-";
/// Beginning of the ids of sandboxes in which the daemon builds templates: what is left of one that ended, the next removes.
pub const TEMPLATE_PREFIX: &str = "tb";
/// The host's authorities, which registries' certificates are held against.
const HOST_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// A folder that is there while a step runs.
pub(crate) const FOLDER: &str = "/run/mote-build";
/// Variables by which programs find authorities.
const BUNDLE_VARIABLES: [&str; 7] = [
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "npm_config_cafile",
];

/// What builds images.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// Sandboxes.
    pub containers: Containers,
    /// Their roots.
    pub filesystem: Filesystem,
    /// What they reach.
    pub network: Network,
    /// What they may reach.
    pub policy: Policy,
    /// Beginning of their ids.
    pub prefix: &'static str,
}

/// A program that ended.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Exit,
    /// The end of what it wrote to its standard error, and, where nothing else took it, its standard output.
    pub(super) output: String,
}

/// A sandbox in which a step is done.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    workshop: &'a Workshop,
    id: String,
    guest: Guest,
}

impl Workshop {
    /// Ends and removes what an earlier build left that was killed. To be called while no other build is under way, and by who
    /// has the keeper to itself: it ends whatever lives.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn tidy(&self) -> Result<(), Failure> {
        for living in self.containers.living().await? {
            self.containers.end(&living.id).await?;
        }
        let roots = self.filesystem.list(Kind::Roots).await?;
        for root in roots.iter().filter(|root| root.starts_with(self.prefix)) {
            self.filesystem.remove(root).await?;
        }
        Ok(())
    }

    /// A sandbox on these trees. `name` tells it from others.
    pub(super) async fn open(&self, name: &str, lower: Vec<Lower>) -> Result<Bench<'_>, Failure> {
        self.open_within(name, lower, Resources::default()).await
    }

    /// The same with bounds of its own.
    pub(crate) async fn open_within(
        &self,
        name: &str,
        lower: Vec<Lower>,
        resources: Resources,
    ) -> Result<Bench<'_>, Failure> {
        let id = format!("{}{name}", self.prefix);
        self.filesystem.root_new(&id, Origin::Image(lower), Some(BUILD_DISK_BYTES_MAX)).await?;
        match self.start(&id, resources).await {
            Ok(guest) => Ok(Bench { workshop: self, id, guest }),
            Err(failure) => {
                self.network.detach(&id);
                let _ = self.containers.end(&id).await;
                let _ = self.filesystem.remove(&id).await;
                Err(failure)
            }
        }
    }

    async fn start(&self, id: &str, resources: Resources) -> Result<Guest, Failure> {
        let launch = Launch {
            id: id.to_owned(),
            hostname: "build".to_owned(),
            network: true,
            resources: Resources { pids: Some(BUILD_PIDS_MAX), ..resources },
            mounts: Vec::new(),
        };
        let started = self.containers.start(launch).await?;
        if let Some(sockets) = started.network {
            self.network.attach(id, sockets, &self.policy).await?;
        }
        let guest = Guest::new(started.guest);
        let (bundle, env) = authorities().await;
        let configuration = Configuration { env, user: Some("root".to_owned()), cwd: Some("/".to_owned()) };
        let ready = async {
            guest.configure(configuration).await?;
            if let Some(bundle) = bundle {
                guest.write_whole(root(&bundle_path()), Some(0o644), bundle).await?;
            }
            Ok(())
        };
        tokio::time::timeout(GUEST_START_TIMEOUT, ready)
            .await
            .unwrap_or_else(|_| Err(Failure::new(Code::Timeout, "the build's first process did not answer in time")))?;
        Ok(guest)
    }
}

impl Bench<'_> {
    /// The way inside.
    pub(crate) const fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Runs a program as root. Its standard output goes to `sink` where one is given.
    pub(super) async fn run(&self, argv: Vec<String>, sink: Option<OwnedFd>) -> Result<Ran, Failure> {
        let limit = Duration::from_millis(BUILD_STEP_TIMEOUT);
        tokio::time::timeout(limit, self.follow(argv, sink)).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Timeout, format!("it took more than {} minutes", limit.as_secs() / 60))
                .with("limit_ms", BUILD_STEP_TIMEOUT))
        })
    }

    async fn follow(&self, argv: Vec<String>, sink: Option<OwnedFd>) -> Result<Ran, Failure> {
        let lost = |error: std::io::Error| Failure::new(Code::Internal, format!("failed to pass output on: {error}"));
        let mut sink = match sink {
            Some(sink) => Some(tokio::net::unix::pipe::Sender::from_owned_fd(sink).map_err(lost)?),
            None => None,
        };
        let mut stream = self.guest.start(Start { argv, ..Start::default() }).await?;
        let mut tail = Tail::default();
        loop {
            match stream.next_event().await? {
                Some(Event::Stdout(bytes)) => match &mut sink {
                    Some(sink) => sink.write_all(&bytes).await.map_err(lost)?,
                    None => tail.add(&bytes),
                },
                Some(Event::Stderr(bytes) | Event::Terminal(bytes)) => tail.add(&bytes),
                Some(Event::Exited { exit, .. }) => return Ok(Ran { exit, output: tail.text() }),
                Some(Event::Started { .. }) => {}
                None => return Err(Failure::new(Code::Gone, "the build's sandbox ended")),
            }
        }
    }

    /// Writes a file as root.
    pub(super) async fn write(&self, path: &str, mode: u32, content: Bytes) -> Result<(), Failure> {
        self.guest.write_whole(root(path), Some(mode), content).await.map(drop)
    }

    /// Keeps what was written as a layer, and answers the trees with it and the bytes that were written, where they are
    /// counted.
    pub(crate) async fn keep(&self, layer: &str) -> Result<(Committed, Option<u64>), Failure> {
        match self.guest.remove(root(FOLDER)).await {
            Err(failure) if failure.code != Code::NotFound => return Err(failure),
            _ => {}
        }
        self.guest.end_all().await?;
        self.guest.sync().await?;
        self.stop().await?;
        let bytes = self.workshop.filesystem.usage(&self.id).await.ok().and_then(|charge| charge.bytes);
        Ok((self.workshop.filesystem.commit(&self.id, layer, true).await?, bytes))
    }

    async fn stop(&self) -> Result<(), Failure> {
        self.workshop.network.detach(&self.id);
        self.workshop.containers.end(&self.id).await
    }

    /// Ends the sandbox and removes its root.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        self.stop().await?;
        self.workshop.filesystem.remove(&self.id).await
    }
}

/// The last bytes of what a program wrote.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let over = self.0.len().saturating_sub(BUILD_OUTPUT_BYTES_KEPT);
        self.0.drain(..over);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

fn root(path: &str) -> FileTarget {
    FileTarget::new(path, Some("0".to_owned()))
}

fn bundle_path() -> String {
    format!("{FOLDER}/authorities.pem")
}

/// The host's authorities, and the variables that name them inside. A build trusts what its host trusts.
async fn authorities() -> (Option<Bytes>, BTreeMap<String, String>) {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let mut env = BTreeMap::from([("PATH".to_owned(), path), ("LC_ALL".to_owned(), "C.UTF-8".to_owned())]);
    let bundle = tokio::fs::read(HOST_BUNDLE).await.ok().filter(|bytes| bytes.len() <= BUNDLE_BYTES_MAX);
    if bundle.is_some() {
        env.extend(BUNDLE_VARIABLES.map(|name| (name.to_owned(), bundle_path())));
    }
    (bundle.map(Bytes::from), env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_written_is_kept() {
        let mut tail = Tail::default();
        tail.add(&vec![b'a'; BUILD_OUTPUT_BYTES_KEPT]);
        tail.add(b"the end");
        assert_eq!(tail.text().len(), BUILD_OUTPUT_BYTES_KEPT);
        assert!(tail.text().ends_with("athe end"));
    }
}
