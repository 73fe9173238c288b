//! Uploads to `/files`: a form of files, or a body that is one, with metadata in the request's headers.
//!
//! Files are written in place, as `envd` does it: watches tell of them as of every other write.

use std::collections::{BTreeMap, HashSet};

use axum::body::Body;
use axum::extract::{Extension, FromRequest as _, Multipart, Request};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use http::{HeaderMap, header};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Entry, FileTarget, METADATA_PREFIX, Writing};
use mote_sandbox_api::limits::{FILE_METADATA_BYTES_MAX, FILE_METADATA_NAME_BYTES_MAX};
use serde_json::Value;

use super::files::{Named, named};
use super::{entry, unzip, wording};
use crate::api::e2b::failure::Refused;
use crate::api::e2b::gateway::Inside;
use crate::limits::UPLOAD_FILES_MAX;

/// Headers of this beginning are metadata of what is uploaded.
const METADATA_HEADER: &str = "x-metadata-";

pub(super) async fn upload(Extension(inside): Extension<Inside>, request: Request) -> Result<Response, Refused> {
    let metadata = metadata(request.headers())?;
    let named = named(&request)?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_form = kind.trim_start().to_ascii_lowercase().starts_with("multipart/");
    let request = plain(request)?;
    let writing = Writing { mode: None, in_place: true, metadata: Some(metadata) };
    let written = if is_form {
        form(&inside, &named, writing, request).await?
    } else {
        let body = request.into_body().into_data_stream();
        let contents = body.map_err(|error| Failure::new(Code::Invalid, format!("failed to read the body: {error}")));
        let target = named.target(None).map_err(|failure| Failure {
            message: "path query parameter is required for raw body upload".to_owned(),
            ..failure
        })?;
        vec![entry::written(&write(&inside, target, writing, contents).await?)]
    };
    Ok(axum::Json(written).into_response())
}

async fn write(
    inside: &Inside,
    target: FileTarget,
    writing: Writing,
    contents: impl Stream<Item = Result<Bytes, Failure>> + Send,
) -> Result<Entry, Failure> {
    inside.guest.write_as(target, writing, contents).await.map_err(wording::upload)
}

/// The metadata that a request's headers carry, in the bounds of E2B's server; of a header that comes twice, the first.
fn metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Failure> {
    let wrong =
        |message: String| Failure::new(Code::Invalid, format!("invalid metadata: {message}")).with("field", "metadata");
    let mut metadata = BTreeMap::new();
    let mut bytes = 0;
    for name in headers.keys() {
        // Names of headers are small letters here, as keys are.
        let Some(key) = name.as_str().strip_prefix(METADATA_HEADER).filter(|key| !key.is_empty()) else { continue };
        let key_bytes_max = FILE_METADATA_NAME_BYTES_MAX - METADATA_PREFIX.len();
        if key.len() > key_bytes_max {
            return Err(wrong(format!("metadata key {key:?} exceeds {key_bytes_max} bytes")));
        }
        let value = headers.get(name).map_or(&b""[..], |value| value.as_bytes());
        if let Some((at, byte)) = value.iter().enumerate().find(|(_, byte)| !(0x20..=0x7e).contains(*byte)) {
            let label = format!("metadata value for key {key:?}");
            return Err(wrong(format!("{label} contains non-printable-ASCII byte 0x{byte:02x} at offset {at}")));
        }
        bytes += METADATA_PREFIX.len() + key.len() + value.len();
        metadata.insert(key.to_owned(), String::from_utf8_lossy(value).into_owned());
    }
    if bytes > FILE_METADATA_BYTES_MAX {
        return Err(wrong(format!("total metadata size {bytes} exceeds {FILE_METADATA_BYTES_MAX} bytes"))
            .with("limit", FILE_METADATA_BYTES_MAX));
    }
    Ok(metadata)
}

