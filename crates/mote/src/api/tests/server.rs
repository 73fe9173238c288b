//! Real connections.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::api::SERVER;

pub(super) struct Served {
    pub(super) address: std::net::SocketAddr,
    pub(super) shutdown: CancellationToken,
    pub(super) ended: JoinHandle<()>,
}

impl Service {
    pub(super) async fn listen(&self, grace: Duration) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let ended =
            tokio::spawn(mote_http::Server::new(self.router.clone(), SERVER).serve(listener, shutdown.clone(), grace));
        Served { address, shutdown, ended }
    }
}

impl Served {
    async fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{head} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test]
async fn closing_the_connection_cancels_a_run() {
    let service = active(0).start();
    let served = service.listen(PATIENCE).await;
    let stream = served.send("POST /run", r#"{"input": "hi"}"#).await;
    service.model.reached().await;
    let id = service.only_task().await;
    drop(stream);
    assert_eq!(service.until(&id, Status::Cancelled).await.error.unwrap().code, "cancelled");
}

#[tokio::test]
async fn closing_the_connection_leaves_a_task_alone() {
    let service = active(0).start();
    let served = service.listen(PATIENCE).await;
    let stream = served.send("POST /tasks", r#"{"input": "hi"}"#).await;
    service.model.reached().await;
    drop(stream);
    let id = service.only_task().await;
    service.model.let_go();
    service.until(&id, Status::Completed).await;
}

#[tokio::test]
async fn a_shutdown_lets_the_request_under_way_finish_and_takes_no_other() {
    let service = active(0).start();
    let served = service.listen(PATIENCE).await;
    let idle = TcpStream::connect(served.address).await.unwrap();
    let stream = served.send("POST /run", r#"{"input": "hi"}"#).await;
    service.model.reached().await;
    served.shutdown.cancel();
    assert_eq!(read_to_end(idle).await, "", "an idle connection is closed at once");
    service.model.let_go();
    let answer = read_to_end(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    within(served.ended).await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_ends_what_is_left_when_the_grace_is_over() {
    let service = active(0).start();
    let served = service.listen(Duration::from_millis(10)).await;
    let stream = served.send("POST /run?detach=true", r#"{"input": "hi"}"#).await;
    service.model.reached().await;
    served.shutdown.cancel();
    within(served.ended).await.unwrap();
    assert_eq!(read_to_end(stream).await, "");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let service = passive().start();
    let served = service.listen(PATIENCE).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let filler = "x".repeat(2 * crate::limits::HEADER_BYTES_MAX);
    let _ =
        stream.write_all(format!("GET /health HTTP/1.1\r\nHost: test\r\nX-Filler: {filler}\r\n\r\n").as_bytes()).await;
    let mut answer = vec![0; 1024];
    let read = within(stream.read(&mut answer)).await.unwrap_or(0);
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(service.get("/health").await.status, 200);
}
