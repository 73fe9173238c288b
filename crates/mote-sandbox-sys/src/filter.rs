//! Installs a seccomp filter without `no_new_privs`: a process that may administrate its user namespace can.
//!
//! It does not compile filters; `seccompiler` does. With `no_new_privs`, which its own installer sets, `sudo` would do nothing.

use rustix::io::Errno;

use crate::checked;

/// One instruction of a filter (`struct sock_filter`): code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// A filter in the form that the kernel reads.
#[derive(Clone, Debug)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Takes the instructions.
    #[must_use]
    pub fn new(instructions: impl IntoIterator<Item = Instruction>) -> Self {
        Self(instructions.into_iter().map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect())
    }

    /// The instructions, for who wants to know what it says to a call that is not made.
    pub fn instructions(&self) -> impl ExactSizeIterator<Item = Instruction> {
        self.0.iter().map(|each| (each.code, each.jt, each.jf, each.k))
    }

    /// Installs it for this thread and all that it starts, for good.
    ///
    /// # Errors
    /// `EACCES` without `CAP_SYS_ADMIN` over the own user namespace; `EINVAL` for a malformed or too long filter.
    pub fn install(&self) -> Result<(), Errno> {
        let len = u16::try_from(self.0.len()).map_err(|_| Errno::INVAL)?;
        let program = libc::sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which outlives the call, and only reads it.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program)) };
        checked(result).map(|_| ())
    }
}
