//! `/v1/sandboxes/{id}/files`: files inside, read, written, listed and watched.
//!
//! Every path is opened inside, in the name of the user that the request names; nothing is opened on the host.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{FileTarget, RawPath};
use mote_sandbox_api::limits::PATH_BYTES_MAX;
use mote_sandbox_api::request::Page;
use serde::Deserialize;

use super::body::{Answer, Body, Query, json};
use crate::api::Api;
use crate::api::access::User;
use crate::guest::Guest;
use crate::limits::UPLOAD_BYTES_MAX;

/// How often a watch without events says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A path, and in whose name.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct At {
    #[serde(default)]
    path: Option<String>,
    /// Its bytes in base64, instead of `path`: for names that are not UTF-8.
    #[serde(default)]
    path_base64: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

impl At {
    fn target(self) -> Result<FileTarget, Failure> {
        target(self.path, self.path_base64, self.user)
    }
}

fn target(path: Option<String>, path_base64: Option<String>, user: Option<String>) -> Result<FileTarget, Failure> {
    Ok(FileTarget::new(raw("path", path, path_base64)?, user))
}

/// A path that is given as text, or as bytes in base64.
fn raw(field: &str, text: Option<String>, base64: Option<String>) -> Result<RawPath, Failure> {
    let path = match (text, base64) {
        (Some(_), Some(_)) => {
            return Err(Failure::invalid(field, format!("{field} and {field}_base64 exclude one another")));
        }
        (None, Some(base64)) => RawPath::from_base64(&format!("{field}_base64"), &base64)?,
        (text, None) => text.unwrap_or_default().into(),
    };
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.as_bytes().contains(&0) {
        return Err(Failure::invalid(field, format!("it must have 1 to {PATH_BYTES_MAX} bytes, none of them zero")));
    }
    Ok(path)
}

async fn guest(api: &Api, user: &User) -> Result<Guest, Failure> {
    api.sandboxes.awake(&user.sandbox).await
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    path_base64: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    length: Option<u64>,
}

pub(super) async fn read(State(api): State<Api>, user: User, Query(query): Query<ReadQuery>) -> Answer {
    let target = target(query.path, query.path_base64, query.user)?;
    let file = guest(&api, &user).await?.read(target, query.offset, query.length).await?;
    let (length, entry) = (file.length(), file.entry().clone());
    let bytes = file.map(|chunk| chunk.map_err(std::io::Error::other));
    let mut response = Response::new(HttpBody::from_stream(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // What a sandbox holds is a stranger's: a browser must not run it in the daemon's name.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert("x-file-mode", HeaderValue::from(entry.mode & 0o7777));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    path_base64: Option<String>,
    #[serde(default)]
    user: Option<String>,
    /// Permission bits, in octal.
    #[serde(default)]
    mode: Option<String>,
}

pub(super) async fn write(
    State(api): State<Api>,
    user: User,
    Query(query): Query<WriteQuery>,
    body: HttpBody,
) -> Answer {
    let target = target(query.path, query.path_base64, query.user)?;
    let mode = query.mode.map(|text| {
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| Failure::invalid("mode", format!("{text:?} is not permission bits in octal")))
    });
    let entry = guest(&api, &user).await?.write(target, mode.transpose()?, bounded(body)).await?;
    Ok(json(StatusCode::OK, &entry))
}

/// A body as it comes; an error where it is longer than may be, so that the file does not appear.
fn bounded(body: HttpBody) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
    let mut total = 0u64;
    body.into_data_stream().map(move |chunk| {
        let chunk = chunk.map_err(|error| Failure::new(Code::Invalid, format!("the body was cut short: {error}")))?;
        total += chunk.len() as u64;
        if total > UPLOAD_BYTES_MAX {
            let message = format!("the file is longer than {UPLOAD_BYTES_MAX} bytes");
            return Err(Failure::new(Code::TooLarge, message).with("limit", UPLOAD_BYTES_MAX));
        }
        Ok(chunk)
    })
}

pub(super) async fn remove(State(api): State<Api>, user: User, Query(at): Query<At>) -> Answer {
    let target = at.target()?;
    let path = target.path.to_string();
    guest(&api, &user).await?.remove(target).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": path })))
}

pub(super) async fn stat(State(api): State<Api>, user: User, Query(at): Query<At>) -> Answer {
    let target = at.target()?;
    Ok(json(StatusCode::OK, &guest(&api, &user).await?.stat(target).await?))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    path_base64: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    depth: Option<u32>,
}

pub(super) async fn list(State(api): State<Api>, user: User, Query(query): Query<ListQuery>) -> Answer {
    let target = target(query.path, query.path_base64, query.user)?;
    let items = guest(&api, &user).await?.list(target, query.depth.unwrap_or(1)).await?;
    Ok(json(StatusCode::OK, &Page { items, next: None }))
}

pub(super) async fn directory(State(api): State<Api>, user: User, body: Body<At>) -> Answer {
    let target = body.value.target()?;
    Ok(json(StatusCode::CREATED, &guest(&api, &user).await?.make_directory(target).await?))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Rename {
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    from_base64: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    to_base64: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    path_base64: Option<String>,
    /// What stands in the link.
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    to_base64: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

pub(super) async fn link(State(api): State<Api>, user: User, body: Body<Link>) -> Answer {
    let Link { path, path_base64, to, to_base64, user: name } = body.value;
    let (link, to) = (target(path, path_base64, name)?, raw("to", to, to_base64)?);
    Ok(json(StatusCode::CREATED, &guest(&api, &user).await?.link(link, to).await?))
}

pub(super) async fn rename(State(api): State<Api>, user: User, body: Body<Rename>) -> Answer {
    let Rename { from, from_base64, to, to_base64, user: name } = body.value;
    let to = raw("to", to, to_base64)?;
    let from = FileTarget::new(raw("from", from, from_base64)?, name);
    Ok(json(StatusCode::OK, &guest(&api, &user).await?.rename(from, to).await?))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    path_base64: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    recursive: bool,
}

/// Events of a directory as they happen, as server-sent events: `event` is the kind, `data` names the path.
pub(super) async fn watch(State(api): State<Api>, user: User, Query(query): Query<WatchQuery>) -> Answer {
    let target = target(query.path, query.path_base64, query.user)?;
    let watching = guest(&api, &user).await?.watch(target, query.recursive).await?;
    let closing = api.closing.clone();
    let events = futures_util::stream::unfold(Some(watching), move |watching| {
        let closing = closing.clone();
        async move {
            let mut watching = watching?;
            let event = tokio::select! {
                event = watching.next_event() => event,
                () = closing.cancelled() => return None,
            };
            match event {
                Ok(Some((path, kind))) => {
                    let data = serde_json::json!({ "path": path, "kind": kind });
                    let event = SseEvent::default().event("change").data(data.to_string());
                    Some((Ok::<_, Infallible>(event), Some(watching)))
                }
                Ok(None) => None,
                Err(failure) => {
                    let data = serde_json::to_string(&failure).unwrap_or_default();
                    Some((Ok(SseEvent::default().event("error").data(data)), None))
                }
            }
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}
