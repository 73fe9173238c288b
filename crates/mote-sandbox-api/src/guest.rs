//! The protocol between the daemon and the first process inside a sandbox.
//!
//! One connection carries one operation, over any byte stream (a Unix socket for containers, vsock for virtual machines).
//! A frame is one kind byte, a payload length as four little-endian bytes, and the payload. The first frame of a
//! connection is a [`Request`] in JSON; what follows depends on it. It does not multiplex: back-pressure is the
//! stream's own, so that a reader that stalls stops only its own operation.
//!
//! The daemon never trusts what comes back: a guest may be hostile, so lengths are checked against
//! [`crate::limits::FRAME_BYTES_MAX`] before anything is read, and no path that a guest names is opened on the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::limits::FRAME_BYTES_MAX;
pub use crate::path::{RawPath, base64_unless_text};

/// Version of this protocol; answered by [`Request::Hello`].
pub const PROTOCOL: u32 = 1;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 5;
/// Namespace of the extended attributes that hold a file's metadata: E2B's.
pub const METADATA_PREFIX: &str = "user.e2b.";
/// Variable that tells programs that they run in a sandbox of E2B's surface. Where it is set, the first process writes it, and
/// the two below, into files of [`E2B_FOLDER`].
pub const E2B_SANDBOX: &str = "E2B_SANDBOX";
/// Variable that holds the sandbox's id.
pub const E2B_SANDBOX_ID: &str = "E2B_SANDBOX_ID";
/// Variable that holds the name of what the sandbox was made from.
pub const E2B_TEMPLATE_ID: &str = "E2B_TEMPLATE_ID";
/// Folder of the files that E2B's server leaves inside.
pub const E2B_FOLDER: &str = "/run/e2b";
/// Path inside the sandbox of the read-only folder with the init's own files.
pub const RUNTIME_FOLDER: &str = "/run/mote";

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A [`Request`] in JSON; the first frame of a connection.
    Request = 0,
    /// A [`Reply`] in JSON.
    Reply = 1,
    /// Bytes for a process's standard input or terminal; an empty payload closes it.
    Stdin = 2,
    /// Bytes of a process's standard output.
    Stdout = 3,
    /// Bytes of a process's standard error.
    Stderr = 4,
    /// Bytes of a process's terminal.
    Terminal = 5,
    /// Bytes of a file or of a dialled connection; an empty payload ends that direction.
    Data = 6,
}

impl Kind {
    /// The kind that a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Request,
            1 => Self::Reply,
            2 => Self::Stdin,
            3 => Self::Stdout,
            4 => Self::Stderr,
            5 => Self::Terminal,
            6 => Self::Data,
            _ => return None,
        })
    }
}

/// Why a header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No such kind.
    #[error("a frame has the unknown kind {0}")]
    Kind(u8),
    /// The payload is longer than a frame may be.
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    Length(u32),
}

/// The header of a frame.
#[must_use]
pub fn header(kind: Kind, payload_bytes: usize) -> [u8; HEADER_BYTES] {
    debug_assert!(payload_bytes <= FRAME_BYTES_MAX, "callers split what is longer");
    let length = u32::try_from(payload_bytes).unwrap_or(u32::MAX).to_le_bytes();
    [kind as u8, length[0], length[1], length[2], length[3]]
}

/// Reads a header: the kind, and the payload's length in bytes.
///
/// # Errors
/// Where the kind is unknown or the length beyond [`FRAME_BYTES_MAX`].
pub fn parse_header(bytes: [u8; HEADER_BYTES]) -> Result<(Kind, usize), HeaderError> {
    let kind = Kind::from_byte(bytes[0]).ok_or(HeaderError::Kind(bytes[0]))?;
    let length = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    match usize::try_from(length) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok((kind, length)),
        _ => Err(HeaderError::Length(length)),
    }
}

