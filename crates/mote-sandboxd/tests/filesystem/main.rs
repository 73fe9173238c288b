//! The filesystem interface of the keeper, the same suite on btrfs and on plain directories, with real mounts: as root.
//!
//! It does not test what runs inside: the system tests do.
#![allow(clippy::unwrap_used)]

mod images;
mod roots;
mod served;
mod stage;
mod trees;
