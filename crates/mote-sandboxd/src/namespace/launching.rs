//! The launch of a sandbox, as the keeper does it: a cell is taken, and told what it is to become.
//!
//! It waits for nothing: what a cell makes of its orders is heard in [`super::keeper`].

use std::collections::VecDeque;
use std::os::fd::AsFd;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::process::SingleThreaded;

use super::cell::orders::Orders;
use super::cell::{Cell, group};
use super::file::failed;
use super::keeper::{Cells, Starting, Waiting};
use super::launch::{Launch, Source};
use super::{mounts, record, socket};
use crate::filesystem::keeper::Keeper as Roots;
use crate::keeper::reactor::Reactor;
use crate::keeper::{Answered, wire};
use crate::limits::LAYERS_MAX;

impl Cells {
    /// Starts a launch, or keeps it until its root is no longer mounted.
    pub(super) fn start_when_free(
        &mut self,
        number: u64,
        launch: Box<Launch>,
        roots: &Roots,
        proof: &SingleThreaded,
        reactor: &mut Reactor,
    ) -> Result<(), Failure> {
        launch.check()?;
        let taken =
            self.is_launched(&launch.id) || self.ending.values().any(|(_, resident)| resident.record.id == launch.id);
        if taken || self.living.contains_key(&launch.id) {
            return Err(Failure::new(Code::Conflict, format!("a sandbox {:?} lives already", launch.id)));
        }
        if roots.upper_of(&launch.id).is_some_and(|upper| self.graves.holds(upper)) {
            self.deferred.push((number, launch));
            if self.graves.is_due() {
                self.graves.dig(proof, reactor);
            }
            return Ok(());
        }
        self.start(number, &launch, roots, proof, reactor)
    }

    /// Starts what waited for roots that are no longer mounted.
    pub fn start_deferred(
        &mut self,
        roots: &Roots,
        proof: &SingleThreaded,
        reactor: &mut Reactor,
        answers: &mut VecDeque<(u64, Answered)>,
    ) {
        if self.deferred.is_empty() {
            return;
        }
        if self.graves.is_due() {
            self.graves.dig(proof, reactor);
        }
        for (number, launch) in std::mem::take(&mut self.deferred) {
            if roots.upper_of(&launch.id).is_some_and(|upper| self.graves.holds(upper)) {
                self.deferred.push((number, launch));
            } else if let Err(failure) = self.start(number, &launch, roots, proof, reactor) {
                answers.push_back((number, Err(failure)));
            }
        }
    }

    pub(super) fn is_launched(&self, id: &str) -> bool {
        self.starting.values().any(|starting| starting.id == id)
            || self.deferred.iter().any(|(_, launch)| launch.id == id)
    }

    fn start(
        &mut self,
        number: u64,
        launch: &Launch,
        roots: &Roots,
        proof: &SingleThreaded,
        reactor: &mut Reactor,
    ) -> Result<(), Failure> {
        self.barren[usize::from(launch.network)] = false;
        let Waiting { token, cell, sockets } = self.take(launch.network, proof, reactor)?;
        match self.order(&cell, launch, roots) {
            Ok(()) => {
                self.starting.insert(token, Starting { number, id: launch.id.clone(), cell, sockets });
                Ok(())
            }
            Err(failure) => {
                reactor.forget(&cell.control);
                self.discard(cell, reactor);
                let _ = std::fs::remove_dir_all(record::folder(&self.settings.run, &launch.id));
                Err(failure)
            }
        }
    }

    /// A cell that waits, or a new one.
    fn take(&mut self, network: bool, proof: &SingleThreaded, reactor: &mut Reactor) -> Result<Waiting, Failure> {
        match self.waiting.iter().position(|waiting| waiting.cell.network == network) {
            Some(at) => self.waiting.remove(at).ok_or_else(|| Failure::new(Code::Internal, "a waiting cell is gone")),
            None => self.make(network, proof, reactor),
        }
    }

    pub(super) fn make(
        &mut self,
        network: bool,
        proof: &SingleThreaded,
        reactor: &mut Reactor,
    ) -> Result<Waiting, Failure> {
        let slot = self.slots.take()?;
        let made = Cell::make(proof, &self.mould, slot, network).inspect_err(|_| self.slots.give_back(slot))?;
        match reactor.watch(&made.control) {
            Ok(token) => Ok(Waiting { token, cell: made, sockets: Vec::new() }),
            Err(error) => {
                self.discard(made, reactor);
                Err(failed("watch a cell", error))
            }
        }
    }

    /// Opens everything that the sandbox is made of and tells the cell.
    fn order(&self, cell: &Cell, launch: &Launch, roots: &Roots) -> Result<(), Failure> {
        let recipe = roots.recipe(&launch.id)?;
        if recipe.lower.len() > LAYERS_MAX {
            let what = format!("failed to mount a root of {} layers", recipe.lower.len());
            return Err(Failure::new(Code::TooLarge, what).with("limit", LAYERS_MAX));
        }
        let name_of = |path: &std::path::Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let (Some(folder), Some(upper), Some(work)) =
            (recipe.upper.parent(), name_of(&recipe.upper), name_of(&recipe.work))
        else {
            return Err(Failure::new(Code::Internal, "a root's directories have no names"));
        };
        let device = launch.resources.io.and_then(|_| super::device::under(folder));
        self.mould.groups.limit(&group(cell.slot), &launch.resources, device)?;
        let mut trees = Vec::with_capacity(recipe.lower.len() + recipe.bound.len() + launch.mounts.len() + 2);
        for tree in &recipe.lower {
            trees.push(mounts::copy_mapped(tree, &cell.users)?);
        }
        trees.push(mounts::copy_mapped(folder, &cell.users)?);
        for path in &recipe.bound {
            trees.push(mounts::copy_mapped_where_possible(path, &cell.users)?);
        }
        let mut places = Vec::with_capacity(launch.mounts.len());
        for mount in &launch.mounts {
            let (tree, read_only) = match &mount.source {
                Source::Volume(id) => (mounts::copy_mapped(&roots.volume(id)?, &cell.users)?, mount.read_only),
                Source::Data(path) => {
                    let path = roots.data_directory(path)?;
                    (mounts::copy(&path).map_err(|error| failed(format_args!("open {}", path.display()), error))?, true)
                }
            };
            trees.push(tree);
            places.push((mount.path.clone(), read_only));
        }
        trees.push(socket::listen(&self.settings, &launch.id)?);
        // Half: what is kept in memory files belongs to no process, and were all memory theirs, the kernel could free
        // some only by ending processes that are not to blame.
        let shared_bytes = launch.resources.memory.map(|bytes| bytes / 2);
        let orders = Orders {
            hostname: launch.hostname.clone(),
            shared_bytes,
            lower: recipe.lower.len(),
            upper,
            work,
            bound: recipe.bound.iter().map(|path| path.display().to_string()).collect(),
            mounts: places,
        };
        let trees: Vec<_> = trees.iter().map(AsFd::as_fd).collect();
        wire::send(&cell.control, &orders, &trees).map_err(|error| failed("tell a cell its orders", error))
    }
}
