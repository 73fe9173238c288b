//! The part of the keeper that serves `namespace`: cells that are ready, sandboxes that start, live and end.
//!
//! It does not decide: whether a verb is due is the daemon's matter.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::process::SingleThreaded;
use serde::{Deserialize, Serialize};

use super::cell::heard::Heard;
use super::cell::{self, Cell, Mould, group};
use super::cgroup::{self, Meter};
use super::file::failed;
use super::graves::{self, Graves};
use super::identity::Slots;
use super::launch::{self, Launch, Living, Refused};
use super::living::{self, Resident};
use super::{program, record, seccomp};
use crate::filesystem::keeper::Keeper as Roots;
use crate::keeper::reactor::{Reactor, Token};
use crate::keeper::{Answered, Outcome as Answer, Progress, Settings};
use crate::limits::{GRAVES_IDLE_MS, KEEPER_IDLE_MS};

/// What the daemon can ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Launches a sandbox: one [`Outcome::Started`], beside it the first process's descriptor and, with a network, the
    /// daemon's sockets in it.
    Start(Box<Launch>),
    /// Takes over a sandbox that lives: as [`Verb::Start`].
    Adopt(String),
    /// Stops every process where it is.
    Freeze(String),
    /// Lets stopped processes go on.
    Thaw(String),
    /// Ends every process and gives back all but the root. A sandbox that does not live has ended.
    End(String),
    /// What lives, a page in the order of ids after this one: one [`Outcome::Living`].
    Living(Option<String>),
    /// What can be bounded: one [`Outcome::Controllers`].
    Controllers,
    /// Cells that could not be got ready: one [`Outcome::Refused`].
    Refused,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of [`Verb::Start`] and [`Verb::Adopt`].
    Started {
        /// Number of the first process on the host.
        pid: u32,
        /// Where the first process serves.
        guest: PathBuf,
        /// Where use can be read.
        meter: Meter,
    },
    /// Of [`Verb::Living`]: none where there are no more.
    Living(Vec<Living>),
    /// Of [`Verb::Controllers`]: names, and how each is done.
    Controllers(Vec<(String, String)>),
    /// Of [`Verb::Refused`].
    Refused(Refused),
}

/// A cell that has its orders.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) number: u64,
    pub(super) id: String,
    pub(super) cell: Cell,
    pub(super) sockets: Vec<OwnedFd>,
}

/// A cell that waits, and whether it has said that it is prepared.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) token: Token,
    pub(super) cell: Cell,
    pub(super) sockets: Vec<OwnedFd>,
}

/// Everything of this part.
#[derive(Debug)]
pub struct Cells {
    pub(super) settings: Settings,
    pub(super) mould: Mould,
    pub(super) slots: Slots,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) starting: HashMap<Token, Starting>,
    pub(super) living: HashMap<String, Resident>,
    pub(super) ending: HashMap<Token, (Vec<u64>, Resident)>,
    pub(super) graves: Graves,
    /// Launches in roots that are still mounted: they wait until these are not.
    pub(super) deferred: Vec<(u64, Box<Launch>)>,
    /// Cells that serve nobody and were killed. What one had mounted its process unmounts, which may wait for the disk.
    dying: HashMap<Token, Cell>,
    /// Cells without and with a network cannot be made for now: tried again at the next start.
    pub(super) barren: [bool; 2],
    refused: Refused,
}