/// A process, by number or by the tag it was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Process id inside the sandbox.
    Pid(u32),
    /// Tag given at the start.
    Tag(String),
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TerminalSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A process to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Start {
    /// Program, then its arguments. The program is looked up in the environment's `PATH`.
    pub argv: Vec<String>,
    /// Added to the sandbox's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the user's home where absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Name or number of the user; the sandbox's default where absent.
    #[serde(default)]
    pub user: Option<String>,
    /// A name by which it can be found.
    #[serde(default)]
    pub tag: Option<String>,
    /// Run on a terminal of this size; output then comes as [`Kind::Terminal`].
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Standard input stays open for [`Kind::Stdin`]; else it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// The process outlives this connection; else its whole group is ended with it.
    #[serde(default)]
    pub detached: bool,
    /// The whole group is ended after this many milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// What the daemon asks. The frames that follow are named with each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Are you there? One [`Reply::Hello`].
    Hello,
    /// Sets what is known only when the sandbox is claimed; one [`Reply::Done`]. May come again.
    Configure(Configuration),
    /// Starts a process: [`Reply::Started`], its output, [`Reply::Exited`]. Takes [`Kind::Stdin`] meanwhile.
    Start(Start),
    /// Follows a process that runs: [`Reply::Started`], its output from now on, [`Reply::Exited`]. Takes [`Kind::Stdin`].
    Attach(Selector),
    /// Lists processes that were started here: [`Reply::Processes`], in one or more frames, then [`Reply::Done`].
    Processes,
    /// Sends a signal to a process's group: one [`Reply::Done`].
    Signal {
        /// Which.
        process: Selector,
        /// Number of the signal.
        signal: i32,
    },
    /// Changes a terminal's size: one [`Reply::Done`].
    Resize {
        /// Which.
        process: Selector,
        /// New size.
        size: TerminalSize,
    },
    /// Writes the [`Kind::Stdin`] frames that follow to a process: one [`Reply::Done`] after the connection's writing side
    /// is shut. An empty frame closes the process's input.
    Input(Selector),
    /// What stands at a path: one [`Reply::Entry`].
    Stat(FileTarget),
    /// What a directory holds: [`Reply::Entries`], in one or more frames, then [`Reply::Done`].
    List {
        /// Which directory.
        target: FileTarget,
        /// Levels below it; 1 is the directory alone.
        depth: u32,
    },
    /// Makes a directory and those above it: one [`Reply::Entry`]. [`crate::error::Code::Conflict`] where it is there.
    MakeDirectory(FileTarget),
    /// Moves a file or directory: one [`Reply::Entry`].
    Move {
        /// From here.
        from: FileTarget,
        /// To this path.
        to: RawPath,
    },
    /// Makes a symbolic link, and the directories above it: one [`Reply::Entry`]. [`crate::error::Code::Conflict`] where something
    /// is there.
    Link {
        /// The link.
        target: FileTarget,
        /// What stands in it; it need not lead anywhere.
        to: RawPath,
    },
    /// Removes a file, or a directory with all it holds: one [`Reply::Done`].
    Remove(FileTarget),
    /// Reads a file: [`Reply::Entry`], then [`Kind::Data`] frames, the last one empty; [`Reply::Failed`] instead of that one
    /// where the file could not be read to its end.
    Read {
        /// Which file.
        target: FileTarget,
        /// First byte.
        offset: u64,
        /// Bytes at most; to the end where absent.
        length: Option<u64>,
    },
    /// Writes a file from the [`Kind::Data`] frames that follow, the last one empty; then one [`Reply::Entry`]. Directories
    /// above it are made.
    Write {
        /// Which file.
        target: FileTarget,
        /// How.
        #[serde(flatten)]
        writing: Writing,
    },
    /// Watches a directory: [`Reply::Done`] when the watch stands, then [`Reply::Event`] until the connection closes. An empty
    /// [`Kind::Data`] frame asks for what has happened by now: it is told, then comes [`Reply::Done`].
    Watch {
        /// Which directory.
        target: FileTarget,
        /// With all directories below.
        recursive: bool,
    },
    /// Connects to a port on the sandbox's loopback: [`Reply::Done`], then [`Kind::Data`] both ways.
    Dial {
        /// TCP port.
        port: u16,
    },
    /// Writes everything dirty to the filesystem: one [`Reply::Done`].
    Sync,
    /// Ends every process but the init: one [`Reply::Done`].
    EndAll,
}

/// A path with the user in whose name it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTarget {
    /// Absolute, or relative to the user's home, for which `~` stands, too.
    pub path: RawPath,
    /// Name or number; the sandbox's default user where absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Whose rights reach it.
    #[serde(default)]
    pub rights: Rights,
}

impl FileTarget {
    /// A path, used in the name and with the rights of a user.
    #[must_use]
    pub fn new(path: impl Into<RawPath>, user: Option<String>) -> Self {
        Self { path: path.into(), user, rights: Rights::User }
    }

    /// The same, with these rights.
    #[must_use]
    pub fn with(self, rights: Rights) -> Self {
        Self { rights, ..self }
    }
}

