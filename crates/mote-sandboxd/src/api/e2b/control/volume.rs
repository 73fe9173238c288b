//! `/volumecontent`: the files of a volume, whether or not a sandbox mounts it, with the volume's own token.
//!
//! A path is resolved inside the volume by a process that has nothing else (`crate::filesystem::worker::files`).

use std::fs::File;
use std::os::fd::OwnedFd;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::EntryKind;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::body::{Answer, Body as Json, json_answer};
use crate::api::e2b::failure::Refused;
use crate::api::e2b::timestamp::rfc3339;
use crate::api::e2b::{E2b, query};
use crate::filesystem::volumes::VolumeFound;
use crate::filesystem::worker::files::{Entry, Made, Order};
use crate::limits::{VOLUME_CHUNK_BYTES, VOLUME_REQUEST_WAIT, VOLUME_REQUESTS_MAX};

/// Owner of what is made where the caller names none: the user of images that bring none of their own.
const OWNER: u32 = 1000;
/// Permission bits of E2B's server, where the caller names none.
const FILE_MODE: u32 = 0o666;
const FOLDER_MODE: u32 = 0o777;
/// The highest id that sandboxes have.
const ID_MAX: u32 = 65_535;
const MODE_MAX: u32 = 0o777;

pub(super) fn router() -> Router<E2b> {
    Router::new()
        .route("/volumecontent/{id}/path", get(stat).patch(change).delete(remove))
        .route("/volumecontent/{id}/dir", get(list).post(make))
        .route("/volumecontent/{id}/file", get(read).put(write))
}

/// Who holds the volume's token, which its creation answers.
fn admit(e2b: &E2b, id: &str, headers: &HeaderMap) -> Result<(), Failure> {
    let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = presented.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let holds = token.is_some_and(|token| e2b.api.sandboxes.store().vault().is_token("volume", id, token));
    holds.then_some(()).ok_or_else(|| {
        Failure::new(Code::Unauthenticated, "the request carries no token of the volume (Authorization: Bearer)")
    })
}

/// What a query says.
struct Asked(Option<String>);

impl Asked {
    fn path(&self) -> Result<String, Failure> {
        query::value(self.0.as_deref(), "path").ok_or_else(|| Failure::invalid("path", "no path is given"))
    }

    fn number(&self, name: &str, max: u32) -> Result<Option<u32>, Failure> {
        let Some(text) = query::value(self.0.as_deref(), name) else { return Ok(None) };
        bounded(name, text.parse().ok(), max).map(Some)
    }

    fn made(&self, mode: u32) -> Result<Made, Failure> {
        let force = match query::value(self.0.as_deref(), "force").as_deref() {
            None | Some("false" | "False") => false,
            Some("true" | "True") => true,
            Some(_) => return Err(Failure::invalid("force", "it must be true or false")),
        };
        Ok(Made {
            uid: self.number("uid", ID_MAX)?.unwrap_or(OWNER),
            gid: self.number("gid", ID_MAX)?.unwrap_or(OWNER),
            mode: self.number("mode", MODE_MAX)?.unwrap_or(mode),
            force,
        })
    }
}

fn bounded(name: &str, value: Option<u32>, max: u32) -> Result<u32, Failure> {
    let value = value.filter(|value| *value <= max);
    value.ok_or_else(|| Failure::invalid(name, format_args!("it must be a number of 0 to {max}")))
}

async fn ask(e2b: &E2b, id: &str, path: String, order: Order) -> Result<VolumeFound, Failure> {
    let turn = tokio::time::timeout(VOLUME_REQUEST_WAIT, e2b.volumes.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        let message = format!("{VOLUME_REQUESTS_MAX} requests for files of volumes are carried out already");
        return Err(Failure::new(Code::Exhausted, message).with("limit", VOLUME_REQUESTS_MAX).with("retry_after_s", 1));
    };
    e2b.api.sandboxes.volume_files(id, path.into(), order).await
}

/// `VolumeEntryStat`.
fn told(entry: &Entry) -> Value {
    let kind = match entry.kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Other => "unknown",
    };
    let mut told = json!({
        "name": entry.name, "type": kind, "path": entry.path, "size": entry.size, "mode": entry.mode,
        "uid": entry.uid, "gid": entry.gid, "atime": rfc3339(entry.accessed_ms),
        "mtime": rfc3339(entry.modified_ms), "ctime": rfc3339(entry.changed_ms),
    });
    if let Some(target) = &entry.target {
        told["target"] = target.as_str().into();
    }
    told
}

fn only(found: &VolumeFound) -> Result<&Entry, Failure> {
    found.entries.first().ok_or_else(|| Failure::new(Code::Internal, "a worker found nothing and said so"))
}

