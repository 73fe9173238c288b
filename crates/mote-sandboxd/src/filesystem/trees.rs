//! The daemon's side of work on whole trees: comparing, writing as a stream, filling from archives.
//!
//! The daemon never opens a tree: a worker does ([`super::worker`]), and what the worker says is believed only so far as it
//! concerns its own tree.

use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::request::Change;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use super::id::Id;
use super::keeper::{Outcome, Verb};
use super::work::Source;
use super::worker::{Bounds, Compression, Order, Packed, Report, Unpacked};
use super::{Filesystem, fault, unexpected};
use crate::descriptor;
use crate::keeper::wire;

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Changes in the order of their paths.
    pub changes: Vec<Change>,
    /// There are more than were asked for.
    pub truncated: bool,
}

impl Filesystem {
    /// Compares what a root or a snapshot holds with what lies below it.
    ///
    /// # Errors
    /// `not_found` where the source is not there; `too_large` where a directory or its depth is beyond the limits.
    pub async fn diff(&self, source: Source, changes_max: usize) -> Result<Difference, Failure> {
        let worker = Worker::begin(self, Verb::Diff(source)).await?;
        worker.send(&Order::Diff { changes_max }, None).await?;
        let mut difference = Difference::default();
        loop {
            match worker.report().await? {
                Report::Changes(changes) => {
                    difference.changes.extend(changes);
                    if difference.changes.len() > changes_max {
                        return Err(Failure::new(Code::Internal, "the worker told more changes than it was asked for"));
                    }
                }
                Report::Compared { truncated } => {
                    difference.truncated = truncated;
                    worker.end(None).await?;
                    return Ok(difference);
                }
                other => return Err(surprise(&other)),
            }
        }
    }

    /// Writes a tree to a file or pipe: the same bytes for the same tree. The digest is its name wherever it goes.
    ///
    /// # Errors
    /// `not_found` where the source is not there; `too_large` where the tree is beyond the limits; what writing met.
    pub async fn export(&self, source: Source, sink: OwnedFd) -> Result<Packed, Failure> {
        let worker = Worker::begin(self, Verb::Pack(source)).await?;
        worker.send(&Order::Pack, Some(sink)).await?;
        match worker.report().await? {
            Report::Packed(packed) => {
                worker.end(None).await?;
                Ok(packed)
            }
            other => Err(surprise(&other)),
        }
    }

    /// Begins a layer that archives fill, on top of another layer where `base` is given (only where snapshots are live).
    ///
    /// # Errors
    /// `conflict` where the layer is there; `exhausted` where too many are being filled.
    pub async fn fill(&self, layer: &str, base: Option<&str>) -> Result<Filling, Failure> {
        let layer = Id::new("layer", layer)?;
        let base = base.map(|base| Id::new("layer", base)).transpose()?;
        let worker = Worker::begin(self, Verb::Unpack { layer, base }).await?;
        Ok(Filling { worker, bounds: Bounds::default() })
    }
}

/// A layer that is being filled. Dropped before [`Filling::keep`], it is removed.
#[derive(Debug)]
pub struct Filling {
    worker: Worker,
    bounds: Bounds,
}

impl Filling {
    /// Holds all archives together to less than any tree may hold.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Adds an archive: a file or a pipe. Entries `.wh.…` remove where `whiteouts`.
    ///
    /// # Errors
    /// `invalid` where the archive is not one or leads out of the tree; `too_large`; `no_space`.
    pub async fn add(&self, archive: OwnedFd, compression: Compression, whiteouts: bool) -> Result<Unpacked, Failure> {
        let order = Order::Unpack { compression, whiteouts, bounds: self.bounds };
        self.worker.send(&order, Some(archive)).await?;
        match self.worker.report().await? {
            Report::Unpacked(unpacked) => Ok(unpacked),
            other => Err(surprise(&other)),
        }
    }

    /// Has everything that was added written to the disk.
    ///
    /// # Errors
    /// `no_space`, where only now it shows.
    pub async fn sync(&self) -> Result<(), Failure> {
        self.worker.send(&Order::Sync, None).await?;
        match self.worker.report().await? {
            Report::Synced => Ok(()),
            other => Err(surprise(&other)),
        }
    }

