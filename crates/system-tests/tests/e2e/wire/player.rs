//! A model endpoint that answers with given bytes, and keeps what it was asked. It understands no more of HTTP than where a
//! request ends.

use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is done in answer to one request.
pub(super) type Reply = Vec<Step>;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Step {
    /// Writes bytes.
    Write(String),
    /// Writes bytes, in hexadecimal.
    WriteHex(String),
    /// Keeps the socket open until the other end closes it.
    Hold(bool),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Its line and headers, in lower case.
    pub(super) head: String,
    pub(super) body: Value,
}

pub(super) struct Player {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Player {
    pub(super) async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, replies) = (asked.clone(), Arc::new(replies));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, seen.clone(), replies.clone()));
            }
        });
        Self { url, asked, task }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn requests(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers one request and closes.
async fn answer(mut stream: TcpStream, seen: Arc<Mutex<Vec<Asked>>>, replies: Arc<Vec<Reply>>) {
    let Some(asked) = read(&mut stream).await else { return };
    let place = {
        let mut seen = seen.lock().unwrap();
        seen.push(asked);
        (seen.len() - 1).min(replies.len() - 1)
    };
    for step in &replies[place] {
        // The other end may have had enough and gone.
        let _ = match step {
            Step::Write(text) => stream.write_all(text.as_bytes()).await,
            Step::WriteHex(text) => stream.write_all(&bytes(text)).await,
            Step::Hold(false) => Ok(()),
            Step::Hold(true) => loop {
                match stream.read(&mut [0; 256]).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            },
        };
    }
    let _ = stream.shutdown().await;
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 8192];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
        let body = &bytes[end + 4..];
        if body.len() >= length {
            return Some(Asked { body: serde_json::from_slice(body).unwrap(), head });
        }
    }
}
