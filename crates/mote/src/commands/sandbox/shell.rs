//! `mote sandbox shell` and `exec`: a process whose output, and input where that is asked for, are this command's.
//!
//! It renders nothing: bytes pass as they are and as they come; a shell's in raw mode, so that the program inside sees every key.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, anyhow};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use mote_sandbox_api::guest::{Start, TerminalSize};
use mote_sandbox_api::request::{STREAM_STDERR, StreamEvent, StreamRequest};
use rustix::termios::{self, OptionalActions, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Client, explained};
use super::{Program, Run, Shell, ended, of, program};
use crate::commands::exit::{Code, Exit};
use crate::commands::terminal::Terminal;

/// Bytes of input that travel in one message.
const INPUT_BYTES: usize = 16 * 1024;

/// What starts where no program is named: the first shell that is there, as a login shell.
const LOGIN: &str = "if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi";

/// The terminal in raw mode; as it was, when this is dropped.
struct Raw(Termios);

impl Raw {
    /// `None` where standard input is no terminal.
    fn enter() -> Option<Self> {
        let before = termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to set back.
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// The size of the terminal; that of a VT100 where there is none.
fn size() -> TerminalSize {
    match termios::tcgetwinsize(rustix::stdio::stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => TerminalSize { cols: size.ws_col, rows: size.ws_row },
        _ => TerminalSize { cols: 80, rows: 24 },
    }
}

/// A terminal in a sandbox.
pub(super) async fn open(shell: Shell, client: &Client) -> Result<(), Exit> {
    let argv =
        if shell.command.is_empty() { ["/bin/sh", "-c", LOGIN].map(str::to_owned).to_vec() } else { shell.command };
    let start = Start { argv, user: shell.user, terminal: Some(size()), stdin: true, ..Start::default() };
    follow(&of(&shell.sandbox, "/stream"), start, client, true).await.and_then(|end| ended(end.exit))
}

/// A program whose output is this command's, and its input where that is asked for.
pub(super) async fn streamed(run: Run, client: &Client, terminal: &mut Terminal) -> Result<(), Exit> {
    let argv = match program(&run.command) {
        Program::Line(line) => ["/bin/sh", "-c", &line].map(str::to_owned).to_vec(),
        Program::Arguments(words) => words,
    };
    let start = Start {
        argv,
        env: run.env.into_iter().collect(),
        cwd: run.cwd,
        user: run.user,
        stdin: run.interactive,
        timeout_ms: run.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        ..Start::default()
    };
    let end = follow(&of(&run.sandbox, "/stream"), start, client, false).await?;
    if end.timed_out {
        terminal.note("it was ended: its time was over")?;
    }
    if end.oom_kills > 0 {
        terminal.note("out of memory: the kernel ended processes of the sandbox")?;
    }
    ended(end.exit)
}

/// What comes on standard input, read by a thread of its own: nothing waits for that thread when the command ends.
fn input() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, input) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; INPUT_BYTES];
        while let Ok(length) = std::io::stdin().lock().read(&mut buffer) {
            if length == 0 || sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    input
}

fn message(request: &StreamRequest) -> Result<Message, Exit> {
    Ok(Message::text(serde_json::to_string(request).map_err(anyhow::Error::new)?))
}

/// How a process ended.
struct End {
    exit: mote_sandbox_api::guest::Exit,
    timed_out: bool,
    oom_kills: u64,
}

async fn follow(path: &str, start: Start, client: &Client, terminal: bool) -> Result<End, Exit> {
    let takes_input = start.stdin;
    let socket = client.stream(path).await?;
    let (mut sink, mut messages) = socket.split();
    sink.send(message(&StreamRequest::Start(start))?).await.map_err(lost)?;
    let raw = if terminal { Raw::enter() } else { None };
    let mut resized = signal(SignalKind::window_change()).context("failed to watch the terminal's size")?;
    // Input goes out while output comes in, and neither waits for the other: the process may take no more before its output
    // was read.
    let feeding = feed(&mut sink, &mut resized, takes_input, raw.is_some());
    let end = tokio::select! {
        end = receive(&mut messages) => end,
        failure = feeding => Err(failure),
    };
    drop(raw);
    end
}

type Socket = WebSocketStream<reqwest::Upgraded>;

/// Sends what comes on standard input, and the terminal's size where it is one; answers only where that cannot go on. A
/// connection that does not take it any more is no such case: what is received on it says why.
async fn feed(
    sink: &mut SplitSink<Socket, Message>,
    resized: &mut Signal,
    takes_input: bool,
    is_terminal: bool,
) -> Exit {
    // What nobody asked to be passed on is not read: it may be the next command's.
    if !takes_input {
        return std::future::pending().await;
    }
    let (mut input, mut open) = (input(), true);
    loop {
        let next = tokio::select! {
            read = input.recv(), if open => match read {
                Some(bytes) => Ok(Message::binary(bytes)),
                None => {
                    open = false;
                    message(&StreamRequest::StdinEnd)
                }
            },
            _ = resized.recv(), if is_terminal => message(&StreamRequest::Resize(size())),
            else => return std::future::pending().await,
        };
        let next = match next {
            Ok(next) => next,
            Err(exit) => return exit,
        };
        if sink.send(next).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Passes on what the process says, until it ends.
async fn receive(messages: &mut SplitStream<Socket>) -> Result<End, Exit> {
    loop {
        match messages.next().await {
            Some(Ok(Message::Binary(bytes))) => write(&bytes)?,
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text).map_err(anyhow::Error::new)? {
                StreamEvent::Started { .. } => {}
                StreamEvent::Exited { exit, timed_out, oom_kills } => return Ok(End { exit, timed_out, oom_kills }),
                StreamEvent::Failed(failure) => return Err(Exit::new(Code::Refused, anyhow!(explained(&failure)))),
            },
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(lost(error)),
            None => return Err(Exit::new(Code::Unreachable, anyhow!("the daemon closed the connection"))),
        }
    }
}

fn lost(error: tokio_tungstenite::tungstenite::Error) -> Exit {
    Exit::new(Code::Unreachable, anyhow!("the connection was lost: {error}"))
}

fn write(bytes: &[u8]) -> Result<(), Exit> {
    let Some((stream, bytes)) = bytes.split_first() else { return Ok(()) };
    if *stream == STREAM_STDERR {
        let mut output = std::io::stderr().lock();
        output.write_all(bytes)?;
    } else {
        let mut output = std::io::stdout().lock();
        output.write_all(bytes)?;
        output.flush()?;
    }
    Ok(())
}
