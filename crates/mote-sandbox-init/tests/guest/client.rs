//! The equipment: a first process in a namespace of its own, and a plain client of its protocol.
//!
//! It asserts nothing about the protocol beyond that frames are whole.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{
    Entry, Exit, FileTarget, HEADER_BYTES, Kind, Process, RawPath, Reply, Request, Selector, Start, Writing, header,
    parse_header,
};

/// How long a test waits for what does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A first process; its end is the end of everything that was started in it.
pub(crate) struct Init {
    wrapper: Child,
    folder: tempfile::TempDir,
}

impl Init {
    /// Starts one, with its socket as descriptor 3 as the keeper does.
    pub(crate) fn start() -> Self {
        assert!(rustix::process::getuid().is_root(), "these tests need root, for a process namespace");
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("guest.sock")).unwrap();
        let wrapper = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", "exec 3<&0 </dev/null; exec \"$0\"", env!("CARGO_BIN_EXE_mote-sandbox-init")])
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        let init = Self { wrapper, folder };
        // The socket listens already; the answer tells that the program has replaced the shell.
        assert_eq!(init.ask(&Request::Hello), Ok(Reply::Hello { protocol: 1 }));
        init
    }

    /// A folder for the test's files, gone with it. Everyone may use it.
    pub(crate) fn folder(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(self.folder.path(), all.clone()).unwrap();
        let files = self.folder.path().join("files");
        if !files.exists() {
            std::fs::create_dir(&files).unwrap();
            std::fs::set_permissions(&files, all).unwrap();
        }
        files
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder().join(name).to_str().unwrap().to_owned()
    }

    /// Its process id on the host.
    pub(crate) fn pid(&self) -> i32 {
        let wrapper = self.wrapper.id();
        let children = std::fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    /// Waits for it to end by itself; whether it ended well.
    pub(crate) fn wait(mut self) -> bool {
        self.wrapper.wait().unwrap().success()
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.folder.path().join("guest.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client::new(stream)
    }

    /// Connects and sends the request.
    pub(crate) fn open(&self, request: &Request) -> Client {
        let mut client = self.connect();
        client.send(Kind::Request, &serde_json::to_vec(request).unwrap());
        client
    }

    /// Asks what has one reply.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        self.open(request).reply()
    }

    pub(crate) fn code(&self, request: &Request) -> Code {
        self.ask(request).unwrap_err().code
    }

    /// Starts a process and returns when it runs.
    pub(crate) fn start_process(&self, start: Start) -> (u32, Client) {
        let mut client = self.open(&Request::Start(start));
        match client.reply().unwrap() {
            Reply::Started { pid } => (pid, client),
            other => panic!("{other:?}"),
        }
    }

    /// Runs a process to its end.
    pub(crate) fn run(&self, start: Start) -> Outcome {
        self.start_process(start).1.outcome()
    }

    /// Runs a shell script to its end.
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        self.run(shell(script))
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        let mut client = self.open(&Request::Processes);
        let mut all = Vec::new();
        loop {
            match client.reply().unwrap() {
                Reply::Processes(some) => all.extend(some),
                Reply::Done => return all,
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn list(&self, path: &str, depth: u32) -> Result<Vec<Entry>, Failure> {
        let mut client = self.open(&Request::List { target: target(path), depth });
        let mut all = Vec::new();
        loop {
            match client.reply()? {
                Reply::Entries(some) => all.extend(some),
                Reply::Done => return Ok(all),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn write(&self, target: FileTarget, mode: Option<u32>, contents: &[u8]) -> Result<Entry, Failure> {
        self.write_as(target, Writing { mode, ..Writing::default() }, contents)
    }

    pub(crate) fn write_as(&self, target: FileTarget, writing: Writing, contents: &[u8]) -> Result<Entry, Failure> {
        let mut client = self.open(&Request::Write { target, writing });
        for chunk in contents.chunks(100_000) {
            client.send(Kind::Data, chunk);
        }
        client.send(Kind::Data, &[]);
        entry(client.reply()?)
    }

    pub(crate) fn read(&self, target: FileTarget, offset: u64, length: Option<u64>) -> Result<Vec<u8>, Failure> {
        let mut client = self.open(&Request::Read { target, offset, length });
        entry(client.reply()?)?;
        let mut contents = Vec::new();
        loop {
            match client.frame().unwrap() {
                (Kind::Data, payload) if payload.is_empty() => return Ok(contents),
                (Kind::Data, payload) => contents.extend(payload),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until no process is left but the first.
    pub(crate) fn wait_until_alone(&self) {
        let pid = self.pid();
        eventually("the first process is alone", || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.filter_map(Result::ok).all(|task| {
                std::fs::read_to_string(task.path().join("children")).is_ok_and(|children| children.trim().is_empty())
            })
        });
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // Its end is that of its child, the first process, and so of the whole namespace.
        let _ = self.wrapper.kill();
        let _ = self.wrapper.wait();
    }
}

/// Waits for what no descriptor tells of.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 2 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("it never came true that {what}");
}

pub(crate) fn entry(reply: Reply) -> Result<Entry, Failure> {
    match reply {
        Reply::Entry(entry) => Ok(*entry),
        other => panic!("{other:?}"),
    }
}

/// What became of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    pub(crate) terminal: Vec<u8>,
    pub(crate) exit: Exit,
    pub(crate) timed_out: bool,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).trim().to_owned()
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    /// Output that was read beyond what was waited for.
    rest: String,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, rest: String::new() }
    }

    pub(crate) fn send(&mut self, kind: Kind, payload: &[u8]) {
        // The other side may have refused and closed; its reply is still to be read.
        let _ = self.stream.write_all(&[&header(kind, payload.len())[..], payload].concat());
    }

    pub(crate) fn frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        let mut head = [0; HEADER_BYTES];
        let first = match self.stream.read(&mut head) {
            // Killed before it had read everything.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            read => read.unwrap(),
        };
        if first == 0 {
            return None;
        }
        self.stream.read_exact(&mut head[first..]).unwrap();
        let (kind, length) = parse_header(head).unwrap();
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).unwrap();
        Some((kind, payload))
    }

    pub(crate) fn reply(&mut self) -> Result<Reply, Failure> {
        let (kind, payload) = self.frame().expect("a reply, not the end");
        assert_eq!(kind, Kind::Reply);
        match serde_json::from_slice(&payload).unwrap() {
            Reply::Failed(failure) => Err(failure),
            reply => Ok(reply),
        }
    }

    /// Output from here on, until a process has ended and the connection, too.
    pub(crate) fn outcome(mut self) -> Outcome {
        let (mut out, mut err, mut terminal) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let (kind, payload) = self.frame().expect("the process's end before the connection's");
            match kind {
                Kind::Stdout => out.extend(payload),
                Kind::Stderr => err.extend(payload),
                Kind::Terminal => terminal.extend(payload),
                Kind::Reply => match serde_json::from_slice(&payload).unwrap() {
                    Reply::Exited { exit, timed_out } => {
                        assert_eq!(self.frame(), None, "nothing follows");
                        return Outcome { out, err, terminal, exit, timed_out };
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads output until this text has come; what comes after it is kept for the next call.
    pub(crate) fn read_until(&mut self, text: &str) {
        loop {
            if let Some(at) = self.rest.find(text) {
                self.rest.drain(..at + text.len());
                return;
            }
            let (kind, payload) = self.frame().unwrap_or_else(|| panic!("{text:?} never came: {:?}", self.rest));
            assert!(matches!(kind, Kind::Stdout | Kind::Terminal), "{kind:?} {}", String::from_utf8_lossy(&payload));
            self.rest.push_str(&String::from_utf8_lossy(&payload));
        }
    }
}

pub(crate) fn shell(script: &str) -> Start {
    command(&["/bin/sh", "-c", script])
}

pub(crate) fn command(argv: &[&str]) -> Start {
    Start { argv: argv.iter().map(|argument| (*argument).to_owned()).collect(), ..Start::default() }
}

pub(crate) fn target(path: impl AsRef<Path>) -> FileTarget {
    FileTarget::new(RawPath::new(path.as_ref().as_os_str().as_bytes().to_vec()), None)
}

pub(crate) fn nobodys(path: impl AsRef<Path>) -> FileTarget {
    FileTarget { user: Some("nobody".to_owned()), ..target(path) }
}

pub(crate) fn tag(name: &str) -> Selector {
    Selector::Tag(name.to_owned())
}
