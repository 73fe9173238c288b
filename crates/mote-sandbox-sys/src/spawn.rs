//! Starting a program in another user's name without copying this process: `clone(CLONE_VM | CLONE_VFORK)` and `execve`.
//!
//! It looks nothing up: which file, which user and which folder is decided by the caller. It does not wait for a program
//! that runs; it only collects a child that failed before it became one.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::identity::Identity;
use crate::last_error;

/// Bytes of the stack that the child runs on until it executes the program. A debug build of the child needs about 2 KiB.
const CHILD_STACK_BYTES: usize = 32 * 1024;
/// A `struct sigaction` of the kernel for the default action, with room to spare.
const DEFAULT_ACTION: [u64; 8] = [0; 8];
/// Highest signal number of Linux.
const SIGNAL_MAX: c_int = 64;
/// `CLOSE_RANGE_CLOEXEC` of `linux/close_range.h`.
const CLOSE_RANGE_CLOEXEC: c_int = 4;

/// What to start, and how.
#[derive(Debug)]
pub struct Program<'a> {
    /// Files to execute, tried in order until one is there and may be executed, as `execvp` does.
    pub files: &'a [CString],
    /// Arguments, the program's own name first.
    pub argv: &'a [CString],
    /// Environment, as `NAME=value`.
    pub env: &'a [CString],
    /// Working directory, entered in the user's name. The caller's where absent.
    pub folder: Option<&'a CStr>,
    /// Standard input, output and error. None of them may be one of descriptors 0, 1 and 2 at another's place.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Standard input is a terminal, and becomes the controlling terminal of the new session.
    pub terminal: bool,
    /// In whose name; the caller's where absent.
    pub identity: Option<&'a Identity>,
    /// Soft and hard limit of open files; the caller's where absent.
    pub open_files: Option<(u64, u64)>,
    /// Written to `/proc/self/oom_score_adj`: who is ended where memory is short. The caller's where absent, or where it cannot
    /// be written.
    pub oom_score: Option<&'a CStr>,
}

/// A program that was started: the leader of a session and a process group of its own.
#[derive(Debug)]
pub struct Child {
    /// Its id, which stays its own until the caller has waited for it.
    pub pid: Pid,
    /// Becomes readable when it ended.
    pub pidfd: OwnedFd,
}

/// At which point a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// The child itself could not be made.
    Clone = 1,
    /// Signals, session or terminal.
    Session = 2,
    /// Standard input, output and error.
    Stdio = 3,
    /// Resource limits.
    Limits = 4,
    /// The user's ids.
    Identity = 5,
    /// The working directory.
    Folder = 6,
    /// The program.
    Execute = 7,
}

/// Why a program was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to start a program ({stage:?}): {errno}")]
pub struct Error {
    /// Where.
    pub stage: Stage,
    /// Why.
    pub errno: Errno,
}

