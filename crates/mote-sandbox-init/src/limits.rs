//! Every limit of the first process: threads, buffers, times.
//!
//! It does not hold the bounds of the contract (what one request may ask for): those are `mote_sandbox_api::limits`.

/// Operations at once: connections served and processes alive, each with a thread.
pub(crate) const OPERATIONS_MAX: usize = 1024;
/// Bytes of a thread's stack; only what is touched takes memory.
pub(crate) const THREAD_STACK_BYTES: usize = 256 * 1024;
/// Milliseconds that a connection has to state its request.
pub(crate) const REQUEST_DEADLINE_MS: u64 = 10_000;
/// Milliseconds that the first thread gives a request which it has to serve itself because no thread can be started.
pub(crate) const INLINE_DEADLINE_MS: u64 = 250;
/// Bytes of output that are read from a process at once.
pub(crate) const OUTPUT_CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of input that wait for a process.
pub(crate) const INPUT_CHUNK_BYTES: usize = 16 * 1024;
/// Connections that follow one process at once.
pub(crate) const FOLLOWERS_MAX: usize = 64;
/// Milliseconds that output is still waited for after a process ended while another one holds its pipes.
pub(crate) const OUTPUT_LINGER_MS: u64 = 100;
/// Pipes of ended processes that others still write to, read and dropped so that those do not block; the oldest is closed
/// beyond this.
pub(crate) const DRAINS_MAX: usize = 256;
/// Bytes read at once from a pipe whose output is dropped.
pub(crate) const DRAIN_CHUNK_BYTES: usize = 4096;
/// Bytes of `/etc/passwd` or `/etc/group`; what is beyond is not read.
pub(crate) const ACCOUNT_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Ids of accounts that the first process gives out lie below this one (`UID_MAX` of `login.defs(5)`).
pub(crate) const ACCOUNT_IDS_MAX: u32 = 60_000;
/// Supplementary groups of a user (Linux's `NGROUPS_MAX`).
pub(crate) const GROUPS_MAX: usize = 65_536;
/// Bytes of a file that travel in one frame.
pub(crate) const FILE_CHUNK_BYTES: usize = 128 * 1024;
/// Bytes of a frame after which a list's next items go into another one.
pub(crate) const LIST_FRAME_BYTES: usize = 64 * 1024;
/// Directories of a removal that are open at once; those below are moved up first.
pub(crate) const REMOVE_DEPTH_MAX: usize = 128;
/// Times that a directory is read again because something new stands in it while it is removed.
pub(crate) const REMOVE_ROUNDS_MAX: usize = 64;
/// Names tried for a temporary file.
pub(crate) const TEMPORARY_NAMES_MAX: u32 = 64;
/// Links followed on the way to a file with root's rights (Linux's `MAXSYMLINKS`).
pub(crate) const LINKS_MAX: usize = 40;
/// Bytes of the names of a file's extended attributes (`XATTR_LIST_MAX`).
pub(crate) const ATTRIBUTES_BYTES_MAX: usize = 64 * 1024;
/// Times that a watch reads its queue for a client that asked for all that has happened.
pub(crate) const WATCH_ROUNDS_MAX: usize = 256;
/// Bytes of file events read at once.
pub(crate) const WATCH_CHUNK_BYTES: usize = 16 * 1024;
/// Milliseconds that a connection to a port of the sandbox may take.
pub(crate) const DIAL_TIMEOUT_MS: u64 = 5_000;
/// Bytes of a dialled connection that travel in one frame.
pub(crate) const DIAL_CHUNK_BYTES: usize = 32 * 1024;
/// Times that the processes are looked through for members of a tree that is being ended.
pub(crate) const TREE_ROUNDS_MAX: usize = 16;
/// Milliseconds that processes have to be gone after they were killed.
pub(crate) const END_DEADLINE_MS: u64 = 5_000;
/// Milliseconds that processes have to end by themselves when the sandbox is asked to.
pub(crate) const END_GRACE_MS: u64 = 2_000;
/// Milliseconds between two looks at whether processes are gone.
pub(crate) const END_POLL_MS: u64 = 1;
/// Milliseconds to wait before accepting again when descriptors or memory have run out.
pub(crate) const ACCEPT_RETRY_MS: u64 = 10;
/// How much sooner than the first process (-1000 to 1000) others are ended where memory is short: as if each used a tenth of
/// it more.
pub(crate) const OOM_SCORE_MORE: i32 = 100;
/// The highest score that the kernel takes.
pub(crate) const OOM_SCORE_MAX: i32 = 1000;
/// Milliseconds that the files of the view may be old when a process is started or given input.
pub(crate) const VIEW_AGE_MS: u64 = 50;
/// Milliseconds between two writings of the files of the view while the sandbox computes, or somebody reads them.
pub(crate) const VIEW_BUSY_MS: u64 = 1_000;
/// The same where neither is so, at most: the time doubles from one to the next.
pub(crate) const VIEW_IDLE_MS_MAX: u64 = 32_000;
/// Bytes of a file of the view that are taken as what the host says.
pub(crate) const VIEW_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes that are read of a cgroup's file; the longest one, `memory.stat`, has some 3,000.
pub(crate) const VIEW_SOURCE_BYTES_MAX: usize = 8 * 1024;
