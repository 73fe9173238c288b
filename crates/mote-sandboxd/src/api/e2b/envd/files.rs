//! `/files`: files over plain HTTP, downloaded whole or by range, or put together.
//!
//! Contents pass through in frames; nothing is held whole.

use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{EntryKind, FileTarget, Rights};
use serde::Deserialize;

use super::{connect, entry, wording};
use crate::api::e2b::failure::Refused;
use crate::api::e2b::gateway::Inside;
use crate::api::e2b::query;
use crate::api::e2b::signature::Granted;
use crate::limits::COMPOSE_PARTS_MAX;

fn explained(failure: Failure) -> Refused {
    wording::file(failure).into()
}

/// What a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The file; a form may name it, where this does not.
    pub(super) path: Option<String>,
    /// In whose name; the sandbox's own user where absent.
    pub(super) user: Option<String>,
    pub(super) rights: Rights,
}

impl Named {
    /// The file, or this one where none is named.
    ///
    /// # Errors
    /// `invalid` where neither is.
    pub(super) fn target(&self, or: Option<String>) -> Result<FileTarget, Failure> {
        let path = self.path.clone().or(or).filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| Failure::invalid("path", "no path is given"))?;
        Ok(FileTarget::new(path, self.user.clone()).with(self.rights))
    }
}

/// The file that a request names, and in whose name it asks: of a signed address, what was signed and nothing else; else the
/// query's words, and for the user those of basic authentication behind them. As with `envd`, root's rights reach it; but
/// where whoever signed left the name to the upload, the user's own: else such an address would open the whole sandbox.
pub(super) fn named(request: &Request) -> Result<Named, Failure> {
    if let Some(Granted { path, user }) = request.extensions().get().cloned() {
        let rights = if path.is_some() { Rights::Root } else { Rights::User };
        return Ok(Named { path, user, rights });
    }
    let text = |name: &str| query::value(request.uri().query(), name).filter(|text| !text.is_empty());
    let user = match text("username") {
        Some(user) => Some(user),
        None => connect::user(request.headers())?,
    };
    Ok(Named { path: text("path"), user, rights: Rights::Root })
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
    let target = named(&request)?.target(None)?;
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
    let named = |path: String| FileTarget::new(path, username.clone()).with(Rights::Root);
    let sources: Vec<FileTarget> = source_paths.into_iter().map(named).collect();
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
    let target = Named { path: Some(destination), user: username, rights: Rights::Root }.target(None)?;
    let entry = inside.guest.write(target, None, opened.try_flatten()).await.map_err(wording::upload)?;
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
        let of = |path: Option<String>, user: Option<String>, rights| Named { path, user, rights };
        assert_eq!(named(&request()).unwrap(), of(text("/b"), text("root"), Rights::Root));
        let signed = |path: Option<String>| {
            let mut signed = request();
            signed.extensions_mut().insert(Granted { path, user: None });
            named(&signed).unwrap()
        };
        assert_eq!(signed(text("/a")), of(text("/a"), None, Rights::Root));
        assert_eq!(signed(None), of(None, None, Rights::User), "who names the file reaches no more than its user does");
    }
}
