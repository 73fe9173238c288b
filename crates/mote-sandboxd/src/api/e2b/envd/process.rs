//! `process.Process`: commands and terminals.
//!
//! A process outlives the request that started it, until the call's deadline; so that a client may go and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use data_encoding::BASE64;
use futures_util::{Stream, stream};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Exit, Selector, Start, TerminalSize};
use serde::Deserialize;
use serde_json::{Value, json};

use super::connect::{self, Messages};
use super::wording;
use crate::api::e2b::E2b;
use crate::api::e2b::gateway::Inside;
use crate::code;
use crate::guest::{Event, Guest, ProcessInput, ProcessStream};
use crate::lifecycle::Sandboxes;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    cmd: String,
    args: Vec<String>,
    envs: BTreeMap<String, String>,
    cwd: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Size {
    cols: u16,
    rows: u16,
}

#[derive(Deserialize)]
struct Pty {
    size: Option<Size>,
}

impl Pty {
    fn size(self) -> TerminalSize {
        let size = self.size.unwrap_or_default();
        let or = |value, default| if value == 0 { default } else { value };
        TerminalSize { cols: or(size.cols, 80), rows: or(size.rows, 24) }
    }
}

#[derive(Deserialize)]
struct StartRequest {
    process: Option<Config>,
    pty: Option<Pty>,
    tag: Option<String>,
    stdin: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Which {
    Pid(u32),
    Tag(String),
}

/// The field that most requests have.
#[derive(Deserialize)]
struct Chosen {
    process: Option<Which>,
}

impl Chosen {
    fn selector(self) -> Result<Selector, Failure> {
        selector(self.process)
    }
}

fn selector(which: Option<Which>) -> Result<Selector, Failure> {
    match which {
        Some(Which::Pid(pid)) => Ok(Selector::Pid(pid)),
        // The drivers of code contexts are nobody's to touch by tag.
        Some(Which::Tag(tag)) if tag.starts_with(code::TAG) => Err(Failure::not_found("process", &tag)),
        Some(Which::Tag(tag)) => Ok(Selector::Tag(tag)),
        None => Err(Failure::invalid("process", "a process must be chosen by pid or tag")),
    }
}

#[derive(Deserialize)]
struct UpdateRequest {
    process: Option<Which>,
    pty: Option<Pty>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Signal {
    Name(String),
    Number(i32),
}

#[derive(Deserialize)]
struct SignalRequest {
    process: Option<Which>,
    signal: Option<Signal>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Input {
    Stdin(String),
    Pty(String),
}

impl Input {
    fn bytes(self) -> Result<Vec<u8>, Failure> {
        let (Self::Stdin(text) | Self::Pty(text)) = self;
        BASE64.decode(text.as_bytes()).map_err(|error| Failure::invalid("input", format!("it is not base64: {error}")))
    }
}

#[derive(Deserialize)]
struct InputRequest {
    process: Option<Which>,
    input: Option<Input>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum InputEvent {
    Start(Chosen),
    Data { input: Option<Input> },
    Keepalive {},
}

/// A call of the service.
pub(super) async fn call(
    State(e2b): State<E2b>,
    Extension(inside): Extension<Inside>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let is_stream = match connect::is_stream(request.headers()) {
        Ok(is_stream) => is_stream,
        Err(response) => return *response,
    };
    let Inside { sandbox, guest } = &inside;
    let ooms = e2b.api.sandboxes.oom_kills(sandbox);
    let of = Of { sandboxes: e2b.api.sandboxes, sandbox: sandbox.clone(), ooms };
    match (method.as_str(), is_stream) {
        ("Start", true) => start(guest, of, request).await,
        ("Connect", true) => attach(guest, of, request).await,
        ("StreamInput", true) => connect::stream_of_one(stream_input(guest, request).await),
        ("List", false) => connect::answer(list(guest).await),
        ("Update", false) => connect::answer(update(guest, request).await),
        ("SendInput", false) => connect::answer(send_input(guest, request).await),
        ("CloseStdin", false) => connect::answer(close_stdin(guest, request).await),
        ("SendSignal", false) => connect::answer(send_signal(guest, request).await),
        (method, is_stream) => {
            let failure = Failure::unsupported(&format!("process.Process/{method}"), "there is no such procedure");
            if is_stream { connect::stream_of_one(Err(failure)) } else { connect::answer(Err(failure)) }
        }
    }
}

/// The sandbox that a process is of.
struct Of {
    sandboxes: Sandboxes,
    sandbox: String,
    /// Its processes that had been ended for want of memory before.
    ooms: u64,
}

async fn start(guest: &Guest, of: Of, request: Request) -> Response {
    let headers = request.headers().clone();
    let starting = async {
        let (user, deadline) = (connect::user(&headers)?, connect::deadline(&headers)?);
        let StartRequest { process, pty, tag, stdin } = Messages::of(request).only().await?;
        let Config { cmd, args, envs, cwd } = process.unwrap_or_default();
        if cmd.is_empty() {
            return Err(Failure::invalid("process.cmd", "no command is given"));
        }
        if tag.as_deref().is_some_and(|tag| tag.starts_with(code::TAG)) {
            return Err(Failure::invalid("tag", format!("{:?} is kept for code contexts", code::TAG)));
        }
        let terminal = pty.map(Pty::size);
        let start = Start {
            argv: std::iter::once(cmd).chain(args).collect(),
            env: envs,
            cwd: cwd.filter(|cwd| !cwd.is_empty()),
            user,
            tag,
            // E2B's default from before the field was there.
            stdin: terminal.is_some() || stdin.unwrap_or(true),
            terminal,
            detached: true,
            timeout_ms: deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).max(1)),
        };
        guest.start(start).await.map_err(wording::start)
    };
    match starting.await {
        Ok(process) => connect::stream(events(process, of, connect::keepalive(&headers), None)),
        Err(failure) => connect::stream_of_one(Err(failure)),
    }
}

async fn attach(guest: &Guest, of: Of, request: Request) -> Response {
    let headers = request.headers().clone();
    let attaching = async {
        let deadline = connect::deadline(&headers)?;
        let chosen: Chosen = Messages::of(request).only().await?;
        let selector = chosen.selector()?;
        let attached = guest.attach(selector.clone()).await.map_err(|failure| wording::process(failure, &selector))?;
        Ok((attached, deadline))
    };
    match attaching.await {
        Ok((process, deadline)) => connect::stream(events(process, of, connect::keepalive(&headers), deadline)),
        Err(failure) => connect::stream_of_one(Err(failure)),
    }
}

/// What happens with a process as messages. `deadline` ends the following, not the process.
fn events(
    process: ProcessStream,
    of: Of,
    keepalive: Duration,
    deadline: Option<Duration>,
) -> impl Stream<Item = Result<Value, Failure>> + Send + 'static {
    let deadline = deadline.and_then(|deadline| tokio::time::Instant::now().checked_add(deadline));
    stream::unfold(Some((process, of)), move |state| async move {
        let (mut process, of) = state?;
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = process.next_event() => event,
            () = tokio::time::sleep(keepalive) => return Some((Ok(json!({ "event": { "keepalive": {} } })), Some((process, of)))),
            () = expired => Err(wording::expired()),
        };
        match event {
            Ok(Some(Event::Exited { timed_out: true, .. })) => Some((Err(wording::expired()), None)),
            Ok(Some(event)) => {
                let is_end = matches!(event, Event::Exited { .. });
                let ooms = if is_end { of.sandboxes.oom_kills(&of.sandbox).saturating_sub(of.ooms) } else { 0 };
                Some((Ok(json!({ "event": told(&event, ooms) })), Some((process, of))))
            }
            Ok(None) => None,
            Err(failure) => Some((Err(wording::stream(failure, &of.sandbox)), None)),
        }
    })
}

