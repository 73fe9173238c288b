//! The signals that ask a command to end: the first one asks, the second ends it at once.
//!
//! What ending means is the command's matter.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::Code;

/// Cancels what is returned at the first of `kinds`; at the second the process ends, its tasks durable as they are.
pub(crate) fn watch(kinds: &[SignalKind]) -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = kinds.iter().map(|kind| signal(*kind)).collect::<std::io::Result<Vec<_>>>()?;
    let asked = stop.clone();
    tokio::spawn(async move {
        any(&mut signals).await;
        asked.cancel();
        any(&mut signals).await;
        std::process::exit(i32::from(Code::Failed.number()));
    });
    Ok(stop)
}

async fn any(signals: &mut [Signal]) {
    let waiting = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(waiting).await;
}
