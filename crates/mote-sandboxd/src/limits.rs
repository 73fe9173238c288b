//! Every limit of the daemon and its keeper: queues, buffers, retries, payloads.
//!
//! It does not hold the bounds of the contract (what one request may ask for): those are `mote_sandbox_api::limits`.

mod control;
mod names;
mod template;

use std::time::Duration;

pub use control::*;
pub use names::*;
pub use template::*;

/// Bytes of one message between the daemon and the keeper.
pub const KEEPER_MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Descriptors that travel with one message between the daemon and the keeper.
pub const KEEPER_DESCRIPTORS_MAX: usize = 128;
/// How long a keeper waits for the one before it to be gone.
pub const KEEPER_TURN_WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
pub const KEEPER_TURN_POLL: Duration = Duration::from_millis(5);
/// Verbs that wait for the keeper; what comes beyond is answered `exhausted`.
pub const KEEPER_QUEUE_MAX: usize = 1024;

/// Rules, secrets and ranges of one network policy beside the contract's bound on rules.
pub const NETWORK_SECRETS_MAX: usize = 64;
/// Hosts that one secret may be bound to.
pub const NETWORK_SECRET_HOSTS_MAX: usize = 64;
/// Blocks of private ranges that one policy may open.
pub const NETWORK_PRIVATE_RANGES_MAX: usize = 64;
/// Headers that one rule sets.
pub const NETWORK_HEADERS_MAX: usize = 32;
/// Bytes of one secret's value.
pub const NETWORK_SECRET_BYTES_MAX: usize = 16 * 1024;
/// Connections that one sandbox has open at once where its policy does not say.
pub const EGRESS_CONNECTIONS_DEFAULT: u32 = 1024;
/// Connections that one sandbox may be given at most.
pub const EGRESS_CONNECTIONS_MAX: u32 = 16 * 1024;
/// Connections that wait in the kernel for the daemon to accept them, for each sandbox.
pub const EGRESS_BACKLOG: i32 = 1024;
/// Time to connect to a destination.
pub const EGRESS_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for the first bytes of a connection to tell what it is, and for a TLS handshake.
pub const EGRESS_SNIFF_TIMEOUT: Duration = Duration::from_secs(15);
/// Time that a client may be silent before the destination is asked to speak first (SSH, SMTP).
pub const EGRESS_SILENCE: Duration = Duration::from_millis(150);
/// First bytes held back until it is clear what a connection is: a `ClientHello` may be as long as 64 KiB, in many records.
pub const EGRESS_SNIFF_BYTES_MAX: usize = 80 * 1024;
/// Bytes of a line that may still turn out to begin an HTTP request.
pub const EGRESS_LINE_BYTES_MAX: usize = 16 * 1024;
/// Buffer of one direction of a spliced connection.
pub const EGRESS_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of the head of an HTTP request or response.
pub const EGRESS_HEAD_BYTES_MAX: usize = 128 * 1024;
/// Headers of one HTTP request or response.
pub const EGRESS_HEADERS_MAX: usize = 256;
/// Bytes of an HTTP request's body in which placeholders are swapped; a longer body passes as it is.
pub const EGRESS_SWAP_BODY_BYTES_MAX: usize = 1024 * 1024;
/// TLS server configurations (one a name) kept by the daemon's authority.
pub const AUTHORITY_LEAVES_MAX: usize = 1024;
/// TLS sessions kept for resumption by clients inside.
pub const AUTHORITY_SESSIONS_MAX: usize = 4096;
/// Decisions kept for each sandbox.
pub const DECISIONS_KEPT: usize = 1024;
/// Decisions of one sandbox written to the log each second; those beyond are only counted and kept.
pub const DECISIONS_LOGGED_PER_SECOND: u32 = 100;
/// Addresses remembered as told, for each sandbox.
pub const TOLD_ADDRESSES_MAX: usize = 4096;
/// Names remembered for one address told.
pub const TOLD_NAMES_MAX: usize = 64;
/// Time that a told address may be connected to: clients keep answers far beyond their time to live.
pub const TOLD_KEPT: Duration = Duration::from_secs(3600);
/// Bytes of the body of one exchange on tape, request and response each.
pub const TAPE_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of exchanges under way that are held for tapes, of one sandbox.
pub const TAPING_BYTES_MAX: u64 = 64 << 20;
/// The same of all sandboxes.
pub const TAPING_BYTES_ALL_MAX: u64 = 256 << 20;
/// Bytes of one tape.
pub const TAPE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Exchanges of one tape.
pub const TAPE_EXCHANGES_MAX: usize = 100_000;
/// Bytes of a tape's name.
pub const TAPE_NAME_BYTES_MAX: usize = 128;
// Filesystem and images.