/// `ooms` processes of the sandbox were ended for want of memory meanwhile: `error` says so, for which E2B has no field.
fn told(event: &Event, ooms: u64) -> Value {
    let with_ooms = |status: &str| match ooms {
        0 => status.to_owned(),
        ooms => format!("{status} (out of memory: the kernel ended {ooms} of the sandbox's processes)"),
    };
    match event {
        Event::Started { pid } => json!({ "start": { "pid": pid } }),
        Event::Stdout(bytes) => json!({ "data": { "stdout": BASE64.encode(bytes) } }),
        Event::Stderr(bytes) => json!({ "data": { "stderr": BASE64.encode(bytes) } }),
        Event::Terminal(bytes) => json!({ "data": { "pty": BASE64.encode(bytes) } }),
        Event::Exited { exit: Exit::Code(0), .. } => {
            json!({ "end": { "exitCode": 0, "exited": true, "status": "exit status 0" } })
        }
        Event::Exited { exit: Exit::Code(code), .. } => {
            let status = format!("exit status {code}");
            json!({ "end": { "exitCode": code, "exited": true, "status": status, "error": with_ooms(&status) } })
        }
        Event::Exited { exit: Exit::Signal(number), .. } => {
            let status = format!("signal: {}", signal_name(*number));
            json!({ "end": { "exitCode": -1, "exited": false, "status": status, "error": with_ooms(&status) } })
        }
    }
}

/// Names as `envd` tells them; the number where it has none here.
fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        number => return format!("signal {number}"),
    };
    name.to_owned()
}

