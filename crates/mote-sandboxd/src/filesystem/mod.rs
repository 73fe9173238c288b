//! Root filesystems: images, writable roots, snapshots, rollback, forks, volumes; on btrfs, and on overlay where there is none.
//!
//! It does not know what runs in a root, except through the quiescing that overlay needs before a snapshot.

pub mod keeper;
