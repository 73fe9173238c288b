//! Work on trees that takes long or reads what strangers wrote: given to a worker process, and ended by another verb.
//!
//! The keeper makes the worker, hands it the trees, and hands the daemon the worker's socket. What the worker made gets its
//! name only when the daemon says that it is good and the worker ended well.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use mote_sandbox_api::error::{Code, Failure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::PidfdFlags;
use serde::{Deserialize, Serialize};

use super::fault;
use super::id::Id;
use super::keeper::{Keeper, Outcome};
use super::pool::{Backend, Folder};
use super::recipe::Lower;
use super::record::Record;
use super::roots::{UPPER, make_folder};
use super::view;
use super::worker::{self, Task};
use crate::keeper::wire;
use crate::limits::{WORKER_END_MS_MAX, WORKERS_MAX};

/// A tree to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// What a sandbox sees now.
    Root(Id),
    /// What a snapshot holds.
    Snapshot(Id),
    /// What these trees hold together, the topmost first.
    Image(Vec<Lower>),
}

/// Workers, by number.
#[derive(Debug, Default)]
pub(super) struct Workers {
    last: u64,
    running: HashMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// An unfinished tree: published where `publish`, else it was only for the worker to look at.
    draft: Option<(Folder, Id)>,
    publish: bool,
}

