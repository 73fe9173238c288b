//! The daemon's side of single files of a volume: a worker that cannot leave it does what is asked, and hands over open files.

use std::os::fd::OwnedFd;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::RawPath;
use mote_sandbox_api::limits::LIST_ENTRIES_MAX;

use super::Filesystem;
use super::id::Id;
use super::keeper::Verb;
use super::trees::{Worker, surprise};
use super::worker::files::{Entry, Order};
use super::worker::{self, Report};

/// What was found.
#[derive(Debug)]
pub struct VolumeFound {
    /// Entries: one, but of a list.
    pub entries: Vec<Entry>,
    /// An open file, where one was asked for.
    pub file: Option<OwnedFd>,
}

impl Filesystem {
    /// Asks something of one path in a volume.
    ///
    /// # Errors
    /// `not_found` where volume or path are not there; `conflict` where something is there; `invalid`; `no_space`;
    /// `exhausted` where too many trees are worked on.
    pub async fn volume_files(&self, volume: &str, path: RawPath, order: Order) -> Result<VolumeFound, Failure> {
        let worker = Worker::begin(self, Verb::Files(Id::new("volume", volume)?)).await?;
        worker.send(&worker::Order::Files { path, order }, None).await?;
        let mut entries = Vec::new();
        loop {
            match worker.report_with().await? {
                (Report::Some(some), _) => {
                    entries.extend(some);
                    if entries.len() > LIST_ENTRIES_MAX {
                        return Err(Failure::new(Code::Internal, "the worker told more entries than there may be"));
                    }
                }
                (Report::Found(last), mut descriptors) => {
                    entries.extend(last);
                    // It has nothing to leave behind: how it ends is nobody's matter.
                    worker.abandon().await?;
                    return Ok(VolumeFound { entries, file: descriptors.pop() });
                }
                (other, _) => return Err(surprise(&other)),
            }
        }
    }
}