/// Starts a program in a new session, with default signals, `umask` 022 and only standard input, output and error open.
/// The calling thread waits until the program is executed (or has failed), other threads go on; the child is the calling
/// thread's own, so that `waitid` with [`crate::signal::own_children`] in another thread does not see it.
///
/// # Errors
/// The stage at which it failed, and why.
pub fn spawn(program: &Program<'_>) -> Result<Child, Error> {
    let argv = pointers(program.argv);
    let env = pointers(program.env);
    let mut order = Order {
        files: program.files,
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        folder: program.folder.map_or(ptr::null(), CStr::as_ptr),
        stdio: program.stdio.map(|descriptor| descriptor.as_raw_fd()),
        terminal: program.terminal,
        identity: program.identity,
        open_files: program.open_files.map(|(soft, hard)| libc::rlimit { rlim_cur: soft, rlim_max: hard }),
        oom_score: program.oom_score,
        failure: None,
    };
    let mut stack = [MaybeUninit::<u128>::uninit(); CHILD_STACK_BYTES / 16];
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let blocked = Blocked::all();
    // SAFETY: the stack is this frame's own, aligned, and grows down from its end; this thread does not go on before the
    // child has executed or exited (CLONE_VFORK), so that `order` and `stack` outlive its use of them. `child` calls only
    // what is safe in a child that shares memory, and never returns.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast::<c_void>(),
            flags,
            (&raw mut order).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let errno = last_error();
    drop(blocked);
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(Error { stage: Stage::Clone, errno });
    };
    // SAFETY: the kernel put a new descriptor there, and nothing else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: `order` lives; the child wrote it through the pointer it was given, which the compiler cannot see.
    let failure = unsafe { ptr::read_volatile(&raw const order.failure) };
    match failure {
        None => Ok(Child { pid, pidfd }),
        Some(error) => {
            // It has exited already, or is about to; what it exited with says nothing more.
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            Err(error)
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// What the child reads, and the one thing that it writes. It allocates nothing.
struct Order<'a> {
    files: &'a [CString],
    argv: *const *const c_char,
    env: *const *const c_char,
    folder: *const c_char,
    stdio: [RawFd; 3],
    terminal: bool,
    identity: Option<&'a Identity>,
    open_files: Option<libc::rlimit>,
    oom_score: Option<&'a CStr>,
    failure: Option<Error>,
}

/// All signals are blocked while this lives, so that no handler of this process runs in a child that shares its memory.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: it fills the set that it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: the first set is filled, the second is written by the call, which cannot fail with these arguments.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: the call above wrote it.
        Self(unsafe { before.assume_init() })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was read by `all`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Runs in the child, on its own stack, in the parent's memory.
extern "C" fn child(order: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a pointer to its `Order`, which nothing else uses while it waits.
    let order = unsafe { &mut *order.cast::<Order<'_>>() };
    let error = carry_out(order);
    // SAFETY: as above; the parent reads it when this process is gone.
    unsafe { ptr::write_volatile(&raw mut order.failure, Some(error)) };
    // SAFETY: ends this process at once, without handlers that belong to the parent.
    unsafe { libc::_exit(127) }
}

/// Does everything that comes before the program, then executes it; returns only if that failed.
fn carry_out(order: &Order<'_>) -> Error {
    let fail = |stage| Error { stage, errno: last_error() };
    if !session(order) {
        return fail(Stage::Session);
    }
    if !stdio(order.stdio) {
        return fail(Stage::Stdio);
    }
    if let Some(limit) = &order.open_files {
        // SAFETY: the limit is read only.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) } != 0 {
            return fail(Stage::Limits);
        }
    }
    if let Some(score) = order.oom_score {
        write_oom_score(score);
    }
    if let Some(identity) = order.identity
        && let Err(errno) = identity.assume_all()
    {
        return Error { stage: Stage::Identity, errno };
    }
    // SAFETY: the pointer is null or a string that the parent keeps.
    if !order.folder.is_null() && unsafe { libc::chdir(order.folder) } != 0 {
        return fail(Stage::Folder);
    }
    // SAFETY: takes a number.
    unsafe { libc::umask(0o022) };
    unblock_all();
    Error { stage: Stage::Execute, errno: execute(order) }
}

fn session(order: &Order<'_>) -> bool {
    for signal in 1..=SIGNAL_MAX {
        // The C library keeps two signals from itself, which may be ignored all the same.
        // SAFETY: sets the default action, in this child's own table; those that have no other are refused, harmlessly.
        // Zeros mean the default action without flags in every architecture's form of the structure, and it is no longer.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT_ACTION.as_ptr(), ptr::null::<u8>(), 8) };
    }
    // SAFETY: takes nothing.
    if unsafe { libc::setsid() } < 0 {
        return false;
    }
    // SAFETY: takes a number; fails where the descriptor is no terminal.
    !order.terminal || unsafe { libc::ioctl(order.stdio[0], libc::TIOCSCTTY, 0) } == 0
}

fn stdio(descriptors: [RawFd; 3]) -> bool {
    for (number, descriptor) in (0..).zip(descriptors) {
        let moved = if descriptor == number {
            // SAFETY: takes numbers; the descriptor is to stay open over the execution.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }
        } else {
            // SAFETY: takes numbers.
            unsafe { libc::dup2(descriptor, number) }
        };
        if moved < 0 {
            return false;
        }
    }
    // Everything here is opened close-on-exec; this holds for what was inherited, too. Kernels before 5.11 do without.
    // SAFETY: takes numbers.
    unsafe { libc::syscall(libc::SYS_close_range, 3, c_int::MAX, CLOSE_RANGE_CLOEXEC) };
    true
}

fn write_oom_score(score: &CStr) {
    // SAFETY: the path is a string; the new descriptor is close-on-exec.
    let file = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if file >= 0 {
        // SAFETY: the score is a string of that many bytes; the descriptor is this child's own.
        unsafe { libc::write(file, score.as_ptr().cast(), score.count_bytes()) };
        // SAFETY: as above, and nothing uses it any more.
        unsafe { libc::close(file) };
    }
}

fn unblock_all() {
    let mut none = MaybeUninit::uninit();
    // SAFETY: it empties the set that it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set is empty; this changes the child's own mask.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
}

/// Executes the first file that can be. A file that is there and may not be executed is remembered before one that is not
/// there.
fn execute(order: &Order<'_>) -> Errno {
    let mut found = Errno::NOENT;
    for file in order.files {
        // SAFETY: all three are strings and null-terminated arrays of strings that the parent keeps.
        unsafe { libc::execve(file.as_ptr(), order.argv, order.env) };
        match last_error() {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => found = Errno::ACCESS,
            errno => return errno,
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn strings(of: &[&str]) -> Vec<CString> {
        of.iter().map(|text| CString::new(*text).unwrap()).collect()
    }

    fn run(files: &[&str], argv: &[&str], folder: Option<&CStr>, identity: Option<&Identity>) -> Result<String, Error> {
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let (files, argv, env) = (strings(files), strings(argv), strings(&["GREETING=hello"]));
        let child = spawn(&Program {
            files: &files,
            argv: &argv,
            env: &env,
            folder,
            stdio: [null.as_fd(), writer.as_fd(), null.as_fd()],
            terminal: false,
            identity,
            open_files: Some((64, 64)),
            oom_score: Some(c"900"),
        })?;
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
        Ok(said)
    }

    #[test]
    fn a_program_gets_its_environment_folder_limits_and_no_descriptor_of_ours() {
        let script = "echo $GREETING; pwd; ulimit -n; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; umask; ps -o sid= -p $$ >/dev/null; trap";
        let said = run(&["/missing/sh", "/bin/sh"], &["sh", "-c", script], Some(c"/usr"), None).unwrap();
        // `ls` itself opens the folder that it lists.
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["hello", "/usr", "64", "900", "4", "0022"]);
    }

    #[test]
    fn where_it_failed_is_told() {
        let failed = |result: Result<String, Error>| result.map_err(|error| (error.stage, error.errno)).unwrap_err();
        assert_eq!(failed(run(&["/missing"], &["x"], None, None)), (Stage::Execute, Errno::NOENT));
        assert_eq!(failed(run(&["/etc/passwd", "/missing"], &["x"], None, None)), (Stage::Execute, Errno::ACCESS));
        assert_eq!(failed(run(&["/bin/true"], &["x"], Some(c"/missing"), None)), (Stage::Folder, Errno::NOENT));
    }
}