impl Keeper {
    /// Begins a layer that a worker fills; on top of what another layer holds where `base` is given.
    pub(super) fn unpack(&mut self, layer: &Id, base: Option<&Id>) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        let draft = match base {
            Some(base) => self.pool.begin_copy((Folder::Layers, base), (Folder::Layers, layer), false, false)?,
            None => {
                let draft = self.pool.begin(Folder::Layers, layer)?;
                make_folder(draft.directory(), UPPER, 0o755)?;
                Record::default().write(draft.directory())?;
                draft
            }
        };
        let tree = view::to_fill(draft.directory(), UPPER)
            .map_err(|error| fault::io(&format!("failed to open layer {layer}"), &error))?;
        draft.keep();
        self.start(Task::Unpack, vec![tree], Some((Folder::Layers, layer.clone())), true)
    }

    /// Begins a comparison of what a root or snapshot changed with what lies below it.
    pub(super) fn diff(&mut self, source: &Source) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        let (record, folder, draft) = self.still(source)?;
        let lower = self.lower_paths(&record.lower)?;
        let what = |error| fault::io("failed to open the trees to be compared", &error);
        let upper = folder.map(|folder| folder.join(UPPER));
        let all: Vec<_> = upper.iter().cloned().chain(lower.iter().cloned()).collect();
        let empty = self.pool.empty();
        let trees = vec![
            view::plain(upper.as_deref().unwrap_or(&empty)).map_err(what)?,
            view::merged(&lower, &empty).map_err(what)?,
            view::merged(&all, &empty).map_err(what)?,
        ];
        self.start(Task::Diff, trees, draft, false)
    }

    /// Begins to write a tree as a stream.
    pub(super) fn pack(&mut self, source: &Source) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        let (record, folder, draft) = self.still(source)?;
        let mut all: Vec<_> = folder.map(|folder| folder.join(UPPER)).into_iter().collect();
        all.extend(self.lower_paths(&record.lower)?);
        let tree = view::merged(&all, &self.pool.empty())
            .map_err(|error| fault::io("failed to open the tree to be written", &error))?;
        self.start(Task::Pack, vec![tree], draft, false)
    }

    /// Begins to work on single files of a volume.
    pub(super) fn files(&mut self, volume: &Id) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        let folder = self.volume(volume.as_str())?;
        let tree =
            view::plain(&folder).map_err(|error| fault::io(&format!("failed to open volume {volume}"), &error))?;
        self.start(Task::Files, vec![tree], None, false)
    }

    /// Ends a worker that did its work, and gives what it made its name, or another one.
    pub(super) fn finish(&mut self, number: u64, name: Option<&Id>) -> Result<Outcome, Failure> {
        let mut running = self.take(number)?;
        let ended = wait(&mut running.child);
        let publish = running.publish && matches!(ended, Ok(true));
        if let Some((folder, id)) = &running.draft {
            let draft = self.pool.adopt(*folder, id)?;
            match name {
                _ if !publish => {}
                Some(name) => draft.publish_as(name)?,
                None => draft.publish()?,
            }
        }
        self.pool.sweep_if_needed();
        match ended {
            Ok(true) => Ok(Outcome::Done),
            Ok(false) => Err(Failure::new(Code::Internal, "the process that worked on the tree did not end well")),
            Err(error) => Err(fault::io("failed to end the process that worked on a tree", &error)),
        }
    }

    /// Ends a worker whatever it is doing, and removes what it made.
    pub(super) fn abandon(&mut self, number: u64) -> Result<Outcome, Failure> {
        let mut running = self.take(number)?;
        let _ = running.child.kill();
        let _ = running.child.wait();
        if let Some((folder, id)) = &running.draft {
            drop(self.pool.adopt(*folder, id)?);
        }
        self.pool.sweep_if_needed();
        Ok(Outcome::Done)
    }

    fn take(&mut self, number: u64) -> Result<Running, Failure> {
        self.workers.running.remove(&number).ok_or_else(|| Failure::not_found("worker", &number.to_string()))
    }

    /// The tree as it is now and stays: its record, its folder where it has an upper, and the copy that was made for that.
    #[expect(clippy::type_complexity, reason = "three things that are needed once, side by side")]
    fn still(&self, source: &Source) -> Result<(Record, Option<std::path::PathBuf>, Option<(Folder, Id)>), Failure> {
        match source {
            Source::Image(lower) => {
                Ok((Record { lower: lower.clone(), sealed: true, ..Record::default() }, None, None))
            }
            Source::Snapshot(id) => {
                let folder = self.existing(Folder::Snapshots, id)?;
                let record = Record::read(&folder)?;
                let folder = (!record.sealed).then_some(folder);
                Ok((record, folder, None))
            }
            Source::Root(id) => {
                let folder = self.existing(Folder::Roots, id)?;
                let record = Record::read(&folder)?;
                if self.pool.backend() == Backend::Plain {
                    return Ok((record, Some(folder), None));
                }
                let copy = Id::new("view", format!("view.{}.{}", std::process::id(), self.workers.last + 1))?;
                let place = (Folder::Snapshots, &copy);
                self.pool.begin_copy((Folder::Roots, id), place, true, false)?.keep();
                let folder = self.pool.draft_path(Folder::Snapshots, &copy);
                Ok((record, Some(folder), Some((Folder::Snapshots, copy))))
            }
        }
    }

    fn start(
        &mut self,
        task: Task,
        trees: Vec<OwnedFd>,
        draft: Option<(Folder, Id)>,
        publish: bool,
    ) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        let started = self.spawn(task, &trees);
        let (child, socket) = match started {
            Ok(started) => started,
            Err(failure) => {
                if let Some((folder, id)) = &draft {
                    drop(self.pool.adopt(*folder, id)?);
                }
                return Err(failure);
            }
        };
        self.workers.last += 1;
        self.workers.running.insert(self.workers.last, Running { child, draft, publish });
        Ok((Outcome::Working { number: self.workers.last }, vec![socket]))
    }

    fn spawn(&self, task: Task, trees: &[OwnedFd]) -> Result<(Child, OwnedFd), Failure> {
        if self.workers.running.len() >= WORKERS_MAX {
            let message = format!("{WORKERS_MAX} trees are worked on already");
            return Err(Failure::new(Code::Exhausted, message).with("limit", WORKERS_MAX));
        }
        let what = |error: io::Error| fault::io("failed to start a process to work on a tree", &error);
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| what(error.into()))?;
        let mut child = Command::new(&self.options.program)
            .args([worker::SUBCOMMAND, worker::SERVE])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .env_clear()
            .spawn()
            .map_err(what)?;
        let borrowed: Vec<_> = trees.iter().map(std::os::fd::AsFd::as_fd).collect();
        if let Err(error) = wire::send(&ours, &task, &borrowed) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fault::defect("failed to hand trees to a worker", &error));
        }
        Ok((child, ours))
    }
}

impl Workers {
    /// Whether any is at work.
    pub(super) fn any(&self) -> bool {
        !self.running.is_empty()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for running in self.running.values_mut() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

/// Waits for a worker that said it is done, which takes it a moment; one that does not end is ended.
fn wait(child: &mut Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Err(io::ErrorKind::NotFound.into()) };
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec { tv_sec: 0, tv_nsec: WORKER_END_MS_MAX * 1_000_000 };
    if rustix::event::poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout))? == 0 {
        child.kill()?;
    }
    Ok(child.wait()?.success())
}
