//! Start and ready commands: tried once at the end of a build, and run in every sandbox of the template.
//!
//! E2B's sandboxes resume with a start command that runs already; here it begins with the sandbox, and the sandbox is handed out
//! once the ready command succeeds.

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Selector, Start};

use super::build::{Built, FINALIZE};
use super::log::{Level, Log};
use super::process::{self, Output, fault};
use crate::guest::{Event, Guest, ProcessStream};
use crate::image::record::Config;
use crate::limits::{TEMPLATE_READY_AT_CREATION, TEMPLATE_READY_EVERY, TEMPLATE_READY_TIMEOUT};

/// Name by which the start command's process is found in a sandbox.
const TAG: &str = "start-command";
/// What tells that a template is ready where it has a start command and says nothing: E2B waits 20 seconds then.
const READY_DEFAULT: &str = "sleep 20";

/// Runs the commands at the end of a build, until the template is ready.
///
/// # Errors
/// `invalid` where the start command fails before; `timeout` where the template does not become ready.
pub(super) async fn try_out(guest: &Guest, built: &Built, context: &Config, log: &Log) -> Result<(), Failure> {
    let output = |prefix| Output { log, level: Level::Info, step: FINALIZE, prefix };
    let ready = ready_command(built);
    let starting = async {
        let Some(command) = &built.start else { return std::future::pending().await };
        log.say(Level::Info, Some(FINALIZE), &format!("Running start command: {command}"));
        let stream = guest.start(process::shell(guest, command, context).await).await?;
        let ended = process::follow(stream, Some(output("start"))).await?;
        match fault(ended.exit) {
            Some(how) => Err(Failure::new(Code::Invalid, format!("start command failed: {how}"))),
            // It has done what it had to: whether the template is ready is the other command's to say.
            None => std::future::pending().await,
        }
    };
    let waiting = async {
        log.say(Level::Info, Some(FINALIZE), &format!("Waiting for template to be ready: {ready}"));
        let until = until_ready(guest, &ready, context, Some(Output { level: Level::Debug, ..output("ready") }));
        tokio::time::timeout(TEMPLATE_READY_TIMEOUT, until).await.unwrap_or_else(|_| {
            let message = format!("ready command failed: timed out after {} s", TEMPLATE_READY_TIMEOUT.as_secs());
            Err(Failure::new(Code::Timeout, message).with("limit_ms", TEMPLATE_READY_TIMEOUT.as_millis()))
        })
    };
    // A start command that fails at once is told also where the template looks ready.
    tokio::select! {
        biased;
        failed = starting => failed,
        outcome = waiting => outcome,
    }?;
    log.say(Level::Info, Some(FINALIZE), "Template is ready");
    Ok(())
}

fn ready_command(built: &Built) -> String {
    let default = if built.start.is_some() { READY_DEFAULT } else { "true" };
    built.ready.clone().unwrap_or_else(|| default.to_owned())
}

/// Runs the ready command until it succeeds.
async fn until_ready(
    guest: &Guest,
    command: &str,
    context: &Config,
    output: Option<Output<'_>>,
) -> Result<(), Failure> {
    let start = process::shell(guest, command, context).await;
    loop {
        let ended = process::run(guest, start.clone(), output).await?;
        if fault(ended.exit).is_none() {
            return Ok(());
        }
        tokio::time::sleep(TEMPLATE_READY_EVERY).await;
    }
}

/// Starts a template's command in a new sandbox and waits until it is ready. Why it is not is told: the sandbox can be used all
/// the same.
pub async fn begin(guest: &Guest, start: Option<&str>, ready: Option<&str>) -> Result<(), String> {
    let mut running = None;
    if let Some(text) = start {
        let command = Start { tag: Some(TAG.to_owned()), detached: true, ..in_sandbox(guest, text).await };
        running = match guest.start(command).await {
            Ok(stream) => Some(stream),
            // An earlier answer to the same request has started it.
            Err(failure) if failure.code == Code::Conflict => guest.attach(Selector::Tag(TAG.to_owned())).await.ok(),
            Err(failure) => return Err(format!("the template's start command failed: {}", failure.message)),
        };
    }
    let Some(ready) = ready else { return Ok(()) };
    let ready = in_sandbox(guest, ready).await;
    let waiting = async {
        while fault(process::run(guest, ready.clone(), None).await.map_err(|failure| failure.message)?.exit).is_some() {
            tokio::time::sleep(TEMPLATE_READY_EVERY).await;
        }
        Ok(())
    };
    let bounded = async {
        tokio::time::timeout(TEMPLATE_READY_AT_CREATION, waiting).await.unwrap_or_else(|_| {
            let seconds = TEMPLATE_READY_AT_CREATION.as_secs();
            Err(format!("the template's ready command did not succeed within {seconds} s"))
        })
    };
    tokio::select! {
        biased;
        how = failed(running) => Err(format!("the template's start command failed: {how}")),
        outcome = bounded => outcome,
    }
}

/// A command as the sandbox runs commands: it has environment, user and directory of its template already.
async fn in_sandbox(guest: &Guest, command: &str) -> Start {
    let Start { argv, .. } = process::shell(guest, command, &Config::default()).await;
    Start { argv, ..Start::default() }
}

/// How a process ended that did not succeed; never, where it did or is none.
async fn failed(process: Option<ProcessStream>) -> String {
    let Some(mut process) = process else { return std::future::pending().await };
    loop {
        match process.next_event().await {
            Ok(Some(Event::Exited { exit, .. })) => match fault(exit) {
                Some(how) => return how,
                None => return std::future::pending().await,
            },
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return std::future::pending().await,
        }
    }
}
