//! Every limit of the contract: what one request, one frame or one sandbox may ask for.
//!
//! It does not hold the daemon's own queues and buffers; those stand in the daemon's file of limits.

/// Bytes of a sandbox's, snapshot's or volume's name.
pub const NAME_BYTES_MAX: usize = 128;
/// Entries of a sandbox's metadata.
pub const METADATA_ENTRIES_MAX: usize = 64;
/// Bytes of one metadata key or value.
pub const METADATA_BYTES_MAX: usize = 1024;
/// Variables of an environment.
pub const ENV_ENTRIES_MAX: usize = 512;
/// Bytes of one environment variable, name and value.
pub const ENV_BYTES_MAX: usize = 128 * 1024;
/// Arguments of one process.
pub const ARGS_MAX: usize = 4096;
/// Bytes of all arguments of one process.
pub const ARGS_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a path (Linux's `PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Volumes mounted in one sandbox.
pub const VOLUMES_MAX: usize = 16;
/// Rules of one network policy.
pub const NETWORK_RULES_MAX: usize = 512;
/// Sandboxes asked for in one batch or one fork.
pub const BATCH_MAX: u32 = 100;
/// Bytes of one frame's payload between the daemon and the guest.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// Entries that one directory listing returns.
pub const LIST_ENTRIES_MAX: usize = 100_000;
/// Depth of one directory listing.
pub const LIST_DEPTH_MAX: u32 = 64;
/// Watches of one recursive directory watch.
pub const WATCHES_MAX: usize = 8192;
/// Bytes of a file's metadata: names, with the prefix that they are stored under, and values. E2B's bound.
pub const FILE_METADATA_BYTES_MAX: usize = 4096;
/// Bytes of one name in a file's metadata, with its prefix (`XATTR_NAME_MAX`).
pub const FILE_METADATA_NAME_BYTES_MAX: usize = 255;
