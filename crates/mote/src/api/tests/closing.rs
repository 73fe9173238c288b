//! How a WebSocket ends: with a code that says why.

use futures_util::SinkExt;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame as RawFrame, FrameHeader};

use super::socket::{Socket, begun, next, open, say};
use super::*;

/// The code of the close, whatever is said before it.
async fn closed(socket: &mut Socket) -> Option<u16> {
    loop {
        if let Err(code) = next(socket).await {
            return code;
        }
    }
}

#[tokio::test]
async fn a_binary_frame_closes_with_1003() {
    let (_service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    socket.send(Frame::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(closed(&mut socket).await, Some(1003));
}

#[tokio::test]
async fn a_message_that_is_too_big_closes_with_1009() {
    let (_service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    let big = format!(r#"{{"type": "input", "content": "{}"}}"#, "x".repeat(crate::limits::REQUEST_BODY_BYTES_MAX));
    socket.send(Frame::text(big)).await.unwrap();
    assert_eq!(closed(&mut socket).await, Some(1009));
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_with_1007() {
    let (_service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
    socket.send(Frame::Frame(RawFrame::from_payload(header, vec![0xff, 0xfe].into()))).await.unwrap();
    assert_eq!(closed(&mut socket).await, Some(1007));
}

#[tokio::test]
async fn a_client_that_sends_nonsense_again_and_again_is_closed_with_1008() {
    let (_service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    for _ in 0..crate::limits::SOCKET_REFUSALS_MAX {
        say(&mut socket, "nonsense").await;
    }
    assert_eq!(closed(&mut socket).await, Some(1008));
}

#[tokio::test]
async fn a_stream_that_cannot_go_on_closes_with_1011() {
    let (service, served, id) = begun(passive()).await;
    let mut socket = open(&served, &format!("/tasks/{id}/ws"), &[]).await.unwrap();
    next(&mut socket).await.unwrap();
    service.commit(&id, &["model.replied"], super::waiting()).await;
    let seq = next(&mut socket).await.unwrap();
    let waiting = next(&mut socket).await.unwrap();
    assert_eq!((&seq["seq"], &waiting["type"]), (&2.into(), &"waiting".into()));
    let erased = crate::store::Erase::Task { tenant: None, task: id.clone(), now: 1 };
    service.store.erase(erased).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap()["code"], "task_not_found");
    assert_eq!(closed(&mut socket).await, Some(1011));
}
