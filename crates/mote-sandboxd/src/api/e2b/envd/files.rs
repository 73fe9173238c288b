//! `/files`: files over plain HTTP, downloaded whole or by range, uploaded as forms or as they are.
//!
//! Contents pass through in frames; nothing is held whole.

use std::io::Write as _;

use axum::body::Body;
use axum::extract::{Extension, FromRequest as _, Multipart, Request};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{EntryKind, FileTarget};
use mote_sandbox_api::limits::FRAME_BYTES_MAX;
use serde::Deserialize;
use serde_json::Value;

use super::{connect, entry};
use crate::api::e2b::failure::Refused;
use crate::api::e2b::gateway::Inside;
use crate::api::e2b::query;
use crate::api::e2b::signature::Granted;
use crate::limits::{COMPOSE_PARTS_MAX, UPLOAD_FILES_MAX};

/// `envd` calls a user that is not there unauthenticated.
fn explained(failure: Failure) -> Refused {
    if failure.code == Code::NotFound && failure.context.get("kind").is_some_and(|kind| kind == "user") {
        return Failure { code: Code::Unauthenticated, ..failure }.into();
    }
    failure.into()
}

/// The file that a request names, and in whose name it asks: of a signed address, what was signed and nothing else; else the
/// query's words, and for the user those of basic authentication behind them.
fn named(request: &Request) -> Result<(Option<String>, Option<String>), Failure> {
    if let Some(Granted { path, user }) = request.extensions().get().cloned() {
        return Ok((path, user));
    }
    let text = |name: &str| query::value(request.uri().query(), name).filter(|text| !text.is_empty());
    let user = match text("username") {
        Some(user) => Some(user),
        None => connect::user(request.headers())?,
    };
    Ok((text("path"), user))
}

fn target(path: Option<String>, user: Option<String>) -> Result<FileTarget, Failure> {
    let path = path.filter(|path| !path.is_empty()).ok_or_else(|| Failure::invalid("path", "no path is given"))?;
    Ok(FileTarget { path: path.into(), user })
}

/// First byte and number of bytes of a range (RFC 9110, 14.1.2); nothing where none is asked for, or several.
fn range(headers: &HeaderMap, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(value) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let Some((first, last)) = value.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let (first, last) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(count)) if first.trim().is_empty() => (size.saturating_sub(count), size.saturating_sub(1)),
        _ => return Ok(None),
    };
    if first >= size || last < first {
        return Err(());
    }
    Ok(Some((first, last - first + 1)))
}

