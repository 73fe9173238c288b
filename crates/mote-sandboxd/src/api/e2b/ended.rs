//! A stream whose sandbox ends while it runs: the connection breaks, as it does where E2B's server goes with its machine. Every SDK
//! then asks whether the sandbox runs, and says that it was killed; an error in the stream only the newest ones look into.
//!
//! A process or a context that ends alone is told by its own message; that is not this.

use axum::body::Body;
use axum::response::Response;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use http::header;
use mote_sandbox_api::error::{Code, Failure};

use super::E2b;

/// What the last message holds where it may be the sandbox that ended: of a context, of a process, of a stream of RPCs.
const MARKS: [&[u8]; 3] = [b"\"ContextEnded\"", b"\"signal: killed\"", ENDED.as_bytes()];

/// What the failure of such a stream says, where the sandbox is still there.
pub(super) const ENDED: &str = "ended before the stream completed";

/// Whether a response is a stream that may go on as long as its sandbox.
pub(super) fn is_stream(path: &str, response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_rpc = kind.is_some_and(|kind| kind.as_bytes() == b"application/connect+json");
    response.status().is_success() && (is_rpc || path == "/execute")
}

/// The response, broken off where it would tell of an end, or end, because the sandbox did.
pub(super) fn broken_off(e2b: &E2b, sandbox: &str, response: Response) -> Response {
    let (e2b, sandbox) = (e2b.clone(), sandbox.to_owned());
    let check = move |bytes: Option<bytes::Bytes>| {
        let is_last = bytes.as_ref().is_none_or(|bytes| MARKS.iter().any(|mark| contains(bytes, mark)));
        if is_last && !e2b.api.sandboxes.get(&sandbox).is_ok_and(|told| told.state.is_usable()) {
            let message = format!("the connection to sandbox {sandbox} {ENDED}");
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

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[test]
    fn streams_of_rpcs_and_of_cells_may_break_off() {
        let of =
            |path: &str, kind: &'static str| is_stream(path, &([(header::CONTENT_TYPE, kind)], "").into_response());
        assert!(of("/process.Process/Start", "application/connect+json"));
        assert!(of("/execute", "application/x-ndjson"));
        assert!(!of("/process.Process/List", "application/json") && !of("/files", "application/octet-stream"));
        assert!(MARKS.iter().any(|mark| contains(br#"{"end":{"status":"signal: killed"}}"#, mark)));
        assert!(!MARKS.iter().any(|mark| contains(br#"{"end":{"status":"exit status 1"}}"#, mark)));
    }
}
