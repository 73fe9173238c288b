//! Passes bytes both ways between a client inside and its destination, without looking at them.
//!
//! Whether it may is decided before, but for one case: a client that waits for its server to speak. Its first bytes are
//! held and judged whenever they come.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::limits::EGRESS_BUFFER_BYTES;

/// Passes bytes both ways until both ends are done, `first` before what the client sends next.
///
/// # Errors
/// Where either end breaks.
pub(super) async fn both_ways<C, D>(client: C, destination: D, first: &[u8]) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    D: AsyncRead + AsyncWrite,
{
    let (client_reads, client_writes) = tokio::io::split(client);
    let (destination_reads, destination_writes) = tokio::io::split(destination);
    tokio::try_join!(one_way(client_reads, destination_writes, first), one_way(destination_reads, client_writes, &[]),)?;
    Ok(())
}

/// Passes bytes one way, `first` before them, and then the end of the stream.
///
/// # Errors
/// Where either end breaks.
pub(super) async fn one_way(reads: impl AsyncRead, writes: impl AsyncWrite, first: &[u8]) -> io::Result<()> {
    tokio::pin!(reads, writes);
    if !first.is_empty() {
        writes.write_all(first).await?;
    }
    tokio::io::copy_buf(&mut BufReader::with_capacity(EGRESS_BUFFER_BYTES, reads), &mut writes).await?;
    writes.shutdown().await
}
