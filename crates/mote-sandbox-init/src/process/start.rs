//! Starting a process: who, where, which file, with which environment and descriptors.
//!
//! It does not follow the process; what it returns is handed to the supervisor.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Kind, Start, TerminalSize};
use mote_sandbox_api::limits::{ARGS_BYTES_MAX, ARGS_MAX, ENV_BYTES_MAX, ENV_ENTRIES_MAX, NAME_BYTES_MAX};
use mote_sandbox_sys::spawn::{self, Child, Program, Stage, spawn};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, tcgetattr, tcsetattr, tcsetwinsize};

use super::input::Input;
use super::output::Output;
use super::{Handle, window};
use crate::account::User;
use crate::failure::{Result, code, failed};
use crate::file::absolute;
use crate::sandbox::{Sandbox, bell};

/// Where programs are looked up when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Terminal that programs are told of when the environment does not say.
const DEFAULT_TERM: &str = "xterm-256color";
/// Permission bits of a working directory that is made.
const FOLDER_MODE: u32 = 0o755;

/// A process that runs, with this side's ends of everything.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(super) handle: Arc<Handle>,
    pub(super) pidfd: OwnedFd,
    pub(super) outputs: Vec<Output>,
    pub(super) input: Input,
    pub(super) is_detached: bool,
    pub(super) timeout_ms: Option<u64>,
}

/// Starts what is asked for, and puts it in the table.
pub(crate) fn start(start: Start, sandbox: &Sandbox) -> Result<Begun> {
    check(&start)?;
    sandbox.refresh_view();
    if let Some(tag) = &start.tag {
        sandbox.table().reserve(tag)?;
    }
    let begun = begin(&start, sandbox);
    let begun = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            if let Some(tag) = &start.tag {
                sandbox.table().release(tag);
            }
            return Err(failure);
        }
    };
    let (child, pipes, bell) = begun;
    let handle = Arc::new(Handle {
        pid: child.pid,
        tag: start.tag,
        argv: start.argv,
        env: start.env,
        cwd: start.cwd,
        terminal: pipes.terminal,
        bell,
        mailbox: Mutex::new(Some(Vec::new())),
        dropped_bytes: 0.into(),
    });
    sandbox.table().insert(handle.clone());
    Ok(Begun {
        handle,
        pidfd: child.pidfd,
        outputs: pipes.outputs,
        input: pipes.input,
        is_detached: start.detached,
        timeout_ms: start.timeout_ms,
    })
}

fn begin(start: &Start, sandbox: &Sandbox) -> Result<(Child, Pipes, OwnedFd)> {
    let configuration = sandbox.configuration();
    let (user, _) = crate::operation::user(start.user.as_deref(), sandbox)?;
    let env = environment(start, &configuration.env, &user);
    let cwd = start.cwd.as_deref().or(configuration.cwd.as_deref());
    let folder = folder(cwd, &user)?;
    let files = files(&start.argv[0], env.get("PATH").map_or("", |path| path.as_str()))?;
    let argv = strings("argv", start.argv.iter().cloned())?;
    let env = strings("env", env.iter().map(|(name, value)| format!("{name}={value}")))?;
    // Made before the process is: nothing that can fail comes after.
    let bell = bell()?;
    let (pipes, theirs) = match start.terminal {
        Some(size) => terminal(size, &user)?,
        None => plain(start.stdin, &user)?,
    };
    let program = Program {
        files: &files,
        argv: &argv,
        env: &env,
        folder: Some(&folder),
        stdio: [theirs[0].as_fd(), theirs[1].as_fd(), theirs[2].as_fd()],
        terminal: start.terminal.is_some(),
        identity: Some(&user.identity),
        open_files: sandbox.open_files,
        oom_score: sandbox.oom_score.as_deref(),
    };
    let mut started = spawn(&program);
    if let Err(error) = &started
        && error.stage == Stage::Folder
    {
        if cwd.is_none() {
            // A home that an image does not have is no reason to fail: nobody asked for it.
            started = spawn(&Program { folder: Some(c"/"), ..program });
        } else if start.cwd.is_none() && error.errno == Errno::NOENT && make_folder(&folder) {
            started = spawn(&program);
        }
    }
    let child = started.map_err(|error| refused(error, start, cwd, &user))?;
    Ok((child, pipes, bell))
}

/// This side's ends.
struct Pipes {
    outputs: Vec<Output>,
    input: Input,
    terminal: Option<Arc<OwnedFd>>,
}

/// Makes the sandbox's own working directory where the image lacks it, as Docker does: it is root's.
fn make_folder(folder: &CStr) -> bool {
    let path = Path::new(OsStr::from_bytes(folder.to_bytes()));
    std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).is_ok()
}

