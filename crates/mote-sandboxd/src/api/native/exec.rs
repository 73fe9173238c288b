//! `POST /v1/sandboxes/{id}/exec`: one process from start to end, its output gathered; and what runs already.
//!
//! A caller that goes away ends the process: it has nobody to tell. For output as it comes see `stream`.

use std::collections::VecDeque;

use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::{Exit, Selector, Start};
use mote_sandbox_api::limits::{ARGS_BYTES_MAX, ARGS_MAX};
use mote_sandbox_api::request::{Command, Exec, ExecResult, Page};
use serde::Deserialize;
use tokio::time::Instant;

use super::body::{Answer, Body, json};
use crate::api::Api;
use crate::api::access::User;
use crate::guest::{Event, Guest};
use crate::lifecycle::check;
use crate::lifecycle::measure::Operation;
use crate::limits::EXEC_OUTPUT_BYTES_MAX;
use crate::telemetry::trace;

pub(super) async fn exec(State(api): State<Api>, user: User, headers: HeaderMap, body: Body<Exec>) -> Answer {
    let exec = body.value;
    check::env("env", &exec.env)?;
    let input = exec.stdin.clone();
    let output_max = exec.output_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX).min(EXEC_OUTPUT_BYTES_MAX));
    let mut start = Start {
        argv: argv(exec.command)?,
        env: exec.env,
        cwd: exec.cwd,
        user: exec.user,
        stdin: input.is_some(),
        timeout_ms: exec.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        ..Start::default()
    };
    traced(&headers, &mut start);
    let guest = api.sandboxes.awake(&user.sandbox).await?;
    let taken = api.sandboxes.durations().start(Operation::Exec);
    let ooms = api.sandboxes.oom_kills(&user.sandbox);
    let mut result = gathered(&guest, start, input, output_max).await?;
    result.oom_kills = api.sandboxes.oom_kills(&user.sandbox).saturating_sub(ooms);
    taken.done();
    tracing::info!(exit = ?result.exit, duration_ms = result.duration_ms, "a program ended");
    Ok(json(StatusCode::OK, &result))
}

/// Hands the caller's trace on to what is started, unless the caller set it.
pub(super) fn traced(headers: &HeaderMap, start: &mut Start) {
    if let Some(context) = trace::read(headers) {
        start.env.entry("TRACEPARENT".to_owned()).or_insert(context.header);
    }
}

/// The words of a command, checked.
pub(super) fn argv(command: Command) -> Result<Vec<String>, Failure> {
    let argv = match command {
        Command::Line(line) if line.is_empty() => Vec::new(),
        Command::Line(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        Command::Arguments(words) => words,
    };
    words("command", &argv)?;
    Ok(argv)
}

/// Whether these can be a program and its arguments.
pub(in crate::api) fn words(field: &str, argv: &[String]) -> Result<(), Failure> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(Failure::invalid(field, "no program is given"));
    }
    let bytes: usize = argv.iter().map(String::len).sum();
    if argv.len() > ARGS_MAX || bytes > ARGS_BYTES_MAX {
        let message = format!("it has more than {ARGS_MAX} arguments or {ARGS_BYTES_MAX} bytes");
        return Err(Failure::invalid(field, message).with("limit", ARGS_MAX));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(Failure::invalid(field, "an argument has a zero byte"));
    }
    Ok(())
}

/// Output within a bound; what is beyond is counted.
struct Gathered {
    head: Vec<u8>,
    head_max: usize,
    tail: VecDeque<u8>,
    tail_max: usize,
    cut: u64,
}

