//! Which call a piece belongs to. The format numbers calls and names each once; servers number all of them 0, give no ids or a
//! new one with each piece, send names in fragments or again and again, and repeat a whole call, or all of them, at the end.
//!
//! A call that is performed twice does more harm than one that is asked for again: what repeats a call word for word is taken
//! for a repetition, unless its index or its id says otherwise. What may be one is gathered beside the call that it repeats,
//! until its arguments are whole and tell.

use mote_wire::extent::Extent;
use mote_wire::json::Text;
use serde_json::Value;

use super::{Assembly, Block, DeltaSink, Kind, Refusal};
use crate::limits::MODEL_REPLY_CALLS_MAX;

/// What came of a call beside its arguments; empty where nothing came.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    id: String,
    name: String,
}

/// Whether a call may only repeat another at its index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It does not.
    #[default]
    None,
    /// It came with a header: it is a repetition, or another call of the same tool.
    Named,
    /// Only arguments came, behind those of a call that was complete: they are a repetition, or spoil that call.
    Bare,
}

/// What tells the calls of one index apart.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// Ids that came after the first, while no arguments had.
    others: Vec<String>,
    /// Another id came for the same call: what its ids say means nothing.
    unstable: bool,
    /// The call to which something was addressed last has the highest.
    turn: u32,
    /// The last list of calls that had it.
    list: u32,
    pub(super) doubt: Doubt,
}

impl Assembly {
    /// Takes a call's header.
    pub(super) fn call(
        &mut self,
        index: u32,
        id: Option<Text<'_>>,
        name: Option<Text<'_>>,
        distinct: bool,
        deltas: DeltaSink<'_>,
    ) -> Result<(), Refusal> {
        self.grow(id.map_or(0, |id| id.raw_len()) + name.map_or(0, |name| name.raw_len()))?;
        let written = |text: Option<Text<'_>>| text.map(|text| text.to_string()).unwrap_or_default();
        let header = Header { id: written(id), name: written(name) };
        if !distinct && !header.name.is_empty() {
            self.list = self.list.saturating_add(1);
        }
        self.part(index, &header.id);
        match self.belongs(index, &header, distinct) {
            Some(at) => {
                self.address(at);
                complete(&mut self.blocks[at], header);
            }
            None => self.begin_call(index, header, deltas),
        }
        self.check_calls()
    }

    /// Takes a piece of the arguments of the call that was addressed last at its index.
    pub(super) fn arguments(&mut self, index: u32, text: Text<'_>, deltas: DeltaSink<'_>) -> Result<(), Refusal> {
        self.grow(text.raw_len())?;
        let mut at = self.current(index).unwrap_or_else(|| self.push_call(Block::new(Kind::Call, index)));
        let mut more = String::new();
        // Writing to a string does not fail.
        let _ = self.blocks[at].joiner.push(text, &mut more);
        let block = &mut self.blocks[at];
        if block.extent.is_complete() && !more.trim().is_empty() {
            if is_empty_object(&block.text) && more.trim_start().starts_with('{') {
                // It stood for arguments that were still to come.
                block.text.clear();
                block.extent = Extent::default();
            } else {
                let (id, name) = (block.id.clone(), block.name.clone());
                let identity = Identity { doubt: Doubt::Bare, ..Identity::default() };
                at = self.push_call(Block { id, name, identity, ..Block::new(Kind::Call, index) });
            }
        }
        let block = &mut self.blocks[at];
        block.extent.push(more.as_bytes());
        block.text.push_str(&more);
        if block.extent.is_complete() && block.identity.doubt != Doubt::None {
            self.resolve(at);
            self.announce(deltas);
        }
        self.check_calls()
    }

    /// Leaves out, at the reply's end, what repeats a call.
    pub(super) fn settle(&mut self) {
        let mut at = 0;
        while let Some(block) = self.blocks.get(at) {
            match block.identity.doubt {
                Doubt::Bare => self.resolve(at),
                Doubt::Named if block.extent.is_blank() => drop(self.blocks.remove(at)),
                _ if self.is_told_twice(at) => drop(self.blocks.remove(at)),
                _ => {
                    self.blocks[at].identity.doubt = Doubt::None;
                    at += 1;
                }
            }
        }
    }

    /// Whether another call with the same id is the same, or is this one with its arguments.
    fn is_told_twice(&self, at: usize) -> bool {
        let call = &self.blocks[at];
        if call.kind != Kind::Call || call.id.is_empty() {
            return false;
        }
        let says = |block: &Block| !block.extent.is_blank() && !is_empty_object(&block.text);
        self.blocks.iter().enumerate().any(|(place, other)| {
            let same = other.kind == Kind::Call && other.id == call.id && other.name == call.name && place != at;
            let earlier = place < at && (repeats(&other.text, &call.text) || !says(call));
            same && (earlier || (says(other) && !says(call)))
        })
    }

