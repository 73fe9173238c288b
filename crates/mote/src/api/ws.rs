//! `GET /tasks/{id}/ws`: the messages of [`super::events`] over WebSocket, and the way back: a client may cancel the task
//! or answer it on the same connection.
//!
//! It has no messages of its own but the answer to what the client sent. Each end has a close code (RFC 6455, section 7.4):
//! docs/http.md lists them.

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde::Deserialize;
use tokio_tungstenite::tungstenite;

use super::access::Caller;
use super::dto::{self, InputRequest, Nothing};
use super::events::{self, Follower, Item, StreamMessage};
use super::path::Places;
use super::problem::{Code, Problem};
use super::query::Params;
use super::state::Api;
use super::tasks;
use crate::auth::{Principal, Scope};
use crate::limits;
use crate::store::Mail;

/// What a client may send.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ClientMessage {
    /// Cancels the task.
    Cancel(Nothing),
    /// Answers it.
    Input(InputRequest),
}

/// What is read of one message: one beyond [`limits::REQUEST_BODY_BYTES_MAX`] is still read whole, so that its sender, who
/// reads nothing while it sends, learns why the connection is closed.
const MESSAGE_BYTES_READ: usize = 4 * limits::REQUEST_BODY_BYTES_MAX;

/// Opens the WebSocket.
#[utoipa::path(
    get, path = "/tasks/{id}/ws", tag = "tasks", operation_id = "task_socket",
    params(
        ("id" = String, Path, description = "The task."),
        ("after" = Option<u64>, Query, description = "Begin behind this event."),
        ("token" = Option<String>, Query, description = "Of `POST /tasks/{id}/stream-token`, in a key's place."),
    ),
    responses(
        (status = 101, description = "Messages as on the event stream, one a text frame. The client may send \
            `{\"type\": \"cancel\"}` and `{\"type\": \"input\", \"call\"?, \"approve\"?, \"content\"?, \"user\"?}`, which need the scope `run`."),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 426, description = "The request is not a WebSocket's.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"]), ("stream_token" = ["read"])),
)]
pub(super) async fn socket(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    mut params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let after = params.take_number("after")?.unwrap_or(0);
    // The gate has read it.
    params.take(super::token::PARAMETER)?;
    params.finish()?;
    let task = tasks::visible(&api, &principal, &id).await?;
    events::check_cursor(&task, after)?;
    check_origin(request.headers(), &api.runner.agent().server.cors)?;
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &api).await;
    let upgrade = upgrade.map_err(|rejection| Problem::new(Code::UpgradeRequired, rejection.body_text()))?;
    let place = api.stream_place(&principal)?;
    let follower = Follower::open(&api, &id, after, place, None);
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_READ).max_frame_size(MESSAGE_BYTES_READ);
    Ok(upgrade.on_upgrade(async move |socket| {
        let connection = Connection { api, principal, id, socket, refusals: 0 };
        connection.serve(follower).await;
    }))
}

/// A browser sends no preflight before a WebSocket, so that the origin is checked here: one of `server.cors`, or the
/// service's own. Programs send none.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = origin.split_once("://").map(|(_, host)| host);
    if allowed.iter().any(|known| known == origin) || (host.is_some() && host == own) {
        return Ok(());
    }
    Err(Problem::field(Code::OriginForbidden, "origin", "is not one of server.cors"))
}

struct Connection {
    api: Arc<Api>,
    principal: Principal,
    id: String,
    socket: WebSocket,
    /// Messages of the client that were refused.
    refusals: u32,
}