    /// Gives the layer its name: it is whole and good.
    ///
    /// # Errors
    /// Where the worker did not end well; the layer is removed.
    pub async fn keep(self) -> Result<(), Failure> {
        self.worker.end(None).await
    }

    /// Removes the layer; returns when its place is free again. Dropping it does the same in the background.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn abandon(self) -> Result<(), Failure> {
        self.worker.abandon().await
    }

    /// Gives the layer another name, which is known only now.
    ///
    /// # Errors
    /// As [`Self::keep`]; `conflict` where the name is taken.
    pub async fn keep_as(self, layer: Id) -> Result<(), Failure> {
        self.worker.end(Some(layer)).await
    }
}

/// A worker process; abandoned when dropped before its end.
#[derive(Debug)]
pub(super) struct Worker {
    filesystem: Filesystem,
    number: Option<u64>,
    socket: AsyncFd<OwnedFd>,
}

impl Worker {
    pub(super) async fn begin(filesystem: &Filesystem, verb: Verb) -> Result<Self, Failure> {
        match filesystem.ask_with(verb, Vec::new()).await? {
            (Outcome::Working { number }, mut descriptors) => {
                let socket = descriptors
                    .pop()
                    .ok_or_else(|| Failure::new(Code::Internal, "the keeper answered without the worker's socket"))?;
                let socket = descriptor::watch(socket)
                    .map_err(|error| fault::io("failed to watch a worker's socket", &error))?;
                Ok(Self { filesystem: filesystem.clone(), number: Some(number), socket })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    pub(super) async fn send(&self, order: &impl Serialize, descriptor: Option<OwnedFd>) -> Result<(), Failure> {
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        loop {
            let mut ready = self.socket.writable().await.map_err(|error| gone(&error))?;
            match wire::send(self.socket.get_ref(), order, &descriptors) {
                Err(wire::Error::Socket(Errno::AGAIN)) => ready.clear_ready(),
                result => return result.map_err(|error| gone(&error)),
            }
        }
    }

    async fn report(&self) -> Result<Report, Failure> {
        self.report_with().await.map(|(report, _)| report)
    }

    /// A report with the descriptors beside it.
    pub(super) async fn report_with(&self) -> Result<(Report, Vec<OwnedFd>), Failure> {
        match self.receive().await? {
            (Report::Failed(failure), _) => Err(failure),
            reported => Ok(reported),
        }
    }

    async fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), Failure> {
        loop {
            let mut ready = self.socket.readable().await.map_err(|error| gone(&error))?;
            match wire::receive(self.socket.get_ref()) {
                Err(wire::Error::Socket(Errno::AGAIN)) => ready.clear_ready(),
                result => return result.map_err(|error| gone(&error)),
            }
        }
    }

    pub(super) async fn abandon(mut self) -> Result<(), Failure> {
        let Some(number) = self.number.take() else { return Ok(()) };
        super::done(self.filesystem.ask(Verb::Abandon(number)).await?)
    }

    pub(super) async fn end(mut self, name: Option<Id>) -> Result<(), Failure> {
        self.send(&Order::End, None).await?;
        let Some(number) = self.number.take() else { return Ok(()) };
        let verb = match name {
            Some(layer) => Verb::FinishAs { number, layer },
            None => Verb::Finish(number),
        };
        super::done(self.filesystem.ask(verb).await?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(number) = self.number.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let filesystem = self.filesystem.clone();
            // Nobody waits for it: where the keeper is gone, so is the worker.
            runtime.spawn(async move { filesystem.ask(Verb::Abandon(number)).await });
        }
    }
}

fn gone(error: &impl std::fmt::Display) -> Failure {
    fault::defect("the process that works on the tree is gone", error)
}

pub(super) fn surprise(report: &Report) -> Failure {
    Failure::new(Code::Internal, format!("a worker answered with something else: {report:?}"))
}
