//! `GET /tasks/{id}/ws`.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::server::Served;
use super::*;
use crate::auth::{Scope, generate};
use crate::store::Mail;

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) async fn open(served: &Served, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, SocketError> {
    let mut request = format!("ws://{}{path}", served.address).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    within(connect_async(request)).await.map(|(socket, _)| socket)
}

/// The next message, or the close code.
pub(super) async fn next(socket: &mut Socket) -> Result<Value, Option<u16>> {
    loop {
        match within(socket.next()).await {
            Some(Ok(Frame::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
            Some(Ok(Frame::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(None),
        }
    }
}

pub(super) async fn say(socket: &mut Socket, text: &str) {
    socket.send(Frame::text(text)).await.unwrap();
}

/// A served service with a claimed task of one event.
pub(super) async fn begun(setup: Setup) -> (Service, Served, String) {
    let service = setup.start();
    let served = service.listen(PATIENCE).await;
    let now = service.runner.now();
    let task = crate::store::NewTask {
        id: "task_1".into(),
        owner: crate::store::Owner::default(),
        request: "{}".into(),
        now,
        expires_at: None,
        idempotency: None,
        claim: None,
        first: None,
        turn_within: None,
    };
    service.store.submit(task).await.unwrap();
    service.claim().await;
    service.commit("task_1", &["run.started"], StatusChange::Running).await;
    (service, served, "task_1".into())
}

#[tokio::test]
async fn events_arrive_and_the_socket_closes_at_the_end() {
    let (service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    let first = next(&mut socket).await.unwrap();
    assert_eq!((&first["type"], &first["seq"], &first["kind"]), (&"event".into(), &1.into(), &"run.started".into()));
    service.commit(&id, &["model.replied"], completed()).await;
    assert_eq!(next(&mut socket).await.unwrap()["seq"], 2);
    let end = next(&mut socket).await.unwrap();
    assert_eq!((&end["type"], &end["task"]["result"]), (&"end".into(), &"done".into()));
    assert_eq!(next(&mut socket).await, Err(Some(1000)));

    let mut resumed = open(&served, &format!("/tasks/{id}/ws?after=1"), &[]).await.unwrap();
    assert_eq!(next(&mut resumed).await.unwrap()["seq"], 2);
}

#[tokio::test]
async fn a_client_may_answer_and_cancel() {
    let (service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    next(&mut socket).await.unwrap();
    say(&mut socket, r#"{"type": "input", "call": "c", "content": {"a": 1}}"#).await;
    for (wrong, part) in [
        (r#"{"type": "dance"}"#, "dance"),
        (r#"{"type": "cancel", "why": "x"}"#, "why"),
        (r#"["cancel"]"#, "an object"),
        (r#"{"type": "input"}"#, "approve"),
        (r#"{"type": "input", "approve": true, "x": 1}"#, "x"),
        ("nonsense", "JSON"),
    ] {
        say(&mut socket, wrong).await;
        let answer = next(&mut socket).await.unwrap();
        assert_eq!(answer["type"], "error", "{wrong}");
        assert!(answer["detail"].as_str().unwrap().contains(part), "{answer}");
    }
    say(&mut socket, r#"{"type": "cancel"}"#).await;
    // The answer to a further message shows that the cancel before it was taken.
    say(&mut socket, "nonsense").await;
    next(&mut socket).await.unwrap();
    let mail: Vec<Mail> = service.store.mail(&id).await.unwrap().into_iter().map(|row| row.mail).collect();
    let content = Some(serde_json::json!({"a": 1}));
    assert_eq!(mail, [Mail::Input { call: Some("c".into()), approve: None, content }, Mail::Cancel]);
}

#[tokio::test]
async fn a_key_that_may_only_read_may_not_cancel() {
    let key = generate("reader", &[Scope::Read], None, None).unwrap();
    let (service, served, id) = begun(Setup { keys: key.line.clone(), ..passive() }).await;
    let path = format!("/tasks/{id}/ws");
    assert!(matches!(open(&served, &path, &[]).await, Err(SocketError::Http(answer)) if answer.status() == 401));
    let mut socket = open(&served, &path, &[("x-api-key", &key.key)]).await.unwrap();
    next(&mut socket).await.unwrap();
    say(&mut socket, r#"{"type": "cancel"}"#).await;
    assert_eq!(next(&mut socket).await.unwrap()["code"], "forbidden");
    assert!(service.store.mail(&id).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_socket_is_refused() {
    let (service, served, id) = begun(passive()).await;
    let plain = service.get(&format!("/tasks/{id}/ws")).await;
    assert_eq!(
        (plain.status.as_u16(), plain.problem(), plain.header("upgrade")),
        (426, "upgrade_required", "websocket")
    );
    let wrong = service.get(&format!("/tasks/{id}/ws?after=9")).await;
    assert_eq!((wrong.status.as_u16(), wrong.problem()), (400, "cursor_invalid"));
    let foreign = open(&served, &format!("/tasks/{id}/ws"), &[("origin", "https://evil.example")]).await;
    assert!(matches!(foreign, Err(SocketError::Http(answer)) if answer.status() == 403));
}

#[tokio::test]
async fn a_socket_is_told_that_the_service_goes_away() {
    let (service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    next(&mut socket).await.unwrap();
    service.closing.cancel();
    assert_eq!(next(&mut socket).await, Err(Some(1001)));
}
