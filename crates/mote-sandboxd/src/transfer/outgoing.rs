//! A snapshot on its way out: a tree's stream from a pipe becomes frames for whoever asked.
//!
//! A caller that no longer takes what it asked for is left; it does not hold a place for ever.

use bytes::Bytes;
use mote_sandbox_api::error::{Code, Failure};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::format::Writer;
use super::{Header, Tree};
use crate::limits::{TRANSFER_FRAME_BYTES_MAX, TRANSFER_IDLE_TIMEOUT};

/// Where a file's parts go; the last is none. A failure, or an end without that, means that the file is not whole.
pub type Frames = mpsc::Sender<Result<Option<Bytes>, Failure>>;

/// Sends a file, but for its failure: the header, what comes through the pipe until it is closed, and the end where `packed`
/// says that the tree was written whole.
///
/// # Errors
/// Where the tree could not be read, or nobody takes the file any more.
pub async fn send(
    header: &Header,
    tree: pipe::Receiver,
    packed: impl Future<Output = Result<(), Failure>>,
    frames: &Frames,
) -> Result<Tree, Failure> {
    let (writer, begin) = Writer::begin(header)?;
    tokio::pin!(packed);
    let streaming = stream(writer, begin, tree, frames);
    tokio::pin!(streaming);
    // The tree's stream ends before the word that it is whole, or that word is a failure.
    let writer = tokio::select! {
        writer = &mut streaming => {
            let writer = writer?;
            packed.await?;
            writer
        }
        done = &mut packed => {
            done?;
            streaming.await?
        }
    };
    let (end, tree) = writer.end();
    hand(frames, Some(end)).await?;
    hand(frames, None).await?;
    Ok(tree)
}

async fn stream(
    mut writer: Writer,
    begin: Bytes,
    mut tree: pipe::Receiver,
    frames: &Frames,
) -> Result<Writer, Failure> {
    let mut begin = Some(begin);
    let mut buffer = Vec::with_capacity(TRANSFER_FRAME_BYTES_MAX);
    loop {
        let room = TRANSFER_FRAME_BYTES_MAX - buffer.len();
        let count = (&mut tree).take(room as u64).read_buf(&mut buffer).await;
        let count = count.map_err(|error| Failure::new(Code::Internal, format!("failed to read a tree: {error}")))?;
        if buffer.len() == TRANSFER_FRAME_BYTES_MAX || (count == 0 && !buffer.is_empty()) {
            // Not before the first bytes are there: a failure until then is the answer itself.
            if let Some(begin) = begin.take() {
                hand(frames, Some(begin)).await?;
            }
            hand(frames, Some(writer.frame(&buffer))).await?;
            buffer.clear();
        }
        if count == 0 {
            if let Some(begin) = begin.take() {
                hand(frames, Some(begin)).await?;
            }
            return Ok(writer);
        }
    }
}

async fn hand(frames: &Frames, bytes: Option<Bytes>) -> Result<(), Failure> {
    match frames.send_timeout(Ok(bytes), TRANSFER_IDLE_TIMEOUT).await {
        Ok(()) => Ok(()),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Failure::new(Code::Gone, "the caller went away")),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
            let seconds = TRANSFER_IDLE_TIMEOUT.as_secs();
            Err(Failure::new(Code::Timeout, format!("the caller took nothing for {seconds} seconds")))
        }
    }
}