/// A request whose body is no longer compressed.
fn plain(request: Request) -> Result<Request, Failure> {
    let encoding = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let encoding = encoding.unwrap_or("identity").to_owned();
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(request),
        "gzip" => {
            let (mut parts, body) = request.into_parts();
            parts.headers.remove(header::CONTENT_ENCODING);
            parts.headers.remove(header::CONTENT_LENGTH);
            let zipped = body.into_data_stream();
            let zipped =
                zipped.map_err(|error| Failure::new(Code::Invalid, format!("failed to read the body: {error}")));
            Ok(Request::from_parts(parts, Body::from_stream(unzip::stream(zipped))))
        }
        _ => {
            let message = format!(
                "error decompressing request body: unsupported Content-Encoding: {encoding}, supported: [gzip]"
            );
            Err(Failure::new(Code::Invalid, message).with("header", "content-encoding"))
        }
    }
}

/// A form: each part is a file, named by the query's path where that is given, else by the part's own file name.
async fn form(inside: &Inside, named: &Named, writing: Writing, request: Request) -> Result<Vec<Value>, Refused> {
    let unreadable = |error: String| Failure::new(Code::Invalid, format!("failed to read the form: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| unreadable(error.body_text()))?;
    let (mut written, mut paths) = (Vec::new(), HashSet::new());
    while let Some(part) = form.next_field().await.map_err(|error| unreadable(error.body_text()))? {
        if part.name() != Some("file") {
            continue;
        }
        if written.len() >= UPLOAD_FILES_MAX {
            let message = format!("a form holds at most {UPLOAD_FILES_MAX} files");
            return Err(Failure::new(Code::TooLarge, message).with("limit", UPLOAD_FILES_MAX).into());
        }
        let target = named.target(part.file_name().map(unescaped))?;
        if !paths.insert(target.path.as_bytes().to_vec()) {
            let message = format!(
                "you cannot upload multiple files to the same path '{}' in one upload request, only the first specified \
                 file was uploaded",
                target.path
            );
            return Err(Failure::new(Code::Invalid, message).with("field", "path").into());
        }
        let contents = part.map_err(|error| unreadable(error.body_text()));
        written.push(entry::written(&write(inside, target, writing.clone(), contents).await?));
    }
    Ok(written)
}

/// The name of a part's file: three characters are escaped in it (WHATWG HTML, "multipart form data").
fn unescaped(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn metadata_comes_in_headers() {
        let of = |pairs: &[(&str, &str)]| metadata(&headers(pairs));
        let found = of(&[("X-Metadata-Author", "mish"), ("x-metadata-a_b", "1 2"), ("x-metadata-", "?"), ("x-a", "")]);
        let expected = [("author", "mish"), ("a_b", "1 2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(found.unwrap(), expected.into());
        assert_eq!(of(&[("x-metadata-a", "first"), ("x-metadata-a", "second")]).unwrap()["a"], "first");
        assert!(of(&[]).unwrap().is_empty());
    }

    #[test]
    fn metadata_beyond_its_bounds_is_refused_as_by_e2bs_server() {
        let of = |name: &str, value: &str| metadata(&headers(&[(name, value)])).unwrap_err().message;
        let long = format!("x-metadata-{}", "k".repeat(247));
        assert!(of(&long, "").ends_with("exceeds 246 bytes"));
        assert!(metadata(&headers(&[(&long[..long.len() - 1], "")])).is_ok());
        assert_eq!(
            of("x-metadata-a", &"v".repeat(4087)),
            "invalid metadata: total metadata size 4097 exceeds 4096 bytes"
        );
        assert!(metadata(&headers(&[("x-metadata-a", &"v".repeat(4086))])).is_ok());
        assert!(of("x-metadata-a", "é").contains("non-printable-ASCII byte 0xc3 at offset 0"));
    }

    #[test]
    fn an_encoding_that_is_not_known_is_named() {
        let request = Request::builder().header("content-encoding", "br").body(Body::empty()).unwrap();
        let failure = plain(request).unwrap_err();
        assert_eq!(failure.code, Code::Invalid);
        assert!(failure.message.ends_with("unsupported Content-Encoding: br, supported: [gzip]"), "{failure}");
    }
}
