//! `GET /v1/sandboxes/{id}/stream`: a process over a WebSocket, with its input, its terminal and its signals.
//!
//! A client that goes away ends the process, unless it was started detached; one that was attached to goes on. It buffers one
//! message: a client that reads slowly slows the process down.

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use http::HeaderMap;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Selector;
use mote_sandbox_api::request::{STREAM_STDERR, STREAM_STDOUT, STREAM_TERMINAL, StreamEvent, StreamRequest};
use tokio_util::sync::CancellationToken;

use super::exec::{traced, words};
use crate::api::Api;
use crate::api::access::User;
use crate::api::failure::Refusal;
use crate::guest::{Event, Guest, ProcessInput, ProcessStream};
use crate::lifecycle::check;
use crate::limits::SOCKET_MESSAGE_BYTES_MAX;

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
    let upgrade = upgrade.max_message_size(SOCKET_MESSAGE_BYTES_MAX).max_frame_size(SOCKET_MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let outcome = match begin(&guest, &headers, &mut socket).await {
            Ok(Some(process)) => follow(&guest, process, &mut socket, &closing).await,
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

async fn tell(socket: &mut WebSocket, event: &StreamEvent) -> Result<(), Failure> {
    let text = serde_json::to_string(event).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    socket.send(Message::text(text)).await.map_err(|_| left())
}

fn left() -> Failure {
    Failure::new(Code::Gone, "the client went away")
}

async fn follow(
    guest: &Guest,
    mut process: ProcessStream,
    socket: &mut WebSocket,
    closing: &CancellationToken,
) -> Result<(), Failure> {
    let selector = Selector::Pid(process.pid());
    let mut input = process.take_input();
    loop {
        tokio::select! {
            event = process.next_event() => match event? {
                Some(Event::Started { pid }) => tell(socket, &StreamEvent::Started { pid }).await?,
                Some(Event::Stdout(bytes)) => output(socket, STREAM_STDOUT, &bytes).await?,
                Some(Event::Stderr(bytes)) => output(socket, STREAM_STDERR, &bytes).await?,
                Some(Event::Terminal(bytes)) => output(socket, STREAM_TERMINAL, &bytes).await?,
                Some(Event::Exited { exit, timed_out }) => {
                    return tell(socket, &StreamEvent::Exited { exit, timed_out }).await;
                }
                None => return Ok(()),
            },
            message = socket.recv() => match message {
                None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(bytes))) => feed(&mut input, Some(&bytes)).await?,
                Some(Ok(Message::Text(text))) => match read(&text)? {
                    StreamRequest::Resize(size) => guest.resize(selector.clone(), size).await?,
                    StreamRequest::Signal(signal) => guest.signal(selector.clone(), signal).await?,
                    StreamRequest::StdinEnd => feed(&mut input, None).await?,
                    StreamRequest::Start(_) | StreamRequest::Attach(_) => {
                        return Err(Failure::invalid("message", "this connection follows a process already"));
                    }
                },
            },
            () = closing.cancelled() => {
                let frame = CloseFrame { code: GOING_AWAY, reason: "the daemon is stopping".into() };
                let _ = socket.send(Message::Close(Some(frame))).await;
                return Ok(());
            }
        }
    }
}

/// Input for the process, or its end. A process that has ended, or that closed its input, takes none: its end says so.
async fn feed(input: &mut Option<ProcessInput>, bytes: Option<&[u8]>) -> Result<(), Failure> {
    let Some(writer) = input else { return Ok(()) };
    let written = match bytes {
        Some(bytes) => writer.write(bytes).await,
        None => writer.close().await,
    };
    match written {
        Err(failure) if failure.code == Code::Gone => Ok(()),
        written => written,
    }
}

async fn output(socket: &mut WebSocket, stream: u8, bytes: &[u8]) -> Result<(), Failure> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(stream);
    message.extend_from_slice(bytes);
    socket.send(Message::binary(message)).await.map_err(|_| left())
}
