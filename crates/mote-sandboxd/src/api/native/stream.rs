//! `GET /v1/sandboxes/{id}/stream`: a process over a WebSocket, with its input, its terminal and its signals.
//!
//! A client that goes away ends the process, unless it was started detached; one that was attached to goes on. It buffers one
//! message of output and a few of input: a client that reads slowly slows the process down, and the other way round.

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Selector;
use mote_sandbox_api::request::{STREAM_STDERR, STREAM_STDOUT, STREAM_TERMINAL, StreamEvent, StreamRequest};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::exec::{traced, words};
use crate::api::Api;
use crate::api::access::User;
use crate::api::failure::Refusal;
use crate::guest::{Event, Guest, ProcessInput, ProcessStream};
use crate::lifecycle::check;
use crate::limits::{SOCKET_MESSAGE_BYTES_MAX, STREAM_INPUT_HELD};

/// Close code of a server that goes away (RFC 6455, section 7.4.1).
const GOING_AWAY: u16 = 1001;

pub(super) async fn stream(
    State(api): State<Api>,
    user: User,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let guest = api.sandboxes.awake(&user.sandbox).await?;
    let closing = api.closing.clone();
    let sandboxes = api.sandboxes.clone();
    let before = sandboxes.oom_kills(&user.sandbox);
    let ooms = move || sandboxes.oom_kills(&user.sandbox).saturating_sub(before);
    let upgrade = upgrade.max_message_size(SOCKET_MESSAGE_BYTES_MAX).max_frame_size(SOCKET_MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let outcome = match begin(&guest, &headers, &mut socket).await {
            Ok(Some(process)) => follow(&guest, process, &mut socket, &closing, ooms).await,
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = outcome {
            let _ = tell(&mut socket, &StreamEvent::Failed(failure)).await;
        }
        // The client may be gone already.
        let _ = socket.send(Message::Close(None)).await;
    }))
}

/// The first message says what to follow; nothing where the client went away.
async fn begin(guest: &Guest, headers: &HeaderMap, socket: &mut WebSocket) -> Result<Option<ProcessStream>, Failure> {
    loop {
        return match socket.recv().await {
            None | Some(Err(_) | Ok(Message::Close(_))) => Ok(None),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Binary(_))) => {
                Err(Failure::invalid("message", "the first message must be start or attach"))
            }
            Some(Ok(Message::Text(text))) => match read(&text)? {
                StreamRequest::Start(mut start) => {
                    words("start.argv", &start.argv)?;
                    check::env("start.env", &start.env)?;
                    traced(headers, &mut start);
                    guest.start(start).await.map(Some)
                }
                StreamRequest::Attach(process) => guest.attach(process).await.map(Some),
                _ => Err(Failure::invalid("message", "the first message must be start or attach")),
            },
        };
    }
}

fn read(text: &str) -> Result<StreamRequest, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::invalid("message", error))
}

type Sink<'a> = SplitSink<&'a mut WebSocket, Message>;

async fn tell<S: futures_util::Sink<Message> + Unpin>(sink: &mut S, event: &StreamEvent) -> Result<(), Failure> {
    let text = serde_json::to_string(event).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    sink.send(Message::text(text)).await.map_err(|_| left())
}

fn left() -> Failure {
    Failure::new(Code::Gone, "the client went away")
}

/// What came in for a process.
enum Input {
    Bytes(Bytes),
    End,
}

/// Output goes out while input comes in, and neither waits for the other: a process may take no more before it has said
/// something.
async fn follow(
    guest: &Guest,
    mut process: ProcessStream,
    socket: &mut WebSocket,
    closing: &CancellationToken,
    ooms: impl Fn() -> u64,
) -> Result<(), Failure> {
    let selector = Selector::Pid(process.pid());
    let input = process.take_input();
    {
        let (mut sink, messages) = socket.split();
        let (queue, queued) = mpsc::channel(STREAM_INPUT_HELD);
        tokio::select! {
            ended = tell_of(process, &mut sink, ooms) => return ended,
            left = hear(guest, &selector, messages, queue) => return left,
            failure = feed(input, queued) => return Err(failure),
            () = closing.cancelled() => {}
        }
    }
    let frame = CloseFrame { code: GOING_AWAY, reason: "the daemon is stopping".into() };
    let _ = socket.send(Message::Close(Some(frame))).await;
    Ok(())
}

/// Tells the client what comes of a process, until it ends.
async fn tell_of(mut process: ProcessStream, sink: &mut Sink<'_>, ooms: impl Fn() -> u64) -> Result<(), Failure> {
    while let Some(event) = process.next_event().await? {
        match event {
            Event::Started { pid } => tell(sink, &StreamEvent::Started { pid }).await?,
            Event::Stdout(bytes) => output(sink, STREAM_STDOUT, &bytes).await?,
            Event::Stderr(bytes) => output(sink, STREAM_STDERR, &bytes).await?,
            Event::Terminal(bytes) => output(sink, STREAM_TERMINAL, &bytes).await?,
            Event::Exited { exit, timed_out } => {
                return tell(sink, &StreamEvent::Exited { exit, timed_out, oom_kills: ooms() }).await;
            }
        }
    }
    Ok(())
}

/// Does what the client asks, until it goes away. Signals and sizes do not wait for input that the process has not taken.
async fn hear(
    guest: &Guest,
    selector: &Selector,
    mut messages: SplitStream<&mut WebSocket>,
    queue: mpsc::Sender<Input>,
) -> Result<(), Failure> {
    loop {
        let input = match messages.next().await {
            None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Binary(bytes))) => Input::Bytes(bytes),
            Some(Ok(Message::Text(text))) => match read(&text)? {
                StreamRequest::StdinEnd => Input::End,
                StreamRequest::Resize(size) => {
                    guest.resize(selector.clone(), size).await?;
                    continue;
                }
                StreamRequest::Signal(signal) => {
                    guest.signal(selector.clone(), signal).await?;
                    continue;
                }
                StreamRequest::Start(_) | StreamRequest::Attach(_) => {
                    return Err(Failure::invalid("message", "this connection follows a process already"));
                }
            },
        };
        // The other end lives as long as this does.
        let _ = queue.send(input).await;
    }
}

/// Writes what is queued to a process, and answers only where that fails. One that has ended, or that closed its input, takes
/// none: its end says so.
async fn feed(mut input: Option<ProcessInput>, mut queued: mpsc::Receiver<Input>) -> Failure {
    while let Some(next) = queued.recv().await {
        let Some(writer) = &mut input else { continue };
        let written = match next {
            Input::Bytes(bytes) => writer.write(&bytes).await,
            Input::End => writer.close().await,
        };
        if let Err(failure) = written
            && failure.code != Code::Gone
        {
            return failure;
        }
    }
    // Kept until the end: without its writing side the process would end.
    let _input = input;
    std::future::pending().await
}

async fn output(sink: &mut Sink<'_>, stream: u8, bytes: &[u8]) -> Result<(), Failure> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(stream);
    message.extend_from_slice(bytes);
    sink.send(Message::binary(message)).await.map_err(|_| left())
}