/// Bytes of the id of a sandbox, snapshot, layer or volume.
pub const POOL_ID_BYTES_MAX: usize = 96;
/// Bytes of the record beside a tree.
pub const POOL_RECORD_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of the pool's file where the operator names no size, at most. The file is sparse: it takes what is written.
pub const POOL_BYTES_DEFAULT: u64 = 64 << 30;
/// Of what the disk has left, hundredths that such a pool may take: the rest is the host's and the daemon's own state's.
pub const POOL_DISK_PERCENT_MAX: u64 = 75;
/// Bytes of the least pool: what `mkfs.btrfs` needs, and room for a sandbox.
pub const POOL_BYTES_MIN: u64 = 512 << 20;
/// Subvolumes inside a tree that one removal of the tree removes; the next goes on.
pub const NESTED_SUBVOLUMES_MAX: usize = 10_000;
/// Subvolumes within each other inside a tree that is removed.
pub const NESTED_SUBVOLUMES_DEPTH_MAX: usize = 64;
/// Bytes that a volume may be charged with where the operator says nothing else.
pub const VOLUME_BYTES_DEFAULT: u64 = 16 << 30;
/// How often the daemon removes images without a name and layers that nothing uses.
pub const COLLECT_EVERY: Duration = Duration::from_secs(10 * 60);
/// Read-only trees under one root; a commit beyond is flattened. (The kernel's own bound is 500.)
pub const LOWER_TREES_MAX: usize = 32;
/// Writes that wait for the state; what comes beyond is answered `exhausted`.
pub const STATE_QUEUE_MAX: usize = 4096;
/// How long the state waits for another process (`key new`) that writes the same file.
pub const STATE_BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// How long to wait before a record that could not be written is written again; twice as long each time.
pub const STATE_RETRY_FIRST: std::time::Duration = std::time::Duration::from_millis(100);
/// The longest such wait.
pub const STATE_RETRY_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// Milliseconds for which an answer under an idempotency key is kept.
pub const IDEMPOTENCY_KEPT_MS: u64 = 24 * 3_600_000;
/// Lines of one sandbox's journal.
pub const JOURNAL_LINES_MAX: usize = 512;
/// Bytes of one line of a sandbox's journal.
pub const JOURNAL_LINE_BYTES_MAX: usize = 1024;
/// The longest lease or deadline.
pub const LEASE_MAX: std::time::Duration = std::time::Duration::from_secs(366 * 86_400);
/// The least memory or disk that a sandbox can be given, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// The least share of a processor that a sandbox can be given, in thousandths.
pub const CPU_MILLI_MIN: u32 = 10;
/// The least number of processes that a sandbox can be given.
pub const PIDS_MIN: u32 = 4;
/// Sandboxes that are not gone, where the configuration does not say otherwise.
pub const SANDBOXES_MAX: usize = 2048;
/// Sandboxes that are made at the same time; the others wait their turn.
pub const CREATIONS_AT_ONCE: usize = 32;
/// Creations that wait their turn; what comes beyond is answered `exhausted`.
pub const CREATIONS_WAITING_MAX: usize = 1024;
/// Records of gone sandboxes that are kept for lookups.
pub const GONE_KEPT_MAX: usize = 1024;
/// Milliseconds for which the record of a gone sandbox is kept.
pub const GONE_KEPT_MS: u64 = 3_600_000;
/// How long a request waits for a sandbox that is on its way to be usable.
pub const AWAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How long a removal is waited for; it goes on beyond.
pub const REMOVE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// How long to wait before what a creation left behind is given back again; twice as long each time.
pub const GIVE_BACK_RETRY_FIRST: std::time::Duration = std::time::Duration::from_millis(100);
/// The longest such wait.
pub const GIVE_BACK_RETRY_MAX: std::time::Duration = std::time::Duration::from_secs(30);
/// Sandboxes, and things without a record, that recovery sees to at once.
pub const RECOVERIES_AT_ONCE: usize = 256;
/// How long the start of the daemon waits for what a crash left half-made or half-ended; it goes on beyond.
pub const RECOVERY_SETTLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
/// How long the first process of a sandbox that is adopted may take to answer. The daemon serves meanwhile.
pub const RECOVERY_HELLO_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// How long recovery waits for one sandbox, or for one thing without a record, before it gives it up.
pub const RECOVERY_STEP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a new sandbox's first process may take to answer.
pub const GUEST_START_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);
/// How long to wait before the warm pool tries again after a sandbox could not be made.
pub const POOL_RETRY: std::time::Duration = std::time::Duration::from_secs(5);
/// How long after a claim the warm pool is filled again, unless half of it is gone: whoever claims wants to run something.
pub const POOL_QUIET: std::time::Duration = std::time::Duration::from_millis(10);
/// Sandboxes that one entry of the warm pool may hold.
pub const POOL_SIZE_MAX: usize = 512;
/// Milliseconds after which what was due and could not be done is tried again.
pub const TIMER_RETRY_MS: u64 = 250;
/// The same where it was tried and failed: nothing that passes by itself is in its way.
pub const TIMER_FAILED_RETRY_MS: u64 = 30_000;
/// The longest sleep of the timers: the wall clock may be set meanwhile.
pub const TIMER_SLEEP_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// How long the list of keys holds as it was read; a revoked one is refused within this time.
pub const KEY_LIST_TIME: std::time::Duration = std::time::Duration::from_secs(2);
/// How long to wait between two readings of the keys, however many guess at one.
pub const KEY_READ_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Requests a second whose sandbox is looked for by their signature alone; what comes beyond is answered `exhausted`.
pub const SIGNATURE_SEARCHES_PER_SECOND: u64 = 100;
/// Bytes of a signed address' path.
pub const SIGNED_PATH_BYTES_MAX: usize = 4096;
/// Connections that are served at once; further ones wait in the kernel.
pub const CONNECTIONS_MAX: usize = 8192;
/// Of the descriptors that the daemon may have, hundredths for connections of clients; as many for what these ask inside.
pub const DESCRIPTORS_CLIENTS_PERCENT: usize = 20;
/// The same for connections of all sandboxes to destinations.
pub const DESCRIPTORS_EGRESS_PERCENT: usize = 20;
/// Connections of all sandboxes to destinations, however many descriptors there are: each has two buffers.
pub const EGRESS_CONNECTIONS_ALL_MAX: usize = 8192;
/// Of the connections of all sandboxes, hundredths that only sandboxes with few of their own are given.
pub const EGRESS_RESERVED_PERCENT: usize = 25;
/// Connections that make a sandbox one with few.
pub const EGRESS_CONNECTIONS_FEW: usize = 16;
/// How long to wait before accepting again after it failed.
pub const ACCEPT_RETRY: std::time::Duration = std::time::Duration::from_millis(50);
/// How long a request's head may take.
pub const HEADER_READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How long the rest of a body that was refused is read, so that its sender hears the answer.
pub const BODY_REST_TIME: std::time::Duration = std::time::Duration::from_secs(5);
/// Bytes of it that are read, at most.
pub const BODY_REST_BYTES: u64 = 64 << 20;
/// How long a client may read nothing while an answer or a stream waits for it; what it reads begins this time anew.
pub const RESPONSE_WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer that the kernel takes before the client has made room for them: what a slow client must read about
/// half of within [`RESPONSE_WRITE_TIMEOUT`].
pub const RESPONSE_UNSENT_BYTES: u32 = 128 << 10;
/// Headers of one request.
pub const HEADERS_MAX: usize = 128;
/// Bytes of a request's head.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// How long requests under way may go on when the daemon stops.
pub const CONNECTION_GRACE: std::time::Duration = std::time::Duration::from_secs(10);
/// Bytes of a request's JSON body.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Bytes of bodies that are being read, of all requests together; what comes beyond is answered `exhausted`.
pub const BODIES_READ_BYTES_MAX: u64 = 512 << 20;
/// Bytes of each of standard output and standard error that a gathered exec answers with; the rest is cut and counted.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Bytes of a file that is written through the API.
pub const UPLOAD_BYTES_MAX: u64 = 64 << 30;
/// Items of one page of a list.
pub const PAGE_MAX: usize = 1000;
/// Items of one page of a list where the request does not say.
pub const PAGE_DEFAULT: usize = 100;
/// Bytes of a secret's value.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Bytes of one message on a WebSocket.
pub const SOCKET_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Messages of input of a streamed process that wait until it takes them.
pub const STREAM_INPUT_HELD: usize = 4;
/// Sandboxes that `/metrics` tells of one by one; of those beyond it tells the sum alone.
pub const METRICS_SANDBOXES_MAX: usize = 500;
/// How long what sandboxes use is told as it was measured, to who holds a key.
pub const METRICS_FRESH: Duration = Duration::from_millis(200);
/// The same, to everybody else.
pub const METRICS_FRESH_OPEN: Duration = Duration::from_secs(10);
/// Sandboxes whose use is asked for at once.
pub const METRICS_ASKED_AT_ONCE: usize = 32;
/// Connections that previews hold into one sandbox at once. Each takes up to two of its threads.
pub const PREVIEW_CONNECTIONS_MAX: usize = 64;
/// Bytes of a part of a secret's form in base64 that is looked for in answers: shorter ones stand there by chance.
pub const ECHO_FORM_BYTES_MIN: usize = 8;
/// Lines of the log that wait for standard error; those beyond are dropped and counted.
pub const LOG_LINES_WAITING_MAX: usize = 4096;
/// How long the end of the daemon waits for them.
pub const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it tries meanwhile, where their queue is full.
pub const LOG_FLUSH_PAUSE: Duration = Duration::from_millis(2);
/// Lines of the log that one sandbox is given each second; those beyond are left out and counted.
pub const LOG_LINES_OF_SANDBOX_PER_SECOND: u32 = 200;
/// Sandboxes whose lines are counted one by one in a second; those beyond share one account.
pub const LOG_SANDBOXES_COUNTED_MAX: usize = 4096;
/// Bytes of one field of a log line.
pub const LOG_FIELD_BYTES_MAX: usize = 4096;
/// Milliseconds without a call after which the keeper prepares what the next ones will need.
pub const KEEPER_IDLE_MS: u32 = 2;
/// Bytes of a sandbox's hostname (Linux's `HOST_NAME_MAX`).
pub const HOSTNAME_BYTES_MAX: usize = 64;
/// Volumes and data mounted in one sandbox.
pub const MOUNTS_MAX: usize = 32;
/// Layers of one root: their names have to fit the 256 bytes of a mount option.
pub const LAYERS_MAX: usize = 64;
/// Host ids of one sandbox.
pub const RANGE_IDS: u32 = 65_536;
/// Ranges of host ids, and so sandboxes alive or being prepared at once.
pub const SLOTS_MAX: u32 = 3_840;
/// Terminals of one sandbox.
pub const TERMINALS_MAX: u32 = 256;
/// Connections that wait for a sandbox's first process.
pub const GUEST_BACKLOG: i32 = 512;
/// Milliseconds that a connection waits for a place among those.
pub const GUEST_BACKLOG_TIMEOUT_MS: u64 = 4_000;
/// First pause before it is tried again, doubled each time.
pub const GUEST_BACKLOG_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);
/// Longest such pause.
pub const GUEST_BACKLOG_PAUSE_MAX: std::time::Duration = std::time::Duration::from_millis(64);
/// Open files of one process of a sandbox, where the host allows as many.
pub const OPEN_FILES_MAX: u64 = 1_048_576;
/// Bytes of the file that a crash leaves. With 0 a `core_pattern` that begins with `|` still has the host's root run a program;
/// with 1 the kernel runs none (core(5)), and writes no file either: a dump has a page at least.
pub const CORE_BYTES: u64 = 1;
/// Times that the keeper tries to remove what is left of a sandbox before it is reported.
pub const REMOVAL_TRIES: u32 = 50;
/// How long a start waits for one process that an earlier daemon left and that was killed: one that hangs in the kernel must
/// not keep the daemon down.
pub const REAP_WAIT: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
/// Times that the keeper looks whether every process of a sandbox is stopped.
pub const FREEZE_TRIES: u32 = 200;
/// Nanoseconds between two such looks.
pub const FREEZE_PAUSE_NS: i64 = 250_000;
/// The kernel ends a sandbox's processes before the host's where the host's memory is short (-1000 to 1000).
pub const OOM_SCORE: &str = "500";
/// Bytes of the small filesystems that hold a sandbox's `/dev`, `/sys` and runtime files.
pub const RUNTIME_BYTES_MAX: &str = "1m";
/// Bytes of what the host says in one of the files that show a sandbox's bounds; what is beyond is not shown.
pub const VIEW_FILE_BYTES_MAX: usize = 64 * 1024;
/// Milliseconds to connect to the first process of a sandbox and to send it a request.
pub const GUEST_CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Milliseconds that the first process of a sandbox has to reply, or to send the next part of a list.
pub const GUEST_REPLY_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds for what may take long inside a sandbox: writing to the disk, removing a tree.
pub const GUEST_SYNC_TIMEOUT_MS: u64 = 120_000;
/// Bytes of a list that the first process of a sandbox sends in all.
pub const GUEST_LIST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Processes that the first process of a sandbox lists.
pub const GUEST_PROCESSES_MAX: usize = 4096;
/// Bytes read at once from the first process of a sandbox.
pub const GUEST_READ_BYTES: usize = 16 * 1024;
/// Bytes of each text in a failure that comes from inside a sandbox.
pub const GUEST_FAILURE_BYTES_MAX: usize = 4096;
/// Facts of a failure that comes from inside a sandbox.
pub const GUEST_FAILURE_FACTS_MAX: usize = 16;
/// Bytes of memory that a process working on a tree may map.
pub const WORKER_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Descriptors of a process working on a tree.
pub const WORKER_DESCRIPTORS_MAX: u64 = 4096;
/// Directories under each other that a process working on a tree goes down: each needs up to three descriptors.
pub const WORKER_DEPTH_MAX: usize = 1024;
/// Entries of one directory that a process working on a tree holds at once.
pub const WORKER_DIRECTORY_ENTRIES_MAX: usize = 1_000_000;
/// Bytes read or written at once.
pub const WORKER_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of a path in an archive.
pub const WORKER_PATH_BYTES_MAX: usize = 4096;
/// Extended attributes of one entry that are kept.
pub const WORKER_ATTRIBUTES_MAX: usize = 64;
/// Bytes of one extended attribute, or of the list of their names (the kernel's own bounds).
pub const WORKER_ATTRIBUTE_BYTES_MAX: usize = 64 * 1024;
/// Changes in one message of a comparison: with paths of 4 KiB it must still fit a message.
pub const WORKER_CHANGES_MESSAGE_MAX: usize = 16;
/// Entries of one tree in an archive.
pub const TREE_ENTRIES_MAX: u64 = 4_000_000;
/// Bytes of one tree in an archive.
pub const TREE_BYTES_MAX: u64 = 64 << 30;
/// Bytes that an archive may have beside twice those of its files: headers, and what fills up blocks.
pub const STREAM_BYTES_BESIDE: u64 = 64 << 20;
/// Images, with their names and the steps of recipes, that are kept.
pub const IMAGES_MAX: usize = 20_000;
/// Processes that work on trees at once.
pub const WORKERS_MAX: usize = 8;
/// Milliseconds that a worker has to end after it said that it is done; the keeper waits meanwhile.
pub const WORKER_END_MS_MAX: i64 = 500;
/// Bytes of what stands before an entry of an archive: its pax records, or its long name.
pub const WORKER_EXTENSION_BYTES_MAX: u64 = 1024 * 1024;
/// How often the daemon looks whether its keeper is there.
pub const KEEPER_PING_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
/// How long ending every sandbox may take when the daemon stops for good.
pub const REMOVE_ALL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// Bytes of a file of the host's settings that an image of the host shows.
pub const HOST_SETTING_BYTES_MAX: u64 = 4 << 20;
/// Files of the host's settings that an image of the host shows.
pub const HOST_SETTINGS_MAX: usize = 20_000;
/// How long a keeper waits for another one that makes the same image of the host.
pub const HOST_SKELETON_WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
pub const HOST_SKELETON_POLL: Duration = Duration::from_millis(10);
/// Bytes of the record of an image.
pub const IMAGE_RECORD_BYTES_MAX: usize = 64 * 1024;
/// Ids, or living sandboxes, in one message of the keeper: of the longest ids, they take a quarter of what it may hold.
pub const KEEPER_PAGE_MAX: usize = 256;
/// Bytes of an image's name.
pub const IMAGE_NAME_BYTES_MAX: usize = 256;
/// Bytes of a tarball that is imported, compressed.
pub const IMAGE_TARBALL_BYTES_MAX: u64 = 32 << 30;
/// Changes of a root that one answer tells; what is beyond is cut, and the answer says so.
pub const DIFF_CHANGES_MAX: usize = 100_000;
/// Version of what the steps of a recipe do: with another one, nothing that was built before is taken as it is.
pub const IMAGE_STEPS_VERSION: u32 = 1;
/// Milliseconds that one step of a recipe may take.
pub const BUILD_STEP_TIMEOUT: u64 = 30 * 60 * 1000;
/// Bytes that one step of a recipe may write, where the pool has quotas.
pub const BUILD_DISK_BYTES_MAX: u64 = 16 << 30;
/// Processes and threads of one step.
pub const BUILD_PIDS_MAX: u32 = 4096;
/// Bytes of a step's output that are kept for its failure.
pub const BUILD_OUTPUT_BYTES_KEPT: usize = 64 * 1024;
/// Lines of it that a failure tells.
pub const BUILD_LINES_TOLD: usize = 20;
/// Bytes of a recipe of an image.
pub const RECIPE_BYTES_MAX: u64 = 1024 * 1024;
/// Steps of a recipe: packages, modules and files together.
pub const RECIPE_ENTRIES_MAX: usize = 4096;
/// Pieces of data in one file with holes; a file with more is packed as if it had none.
pub const SPARSE_SEGMENTS_MAX: usize = 16_384;
/// Bytes of the bundle of authorities that an image has.
pub const BUNDLE_BYTES_MAX: usize = 4 << 20;