    /// The call that a header belongs to; `None` where it begins one.
    fn belongs(&self, index: u32, header: &Header, distinct: bool) -> Option<usize> {
        let unnamed = header.name.is_empty();
        let known = |block: &Block| is_call(block, index) && !header.id.is_empty() && block.id == header.id;
        if let Some(at) = self.blocks.iter().rposition(known) {
            let block = &self.blocks[at];
            let fits = block.name.is_empty() || block.name == header.name || block.extent.is_blank();
            // Two entries of one list are two calls.
            let apart = distinct && (block.name.is_empty() || block.identity.list == self.list);
            let open = !block.extent.is_complete() && fits && !apart;
            return (unnamed || open).then_some(at);
        }
        if distinct {
            return None;
        }
        let at = self.current(index)?;
        let block = &self.blocks[at];
        // Without a name it never begins a call: LM Studio gives each piece another id.
        if unnamed || block.name.is_empty() {
            return Some(at);
        }
        if block.extent.is_complete() {
            return None;
        }
        // Header after header while the arguments come, perhaps with another id each time; or a name in fragments.
        let other_id = !header.id.is_empty() && !block.id.is_empty();
        let fragment = !other_id && block.extent.is_blank() && block.identity.doubt == Doubt::None;
        (block.name == header.name || fragment).then_some(at)
    }

    fn begin_call(&mut self, index: u32, header: Header, deltas: DeltaSink<'_>) {
        self.announce(deltas);
        let Header { id, name } = header;
        let may_repeat = |block: &Block| {
            is_call(block, index)
                && block.identity.list != self.list
                && block.name == name
                && block.extent.is_complete()
                && (is_silent(block, &id, false) || is_empty_object(&block.text))
        };
        let doubt = if self.blocks.iter().any(may_repeat) { Doubt::Named } else { Doubt::None };
        let identity = Identity { doubt, ..Identity::default() };
        self.push_call(Block { id, name, identity, ..Block::new(Kind::Call, index) });
    }

    fn push_call(&mut self, block: Block) -> usize {
        self.blocks.push(block);
        let at = self.blocks.len() - 1;
        self.address(at);
        at
    }

    /// What follows at the call's index is for it.
    fn address(&mut self, at: usize) {
        self.turn = self.turn.saturating_add(1);
        let identity = &mut self.blocks[at].identity;
        (identity.turn, identity.list) = (self.turn, self.list);
    }

    /// The call to which something was addressed last at an index.
    pub(super) fn current(&self, index: u32) -> Option<usize> {
        let calls = self.blocks.iter().enumerate().filter(|(_, block)| is_call(block, index));
        calls.max_by_key(|(_, block)| block.identity.turn).map(|(at, _)| at)
    }

    /// An id that comes back behind another tells that what was taken for one call, with a new id each time, is several.
    fn part(&mut self, index: u32, id: &str) {
        let is_back = |block: &Block| {
            let latest = block.identity.others.last();
            is_call(block, index)
                && latest.is_some_and(|latest| latest != id)
                && (block.id == id || block.identity.others.iter().any(|other| other == id))
        };
        let Some(at) = self.blocks.iter().rposition(is_back).filter(|_| !id.is_empty()) else { return };
        let block = &mut self.blocks[at];
        // Its arguments came behind the latest id.
        let mut ids = std::mem::take(&mut block.identity.others);
        let latest = ids.pop().unwrap_or_default();
        ids.insert(0, std::mem::replace(&mut block.id, latest));
        block.identity.unstable = false;
        let (name, list) = (block.name.clone(), block.identity.list);
        for id in ids.into_iter().rev() {
            let identity = Identity { list, ..Identity::default() };
            self.blocks.insert(at, Block { id, name: name.clone(), identity, ..Block::new(Kind::Call, index) });
        }
    }

    /// Says what a doubtful call is, now that its arguments came.
    fn resolve(&mut self, at: usize) {
        let call = self.blocks.remove(at);
        if call.identity.doubt == Doubt::Bare {
            let Some(original) = self.current(call.index) else { return };
            let original = &mut self.blocks[original];
            if !repeats(&original.text, &call.text) {
                original.extent.push(call.text.as_bytes());
                original.text.push_str(&call.text);
            }
            return;
        }
        let list = call.identity.list;
        let is_repeated = |block: &Block| {
            is_call(block, call.index)
                && block.identity.list != list
                && block.name == call.name
                && is_silent(block, &call.id, call.identity.unstable)
                && block.extent.is_complete()
                && repeats(&block.text, &call.text)
        };
        match self.blocks.iter().position(is_repeated) {
            // Of a list that is repeated whole, each call repeats one.
            Some(original) => self.address(original),
            None => {
                self.blocks.insert(at, Block { identity: Identity { doubt: Doubt::None, ..call.identity }, ..call })
            }
        }
    }
}

fn is_call(block: &Block, index: u32) -> bool {
    block.kind == Kind::Call && block.index == index
}

/// Whether ids say nothing of whether a call is another than `block`.
fn is_silent(block: &Block, id: &str, unstable: bool) -> bool {
    id.is_empty() || block.id.is_empty() || block.id == id || block.identity.unstable || unstable
}

/// Adds to a call what its header says.
fn complete(call: &mut Block, header: Header) {
    let Header { id, name } = header;
    if call.id.is_empty() {
        call.id = id;
    } else if !id.is_empty() && id != call.id {
        call.identity.unstable = true;
        let others = &mut call.identity.others;
        if call.extent.is_blank() && others.len() < MODEL_REPLY_CALLS_MAX && others.last() != Some(&id) {
            others.push(id);
        }
    }
    if name.starts_with(&call.name) {
        // Repeated whole, or longer each time.
        call.name = name;
    } else {
        call.name.push_str(&name);
    }
}

fn is_empty_object(text: &str) -> bool {
    let inner = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    inner.is_some_and(|inner| inner.trim().is_empty())
}

/// Whether arguments say again what complete ones said.
fn repeats(said: &str, again: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    said.trim() == again.trim() || parse(again).is_some_and(|again| parse(said) == Some(again))
}
