//! From an HTTP response to what the model is told: statuses by what they say about the effect, bodies within bounds.
//!
//! It does not follow redirects or send anything.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::limits::RETRY_AFTER_MAX;
use crate::secret::SecretValue;
use crate::tools::FailureKind;

/// What a status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An answer: good, or bad and final.
    Answer {
        /// Whether the backend refused.
        is_error: bool,
    },
    /// No answer.
    Failure(FailureKind, Option<Duration>),
}

pub(super) fn judge(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let retry_after = retry_after(headers);
    match status.as_u16() {
        200..=299 => Verdict::Answer { is_error: false },
        408 | 425 | 429 => Verdict::Failure(FailureKind::Refused, retry_after),
        // With Retry-After it says that it did nothing; without, a proxy may have lost the backend half way.
        503 if headers.contains_key(header::RETRY_AFTER) => Verdict::Failure(FailureKind::Refused, retry_after),
        500..=599 => Verdict::Failure(FailureKind::Unknown, retry_after),
        _ => Verdict::Answer { is_error: true },
    }
}

/// `Retry-After` in seconds, or as a date measured against the response's own `Date`, so that no clock is needed.
pub(in crate::tools) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?;
            let now = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
            until.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Turns bodies into text within a bound, and removes secrets that a backend echoes.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) output_max: usize,
    pub(super) secrets: Vec<SecretValue>,
}

impl Reader {
    /// Reads the body as far as it is shown. `is_error` puts the status before it.
    pub(super) async fn read(&self, mut response: reqwest::Response, is_error: bool) -> Result<String, reqwest::Error> {
        let status = response.status();
        let mut text = if is_error { format!("HTTP {status}\n") } else { String::new() };
        if let Some(description) = describe_binary(response.headers(), response.content_length()) {
            text.push_str(&description);
            return Ok(self.bound(text, false));
        }
        // Somewhat more than is shown, so that a secret is not cut in two and half of it shown.
        let longest = self.secrets.iter().map(|secret| secret.expose().len()).max().unwrap_or(0);
        let wanted = self.output_max.saturating_add(longest);
        let mut body = Vec::new();
        let mut more = false;
        while let Some(chunk) = response.chunk().await? {
            let room = wanted - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                more = true;
                break;
            }
        }
        if body.is_empty() {
            text.push_str(&empty(status, response.headers()));
        } else if body.contains(&0) {
            text.push_str(&format!("(the body is not text: {} bytes or more, not shown)", body.len()));
        } else {
            if more {
                drop_partial_char(&mut body);
            }
            text.push_str(&String::from_utf8_lossy(&body));
        }
        Ok(self.bound(text, more))
    }

    /// Redacts, then cuts to the bound on a character's boundary and says so.
    pub(super) fn bound(&self, mut text: String, more: bool) -> String {
        for secret in &self.secrets {
            if text.contains(secret.expose()) {
                text = text.replace(secret.expose(), "[redacted]");
            }
        }
        if text.len() <= self.output_max && !more {
            return text;
        }
        let note = format!("\n[cut: the result is longer than {} bytes]", self.output_max);
        let note = if note.len() < self.output_max { note } else { String::new() };
        text.truncate(text.floor_char_boundary(self.output_max - note.len()));
        text + &note
    }
}

/// A body cut by the bound may end within a character; the half is not an error of the backend's.
fn drop_partial_char(body: &mut Vec<u8>) {
    for back in 1..=body.len().min(3) {
        let byte = body[body.len() - back];
        if byte & 0xc0 == 0xc0 {
            let expected = if byte >= 0xf0 {
                4
            } else if byte >= 0xe0 {
                3
            } else {
                2
            };
            if back < expected {
                body.truncate(body.len() - back);
            }
            return;
        }
        if byte & 0x80 == 0 {
            return;
        }
    }
}

/// For HEAD, 204 and empty bodies: the status, and headers that describe the resource.
fn empty(status: StatusCode, headers: &HeaderMap) -> String {
    let mut text = format!("(HTTP {status}, no body)");
    for name in [header::LOCATION, header::CONTENT_TYPE, header::CONTENT_LENGTH, header::ETAG, header::LAST_MODIFIED] {
        if let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) {
            text.push_str(&format!("\n{name}: {value}"));
        }
    }
    text
}