/// Pipes for output, and a pipe or nothing for input; with them the process's own ends. They are the user's, so that the user
/// can open `/dev/stdout` and its like: the kernel asks who owns a pipe that is opened by such a name.
fn plain(stdin: bool, user: &User) -> Result<(Pipes, [Arc<OwnedFd>; 3])> {
    let ([out, their_out], [err, their_err]) = (pipe(user)?, pipe(user)?);
    let (input, their_in) = if stdin {
        let [reader, writer] = pipe(user)?;
        (Some(nonblocking(writer)?), reader)
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        (None, Arc::new(null.map_err(|errno| failed("open /dev/null", errno))?))
    };
    let outputs = vec![Output::new(nonblocking(out)?, Kind::Stdout), Output::new(nonblocking(err)?, Kind::Stderr)];
    let pipes = Pipes { outputs, input: Input::new(input, false), terminal: None };
    Ok((pipes, [their_in, their_out, their_err]))
}

/// A new pseudo-terminal that belongs to the user; with it the process's own end, three times.
fn terminal(size: TerminalSize, user: &User) -> Result<(Pipes, [Arc<OwnedFd>; 3])> {
    let open = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&ours)?;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        tcsetwinsize(&ours, window(size))?;
        let mut modes = tcgetattr(&theirs)?;
        // Erasing a character takes all its bytes.
        modes.input_modes |= InputModes::IUTF8;
        tcsetattr(&theirs, OptionalActions::Now, &modes)?;
        rustix::fs::fchown(&theirs, Some(rustix::fs::Uid::from_raw(user.identity.uid)), None)?;
        Ok((ours, theirs))
    };
    let (ours, theirs) = open().map_err(|errno| failed("open a terminal", errno))?;
    let (ours, theirs) = (nonblocking(Arc::new(ours))?, Arc::new(theirs));
    let pipes = Pipes {
        outputs: vec![Output::new(ours.clone(), Kind::Terminal)],
        input: Input::new(Some(ours.clone()), true),
        terminal: Some(ours),
    };
    Ok((pipes, [theirs.clone(), theirs.clone(), theirs]))
}

fn pipe(user: &User) -> Result<[Arc<OwnedFd>; 2]> {
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| failed("make a pipe", errno))?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(user.identity.uid), rustix::fs::Gid::from_raw(user.identity.gid));
    // An id that the sandbox does not have is told of by the start itself, with the user's name.
    let _ = rustix::fs::fchown(&writer, Some(uid), Some(gid));
    Ok([Arc::new(reader), Arc::new(writer)])
}

fn nonblocking(descriptor: Arc<OwnedFd>) -> Result<Arc<OwnedFd>> {
    rustix::io::ioctl_fionbio(&descriptor, true).map_err(|errno| failed("prepare a pipe", errno))?;
    Ok(descriptor)
}

/// What the process finds around it: this side's defaults, the sandbox's environment, its own.
fn environment(start: &Start, shared: &BTreeMap<String, String>, user: &User) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
    ]);
    if let Some(shell) = &user.shell {
        env.insert("SHELL".to_owned(), shell.clone());
    }
    if start.terminal.is_some() {
        env.insert("TERM".to_owned(), DEFAULT_TERM.to_owned());
    }
    env.extend(shared.iter().chain(&start.env).map(|(name, value)| (name.clone(), value.clone())));
    env
}

/// The working directory: what is asked for, from the user's home where it is relative; the home itself.
fn folder(cwd: Option<&str>, user: &User) -> Result<CString> {
    let path = absolute(cwd.filter(|cwd| !cwd.is_empty()).unwrap_or(&user.home).as_bytes(), &user.home)
        .map_err(|failure| failure.with("field", "cwd"))?;
    CString::new(path.into_os_string().into_vec()).map_err(|_| Failure::invalid("cwd", "contains a NUL character"))
}

/// The files that may be the program, in the order in which they are tried (`execvp(3)`).
fn files(program: &str, path: &str) -> Result<Vec<CString>> {
    if program.contains('/') {
        return Ok(vec![string("argv", program.to_owned())?]);
    }
    let places = path.split(':').map(|place| {
        // An empty element stands for the working directory.
        if place.is_empty() { program.to_owned() } else { format!("{place}/{program}") }
    });
    strings("argv", places)
}

fn strings(field: &str, from: impl Iterator<Item = String>) -> Result<Vec<CString>> {
    from.map(|text| string(field, text)).collect()
}

