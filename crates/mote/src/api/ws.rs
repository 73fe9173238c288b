//! `GET /tasks/{id}/ws`: the messages of [`super::events`] over WebSocket, and the way back: a client may cancel the task
//! or answer it on the same connection.
//!
//! It has no messages of its own but the answer to what the client sent.

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde::Deserialize;

use super::access::Caller;
use super::dto::{self, InputRequest};
use super::events::{self, Follower, Item};
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
    Cancel {},
    /// Answers it.
    Input(InputRequest),
}

/// Opens the WebSocket.
#[utoipa::path(
    get, path = "/tasks/{id}/ws", tag = "tasks", operation_id = "task_socket",
    params(
        ("id" = String, Path, description = "The task."),
        ("after" = Option<u64>, Query, description = "Begin behind this event."),
    ),
    responses(
        (status = 101, description = "Messages as on the event stream, one a text frame. The client may send \
            `{\"type\": \"cancel\"}` and `{\"type\": \"input\", \"call\"?, \"approve\"?, \"content\"?}`, which need the scope `run`."),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 426, description = "The request is not a WebSocket's.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn socket(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    mut params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let after = params.take_number("after")?.unwrap_or(0);
    params.finish()?;
    let task = tasks::visible(&api, &principal, &id).await?;
    events::check_cursor(&task, after)?;
    check_origin(request.headers(), &api.runner.agent().server.cors)?;
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &api).await;
    let upgrade = upgrade.map_err(|rejection| Problem::new(Code::UpgradeRequired, rejection.body_text()))?;
    let place = api.stream_place(&principal)?;
    let follower = Follower::open(&api, &id, after, place, None);
    let upgrade =
        upgrade.max_message_size(limits::REQUEST_BODY_BYTES_MAX).max_frame_size(limits::REQUEST_BODY_BYTES_MAX);
    Ok(upgrade.on_upgrade(async move |socket| {
        let connection = Connection { api, principal, id, socket };
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
}

impl Connection {
    /// Until the task ends, the client goes, or the service closes.
    async fn serve(mut self, mut follower: Follower) {
        loop {
            let frame = tokio::select! {
                item = follower.next() => match item {
                    Some(Item::Message(message)) => Message::Text(events::json(&message).into()),
                    Some(Item::Idle) => Message::Ping(Bytes::new()),
                    None => return self.close().await,
                },
                received = self.socket.recv() => match received {
                    Some(Ok(Message::Text(text))) => match self.take(&text).await {
                        Ok(()) => continue,
                        Err(problem) => Message::Text(events::json(&events::failure(&problem)).into()),
                    },
                    Some(Ok(Message::Binary(_))) => {
                        let problem = Problem::new(Code::InvalidRequest, "send text frames, not binary ones");
                        Message::Text(events::json(&events::failure(&problem)).into())
                    }
                    // Pongs are sent by the WebSocket itself.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                },
            };
            if !self.send(frame).await {
                return;
            }
        }
    }

    /// False once the connection is of no use any more.
    async fn send(&mut self, frame: Message) -> bool {
        // The server ends a connection whose client reads nothing.
        self.socket.send(frame).await.is_ok()
    }

    async fn close(mut self) {
        let reason = if self.api.closing.is_cancelled() { close_code::AWAY } else { close_code::NORMAL };
        self.send(Message::Close(Some(CloseFrame { code: reason, reason: Utf8Bytes::from_static("") }))).await;
    }

    /// Performs what the client asks; its effect is seen in the events.
    async fn take(&mut self, text: &str) -> Result<(), Problem> {
        if !self.principal.may(Scope::Run) {
            return Err(Problem::new(Code::Forbidden, "the key lacks the scope run"));
        }
        let mail = match dto::parse::<ClientMessage>(text.as_bytes())? {
            ClientMessage::Cancel {} => Mail::Cancel,
            ClientMessage::Input(answer) => answer.into_mail()?,
        };
        tasks::mail(&self.api, &self.principal, &self.id, mail).await.map(|_| ()).map_err(|refusal| refusal.0)
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
