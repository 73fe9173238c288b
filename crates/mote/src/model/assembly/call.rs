//! Which call a piece belongs to. The format numbers calls and names each once; servers number all of them 0, give no ids or a
//! new one with each piece, send names in fragments or again and again, and repeat a whole call at the end.
//!
//! A call that is performed twice does more harm than one that is asked for again: what repeats a call word for word is taken
//! for a repetition, unless its index or its id says otherwise.

use serde_json::Value;

use super::Block;

/// What came of a call beside its arguments; empty where nothing came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: String,
    pub(super) name: String,
}

/// What a header is to the call before it at the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// It belongs to that call.
    Same,
    /// It begins another call.
    Another,
    /// It repeats that call, or begins another of the same tool: the arguments that follow tell.
    Perhaps,
}

/// What a header is to a call.
pub(super) fn relation(call: &Block, header: &Header) -> Relation {
    // Without a name it never begins a call: LM Studio gives each piece another id.
    if header.name.is_empty() || call.name.is_empty() {
        return Relation::Same;
    }
    let (same_name, begun) = (header.name == call.name, !call.extent.is_blank());
    let other_id = !header.id.is_empty() && !call.id.is_empty() && header.id != call.id;
    if call.extent.is_complete() {
        return if other_id || !same_name { Relation::Another } else { Relation::Perhaps };
    }
    match (same_name, other_id, begun) {
        // Header after header while the arguments come; perhaps with another id each time.
        (true, _, _) => Relation::Same,
        // A name in fragments.
        (false, false, false) => Relation::Same,
        (false, _, _) => Relation::Another,
    }
}

/// Adds to a call what its header says.
pub(super) fn complete(call: &mut Block, header: Header) {
    if call.id.is_empty() {
        call.id = header.id;
    }
    if header.name.starts_with(&call.name) {
        // Repeated whole, or longer each time.
        call.name = header.name;
    } else {
        call.name.push_str(&header.name);
    }
}

/// Whether arguments say again what complete ones said.
pub(super) fn repeats(said: &str, again: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    said.trim() == again.trim() || parse(again).is_some_and(|again| parse(said) == Some(again))
}