/// Why a connection is closed, as it is told.
type Closing = (u16, &'static str);

const TOO_BIG: Closing = (close_code::SIZE, "a message is larger than 1 MiB");

impl Connection {
    /// Until the task ends, the client goes, or the service closes.
    async fn serve(mut self, mut follower: Follower) {
        let mut failed = false;
        loop {
            let frame = tokio::select! {
                item = follower.next() => match item {
                    Some(Item::Message(message)) => {
                        failed |= matches!(message, StreamMessage::Error { .. });
                        Message::Text(events::json(&message).into())
                    }
                    Some(Item::Idle) => Message::Ping(Bytes::new()),
                    None if failed => return self.close((close_code::ERROR, "the stream cannot go on")).await,
                    None if self.api.closing.is_cancelled() => {
                        return self.close((close_code::AWAY, "the service is shutting down; come back")).await;
                    }
                    None => return self.close((close_code::NORMAL, "the task has ended")).await,
                },
                received = self.socket.recv() => match received {
                    Some(Ok(Message::Text(text))) if text.len() > limits::REQUEST_BODY_BYTES_MAX => {
                        return self.close(TOO_BIG).await;
                    }
                    Some(Ok(Message::Text(text))) => match self.take(&text).await {
                        Ok(()) => continue,
                        Err(problem) => {
                            self.refusals += 1;
                            Message::Text(events::json(&events::failure(&problem)).into())
                        }
                    },
                    Some(Ok(Message::Binary(_))) => {
                        return self.close((close_code::UNSUPPORTED, "send text frames, not binary ones")).await;
                    }
                    // Pongs are sent by the WebSocket itself.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_))) | None => return,
                    Some(Err(error)) => match broken(&error) {
                        Some(why) => return self.close(why).await,
                        None => return,
                    },
                },
            };
            if !self.send(frame).await {
                return;
            }
            if self.refusals >= limits::SOCKET_REFUSALS_MAX {
                return self.close((close_code::POLICY, "too many messages were refused")).await;
            }
        }
    }

    /// False once the connection is of no use any more.
    async fn send(&mut self, frame: Message) -> bool {
        // The server ends a connection whose client reads nothing.
        self.socket.send(frame).await.is_ok()
    }

    /// Says why, and reads on for a moment: the connection's reset would overtake the reason where the client still sends.
    async fn close(mut self, (code, reason): Closing) {
        if !self.send(Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }))).await {
            return;
        }
        let answered = async { while let Some(Ok(_)) = self.socket.recv().await {} };
        // Whether the client answers or not, the connection ends.
        let _ = tokio::time::timeout(limits::SOCKET_CLOSE_WAIT, answered).await;
    }

    /// Performs what the client asks; its effect is seen in the events.
    async fn take(&mut self, text: &str) -> Result<(), Problem> {
        if !self.principal.may(Scope::Run) {
            return Err(Problem::new(Code::Forbidden, "the key lacks the scope run"));
        }
        let mail = match dto::parse::<ClientMessage>(text.as_bytes())? {
            ClientMessage::Cancel(Nothing {}) => (Mail::Cancel, None),
            ClientMessage::Input(answer) => answer.into_mail()?,
        };
        tasks::mail(&self.api, &self.principal, &self.id, mail).await.map(|_| ()).map_err(|refusal| refusal.0)
    }
}

/// What a failure to read says of the client; `None` where the connection is gone.
fn broken(error: &axum::Error) -> Option<Closing> {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<tungstenite::Error>());
    match cause? {
        tungstenite::Error::Capacity(_) => Some(TOO_BIG),
        tungstenite::Error::Utf8(_) => Some((close_code::INVALID, "a text frame is not UTF-8")),
        tungstenite::Error::Protocol(_) => Some((close_code::PROTOCOL, "the frames break the protocol")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_foreign_page_may_not_open_a_socket() {
        for (origin, cors, allowed) in [
            (None, &[][..], true),
            (Some("http://localhost:8080"), &[], true),
            (Some("https://evil.example"), &[], false),
            (Some("null"), &[], false),
            (Some("https://app.example"), &["https://app.example".to_owned()], true),
            (Some("https://evil.example"), &["https://app.example".to_owned()], false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:8080"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(check_origin(&headers, cors).is_ok(), allowed, "{origin:?} {cors:?}");
        }
    }
}