pub(super) async fn download(Extension(inside): Extension<Inside>, request: Request) -> Result<Response, Refused> {
    let (path, user) = named(&request)?;
    let target = target(path, user)?;
    let headers = request.headers();
    let mut asked = None;
    if headers.contains_key(header::RANGE) {
        let size = inside.guest.stat(target.clone()).await.map_err(explained)?.size;
        match range(headers, size) {
            Ok(range) => asked = range.map(|range| (range, size)),
            Err(()) => {
                let unsatisfied = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, unsatisfied).into_response());
            }
        }
    }
    let (offset, length) = asked.map_or((0, None), |((first, count), _)| (first, Some(count)));
    let file = inside.guest.read(target, offset, length).await.map_err(explained)?;
    let (name, known) = (file.entry().name.clone(), file.length());
    let mut response = Body::from_stream(file.map_err(std::io::Error::other)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    let plain: String = name.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
    if let Ok(value) = HeaderValue::from_str(&format!("inline; filename=\"{plain}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    if let Some(known) = known {
        headers.insert(header::CONTENT_LENGTH, known.into());
    }
    if let Some(((first, count), size)) = asked {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {first}-{}/{size}", first + count - 1)) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

/// Refuses what a file cannot carry here.
fn without_metadata(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.keys().find(|name| name.as_str().starts_with("x-metadata-")) {
        None => Ok(()),
        Some(name) => {
            Err(Failure::unsupported("files.metadata", "files carry no metadata of their own here")
                .with("header", name))
        }
    }
}

pub(super) async fn upload(Extension(inside): Extension<Inside>, request: Request) -> Result<Response, Refused> {
    without_metadata(request.headers())?;
    let (path, user) = named(&request)?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let written = if kind.starts_with("multipart/form-data") {
        form(&inside, path, user, request).await?
    } else {
        vec![whole(&inside, target(path, user)?, request).await?]
    };
    Ok(axum::Json(written).into_response())
}

/// A body that is the file.
async fn whole(inside: &Inside, target: FileTarget, request: Request) -> Result<Value, Refused> {
    let encoding = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let encoding = encoding.unwrap_or("identity").to_ascii_lowercase();
    let body = request.into_body().into_data_stream();
    let contents = body.map_err(|error| Failure::new(Code::Invalid, format!("failed to read the body: {error}")));
    let entry = match encoding.as_str() {
        "identity" => inside.guest.write(target, None, contents).await,
        "gzip" => inside.guest.write(target, None, unzipped(contents)).await,
        other => {
            let message = format!("the body's encoding {other:?} is not known; gzip is");
            return Err(Failure::unsupported("files.encoding", message).into());
        }
    };
    Ok(entry::written(&entry.map_err(explained)?))
}

/// A stream, decompressed a chunk at a time: a small body can become a large file, but never a large buffer.
fn unzipped(
    contents: impl Stream<Item = Result<Bytes, Failure>> + Send,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
    let broken = |error: std::io::Error| Failure::new(Code::Invalid, format!("the body is not gzip: {error}"));
    let state = Some((Box::pin(contents), MultiGzDecoder::new(Vec::new()), Bytes::new()));
    stream::unfold(state, move |state| async move {
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

/// A form: each part is a file, named by the query's path where that is given, else by the part's own file name.
async fn form(
    inside: &Inside,
    path: Option<String>,
    user: Option<String>,
    request: Request,
) -> Result<Vec<Value>, Refused> {
    let unreadable = |error: String| Failure::new(Code::Invalid, format!("failed to read the form: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| unreadable(error.body_text()))?;
    let mut written = Vec::new();
    while let Some(part) = form.next_field().await.map_err(|error| unreadable(error.body_text()))? {
        if part.name() != Some("file") {
            continue;
        }
        if written.len() >= UPLOAD_FILES_MAX {
            let message = format!("a form holds at most {UPLOAD_FILES_MAX} files");
            return Err(Failure::new(Code::TooLarge, message).with("limit", UPLOAD_FILES_MAX).into());
        }
        let named = part.file_name().map(unescaped);
        let target = target(path.clone().or(named), user.clone())?;
        let contents = part.map_err(|error| unreadable(error.body_text()));
        let entry = inside.guest.write(target, None, contents).await.map_err(explained)?;
        written.push(entry::written(&entry));
    }
    if written.is_empty() {
        return Err(Failure::invalid("file", "the form holds no file").into());
    }
    Ok(written)
}

/// The name of a part's file: three characters are escaped in it (WHATWG HTML, "multipart form data").
fn unescaped(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

#[derive(Deserialize)]
pub(super) struct Compose {
    destination: String,
    source_paths: Vec<String>,
    username: Option<String>,
}

/// Puts files together, one behind the other, and removes them. The destination may be one of them: it stays, of course.
pub(super) async fn compose(
    Extension(inside): Extension<Inside>,
    axum::Json(compose): axum::Json<Compose>,
) -> Result<Response, Refused> {
    let Compose { destination, source_paths, username } = compose;
    if source_paths.is_empty() || source_paths.len() > COMPOSE_PARTS_MAX {
        let message = format!("it must name 1 to {COMPOSE_PARTS_MAX} files");
        return Err(Failure::invalid("source_paths", message).with("limit", COMPOSE_PARTS_MAX).into());
    }
    let sources: Vec<FileTarget> =
        source_paths.into_iter().map(|path| FileTarget { path: path.into(), user: username.clone() }).collect();
    for source in &sources {
        let found = inside.guest.stat(source.clone()).await.map_err(explained)?;
        if found.kind != EntryKind::File {
            return Err(Failure::invalid("source_paths", format!("{:?} is not a regular file", source.path)).into());
        }
    }
    let guest = inside.guest.clone();
    let opened = stream::iter(sources.clone()).then(move |source| {
        let guest = guest.clone();
        async move { guest.read(source, 0, None).await }
    });
    let target = target(Some(destination), username)?;
    let entry = inside.guest.write(target, None, opened.try_flatten()).await.map_err(explained)?;
    for source in sources {
        match inside.guest.stat(source.clone()).await {
            // The result itself, by whatever name; or what looks like it to the millisecond, and then loses nothing by staying.
            Ok(found) if (found.size, found.modified_ms) == (entry.size, entry.modified_ms) => {}
            Ok(_) => inside.guest.remove(source).await.map_err(explained)?,
            // It was named twice.
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(explained(failure)),
        }
    }
    Ok(axum::Json(entry::written(&entry)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_http_has_it() {
        let of = |value: &str| {
            let headers = [(header::RANGE, HeaderValue::from_str(value).unwrap())].into_iter().collect();
            range(&headers, 10)
        };
        assert_eq!(of("bytes=2-4"), Ok(Some((2, 3))));
        assert_eq!(of("bytes=2-"), Ok(Some((2, 8))));
        assert_eq!(of("bytes=-3"), Ok(Some((7, 3))));
        assert_eq!(of("bytes=5-99"), Ok(Some((5, 5))));
        assert_eq!(of("bytes=10-"), Err(()));
        assert_eq!(of("lines=1-2"), Ok(None));
    }

    #[test]
    fn a_signed_address_says_everything_itself() {
        let request = || {
            let request = Request::builder().uri("/files?path=/b&username=root");
            // `root:`, as basic authentication has it.
            request.header(header::AUTHORIZATION, "Basic cm9vdDo=").body(Body::empty()).unwrap()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(named(&request()).unwrap(), (text("/b"), text("root")));
        let mut signed = request();
        signed.extensions_mut().insert(Granted { path: text("/a"), user: None });
        assert_eq!(named(&signed).unwrap(), (text("/a"), None));
    }

    #[tokio::test]
    async fn a_compressed_body_is_read_in_bounded_pieces() {
        let plain = vec![b'x'; 4 * 1024 * 1024];
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&plain).unwrap();
        let body = Bytes::from(encoder.finish().unwrap());
        let pieces: Vec<Bytes> = unzipped(stream::iter([Ok(body)])).try_collect().await.unwrap();
        assert!(pieces.iter().all(|piece| piece.len() <= 2 * FRAME_BYTES_MAX), "no piece is large");
        assert_eq!(pieces.concat(), plain);
        let broken = unzipped(stream::iter([Ok(Bytes::from_static(b"nonsense"))])).try_collect::<Vec<_>>().await;
        assert_eq!(broken.unwrap_err().code, Code::Invalid);
    }
}
