//! How commands end: exit codes, and errors that carry one.
//!
//! The codes are documented in `mote --help` and docs/cli.md; scripts depend on them.

use std::process::ExitCode;

use super::terminal::Terminal;

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// All went well.
    Done,
    /// The task failed or was cancelled, or the command failed.
    Failed,
    /// The command line or agent.yaml is wrong.
    Usage,
    /// The service cannot be reached, or is overloaded.
    Unreachable,
    /// The service refused the request.
    Refused,
    /// What a program in a sandbox ended with.
    Program(u8),
}

impl Code {
    /// The number that scripts see.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::Program(number) => number,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}

/// The end of a command that did not go well.
#[derive(Debug)]
pub(crate) struct Exit {
    code: Code,
    /// What to print; nothing if the command has said it all.
    error: Option<anyhow::Error>,
}

impl Exit {
    /// An end with its own code.
    pub(crate) fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: Some(error.into()) }
    }

    /// A mistake of whoever wrote the command line.
    pub(crate) fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Code::Usage, anyhow::anyhow!("{message}"))
    }

    /// An end of which everything was said already.
    pub(crate) fn silent(code: Code) -> Self {
        Self { code, error: None }
    }

    /// The error and what caused it, in one line.
    pub(crate) fn told(&self) -> String {
        self.error.as_ref().map(told).unwrap_or_default()
    }

    /// Prints the error and what caused it.
    pub(crate) fn report(self, terminal: &mut Terminal) -> Code {
        let Some(error) = self.error else { return self.code };
        let closed = error.chain().any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
        });
        if closed {
            // Whoever read the output (`head`, a pager) has seen enough.
            return Code::Done;
        }
        // Nothing can be done if stderr is closed.
        let mark = terminal.paint(super::terminal::Style::Bad, "error:");
        let _ = terminal.note(&format!("{mark} {}", told(&error)));
        self.code
    }
}

/// The error and its causes, each once: many errors end with their cause already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        told if told.ends_with(&cause) => told.to_owned(),
        told => format!("{told}: {cause}"),
    })
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Failed, error)
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Self {
        Self::new(Code::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let folder = mote::service::Error::State { path: "st".into(), source: denied() };
        let nested = Err::<(), _>(folder).context("failed to start").unwrap_err();
        assert_eq!(told(&nested), "failed to start: failed to make the state folder st: permission denied");
        let plain = Err::<(), _>(denied()).context("failed to write x").unwrap_err();
        assert_eq!(told(&plain), "failed to write x: permission denied");
    }
}
