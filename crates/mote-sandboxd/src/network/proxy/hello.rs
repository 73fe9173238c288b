//! What a connection is, by the first bytes that a client sends: TLS with its name, HTTP, or something else.
//!
//! It reads no socket: bytes go in, and what they are comes out once it is certain. Until then they are held back, however
//! they are cut into pieces.

use rustls::server::Acceptor;

use crate::limits::{EGRESS_LINE_BYTES_MAX, EGRESS_SNIFF_BYTES_MAX};
use crate::network::name::Name;

/// What the first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// TLS.
    Tls(Hello),
    /// An HTTP/1 request.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// Anything else.
    Other,
    /// Broken TLS, or more bytes than a beginning may have.
    Malformed,
}

/// What a `ClientHello` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The name of the server; `None` where there is none, or it is no host name.
    pub(super) name: Option<Name>,
    /// An encrypted hello, with another name, may be inside. Browsers send an empty one too, made to look the same.
    pub(super) encrypted: bool,
}

/// Requests that are HTTP whatever follows: HTTP/1 and WebDAV.
const METHODS: [&[u8]; 16] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
];
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const TLS_HANDSHAKE: u8 = 22;
const TLS_MAJOR: u8 = 3;

/// The first bytes of a connection, held back until they say what it is.
#[derive(Default)]
pub(super) struct Beginning {
    bytes: Vec<u8>,
    tls: Option<Acceptor>,
}

impl std::fmt::Debug for Beginning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beginning").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Beginning {
    /// Takes more bytes, and says what the connection is once that is certain.
    pub(super) fn push(&mut self, more: &[u8]) -> Option<Opening> {
        let before = self.bytes.len();
        self.bytes.extend(more);
        if self.bytes.len() > EGRESS_SNIFF_BYTES_MAX {
            return Some(Opening::Malformed);
        }
        match (&mut self.tls, &self.bytes[..]) {
            (Some(acceptor), bytes) => tls(acceptor, bytes, before),
            (None, [] | [TLS_HANDSHAKE]) => None,
            (None, bytes @ [TLS_HANDSHAKE, TLS_MAJOR, ..]) => tls(self.tls.insert(Acceptor::default()), bytes, 0),
            (None, bytes) => text(bytes),
        }
    }

    /// Whether no byte was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes taken, to be passed on.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Feeds what is new to the acceptor.
fn tls(acceptor: &mut Acceptor, bytes: &[u8], before: usize) -> Option<Opening> {
    let mut rest = &bytes[before..];
    loop {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(Opening::Malformed);
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = match hello.server_name().map(Name::parse) {
                    None => None,
                    Some(Ok(name)) => Some(name),
                    Some(Err(_)) => return Some(Opening::Malformed),
                };
                return Some(match encrypted(bytes) {
                    Some(encrypted) => Opening::Tls(Hello { name, encrypted }),
                    None => Opening::Malformed,
                });
            }
            Ok(None) if rest.is_empty() => return None,
            Ok(None) => {}
            Err(_) => return Some(Opening::Malformed),
        }
    }
}

/// Whether a `ClientHello`, which was found whole and sound, has the extension `encrypted_client_hello` (0xfe0d); `None`
/// where it is not as it should be after all. Layout: RFC 8446, sections 4.1.2 and 5.1.
fn encrypted(records: &[u8]) -> Option<bool> {
    const ENCRYPTED_CLIENT_HELLO: usize = 0xfe0d;
    let mut message = Vec::with_capacity(records.len());
    let mut rest = Reader(records);
    while !rest.0.is_empty() {
        rest.skip(3)?;
        message.extend(rest.vector(2)?);
        let mut head = Reader(&message);
        if head.skip(1).is_some()
            && let Some(mut hello) = head.vector(3).map(Reader)
        {
            hello.skip(2 + 32)?;
            hello.vector(1)?;
            hello.vector(2)?;
            hello.vector(1)?;
            if hello.0.is_empty() {
                return Some(false);
            }
            let mut extensions = Reader(hello.vector(2)?);
            while !extensions.0.is_empty() {
                let kind = extensions.number(2)?;
                extensions.vector(2)?;
                if kind == ENCRYPTED_CLIENT_HELLO {
                    return Some(true);
                }
            }
            return Some(false);
        }
    }
    None
}

/// Reads numbers and vectors of TLS.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn skip(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.skip(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.skip(length)
    }
}

/// Text: HTTP, where a line says so. Empty lines in front are passed over, as servers do.
fn text(bytes: &[u8]) -> Option<Opening> {
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte))?;
    let line = &bytes[start..];
    if line.len() >= HTTP2_PREFACE.len() && line.starts_with(HTTP2_PREFACE) {
        return Some(Opening::Http2);
    }
    if METHODS.iter().any(|method| line.starts_with(method)) {
        return Some(Opening::Http);
    }
    let (line, whole) = match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&line[..end], true),
        None => (line, false),
    };
    // A control character, which no request line holds, settles it: binary protocols have one early.
    if line.iter().any(|byte| byte.is_ascii_control() && !b"\t\r".contains(byte)) {
        return Some(Opening::Other);
    }
    let upper = line.to_ascii_uppercase();
    if upper.windows(5).any(|window| window == b"HTTP/") {
        return Some(Opening::Http);
    }
    if whole || line.len() > EGRESS_LINE_BYTES_MAX { Some(Opening::Other) } else { None }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
