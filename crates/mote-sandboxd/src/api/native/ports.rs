//! `/v1/sandboxes/{id}/ports/{port}/…`: a preview by path, for callers that cannot use host names.
//!
//! It only reads the path; `preview` passes the request on.

use axum::extract::{Path, Request, State};

use super::body::Answer;
use crate::api::{Api, preview};

pub(super) async fn root(State(api): State<Api>, Path((id, port)): Path<(String, u16)>, request: Request) -> Answer {
    preview::holder(&api, request.headers()).await?;
    Ok(preview::by_path(&api, &id, port, "", request).await?)
}

pub(super) async fn below(
    State(api): State<Api>,
    Path((id, port, _)): Path<(String, u16, String)>,
    request: Request,
) -> Answer {
    preview::holder(&api, request.headers()).await?;
    // As it was sent: what is escaped in it (`%3F`, `%2F`, `%20`) stays so.
    let rest = rest(request.uri().path()).to_owned();
    Ok(preview::by_path(&api, &id, port, &rest, request).await?)
}

/// What stands behind `/v1/sandboxes/{id}/ports/{port}/`.
fn rest(path: &str) -> &str {
    path.splitn(7, '/').nth(6).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_path_is_as_it_was_sent() {
        assert_eq!(rest("/v1/sandboxes/sb1/ports/80/a%20b%3Fc//d%2F..%2fe"), "a%20b%3Fc//d%2F..%2fe");
        assert_eq!(rest("/v1/sandboxes/sb1/ports/80/"), "");
    }
}