/// What to say instead of bytes that are not text; `None` if they may be text.
fn describe_binary(headers: &HeaderMap, length: Option<u64>) -> Option<String> {
    let encoded = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let encoding = encoded.filter(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("text/plain");
    if length == Some(0) || (encoding.is_none() && is_text(media_type)) {
        return None;
    }
    let size = length.map_or_else(|| "of unknown size".to_owned(), |bytes| format!("{bytes} bytes"));
    let encoding = encoding.map_or(String::new(), |encoding| format!(", encoded as {encoding}"));
    Some(format!("(the body is {media_type}{encoding}, {size}: not text, not shown)"))
}

fn is_text(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else { return essence.is_empty() };
    let named = ["json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-ndjson", "jsonl", "graphql", "sql", "csv"];
    kind == "text"
        || subtype.ends_with("+json")
        || subtype.ends_with("+xml")
        || subtype.ends_with("+yaml")
        || (kind == "application" && (named.contains(&subtype) || subtype == "x-www-form-urlencoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), http::HeaderValue::from_static(value))).collect()
    }

    fn check(status: u16, retry: Option<&'static str>, expected: Verdict) {
        let headers = retry.map_or_else(HeaderMap::new, |value| headers(&[(header::RETRY_AFTER, value)]));
        assert_eq!(judge(StatusCode::from_u16(status).unwrap(), &headers), expected, "{status}");
    }

    #[test]
    fn statuses_say_what_is_known() {
        let seconds = |n| Some(Duration::from_secs(n));
        check(200, None, Verdict::Answer { is_error: false });
        check(204, None, Verdict::Answer { is_error: false });
        check(302, None, Verdict::Answer { is_error: true });
        check(404, None, Verdict::Answer { is_error: true });
        check(409, Some("1"), Verdict::Answer { is_error: true });
        check(408, None, Verdict::Failure(FailureKind::Refused, None));
        check(425, None, Verdict::Failure(FailureKind::Refused, None));
        check(429, Some("7"), Verdict::Failure(FailureKind::Refused, seconds(7)));
        check(429, Some("999999999"), Verdict::Failure(FailureKind::Refused, Some(RETRY_AFTER_MAX)));
        check(503, Some("2"), Verdict::Failure(FailureKind::Refused, seconds(2)));
        check(503, None, Verdict::Failure(FailureKind::Unknown, None));
        check(500, None, Verdict::Failure(FailureKind::Unknown, None));
        check(502, Some("3"), Verdict::Failure(FailureKind::Unknown, seconds(3)));
    }

    #[test]
    fn a_retry_date_is_measured_against_the_answers_own() {
        let dated = headers(&[
            (header::RETRY_AFTER, "Sat, 21 Nov 2026 12:00:30 GMT"),
            (header::DATE, "Sat, 21 Nov 2026 12:00:00 GMT"),
        ]);
        assert_eq!(retry_after(&dated), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(&headers(&[(header::RETRY_AFTER, "soon")])), None);
    }

    #[test]
    fn cutting_keeps_characters_whole_and_says_so() {
        let reader = Reader { output_max: 64, secrets: Vec::new() };
        let cut = reader.bound("é".repeat(100), false);
        assert!(cut.len() <= 64 && cut.ends_with("longer than 64 bytes]"), "{cut}");
        let mut bytes = "aé".as_bytes()[..2].to_vec();
        drop_partial_char(&mut bytes);
        assert_eq!(bytes, b"a");
        let mut whole = "a€".as_bytes().to_vec();
        drop_partial_char(&mut whole);
        assert_eq!(whole, "a€".as_bytes());
    }

    #[test]
    fn an_echoed_secret_is_removed() {
        let reader = Reader { output_max: 100, secrets: vec![SecretValue::new("hunter2-token")] };
        assert_eq!(reader.bound("key=hunter2-token!".to_owned(), false), "key=[redacted]!");
    }

    #[test]
    fn media_types() {
        for text in ["text/html; charset=utf-8", "application/json", "application/problem+json", "image/svg+xml", ""] {
            assert!(is_text(text), "{text}");
        }
        for binary in ["image/png", "application/octet-stream", "application/pdf", "application/zip"] {
            assert!(!is_text(binary), "{binary}");
        }
    }
}
