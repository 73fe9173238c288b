//! The client of registries: a manifest by tag or digest, blobs by digest, a token where one is asked for.
//!
//! It keeps nothing but tokens. What it writes to a file is checked against its digest before the caller hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use futures_util::StreamExt;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::Error;
use crate::digest::{Digest, Hasher};
use crate::limits::{
    CONNECT_TIMEOUT, DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX, REDIRECTS_MAX, SILENCE_TIMEOUT, TOKEN_BYTES_MAX,
};
use crate::manifest::{self, Descriptor, Document, Image, Manifest, Platform};
use crate::reference::Reference;

/// A user and a password or token. It is not shown.
#[derive(Clone)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Hosts, with their ports, that are asked over HTTP without TLS.
    pub plain: BTreeSet<String>,
    /// Credentials by host.
    pub credentials: BTreeMap<String, Credentials>,
}

/// A client.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
    options: Arc<Options>,
    /// By host and scope.
    tokens: Arc<Mutex<BTreeMap<(String, String), String>>>,
}

/// An image that was found: its documents, no layer yet.
#[derive(Clone, Debug)]
pub struct Found {
    /// Of the manifest.
    pub digest: Digest,
    /// Its layers.
    pub manifest: Manifest,
    /// How it is run.
    pub image: Image,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Registry {
    /// A client that trusts what the TLS configuration trusts.
    ///
    /// # Errors
    /// [`Error::Connection`] where no client can be made of it.
    pub fn new(tls: &rustls::ClientConfig, options: Options) -> Result<Self, Error> {
        let redirects = reqwest::redirect::Policy::custom(|attempt| {
            let downgraded = attempt.previous().last().is_some_and(|from| from.scheme() == "https")
                && attempt.url().scheme() != "https";
            if downgraded {
                return attempt.error("a redirect from https to another scheme");
            }
            if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("too many redirects")
            } else {
                attempt.follow()
            }
        });
        let client = Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .no_proxy()
            .redirect(redirects)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .build()
            .map_err(|error| Error::Connection("any".to_owned(), error.to_string()))?;
        Ok(Self { client, options: Arc::new(options), tokens: Arc::default() })
    }

    /// The same client with other credentials, and without the tokens that it got for its own.
    #[must_use]
    pub fn with_credentials(&self, credentials: BTreeMap<String, Credentials>) -> Self {
        let options = Options { credentials, ..Options::clone(&self.options) };
        Self { client: self.client.clone(), options: Arc::new(options), tokens: Arc::default() }
    }

