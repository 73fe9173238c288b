//! A stream of code whose sandbox ends while it runs: the connection breaks, as it does where E2B's server goes with its machine.
//! The SDK then asks whether the sandbox runs, and says that it was killed.
//!
//! A context that ends alone is told by its own message; that is not this.

use axum::body::Body;
use axum::response::Response;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use mote_sandbox_api::error::{Code, Failure};

use super::E2b;

/// What the last message of a context whose process ended holds.
const CONTEXT_ENDED: &[u8] = b"\"ContextEnded\"";

/// The response, broken off where it would tell that the context ended, or end, because the sandbox did.
pub(super) fn broken_off(e2b: &E2b, sandbox: &str, response: Response) -> Response {
    let (e2b, sandbox) = (e2b.clone(), sandbox.to_owned());
    let check = move |bytes: Option<bytes::Bytes>| {
        let is_last = bytes.as_ref().is_none_or(|bytes| contains(bytes, CONTEXT_ENDED));
        if is_last && !e2b.api.sandboxes.get(&sandbox).is_ok_and(|told| told.state.is_usable()) {
            let message = format!("the connection to sandbox {sandbox} ended before the stream completed");
            return Err(Failure::new(Code::Gone, message));
        }
        Ok(bytes)
    };
    response.map(|body| {
        let pieces = body.into_data_stream().map_err(|error| Failure::new(Code::Gone, error.to_string())).map_ok(Some);
        let ended = stream::once(future::ready(Ok(None)));
        let checked = pieces.chain(ended).map(move |piece| piece.and_then(&check));
        Body::from_stream(checked.try_filter_map(|piece| future::ready(Ok(piece))))
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
