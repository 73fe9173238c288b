//! Making processes: a fork into new namespaces that runs a closure, and the execution of a program by descriptor.
//!
//! It does not decide which namespaces and does not reap: callers wait on the process descriptor.

use std::ffi::{CStr, c_char, c_long};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::{checked, last_error};

/// `CLONE_INTO_CGROUP` of `linux/sched.h`, which does not fit the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Exit code of a child whose closure panicked.
pub const PANICKED: u8 = 101;

/// Proof that the process has one thread, which makes forking with a closure sound: no lock can be held elsewhere.
///
/// Whoever holds it promises to start no thread as long as it lives; it cannot leave its own.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Counts the threads of this process.
    ///
    /// # Errors
    /// `EBUSY` where there is more than one; what reading `/proc` failed with.
    pub fn check() -> std::io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(PhantomData)),
            _ => Err(Errno::BUSY.into()),
        }
    }
}

/// A child, by number and by descriptor.
#[derive(Debug)]
pub struct Child {
    /// Number in this process's namespace.
    pub pid: Pid,
    /// Readable once the child ended.
    pub descriptor: OwnedFd,
}

/// Forks; the child runs the closure, exits with what it returns, and never comes back here.
///
/// The child is made in new `namespaces` (`CLONE_NEW*`), and in the cgroup (v2) whose directory is given.
///
/// # Errors
/// What `clone3` refuses.
pub fn fork(
    _proof: &SingleThreaded,
    namespaces: UnshareFlags,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> u8,
) -> Result<Child, Errno> {
    let mut descriptor: RawFd = -1;
    let mut flags = u64::from(namespaces.bits()) | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let mut arguments = libc::clone_args {
        flags,
        pidfd: std::ptr::from_mut(&mut descriptor) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM and with no stack of its own the child continues on a copy of this one, as after fork(2). The
    // proof says that no other thread exists whose locks the copy could hold. The arguments outlive the call.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut arguments), std::mem::size_of::<libc::clone_args>())
    };
    if checked(pid)? == 0 {
        let code = std::panic::catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
        // SAFETY: ends this process at once; nothing of the parent's (buffers, exit handlers) runs twice.
        unsafe { libc::_exit(i32::from(code)) }
    }
    // SAFETY: the kernel made this descriptor for us and nothing else knows it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
    Ok(Child { pid, descriptor })
}

/// Moves this process into new namespaces.
///
/// # Errors
/// `EINVAL` for flags that are not of namespaces; what `unshare` refuses.
pub fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    if namespaces.intersects(UnshareFlags::FILES | UnshareFlags::SYSVSEM) {
        return Err(Errno::INVAL);
    }
    // SAFETY: the descriptor table stays shared, which is the one thing that unshare could break.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Replaces this process by the program that the descriptor holds. Returns only where that fails.
#[must_use]
pub fn execute(program: impl AsFd, arguments: &[&CStr], environment: &[&CStr]) -> Errno {
    let pointers = |texts: &[&CStr]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and hold strings that outlive the call, which returns only on failure.
    let _failed: c_long = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_error()
}

/// Closes every descriptor but standard input, output, error and those to keep.
///
/// For the child's side of a [`fork`]: what the parent owned is the parent's to close there, and a child never returns to it.
///
/// # Errors
/// What `close_range` refuses.
pub fn keep_only(_proof: &SingleThreaded, keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut numbers: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    let mut first: RawFd = 3;
    for number in numbers.into_iter().filter(|number| *number >= 3).chain([RawFd::MAX]) {
        if first < number {
            // SAFETY: this process has one thread, and nothing on its way from here on uses what is closed.
            checked(unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0) })?;
        }
        first = number.saturating_add(1);
    }
    Ok(())
}

/// Marks every descriptor from `first` on to be closed when a program is executed.
///
/// # Errors
/// What `close_range` refuses.
pub fn close_from_at_execution(first: RawFd) -> Result<(), Errno> {
    // SAFETY: only sets a flag of descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    checked(result).map(|_| ())
}

/// Puts a copy of a descriptor at a fixed number, where it survives execution. What was there is closed.
///
/// # Errors
/// What `dup2` refuses.
pub fn place(descriptor: impl AsFd, number: RawFd) -> Result<(), Errno> {
    let from = descriptor.as_fd().as_raw_fd();
    if from == number {
        // SAFETY: clears the close-on-exec flag of a descriptor that the caller lent.
        let result = unsafe { libc::fcntl(from, libc::F_SETFD, 0) };
        return checked(c_long::from(result)).map(|_| ());
    }
    // SAFETY: callers place descriptors just before execution, when no owner of `number` is used again.
    let result = unsafe { libc::dup2(from, number) };
    checked(c_long::from(result)).map(|_| ())
}

/// Takes a descriptor that this process inherited by number.
///
/// # Errors
/// `EBADF` where none is open there.
pub fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: duplicates whatever is open at the number; the copy is ours alone.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    checked(c_long::from(copy))?;
    // SAFETY: just made, and known to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_taken_for_one_without() {
        // The test harness runs each test in a thread of its own.
        assert!(SingleThreaded::check().is_err());
    }

    #[test]
    fn flags_that_are_not_namespaces_are_refused() {
        assert_eq!(unshare(UnshareFlags::FILES), Err(Errno::INVAL));
    }
}