fn opened(found: &mut VolumeFound) -> Result<tokio::fs::File, Failure> {
    let file: Option<OwnedFd> = found.file.take();
    let file = file.ok_or_else(|| Failure::new(Code::Internal, "a worker answered without the open file"))?;
    Ok(tokio::fs::File::from_std(File::from(file)))
}

async fn stat(State(e2b): State<E2b>, Path(id): Path<String>, RawQuery(query): RawQuery, headers: HeaderMap) -> Answer {
    admit(&e2b, &id, &headers)?;
    let found = ask(&e2b, &id, Asked(query).path()?, Order::Stat).await?;
    Ok(json_answer(StatusCode::OK, &told(only(&found)?)))
}

#[derive(Deserialize)]
pub(super) struct Changed {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

async fn change(
    State(e2b): State<E2b>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Json<Changed>,
) -> Answer {
    admit(&e2b, &id, &headers)?;
    let Changed { uid, gid, mode } = body.value;
    let within = |name, value: Option<u32>, max| value.map(|value| bounded(name, Some(value), max)).transpose();
    let order = Order::Change {
        uid: within("uid", uid, ID_MAX)?,
        gid: within("gid", gid, ID_MAX)?,
        mode: within("mode", mode, MODE_MAX)?,
    };
    let found = ask(&e2b, &id, Asked(query).path()?, order).await?;
    Ok(json_answer(StatusCode::OK, &told(only(&found)?)))
}

async fn remove(
    State(e2b): State<E2b>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    admit(&e2b, &id, &headers)?;
    ask(&e2b, &id, Asked(query).path()?, Order::Remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(State(e2b): State<E2b>, Path(id): Path<String>, RawQuery(query): RawQuery, headers: HeaderMap) -> Answer {
    admit(&e2b, &id, &headers)?;
    let asked = Asked(query);
    let depth = asked.number("depth", u32::MAX)?.unwrap_or(1);
    let found = ask(&e2b, &id, asked.path()?, Order::List { depth }).await?;
    Ok(json_answer(StatusCode::OK, &found.entries.iter().map(told).collect::<Vec<_>>()))
}

async fn make(State(e2b): State<E2b>, Path(id): Path<String>, RawQuery(query): RawQuery, headers: HeaderMap) -> Answer {
    admit(&e2b, &id, &headers)?;
    let asked = Asked(query);
    let found = ask(&e2b, &id, asked.path()?, Order::MakeDirectory(asked.made(FOLDER_MODE)?)).await?;
    Ok(json_answer(StatusCode::CREATED, &told(only(&found)?)))
}

async fn read(
    State(e2b): State<E2b>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    admit(&e2b, &id, &headers)?;
    let mut found = ask(&e2b, &id, Asked(query).path()?, Order::Read).await?;
    let size = only(&found)?.size;
    // What is added meanwhile is left out: the length is told before.
    let file = opened(&mut found)?.take(size);
    let mut response = Body::from_stream(ReaderStream::with_capacity(file, VOLUME_CHUNK_BYTES)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, size.into());
    Ok(response)
}

async fn write(State(e2b): State<E2b>, Path(id): Path<String>, RawQuery(query): RawQuery, request: Request) -> Answer {
    admit(&e2b, &id, request.headers())?;
    let asked = Asked(query);
    let path = asked.path()?;
    let mut found = ask(&e2b, &id, path.clone(), Order::Write(asked.made(FILE_MODE)?)).await?;
    let failed = |error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::NoSpace,
            _ => Code::Internal,
        };
        Failure::new(code, format!("failed to write {path:?}: {error}"))
    };
    let mut file = opened(&mut found)?;
    let mut body = request.into_body().into_data_stream();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| Failure::new(Code::Invalid, format!("failed to read the body: {error}")))?;
        file.write_all(&bytes).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let mut entry = told(only(&found)?);
    entry["size"] = size.into();
    Ok(json_answer(StatusCode::CREATED, &entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_says_is_bounded() {
        let asked = |query: &str| Asked(Some(query.to_owned()));
        let made = asked("path=%2Fa&uid=7&mode=420&force=true").made(FILE_MODE).unwrap();
        assert_eq!(made, Made { uid: 7, gid: OWNER, mode: 0o644, force: true });
        assert_eq!(asked("path=/a").made(FILE_MODE).unwrap().mode, 0o666);
        for (query, field) in [("uid=65536", "uid"), ("gid=-1", "gid"), ("mode=512", "mode"), ("force=1", "force")] {
            assert_eq!(asked(query).made(FILE_MODE).unwrap_err().context["field"], field, "{query}");
        }
        assert_eq!(asked("x=1").path().unwrap_err().code, Code::Invalid);
    }
}