/// Whose rights reach a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rights {
    /// Those of the user in whose name it is used.
    #[default]
    User,
    /// Those of the sandbox's root, as E2B's server has it; what is made or written is the user's afterwards. A path that
    /// leads through a symbolic link which is not root's is used with the user's own rights: whoever could make the link
    /// gains nothing by it. `..` takes away the name before it, whatever that is.
    Root,
}

/// How a file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writing {
    /// Permission bits; kept, or 0o644 for a new file, where absent.
    #[serde(default)]
    pub mode: Option<u32>,
    /// It is emptied and filled where it stands, and watches tell of that as of every other write; a write that is cut short
    /// is then seen. Else it appears whole under its name, or not at all.
    #[serde(default)]
    pub in_place: bool,
    /// All its metadata afterwards; what it has stays where absent. Filesystems without extended attributes keep none.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// What is known only when a sandbox is claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The environment of every process started from now on; placeholders of secrets are in it, secrets never.
    pub env: BTreeMap<String, String>,
    /// User of processes that do not name one.
    pub user: Option<String>,
    /// Working directory of processes that do not name one.
    pub cwd: Option<String>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What kind of thing stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe or a socket.
    Other,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Entry {
    /// Last component. Bytes that are not UTF-8 are shown as U+FFFD.
    pub name: String,
    /// Absolute path, in the same way.
    pub path: String,
    /// The path's bytes in base64, where they are not UTF-8: wherever a `path` is asked for, this is taken as `path_base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// What it is. A symbolic link is followed for this, unless it leads nowhere.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, file type included (`st_mode`).
    pub mode: u32,
    /// Owner's name, or number where it has none.
    pub owner: String,
    /// Group's name, or number where it has none.
    pub group: String,
    /// Last modification, milliseconds since the epoch.
    pub modified_ms: i64,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The bytes of that in base64, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_base64: Option<String>,
    /// The symbolic link itself, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink: Option<Symlink>,
    /// Metadata: extended attributes below [`METADATA_PREFIX`] whose values are text, without the prefix.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A symbolic link, not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Symlink {
    /// Where it leads in the end: a path without links. Nothing where that is nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Owner's name, or number where it has none.
    pub owner: String,
    /// Group's name, or number where it has none.
    pub group: String,
    /// Last modification, milliseconds since the epoch.
    pub modified_ms: i64,
}

/// A process that was started here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Process {
    /// Process id inside the sandbox.
    pub pid: u32,
    /// Tag given at the start.
    pub tag: Option<String>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment that was added for it.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// It runs on a terminal.
    pub terminal: bool,
    /// Bytes of output that were dropped because nobody followed it.
    #[serde(default)]
    pub dropped_bytes: u64,
}

/// What happened to a watched path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was made.
    Create,
    /// It was written to.
    Write,
    /// It was removed.
    Remove,
    /// It got another name.
    Rename,
    /// Its attributes changed.
    Chmod,
    /// Events were lost: more came than the bound of the queue.
    Overflow,
}

/// What the guest answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is there, and speaks this version.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
    },
    /// The request is carried out.
    Done,
    /// The request failed; nothing follows.
    Failed(Failure),
    /// The process runs.
    Started {
        /// Process id inside the sandbox.
        pid: u32,
    },
    /// The process ended and all its output was sent.
    Exited {
        /// How.
        exit: Exit,
        /// Because its time was over.
        timed_out: bool,
    },
    /// Some of the processes that were started here.
    Processes(Vec<Process>),
    /// What stands at the path.
    Entry(Box<Entry>),
    /// Some of a directory's entries.
    Entries(Vec<Entry>),
    /// Something happened to a watched path.
    Event {
        /// Path, relative to the watched directory.
        name: String,
        /// What happened.
        kind: EventKind,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_read() {
        assert_eq!(parse_header([6, 0xff, 0xff, 0xff, 0xff]), Err(HeaderError::Length(u32::MAX)));
        assert_eq!(parse_header([7, 0, 0, 0, 0]), Err(HeaderError::Kind(7)));
    }

    proptest! {
        #[test]
        fn a_header_reads_back(kind in 0u8..7, length in 0..=FRAME_BYTES_MAX) {
            let kind = Kind::from_byte(kind).expect("it is one of them");
            prop_assert_eq!(parse_header(header(kind, length)), Ok((kind, length)));
        }
    }
}