impl Gathered {
    /// The beginning alone within the daemon's bound, or the first and the last half of what the caller asks for.
    fn new(output_max: Option<usize>) -> Self {
        let (head_max, tail_max) = match output_max {
            Some(max) => (max.div_ceil(2), max / 2),
            None => (EXEC_OUTPUT_BYTES_MAX, 0),
        };
        Self { head: Vec::new(), head_max, tail: VecDeque::new(), tail_max, cut: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = (self.head_max - self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        // Of a long piece only its end can stay.
        let skipped = rest.len().saturating_sub(self.tail_max);
        self.tail.extend(&rest[skipped..]);
        let over = self.tail.len().saturating_sub(self.tail_max);
        self.tail.drain(..over);
        self.cut += (skipped + over) as u64;
    }

    fn text(mut self) -> String {
        if self.cut > 0 && self.tail_max > 0 {
            self.head.extend_from_slice(format!("\n[… {} bytes left out …]\n", self.cut).as_bytes());
        }
        self.head.extend(self.tail);
        String::from_utf8(self.head).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Runs a process to its end.
pub(in crate::api) async fn gathered(
    guest: &Guest,
    start: Start,
    input: Option<String>,
    output_max: Option<usize>,
) -> Result<ExecResult, Failure> {
    let since = Instant::now();
    let mut process = guest.start(start).await?;
    let writer = process.take_input();
    // Input goes in while output comes out: neither waits for the other.
    let feeding = async {
        if let (Some(mut writer), Some(input)) = (writer, input) {
            // A process may end, or close its input, without having read it all: no failure.
            if writer.write(input.as_bytes()).await.is_ok() {
                let _ = writer.close().await;
            }
            return Some(writer);
        }
        None
    };
    let following = async {
        let (mut stdout, mut stderr) = (Gathered::new(output_max), Gathered::new(output_max));
        let (mut exit, mut timed_out) = (Exit::Code(0), false);
        while let Some(event) = process.next_event().await? {
            match event {
                Event::Started { .. } => {}
                Event::Stdout(bytes) | Event::Terminal(bytes) => stdout.add(&bytes),
                Event::Stderr(bytes) => stderr.add(&bytes),
                Event::Exited { exit: how, timed_out: late } => (exit, timed_out) = (how, late),
            }
        }
        Ok((stdout, stderr, exit, timed_out))
    };
    tokio::pin!(feeding, following);
    let mut fed = None;
    let (stdout, stderr, exit, timed_out) = loop {
        tokio::select! {
            ended = &mut following => break ended?,
            // The writer is kept: dropping it is left to the end.
            writer = &mut feeding, if fed.is_none() => fed = Some(writer),
        }
    };
    Ok(ExecResult {
        truncated_bytes: stdout.cut + stderr.cut,
        stdout: stdout.text(),
        stderr: stderr.text(),
        exit,
        timed_out,
        oom_kills: 0,
        duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

pub(super) async fn processes(State(api): State<Api>, user: User) -> Answer {
    let items = api.sandboxes.awake(&user.sandbox).await?.processes().await?;
    Ok(json(StatusCode::OK, &Page { items, next: None }))
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Signal {
    signal: i32,
}

pub(super) async fn signal(
    State(api): State<Api>,
    user: User,
    Path((_, pid)): Path<(String, u32)>,
    body: Body<Signal>,
) -> Answer {
    let guest = api.sandboxes.awake(&user.sandbox).await?;
    guest.signal(Selector::Pid(pid), body.value.signal).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "pid": pid, "signal": body.value.signal })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_to_the_shell_and_words_do_not() {
        assert_eq!(argv(Command::Line("a | b".to_owned())).unwrap(), ["/bin/sh", "-c", "a | b"]);
        assert_eq!(argv(Command::Arguments(vec!["a".to_owned()])).unwrap(), ["a"]);
        for wrong in
            [Command::Line(String::new()), Command::Arguments(vec![]), Command::Arguments(vec!["a\0".to_owned()])]
        {
            assert_eq!(argv(wrong).unwrap_err().context["field"], "command");
        }
    }

    #[test]
    fn output_beyond_the_bound_is_counted() {
        let mut output = Gathered::new(None);
        output.add(&vec![b'x'; EXEC_OUTPUT_BYTES_MAX - 1]);
        output.add(b"yz");
        assert_eq!((output.cut, output.text().len()), (1, EXEC_OUTPUT_BYTES_MAX));
    }

    #[test]
    fn of_output_beyond_what_is_asked_for_both_ends_are_kept() {
        let mut output = Gathered::new(Some(6));
        for piece in [&b"0123456"[..], b"", b"789", b"0123456789"] {
            output.add(piece);
        }
        assert_eq!((output.cut, output.text().as_str()), (14, "012\n[… 14 bytes left out …]\n789"));
        let mut output = Gathered::new(Some(6));
        output.add(b"abcdef");
        assert_eq!((output.cut, output.text().as_str()), (0, "abcdef"));
    }
}
