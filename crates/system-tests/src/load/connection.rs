//! One kept-alive connection to the target, and the request that is sent on it again and again.
//!
//! It does not pool; the loops do.

use std::str::FromStr;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What is asked, and of whom.
#[derive(Debug, Clone)]
pub struct Target {
    authority: String,
    path: String,
    method: Method,
    body: Bytes,
}

impl Target {
    /// From a URL without TLS.
    ///
    /// # Errors
    /// When the URL or the method is none.
    pub fn new(url: &str, method: &str, body: &str) -> anyhow::Result<Self> {
        let uri = Uri::from_str(url).with_context(|| format!("failed to read the URL {url}"))?;
        if uri.scheme_str() != Some("http") {
            bail!("failed to read the URL {url}: only http:// is understood");
        }
        let authority = uri.authority().with_context(|| format!("failed to read the URL {url}: no host"))?.to_string();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let method = Method::from_str(method).with_context(|| format!("failed to read the method {method}"))?;
        Ok(Self { authority, path, method, body: Bytes::copy_from_slice(body.as_bytes()) })
    }

    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::builder().method(&self.method).uri(&self.path).header(HOST, &self.authority);
        Ok(request.header(CONTENT_TYPE, "application/json").body(Full::new(self.body.clone()))?)
    }
}

/// A connection that carries one request at a time.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(&target.authority).await;
        let stream = stream.with_context(|| format!("failed to connect to {}", target.authority))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; what went wrong is seen by the sender.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends the request and reads the whole answer; returns its status.
    pub(super) async fn ask(&mut self, target: &Target) -> anyhow::Result<u16> {
        self.sender.ready().await?;
        let response = self.sender.send_request(target.request()?).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(status)
    }

    /// Whether another request can be sent on it.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}
