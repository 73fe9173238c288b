//! A few HTTP/1.1 requests over loopback, one a connection, to set a measurement up.
//!
//! It does not measure; the load generator does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer: its status and everything behind the head, chunk sizes included where it came in chunks.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks and reads to the end of the connection.
pub(super) fn ask(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Result<Answer> {
    let place = || format!("failed to ask {method} http://{address}{path}");
    let mut stream = TcpStream::connect(address).with_context(place)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(place)?;
    let extra: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n{extra}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).with_context(place)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(place)?;
    parse(&String::from_utf8_lossy(&bytes)).with_context(place)
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer has no status")?;
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_status_and_body() {
        let answer = parse("HTTP/1.1 202 Accepted\r\na: b\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (202, "{}"));
        assert!(parse("").is_err());
    }
}
