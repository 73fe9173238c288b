//! Gzip, taken off a little at a time: a small body can become a large file, but never a large buffer.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::limits::FRAME_BYTES_MAX;

/// A whole message of at most `bytes_max` bytes.
///
/// # Errors
/// `invalid` where it is not gzip; `too_large`.
pub(super) fn message(zipped: &[u8], bytes_max: usize) -> Result<Bytes, Failure> {
    let mut plain = Vec::new();
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let read = GzDecoder::new(zipped).take(bound).read_to_end(&mut plain);
    read.map_err(|error| Failure::new(Code::Invalid, format!("the message is not gzip: {error}")))?;
    if plain.len() > bytes_max {
        let message = format!("a message is longer than {bytes_max} bytes when its compression is taken off");
        return Err(Failure::new(Code::TooLarge, message).with("limit", bytes_max));
    }
    Ok(plain.into())
}

/// A stream, a chunk at a time.
pub(super) fn stream(
    contents: impl Stream<Item = Result<Bytes, Failure>> + Send,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
    let broken = |error: std::io::Error| Failure::new(Code::Invalid, format!("the body is not gzip: {error}"));
    let state = Some((Box::pin(contents), MultiGzDecoder::new(Vec::new()), Bytes::new()));
    futures_util::stream::unfold(state, move |state| async move {
        let (mut contents, mut decoder, mut rest) = state?;
        loop {
            if !decoder.get_ref().is_empty() {
                let plain = Bytes::from(std::mem::take(decoder.get_mut()));
                return Some((Ok(plain), Some((contents, decoder, rest))));
            }
            if rest.is_empty() {
                match contents.next().await {
                    Some(Ok(bytes)) => rest = bytes,
                    Some(Err(failure)) => return Some((Err(failure), None)),
                    None => {
                        let last = decoder.finish().map(Bytes::from).map_err(broken);
                        return match last {
                            Ok(last) if last.is_empty() => None,
                            last => Some((last, None)),
                        };
                    }
                }
            }
            // A little at a time, so that what comes out stays bounded as well.
            let some = rest.split_to(rest.len().min(FRAME_BYTES_MAX / 1024));
            if let Err(error) = decoder.write_all(&some).and_then(|()| decoder.flush()) {
                return Some((Err(broken(error)), None));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    fn zipped(plain: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    #[tokio::test]
    async fn a_compressed_body_is_read_in_bounded_pieces() {
        let plain = vec![b'x'; 4 * 1024 * 1024];
        let body = zipped(&plain);
        let pieces: Vec<Bytes> = stream(futures_util::stream::iter([Ok(body)])).try_collect().await.unwrap();
        assert!(pieces.iter().all(|piece| piece.len() <= 2 * FRAME_BYTES_MAX), "no piece is large");
        assert_eq!(pieces.concat(), plain);
        let nonsense = futures_util::stream::iter([Ok(Bytes::from_static(b"nonsense"))]);
        let broken = stream(nonsense).try_collect::<Vec<_>>().await;
        assert_eq!(broken.unwrap_err().code, Code::Invalid);
    }

    #[test]
    fn a_compressed_message_is_read_within_its_bound() {
        let body = zipped(&[b'x'; 1000]);
        assert_eq!(message(&body, 1000).unwrap().len(), 1000);
        assert_eq!(message(&body, 999).unwrap_err().code, Code::TooLarge);
        assert_eq!(message(b"nonsense", 9).unwrap_err().code, Code::Invalid);
    }
}