// Code interpreter.

/// Bytes of one cell's code.
pub const CODE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a request to the code interpreter.
pub const CODE_REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Contexts of one sandbox.
pub const CODE_CONTEXTS_MAX: usize = 64;
/// Cells that run or wait in one context.
pub const CODE_WAITING_MAX: usize = 64;
/// Messages of a cell that wait for a caller who is slow; then the code waits.
pub const CODE_MESSAGES_HELD: usize = 16;
/// Bytes of one message of a driver: a picture is one.
pub const CODE_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a message of a driver from which on it counts as large: it takes memory of its sandbox's share, and one waits at a time.
pub const CODE_LARGE_BYTES: usize = 64 * 1024;
/// Bytes of large messages of one sandbox that are being read or wait for a caller.
pub const CODE_LARGE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// The same of all sandboxes.
pub const CODE_LARGE_BYTES_ALL_MAX: u64 = 512 * 1024 * 1024;
/// Bytes kept of what a driver says on standard error before it is ready.
pub const CODE_START_WORDS_BYTES: usize = 4096;
/// Bytes that stand behind a mark of the bash driver on its line: a number and a status, or a path.
pub const CODE_MARK_LINE_BYTES_MAX: usize = 4096;
/// Time for a driver to start.
pub const CODE_START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time limit of one cell.
pub const CODE_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Time that bash has to begin a cell before an interrupt of that cell no longer waits for it.
pub const CODE_BEGIN_GRACE: Duration = Duration::from_secs(2);
/// Time that code has to end after an interrupt; then its process is killed.
pub const CODE_INTERRUPT_GRACE: Duration = Duration::from_secs(5);
/// Times that what a shell waits for is ended, each with the same time, before the shell itself is killed.
pub const CODE_CHILDREN_ROUNDS: u32 = 2;