impl Cells {
    /// Finds what lives, reaps what is left of what does not, and gets ready.
    ///
    /// # Errors
    /// Where the host has no cgroups, or the run directory or the first process's program cannot be used.
    pub fn open(settings: Settings, proof: &SingleThreaded) -> Result<Self, Failure> {
        let mould = Mould {
            groups: cgroup::open(&settings.instance())?,
            program: program::load(&settings.init)?,
            filters: seccomp::filters()?,
            uid_base: settings.uid_base,
            foothold: settings.run.join("empty"),
            view: cell::view::Host::read()?,
            // Where this cannot be, each cell with a network asks `nft`, and tells its caller why that cannot be.
            rules: if settings.ready_cells_with_network > 0 { cell::learn_rules(proof) } else { None },
        };
        for folder in [&settings.run.join("sandboxes"), &mould.foothold] {
            std::fs::create_dir_all(folder)
                .map_err(|error| failed(format_args!("make {}", folder.display()), error))?;
        }
        let mut cells = Self {
            settings,
            mould,
            slots: Slots::default(),
            waiting: VecDeque::new(),
            starting: HashMap::new(),
            living: HashMap::new(),
            ending: HashMap::new(),
            graves: Graves::default(),
            deferred: Vec::new(),
            dying: HashMap::new(),
            barren: [false; 2],
            refused: Refused::default(),
        };
        cells.find_living()?;
        Ok(cells)
    }

    /// Carries out a verb.
    pub fn serve(
        &mut self,
        number: u64,
        verb: Verb,
        roots: &Roots,
        proof: &SingleThreaded,
        reactor: &mut Reactor,
    ) -> Progress {
        match verb {
            Verb::Start(launch) => match self.start_when_free(number, launch, roots, proof, reactor) {
                Ok(()) => Progress::Later,
                Err(failure) => failure.into(),
            },
            Verb::Adopt(id) => {
                Progress::Now(self.resident(&id).and_then(|resident| resident.adopt(&self.settings.run)))
            }
            Verb::Freeze(id) => self.freeze(&id, true).into(),
            Verb::Thaw(id) => self.freeze(&id, false).into(),
            Verb::End(id) => self.end(number, &id, roots, reactor),
            Verb::Refused => Ok(Answer::Namespace(Outcome::Refused(self.refused.clone()))).into(),
            Verb::Living(after) => {
                let page = living::page(&self.living, after.as_deref(), &*self.mould.groups);
                Ok(Answer::Namespace(Outcome::Living(page))).into()
            }
            Verb::Controllers => {
                let controllers = self.mould.groups.controllers();
                let controllers = controllers.into_iter().map(|(name, how)| (name.to_owned(), how)).collect();
                Ok(Answer::Namespace(Outcome::Controllers(controllers))).into()
            }
        }
    }

    fn resident(&self, id: &str) -> Result<&Resident, Failure> {
        self.living.get(id).ok_or_else(|| Failure::not_found("living sandbox", id))
    }

    fn freeze(&self, id: &str, frozen: bool) -> Result<Answer, Failure> {
        self.mould.groups.freeze(&group(self.resident(id)?.record.slot), frozen).map(|()| Answer::Done)
    }

    fn end(&mut self, number: u64, id: &str, roots: &Roots, reactor: &mut Reactor) -> Progress {
        if let Some((numbers, _)) = self.ending.values_mut().find(|(_, resident)| resident.record.id == id) {
            numbers.push(number);
            return Progress::Later;
        }
        if self.is_launched(id) {
            return Failure::new(Code::Busy, format!("the sandbox {id:?} is being launched")).into();
        }
        let Some(resident) = self.living.remove(id) else {
            return match launch::check_id(id) {
                Ok(()) => Ok(Answer::Done).into(),
                Err(failure) => failure.into(),
            };
        };
        if let (Some(upper), Some(root)) = (roots.upper_of(id), graves::root_of(resident.record.pid)) {
            // The number may be another process's by now: what was opened counts only if this one still lives.
            if resident.lives() {
                self.graves.hold(upper, root);
            }
        }
        resident.kill();
        // What is stopped does not end.
        let name = group(resident.record.slot);
        if self.mould.groups.is_frozen(&name) {
            let _ = self.mould.groups.freeze(&name, false);
        }
        match reactor.watch(&resident.process) {
            Ok(token) => {
                self.ending.insert(token, (vec![number], resident));
                Progress::Later
            }
            Err(error) => {
                let failure = failed("watch a sandbox's end", error);
                self.living.insert(id.to_owned(), resident);
                failure.into()
            }
        }
    }

