//! Bodies of requests that are read whole before anything is done: each within its bound, and all together within another.
//!
//! What passes through (files, streams) is not its matter.

use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use mote_sandbox_api::error::{Code, Failure};

use crate::limits::BODIES_READ_BYTES_MAX;
use crate::room::{Room, Taken};

/// Room for what is being read, of all requests: whoever sends a body slowly holds what has come.
static READING: LazyLock<Arc<Room>> = LazyLock::new(|| Room::new(BODIES_READ_BYTES_MAX));

/// A whole body within a bound.
///
/// # Errors
/// `too_large`; `exhausted` where all requests together are being read into too much memory; `invalid` where it breaks off.
pub(super) async fn gathered(body: axum::body::Body, limit: usize) -> Result<Bytes, Failure> {
    gathered_in(&READING, body, limit).await
}

async fn gathered_in(room: &Arc<Room>, body: axum::body::Body, limit: usize) -> Result<Bytes, Failure> {
    let mut held = Taken::new([Arc::clone(room)]);
    let (mut body, mut bytes) = (Limited::new(body, limit), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failure::new(Code::TooLarge, format!("the body is longer than {limit} bytes")).with("limit", limit)
            } else {
                Failure::new(Code::Invalid, format!("failed to read the body: {error}"))
            }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if !held.grow(data.len()) {
            return Err(Failure::new(Code::Exhausted, "too many bodies are being read at once")
                .with("limit", room.most())
                .with("retry_after_s", 1));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[tokio::test]
    async fn bodies_are_bounded_each_and_together() {
        let room = Room::new(10);
        let read = |body: &'static str, limit: usize| gathered_in(&room, Body::from(body), limit);
        assert_eq!(read("12345", 5).await.unwrap(), "12345");
        assert_eq!(read("123456", 5).await.unwrap_err().code, Code::TooLarge);
        assert_eq!(read("12345678901", 99).await.unwrap_err().code, Code::Exhausted);
        // One that comes slowly holds what has come, until it breaks off.
        let (sender, slow) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let slow = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(slow));
        let mut slow = Box::pin(gathered_in(&room, slow, 99));
        sender.send(Ok(Bytes::from_static(b"1234567"))).await.unwrap();
        assert!(futures_util::poll!(&mut slow).is_pending());
        assert_eq!(read("12345", 5).await.unwrap_err().code, Code::Exhausted);
        drop(slow);
        assert_eq!(read("12345", 5).await.unwrap(), "12345");
    }
}