// E2B's surface.

/// Bytes of one message of an RPC; input of a process travels in one.
pub const RPC_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Requests for files of volumes that are carried out at once: each has a process for a moment, of the bound of all.
pub const VOLUME_REQUESTS_MAX: usize = 4;
/// How long a request for a file of a volume waits for its turn.
pub const VOLUME_REQUEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a volume's file that are read at once.
pub const VOLUME_CHUNK_BYTES: usize = 128 * 1024;
/// Watches of one sandbox whose events are polled.
pub const WATCHERS_OF_SANDBOX_MAX: usize = 64;
/// Requests for the events of one polled watch that wait at once.
pub const WATCHER_ASKS_MAX: usize = 64;
/// Events that a polled watch holds.
pub const WATCHER_EVENTS_MAX: usize = 10_000;
/// Bytes of events that the polled watches of one sandbox hold, as JSON.
pub const WATCHER_BYTES_MAX: u64 = 8 << 20;
/// The same of all sandboxes.
pub const WATCHER_BYTES_ALL_MAX: u64 = 128 << 20;
/// Files of one uploaded form.
pub const UPLOAD_FILES_MAX: usize = 1000;
/// Files that are put together in one request.
pub const COMPOSE_PARTS_MAX: usize = 10_000;
/// Bytes of a sandbox's environment as it is told.
pub const ENVIRONMENT_BYTES_MAX: usize = 1024 * 1024;
/// Lease of a sandbox made through E2B's API where none is given.
pub const E2B_LEASE_DEFAULT: Duration = Duration::from_secs(300);
/// The same through the first version of that API.
pub const E2B_LEASE_DEFAULT_V1: Duration = Duration::from_secs(15);
/// Lines of a sandbox's log told where no number is asked for.
pub const E2B_LOGS_DEFAULT: usize = 1000;