fn string(field: &str, text: String) -> Result<CString> {
    CString::new(text).map_err(|_| Failure::invalid(field, "contains a NUL character"))
}

fn check(start: &Start) -> Result<()> {
    if start.argv.first().is_none_or(String::is_empty) {
        return Err(Failure::invalid("argv", "names no program"));
    }
    if start.argv.len() > ARGS_MAX {
        return Err(Failure::invalid("argv", format_args!("more than {ARGS_MAX} arguments")));
    }
    if start.argv.iter().map(String::len).sum::<usize>() > ARGS_BYTES_MAX {
        return Err(Failure::invalid("argv", format_args!("more than {ARGS_BYTES_MAX} bytes")));
    }
    if start.tag.as_ref().is_some_and(|tag| tag.is_empty() || tag.len() > NAME_BYTES_MAX) {
        return Err(Failure::invalid("tag", format_args!("empty, or longer than {NAME_BYTES_MAX} bytes")));
    }
    if start.timeout_ms == Some(0) {
        return Err(Failure::invalid("timeout_ms", "0 leaves no time"));
    }
    check_environment(&start.env)
}

/// Refuses an environment that cannot be one.
pub(crate) fn check_environment(env: &BTreeMap<String, String>) -> Result<()> {
    if env.len() > ENV_ENTRIES_MAX {
        return Err(Failure::invalid("env", format_args!("more than {ENV_ENTRIES_MAX} variables")));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains('=') || name.contains('\0') || value.contains('\0') {
            return Err(Failure::invalid("env", format_args!("{name:?} cannot be a variable")));
        }
        if name.len() + value.len() > ENV_BYTES_MAX {
            return Err(Failure::invalid("env", format_args!("{name:?} is longer than {ENV_BYTES_MAX} bytes")));
        }
    }
    Ok(())
}

/// Says which of program, working directory and user it was.
fn refused(error: spawn::Error, start: &Start, cwd: Option<&str>, user: &User) -> Failure {
    let (program, errno) = (&start.argv[0], error.errno);
    let failure = match error.stage {
        Stage::Execute => match errno {
            Errno::NOENT | Errno::NOTDIR => {
                let message = format!("failed to start {program:?}: no such program, or its interpreter is missing");
                Failure::new(Code::NotFound, message).with("kind", "program").with("id", program)
            }
            Errno::NOEXEC => {
                Failure::invalid("argv", format_args!("{program:?} is not a program this machine can run"))
            }
            _ => failed(format_args!("start {program:?}"), errno).with("kind", "program"),
        },
        Stage::Folder => {
            let cwd = cwd.unwrap_or(&user.home);
            failed(format_args!("enter the working directory {cwd:?}"), errno).with("kind", "cwd").with("id", cwd)
        }
        Stage::Identity if errno == Errno::INVAL => {
            let message = format_args!("{:?} has an id that the sandbox does not map", user.name);
            Failure::invalid("user", message).with("kind", "user").with("id", &user.name)
        }
        Stage::Identity => {
            failed(format_args!("become user {:?}", user.name), errno).with("kind", "user").with("id", &user.name)
        }
        stage => failed(format_args!("start {program:?} ({stage:?})"), errno),
    };
    if errno == Errno::AGAIN {
        return Failure { code: code(errno), ..failure }
            .remedy("end processes of this sandbox, or raise its limit of them");
    }
    failure
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_up_in_the_path_unless_it_is_one() {
        let shown = |program, path| {
            let files = files(program, path).unwrap();
            files.into_iter().map(|file| file.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(shown("ls", "/bin::/sbin"), ["/bin/ls", "ls", "/sbin/ls"]);
        assert_eq!(shown("./ls", "/bin"), ["./ls"]);
    }

    #[test]
    fn what_cannot_be_started_is_refused_by_the_name_of_its_field() {
        let field = |start: Start| check(&start).unwrap_err().context["field"].clone();
        let with = |argv: &[&str]| Start { argv: argv.iter().map(|a| (*a).to_owned()).collect(), ..Start::default() };
        assert_eq!(field(with(&[])), "argv");
        assert_eq!(field(with(&[""])), "argv");
        assert_eq!(field(Start { tag: Some(String::new()), ..with(&["a"]) }), "tag");
        assert_eq!(field(Start { timeout_ms: Some(0), ..with(&["a"]) }), "timeout_ms");
        let env = |name: &str| BTreeMap::from([(name.to_owned(), String::new())]);
        assert_eq!(field(Start { env: env("A=B"), ..with(&["a"]) }), "env");
        assert!(check(&Start { env: env("A"), ..with(&["a"]) }).is_ok());
    }
}