    /// Something that was watched is ready; what can be answered now is added to `answers`.
    pub fn ready(&mut self, token: Token, reactor: &mut Reactor, answers: &mut VecDeque<(u64, Answered)>) {
        if self.graves.ready(token, reactor) {
            return;
        }
        if let Some(cell) = self.dying.remove(&token) {
            reactor.forget(&cell.child.descriptor);
            self.bury(&cell);
            return;
        }
        if let Some((numbers, resident)) = self.ending.remove(&token) {
            reactor.forget(&resident.process);
            let result = self.clean(&resident);
            for number in numbers {
                answers.push_back((number, result.clone().map(|()| (Answer::Done, Vec::new()))));
            }
            return;
        }
        if let Some(mut starting) = self.starting.remove(&token) {
            match starting.cell.hear() {
                Heard::Prepared(sockets) => {
                    starting.sockets = sockets;
                    self.starting.insert(token, starting);
                }
                Heard::Nothing => {
                    self.starting.insert(token, starting);
                }
                Heard::Done => {
                    reactor.forget(&starting.cell.control);
                    answers.push_back((starting.number, self.settle(starting, reactor)));
                }
                Heard::Failed(failure) => {
                    reactor.forget(&starting.cell.control);
                    let _ = std::fs::remove_dir_all(record::folder(&self.settings.run, &starting.id));
                    self.discard(starting.cell, reactor);
                    answers.push_back((starting.number, Err(failure)));
                }
            }
            return;
        }
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.token == token) {
            match self.waiting[at].cell.hear() {
                Heard::Prepared(sockets) => self.waiting[at].sockets = sockets,
                Heard::Nothing => {}
                Heard::Done => self.refuse(at, Failure::new(Code::Internal, "a cell went on without orders"), reactor),
                Heard::Failed(failure) => self.refuse(at, failure, reactor),
            }
        }
    }

    /// Gives up a cell that waits. The next start makes one itself, and tells its caller why it cannot.
    fn refuse(&mut self, at: usize, failure: Failure, reactor: &mut Reactor) {
        if let Some(waiting) = self.waiting.remove(at) {
            self.note_refusal(waiting.cell.network, failure);
            reactor.forget(&waiting.cell.control);
            self.discard(waiting.cell, reactor);
        }
    }

    fn note_refusal(&mut self, network: bool, failure: Failure) {
        self.barren[usize::from(network)] = true;
        self.refused.count += 1;
        self.refused.last = Some(failure);
    }

    /// A cell became a sandbox.
    fn settle(&mut self, starting: Starting, reactor: &mut Reactor) -> Answered {
        let Starting { id, cell, sockets, .. } = starting;
        let meter = self.mould.groups.meter(&group(cell.slot));
        let resident = Resident::settle(&id, cell, meter);
        let noted =
            resident.record.write(&self.settings.run).and_then(|()| resident.answer(&self.settings.run, sockets));
        if noted.is_err() {
            resident.kill();
            // What is left goes when it has ended; the caller is told why at once.
            match reactor.watch(&resident.process) {
                Ok(token) => drop(self.ending.insert(token, (Vec::new(), resident))),
                Err(_) => self.clean(&resident)?,
            }
        } else {
            self.living.insert(id, resident);
        }
        noted
    }

    /// Removes everything of a sandbox whose processes ended.
    fn clean(&mut self, resident: &Resident) -> Result<(), Failure> {
        resident.wait();
        let slot = resident.record.slot;
        let folder = record::folder(&self.settings.run, &resident.record.id);
        let _ = std::fs::remove_dir_all(&folder);
        super::living::remove_groups(&*self.mould.groups, &group(slot))?;
        self.slots.give_back(slot);
        Ok(())
    }

    /// Ends a cell that serves nobody. Its end is not waited for.
    pub(super) fn discard(&mut self, cell: Cell, reactor: &mut Reactor) {
        cell.kill();
        match reactor.watch(&cell.child.descriptor) {
            Ok(token) => drop(self.dying.insert(token, cell)),
            // Not watched, it is waited for: rare, and better than to keep its range of ids for ever.
            Err(_) => self.bury(&cell),
        }
    }

    /// Gives back what a cell had that was killed.
    fn bury(&mut self, cell: &Cell) {
        cell.wait();
        if super::living::remove_groups(&*self.mould.groups, &group(cell.slot)).is_ok() {
            self.slots.give_back(cell.slot);
        }
    }

    /// After how many milliseconds without a call there is something to do for later; none where there is nothing.
    #[must_use]
    pub fn idle_ms(&self) -> Option<u32> {
        // What is being launched needs the processor more.
        if self.starting.is_empty() && self.wanted().is_some() {
            return Some(KEEPER_IDLE_MS);
        }
        self.graves.is_due().then_some(GRAVES_IDLE_MS)
    }

    /// The kind of cell of which one more should wait: with a network or without.
    fn wanted(&self) -> Option<bool> {
        let lacks = |network: bool, wanted: usize| {
            let waiting = self.waiting.iter().filter(|waiting| waiting.cell.network == network).count();
            !self.barren[usize::from(network)] && waiting < wanted
        };
        if lacks(false, self.settings.ready_cells) {
            return Some(false);
        }
        lacks(true, self.settings.ready_cells_with_network).then_some(true)
    }

    /// Prepares one thing, or gives back what is no longer needed.
    pub fn idle(&mut self, proof: &SingleThreaded, reactor: &mut Reactor) {
        match self.wanted() {
            Some(network) if self.starting.is_empty() => match self.make(network, proof, reactor) {
                Ok(waiting) => self.waiting.push_back(waiting),
                Err(failure) => self.note_refusal(network, failure),
            },
            _ => self.graves.dig(proof, reactor),
        }
    }

    /// For a child of the keeper that does something else: it holds no root.
    pub fn let_go(&mut self) {
        self.graves.let_go();
    }

    /// Gives back what has to be, however much there is to do. To be called when no other child of the keeper runs, which
    /// would hold what is to go.
    pub fn settle_graves(&mut self, proof: &SingleThreaded, reactor: &mut Reactor) {
        if self.graves.is_full() {
            self.graves.dig(proof, reactor);
        }
    }

    /// Gives back what serves no sandbox. Those that live, live on.
    pub fn close(&mut self) {
        let mut cells: Vec<Cell> = self.waiting.drain(..).map(|waiting| waiting.cell).collect();
        for (_, starting) in std::mem::take(&mut self.starting) {
            let _ = std::fs::remove_dir_all(record::folder(&self.settings.run, &starting.id));
            cells.push(starting.cell);
        }
        cells.extend(std::mem::take(&mut self.dying).into_values());
        cells.iter().for_each(Cell::kill);
        cells.iter().for_each(|cell| self.bury(cell));
        for (_, (_, resident)) in std::mem::take(&mut self.ending) {
            // Nobody hears of a failure any more; the next keeper sweeps.
            let _ = self.clean(&resident);
        }
        self.graves.close();
    }

    /// Takes over what an earlier keeper left: sandboxes that live; the rest is removed.
    fn find_living(&mut self) -> Result<(), Failure> {
        for id in record::ids(&self.settings.run)? {
            match record::Record::read(&self.settings.run, &id).ok().and_then(Resident::find) {
                Some(resident) => {
                    self.slots.keep(resident.record.slot);
                    self.living.insert(id, resident);
                }
                None => {
                    let _ = std::fs::remove_dir_all(record::folder(&self.settings.run, &id));
                }
            }
        }
        let kept: Vec<String> = self.living.values().map(|resident| group(resident.record.slot)).collect();
        for failure in living::sweep(&*self.mould.groups, &kept, &mut self.slots) {
            self.refused.count += 1;
            self.refused.last = Some(failure);
        }
        Ok(())
    }
}