/// Bytes of the file of the API's certificate, and of the file of its key.
pub const TLS_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Certificates of the API's chain.
pub const TLS_CERTIFICATES_MAX: usize = 16;
/// How often the files of the API's certificate are looked at for a change.
pub const TLS_RENEW_EVERY: Duration = Duration::from_secs(30);
// Keeper.

/// Times that a snapshot on plain directories looks whether the processes inside are gone.
pub const QUIET_TRIES: u32 = 50;
/// Time between two such looks.
pub const QUIET_PAUSE: Duration = Duration::from_millis(1);
/// Roots of ended sandboxes that may still be mounted; with more, they are unmounted though there is other work.
pub const GRAVES_MAX: usize = 64;
/// Milliseconds without a call after which the roots of ended sandboxes are unmounted.
pub const GRAVES_IDLE_MS: u32 = 200;
/// Bytes of the packet filter's rules, as the kernel takes them.
pub const RULES_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a request of SWE-ReX's client that is not an upload, and of a file that it reads: both travel in one JSON text.
pub const SWEREX_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of one frame of an exported snapshot; as much of it is held at once.
pub const TRANSFER_FRAME_BYTES_MAX: usize = 256 * 1024;
/// Bytes of what an exported snapshot says of itself before its files.
pub const TRANSFER_HEADER_BYTES_MAX: usize = 256 * 1024;
/// Frames of an export that wait for its caller.
pub const TRANSFER_FRAMES_WAITING_MAX: usize = 2;
/// How long the other side of an export or an import may do nothing.
pub const TRANSFER_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Exports and imports of snapshots under way at once; what comes beyond is answered `exhausted`.
pub const TRANSFERS_MAX: usize = 4;
/// Bytes of an exported snapshot that is taken in, where the configuration does not say: a whole tree with its frames.
pub const IMPORT_BYTES_MAX: u64 = TREE_BYTES_MAX + (64 << 20);
/// Times that it is tried to remove what is left of an import that did not succeed, where the first time failed.
pub const IMPORT_UNDO_TRIES: u32 = 60;
/// Time between two of them.
pub const IMPORT_UNDO_RETRY: Duration = Duration::from_millis(500);
