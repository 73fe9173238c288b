//! The client against guests that lie, stall, or leave.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{FileTarget, Kind, Reply, Selector, Start, header};
use mote_sandbox_api::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::{Event, Guest};

/// A guest that reads a request and answers every connection with these bytes.
async fn lying(answer: Vec<u8>) -> (tempfile::TempDir, Guest) {
    lying_with(move |mut stream| {
        let answer = answer.clone();
        async move {
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

async fn lying_with<F>(serve: impl Fn(UnixStream) -> F + Send + 'static) -> (tempfile::TempDir, Guest)
where
    F: Future<Output = ()> + Send + 'static,
{
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 5];
            if stream.read_exact(&mut head).await.is_ok() {
                let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
                stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
                tokio::spawn(serve(stream));
            }
        }
    });
    (folder, Guest::new(path))
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&header(kind, payload.len())[..], payload].concat()
}

fn reply(reply: &Reply) -> Vec<u8> {
    frame(Kind::Reply, &serde_json::to_vec(reply).unwrap())
}

fn entry(size: u64) -> Reply {
    serde_json::from_value(serde_json::json!({"entry": {
        "name": "f", "path": "/f", "kind": "file", "size": size, "mode": 0o100_644, "owner": "u", "group": "g",
        "modified_ms": 0,
    }}))
    .unwrap()
}

fn target() -> FileTarget {
    FileTarget::new("/f", None)
}

fn is_protocol(failure: &Failure) -> bool {
    failure.code == Code::Gone && failure.context.get("reason").is_some_and(|reason| reason == "protocol")
}

#[tokio::test]
async fn a_guest_that_is_not_there_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Guest::new(folder.path().join("none.sock"));
    assert_eq!(missing.hello().await.unwrap_err().code, Code::Gone);
    let path = folder.path().join("dead.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(Guest::new(path).hello().await.unwrap_err().code, Code::Gone);
}

#[tokio::test]
async fn nonsense_fails_the_operation_as_a_broken_protocol() {
    let answers = [
        vec![0xff; 64],
        vec![1, 0xff, 0xff, 0xff, 0x7f],
        frame(Kind::Reply, b"{\"done\":"),
        frame(Kind::Reply, "[".repeat(100_000).as_bytes()),
        frame(Kind::Data, b"x"),
        reply(&Reply::Started { pid: 1 }),
        reply(&Reply::Failed(Failure::new(Code::Unauthenticated, "who are you"))),
    ];
    for answer in answers {
        let (_folder, guest) = lying(answer.clone()).await;
        let failure = guest.end_all().await.unwrap_err();
        assert!(is_protocol(&failure), "{answer:?}: {failure:?}");
    }
}

#[tokio::test]
async fn a_guest_that_leaves_is_gone_wherever_it_leaves() {
    for answer in [vec![], vec![1], vec![1, 4, 0, 0, 0, b'"'], frame(Kind::Reply, b"")[..3].to_vec()] {
        let (_folder, guest) = lying(answer).await;
        assert_eq!(guest.sync().await.unwrap_err().code, Code::Gone);
    }
    let (_folder, guest) = lying(reply(&Reply::Started { pid: 7 })).await;
    let mut process = guest.start(Start::default()).await.unwrap();
    assert_eq!(process.next_event().await.unwrap(), Some(Event::Started { pid: 7 }));
    assert_eq!(process.next_event().await.unwrap_err().code, Code::Gone);
    assert_eq!(process.next_event().await, Ok(None), "it is over after its error");
}

#[tokio::test]
async fn a_refusal_is_passed_on_cut_to_size() {
    let refusal = (0..100).fold(Failure::new(Code::NotFound, "é".repeat(20_000)), |failure, number| {
        failure.with(&number.to_string(), "x".repeat(1000))
    });
    let (_folder, guest) = lying(reply(&Reply::Failed(refusal))).await;
    let failure = guest.stat(target()).await.unwrap_err();
    assert_eq!(failure.code, Code::NotFound);
    assert!(failure.message.len() <= 4096 && failure.context.len() <= 16, "{}", failure.message.len());
}