    /// Finds an image for a platform: its manifest and configuration.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn find(&self, reference: &Reference, platform: &Platform) -> Result<Found, Error> {
        let mut version = reference.version();
        let mut expected = reference.digest.clone();
        for _ in 0..=INDEX_DEPTH_MAX {
            let response = self.get(reference, &format!("manifests/{version}"), Some(manifest::ACCEPT)).await?;
            let bytes = read(reference, response, "the manifest", DOCUMENT_BYTES_MAX).await?;
            let digest = check("the manifest", &bytes, expected.as_ref())?;
            match Document::parse(&bytes)? {
                Document::Index(manifests) => {
                    let chosen = manifest::select(&manifests, platform)?;
                    version = chosen.digest.to_string();
                    expected = Some(chosen.digest.clone());
                }
                Document::Manifest(manifest) => {
                    let image = self.config(reference, &manifest).await?;
                    return Ok(Found { digest, manifest, image });
                }
            }
        }
        Err(Error::TooLarge("the depth of the index", INDEX_DEPTH_MAX as u64))
    }

    async fn config(&self, reference: &Reference, manifest: &Manifest) -> Result<Image, Error> {
        let digest = &manifest.config.digest;
        let response = self.get(reference, &format!("blobs/{digest}"), None).await?;
        let bytes = read(reference, response, "the configuration", DOCUMENT_BYTES_MAX).await?;
        check("the configuration", &bytes, Some(digest))?;
        Image::parse(&bytes, manifest.layers.len())
    }

    /// Writes a blob to the file. What was written is the blob only where this succeeds.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where other bytes came than were asked for; [`Error::TooLarge`] where more came than announced.
    pub async fn blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        file: &mut tokio::fs::File,
    ) -> Result<(), Error> {
        let response = self.get(reference, &format!("blobs/{}", blob.digest), None).await?;
        let mut stream = response.bytes_stream();
        let (mut hasher, mut left) = (Hasher::default(), blob.size);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| connection(reference.address(), &error))?;
            left = left.checked_sub(piece.len() as u64).ok_or(Error::TooLarge("a layer", blob.size))?;
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(|error| Error::File("a layer".to_owned(), error))?;
        }
        file.flush().await.map_err(|error| Error::File("a layer".to_owned(), error))?;
        let found = hasher.finish();
        if found == blob.digest {
            return Ok(());
        }
        Err(Error::Mismatch { what: "a layer", expected: blob.digest.clone(), found })
    }

    async fn get(&self, reference: &Reference, path: &str, accept: Option<&'static str>) -> Result<Response, Error> {
        let host = reference.address();
        let scheme = if self.options.plain.contains(host) { "http" } else { "https" };
        let url = format!("{scheme}://{host}/v2/{}/{path}", reference.repository);
        let url = Url::parse(&url).map_err(|_| Error::Reference(reference.to_string(), "its host is not one"))?;
        let scope = (host.to_owned(), format!("repository:{}:pull", reference.repository));
        let known = self.tokens.lock().map(|tokens| tokens.get(&scope).cloned()).unwrap_or_default();
        let response = self.ask(&url, accept, known.as_deref().map(bearer)).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.authorize(reference, &response, &scope).await?;
            self.ask(&url, accept, Some(authorization)).await?
        } else {
            response
        };
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(Error::NotFound(reference.to_string())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Denied(host.to_owned())),
            status => Err(Error::Status(host.to_owned(), status.as_u16())),
        }
    }

    async fn ask(
        &self,
        url: &Url,
        accept: Option<&'static str>,
        authorization: Option<String>,
    ) -> Result<Response, Error> {
        let mut request = self.client.get(url.clone());
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(text) = authorization {
            let mut value = HeaderValue::from_str(&text).map_err(|_| Error::Denied(url.authority().to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| connection(url.authority(), &error))
    }

    /// What the challenge wants: the credentials themselves, or a token that a service gives for them (Docker registry
    /// token authentication).
    async fn authorize(
        &self,
        reference: &Reference,
        refused: &Response,
        scope: &(String, String),
    ) -> Result<String, Error> {
        let host = reference.address();
        let credentials = self.options.credentials.get(&reference.host);
        let denied = || Error::Denied(host.to_owned());
        let challenge = refused.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let (scheme, parameters) = challenge.and_then(|text| text.split_once(' ')).ok_or_else(denied)?;
        if scheme.eq_ignore_ascii_case("basic") {
            return credentials.map(basic).ok_or_else(denied);
        }
        let parameters = parameters_of(parameters);
        let realm = parameters.get("realm").and_then(|realm| Url::parse(realm).ok()).ok_or_else(denied)?;
        // Credentials do not leave without TLS, unless the registry itself is asked so.
        if realm.scheme() != "https" && !self.options.plain.contains(host) {
            return Err(denied());
        }
        let mut url = realm;
        if let Some(service) = parameters.get("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &scope.1);
        let response = self.ask(&url, None, credentials.map(basic)).await?;
        if !response.status().is_success() {
            return Err(denied());
        }
        let bytes = read(reference, response, "the token", TOKEN_BYTES_MAX).await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| denied())?;
        let token = token.token.or(token.access_token).ok_or_else(denied)?;
        if let Ok(mut tokens) = self.tokens.lock() {
            tokens.insert(scope.clone(), token.clone());
        }
        Ok(bearer(&token))
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn basic(credentials: &Credentials) -> String {
    format!("Basic {}", BASE64.encode(format!("{}:{}", credentials.user, credentials.password).as_bytes()))
}

/// `key="value"` pairs, separated by commas.
fn parameters_of(text: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"').and_then(|quoted| quoted.split_once('"')) {
            Some((value, after)) => (value, after),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(key.trim_matches([' ', ',']).to_ascii_lowercase(), value.to_owned());
        rest = after;
    }
    parameters
}

async fn read(reference: &Reference, response: Response, what: &'static str, bound: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| connection(reference.address(), &error))?;
        if (bytes.len() + piece.len()) as u64 > bound {
            return Err(Error::TooLarge(what, bound));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn check(what: &'static str, bytes: &[u8], expected: Option<&Digest>) -> Result<Digest, Error> {
    let found = Digest::of(bytes);
    match expected {
        Some(expected) if *expected != found => Err(Error::Mismatch { what, expected: expected.clone(), found }),
        _ => Ok(found),
    }
}

/// Whether an error, or one that an error of input and output carries, is TLS's about the other side's certificate.
fn certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(carried) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return certificate(carried);
    }
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
}

fn connection(host: &str, error: &reqwest::Error) -> Error {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut is_certificate = false;
    while let Some(inner) = source {
        message = inner.to_string();
        is_certificate |= certificate(inner);
        source = inner.source();
    }
    if is_certificate {
        Error::Certificate(host.to_owned(), message)
    } else {
        Error::Connection(host.to_owned(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read() {
        let parameters = parameters_of(r#"realm="https://a.io/token",service="a.io",scope="repository:x:pull,push""#);
        assert_eq!(parameters["realm"], "https://a.io/token");
        assert_eq!(parameters["service"], "a.io");
        assert_eq!(parameters["scope"], "repository:x:pull,push");
    }
}