async fn list(guest: &Guest) -> Result<Value, Failure> {
    let processes = guest.processes().await?;
    let own =
        processes.into_iter().filter(|process| !process.tag.as_deref().is_some_and(|tag| tag.starts_with(code::TAG)));
    let processes: Vec<Value> = own
        .map(|process| {
            let mut argv = process.argv.into_iter();
            let (cmd, args): (_, Vec<String>) = (argv.next().unwrap_or_default(), argv.collect());
            let mut told = json!({
                "config": { "cmd": cmd, "args": args, "envs": process.env },
                "pid": process.pid,
            });
            if let Some(cwd) = process.cwd {
                told["config"]["cwd"] = cwd.into();
            }
            if let Some(tag) = process.tag {
                told["tag"] = tag.into();
            }
            told
        })
        .collect();
    Ok(json!({ "processes": processes }))
}

async fn update(guest: &Guest, request: Request) -> Result<Value, Failure> {
    let UpdateRequest { process, pty } = connect::unary(request).await?;
    if let Some(pty) = pty {
        let selector = selector(process)?;
        let resized = guest.resize(selector.clone(), pty.size()).await;
        resized.map_err(|failure| wording::process(failure, &selector))?;
    }
    Ok(json!({}))
}

async fn send_input(guest: &Guest, request: Request) -> Result<Value, Failure> {
    let InputRequest { process, input } = connect::unary(request).await?;
    let bytes = input.ok_or_else(|| Failure::invalid("input", "no input is given"))?.bytes()?;
    let selector = selector(process)?;
    let writing = async {
        let mut writer = guest.input(selector.clone()).await?;
        // An empty write would be the end of the input.
        if !bytes.is_empty() {
            writer.write(&bytes).await?;
        }
        writer.finish().await
    };
    writing.await.map_err(|failure| wording::process(failure, &selector)).map(|()| json!({}))
}

async fn stream_input(guest: &Guest, request: Request) -> Result<Value, Failure> {
    let mut messages = Messages::of(request);
    let mut writer: Option<ProcessInput> = None;
    #[derive(Deserialize)]
    struct Message {
        #[serde(flatten)]
        event: Option<InputEvent>,
    }
    while let Some(Message { event }) = messages.next().await? {
        match (event, &mut writer) {
            (Some(InputEvent::Start(chosen)), None) => writer = Some(guest.input(chosen.selector()?).await?),
            (Some(InputEvent::Data { input: Some(input) }), Some(writer)) => {
                let bytes = input.bytes()?;
                if !bytes.is_empty() {
                    writer.write(&bytes).await?;
                }
            }
            (Some(InputEvent::Keepalive {}) | None, _) => {}
            _ => {
                return Err(Failure::new(
                    Code::Invalid,
                    "a stream of input begins with its process, and goes on with data",
                ));
            }
        }
    }
    writer.ok_or_else(|| Failure::new(Code::Invalid, "the stream of input names no process"))?.finish().await?;
    Ok(json!({}))
}

async fn close_stdin(guest: &Guest, request: Request) -> Result<Value, Failure> {
    let chosen: Chosen = connect::unary(request).await?;
    let selector = chosen.selector()?;
    let closing = async {
        let mut writer = guest.input(selector.clone()).await?;
        writer.close().await?;
        writer.finish().await
    };
    closing.await.map_err(|failure| wording::process(failure, &selector)).map(|()| json!({}))
}

async fn send_signal(guest: &Guest, request: Request) -> Result<Value, Failure> {
    let SignalRequest { process, signal } = connect::unary(request).await?;
    let number = match signal {
        Some(Signal::Name(name)) if name == "SIGNAL_SIGKILL" => 9,
        Some(Signal::Name(name)) if name == "SIGNAL_SIGTERM" => 15,
        Some(Signal::Number(number @ (9 | 15))) => number,
        _ => return Err(Failure::invalid("signal", "it must be SIGNAL_SIGTERM or SIGNAL_SIGKILL")),
    };
    let selector = selector(process)?;
    let signalled = guest.signal(selector.clone(), number).await;
    signalled.map_err(|failure| wording::process(failure, &selector)).map(|()| json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_that_memory_was_used_up_where_e2b_has_a_place_for_it() {
        let end = |exit, ooms| told(&Event::Exited { exit, timed_out: false }, ooms)["end"].clone();
        let killed = end(Exit::Signal(9), 2);
        assert_eq!(killed["status"], "signal: killed");
        assert_eq!(killed["error"], "signal: killed (out of memory: the kernel ended 2 of the sandbox's processes)");
        assert_eq!(end(Exit::Signal(9), 0)["error"], "signal: killed");
        assert!(end(Exit::Code(137), 1)["error"].as_str().unwrap().starts_with("exit status 137 (out of memory"));
        assert_eq!(end(Exit::Code(0), 1)["error"], Value::Null);
    }
}
