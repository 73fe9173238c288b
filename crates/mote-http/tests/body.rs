//! What a client sees whose request's body the server does not want.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use mote_http::{Limits, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

const LIMITS: Limits = Limits {
    connections: 16,
    head_time: Duration::from_secs(30),
    head_bytes: 64 << 10,
    headers: 32,
    accept_retry: Duration::from_millis(50),
    rest_time: Duration::from_secs(30),
    rest_bytes: 32 << 20,
    write_time: Duration::from_secs(60),
    unsent_bytes: 128 << 10,
};
/// More than sockets on loopback hold, and less than the server throws away.
const LONG: usize = 16 << 20;

async fn served() -> (TcpStream, DropGuard) {
    let router = Router::new()
        .route("/ignored", post(async || "unread"))
        .route("/read", post(async |body: Bytes| body.len().to_string()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(Server::new(router, LIMITS).serve(listener, shutdown.clone(), Duration::ZERO));
    (stream, shutdown.drop_guard())
}

fn head(path: &str, length: usize, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{more}\r\n")
}

/// Reads one answer whose body ends in `ending`; its head.
async fn answer(stream: &mut TcpStream, ending: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(format!("\r\n\r\n{ending}").as_bytes()) {
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn the_answer_to_a_long_body_that_nobody_read_arrives_and_says_that_the_connection_ends() {
    let (mut stream, _server) = served().await;
    stream.write_all(head("/ignored", LONG, "").as_bytes()).await.unwrap();
    // A simple client: it writes all, and only then looks for the answer.
    stream.write_all(&vec![b' '; LONG]).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("unread"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
}

#[tokio::test]
async fn a_short_body_that_nobody_read_costs_no_connection() {
    let (mut stream, _server) = served().await;
    for _ in 0..3 {
        stream.write_all(format!("{}body", head("/ignored", 4, "")).as_bytes()).await.unwrap();
        assert!(!answer(&mut stream, "unread").await.contains("connection: close"));
    }
    stream.write_all(format!("{}body", head("/read", 4, "")).as_bytes()).await.unwrap();
    assert!(!answer(&mut stream, "4").await.contains("connection: close"));
}

#[tokio::test]
async fn who_asks_before_sending_is_not_told_to_send_what_nobody_reads() {
    let (mut stream, _server) = served().await;
    stream.write_all(head("/ignored", 4, "Expect: 100-continue\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
}

#[tokio::test]
async fn a_body_longer_than_what_is_thrown_away_ends_the_connection() {
    let (mut stream, _server) = served().await;
    stream.write_all(head("/ignored", usize::MAX >> 1, "").as_bytes()).await.unwrap();
    let chunk = vec![b' '; 1 << 20];
    let mut sent = 0_u64;
    while stream.write_all(&chunk).await.is_ok() {
        sent += 1 << 20;
        assert!(sent < 4 * LIMITS.rest_bytes, "the server reads on and on");
    }
}
