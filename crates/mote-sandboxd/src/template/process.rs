//! Programs in a build's sandbox: a login shell, or a script of ours, followed to its end, its output in the build's log.
//!
//! It does not decide what is run.

use std::collections::BTreeMap;
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Exit, FileTarget, Start};

use super::log::{Level, Lines, Log};
use crate::guest::{Event, Guest, ProcessStream};
use crate::image::record::Config;
use crate::limits::{BUILD_OUTPUT_BYTES_KEPT, BUILD_STEP_TIMEOUT};

/// Where programs are looked for whatever `PATH` says.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The user where a template names none, as E2B's.
pub(super) const USER: &str = "user";

/// Where output goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<'a> {
    pub(super) log: &'a Log,
    pub(super) level: Level,
    /// The step that entries stand with.
    pub(super) step: &'a str,
    /// What a line begins with.
    pub(super) prefix: &'a str,
}

/// A program that ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// The beginning of what it wrote to its standard output.
    pub(super) stdout: String,
    /// The same of its standard error.
    pub(super) stderr: String,
}

/// A file of root's.
pub(super) fn root(path: &str) -> FileTarget {
    FileTarget::new(path, Some("0".to_owned()))
}

/// The user of what runs so far.
pub(super) fn user(context: &Config) -> String {
    context.user.clone().unwrap_or_else(|| USER.to_owned())
}

/// The directory of what runs: the template's, or the user's home.
pub(super) async fn directory(guest: &Guest, context: &Config) -> String {
    if let Some(cwd) = &context.cwd {
        return cwd.clone();
    }
    let home = FileTarget::new("~", Some(user(context)));
    guest.stat(home).await.map_or_else(|_| "/".to_owned(), |home| home.path)
}

/// A command in a login shell, bash where the image has it, as E2B runs commands.
pub(super) async fn shell(guest: &Guest, command: &str, context: &Config) -> Start {
    let has_bash = guest.stat(root("/bin/bash")).await.is_ok();
    let argv = if has_bash { ["/bin/bash", "-l", "-c", command] } else { ["/bin/sh", "-l", "-c", command] };
    Start {
        argv: argv.map(str::to_owned).to_vec(),
        env: environment(context),
        cwd: Some(directory(guest, context).await),
        user: Some(user(context)),
        ..Start::default()
    }
}

/// The environment, with the usual places behind whatever `PATH` says.
pub(super) fn environment(context: &Config) -> BTreeMap<String, String> {
    let mut env = context.env.clone();
    if let Some(path) = env.get_mut("PATH") {
        path.push(':');
        path.push_str(PATH);
    }
    env
}

/// A script of ours for root, with words that stand in it as `$1` and on.
pub(super) fn script(text: &str, words: &[&str], env: BTreeMap<String, String>) -> Start {
    let argv = ["/bin/sh", "-euc", text, "sh"].into_iter().chain(words.iter().copied());
    Start {
        argv: argv.map(str::to_owned).collect(),
        env,
        cwd: Some("/".to_owned()),
        user: Some("root".to_owned()),
        ..Start::default()
    }
}

/// Runs a program to its end.
///
/// # Errors
/// `timeout` beyond the time of a step; `not_found` of a user, a directory or a program; `gone`.
pub(super) async fn run(guest: &Guest, start: Start, output: Option<Output<'_>>) -> Result<Ended, Failure> {
    let limit = Duration::from_millis(BUILD_STEP_TIMEOUT);
    let following = async {
        let stream = guest.start(start).await?;
        follow(stream, output).await
    };
    tokio::time::timeout(limit, following).await.unwrap_or_else(|_| {
        Err(Failure::new(Code::Timeout, format!("it took more than {} minutes", limit.as_secs() / 60))
            .with("limit_ms", BUILD_STEP_TIMEOUT))
    })
}

/// Follows a program to its end.
///
/// # Errors
/// `gone`.
pub(super) async fn follow(mut stream: ProcessStream, output: Option<Output<'_>>) -> Result<Ended, Failure> {
    let (mut out, mut err) = (Lines::default(), Lines::default());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let tell = |name: &str, line: &str| {
        if let Some(Output { log, level, step, prefix }) = output {
            log.print(level, step, &format!("[{prefix}] [{name}]: {line}"));
        }
    };
    let keep = |kept: &mut Vec<u8>, bytes: &[u8]| {
        let room = BUILD_OUTPUT_BYTES_KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    };
    loop {
        match stream.next_event().await? {
            Some(Event::Stdout(bytes) | Event::Terminal(bytes)) => {
                keep(&mut stdout, &bytes);
                out.add(&bytes, |line| tell("stdout", line));
            }
            Some(Event::Stderr(bytes)) => {
                keep(&mut stderr, &bytes);
                err.add(&bytes, |line| tell("stderr", line));
            }
            Some(Event::Exited { exit, .. }) => {
                out.end(|line| tell("stdout", line));
                err.end(|line| tell("stderr", line));
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                return Ok(Ended { exit, stdout: text(&stdout), stderr: text(&stderr) });
            }
            Some(Event::Started { .. }) => {}
            None => return Err(Failure::new(Code::Gone, "the build's sandbox ended")),
        }
    }
}

/// How a program that did not succeed ended, in E2B's words.
pub(super) fn fault(exit: Exit) -> Option<String> {
    match exit {
        Exit::Code(0) => None,
        Exit::Code(code) => Some(format!("exit status {code}")),
        Exit::Signal(signal) => Some(format!("signal {signal}")),
    }
}

/// Runs a script of ours to its end; what it printed.
///
/// # Errors
/// `invalid` with what it said, where it did not succeed.
pub(super) async fn done(guest: &Guest, start: Start, output: Option<Output<'_>>) -> Result<String, Failure> {
    let ended = run(guest, start, output).await?;
    match fault(ended.exit) {
        None => Ok(ended.stdout),
        Some(how) => {
            let said = ended.stderr.trim();
            let message = if said.is_empty() { how } else { format!("{how}: {said}") };
            Err(Failure::new(Code::Invalid, message))
        }
    }
}