#[tokio::test]
async fn a_list_without_end_is_cut_off() {
    let (_folder, guest) = lying_with(|mut stream| async move {
        let Reply::Entry(one) = entry(1) else { return };
        let many = reply(&Reply::Entries(vec![*one; 1500]));
        while stream.write_all(&many).await.is_ok() {}
    })
    .await;
    assert!(is_protocol(&guest.list(target(), 1).await.unwrap_err()));
}

#[tokio::test]
async fn a_file_is_no_longer_and_no_shorter_than_was_told() {
    for (contents, is_whole) in [(&b"12345"[..], true), (b"123456", false), (b"1234", false)] {
        let answer = [reply(&entry(5)), frame(Kind::Data, contents), frame(Kind::Data, b"")].concat();
        let (_folder, guest) = lying(answer).await;
        let read = guest.read_whole(target(), 1000).await;
        match read {
            Ok(whole) => assert!(is_whole && whole == contents),
            Err(failure) => assert!(!is_whole && is_protocol(&failure), "{failure:?}"),
        }
    }
    let (_folder, guest) = lying([reply(&entry(2000)), frame(Kind::Data, &[0; 1500])].concat()).await;
    assert_eq!(guest.read_whole(target(), 1000).await.unwrap_err().code, Code::TooLarge);
}

#[tokio::test]
async fn a_write_that_is_refused_early_stops_and_says_why() {
    let full = Failure::new(Code::NoSpace, "failed to write: the disk is full");
    let (_folder, guest) = lying(reply(&Reply::Failed(full.clone()))).await;
    let endless = futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65_536])));
    assert_eq!(guest.write(target(), None, endless).await.unwrap_err(), full);
}

#[tokio::test]
async fn a_write_whose_source_fails_is_not_finished() {
    let (seen, mut all) = tokio::sync::mpsc::channel(1);
    let (_folder, guest) = lying_with(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes).await;
            let _ = seen.send(bytes).await;
        }
    })
    .await;
    let broken = Failure::new(Code::Invalid, "the upload broke off");
    let source = futures_util::stream::iter([Ok(Bytes::from_static(b"half")), Err(broken.clone())]);
    assert_eq!(guest.write(target(), None, source).await.unwrap_err(), broken);
    // No empty frame came: the guest drops what it has.
    assert_eq!(all.recv().await.unwrap(), frame(Kind::Data, b"half"));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_is_given_up() {
    let (_folder, guest) = lying_with(|stream| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        drop(stream);
    })
    .await;
    let failure = guest.hello().await.unwrap_err();
    assert_eq!((failure.code, failure.context["limit_ms"].as_str()), (Code::Timeout, "30000"));
}

#[tokio::test]
async fn a_process_that_floods_is_read_a_frame_at_a_time() {
    let (sent, counted) = (std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)), 64 * FRAME_BYTES_MAX);
    let counter = sent.clone();
    let (_folder, guest) = lying_with(move |mut stream| {
        let counter = counter.clone();
        async move {
            let _ = stream.write_all(&reply(&Reply::Started { pid: 1 })).await;
            let flood = frame(Kind::Stdout, &vec![0; FRAME_BYTES_MAX]);
            while stream.write_all(&flood).await.is_ok() {
                counter.fetch_add(FRAME_BYTES_MAX, std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let mut process = guest.attach(Selector::Pid(1)).await.unwrap();
    process.next_event().await.unwrap();
    process.next_event().await.unwrap();
    // All that can run has run: what was sent is what the socket and one frame hold, whatever the guest wants to send.
    tokio::task::yield_now().await;
    assert!(sent.load(std::sync::atomic::Ordering::Relaxed) < counted);
}

#[tokio::test]
async fn a_request_that_is_too_long_is_not_sent() {
    let (_folder, guest) = lying(Vec::new()).await;
    let start = Start { argv: vec!["x".repeat(FRAME_BYTES_MAX)], ..Start::default() };
    assert_eq!(guest.start(start).await.unwrap_err().code, Code::TooLarge);
}
