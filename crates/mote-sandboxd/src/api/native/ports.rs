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
    Path((id, port, rest)): Path<(String, u16, String)>,
    request: Request,
) -> Answer {
    preview::holder(&api, request.headers()).await?;
    Ok(preview::by_path(&api, &id, port, &rest, request).await?)
}
