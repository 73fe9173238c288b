//! What a failed call of an endpoint means: statuses, headers, bodies and transport errors to [`ErrorKind`].
//!
//! It does not retry and does not wait.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::HeaderMap;
use mote_wire::fault::{Class, Fault, class_of_status};
use mote_wire::json::Text;

use super::{Answer, ErrorKind, adapt};
use crate::clock::UnixMs;
use crate::limits::{MODEL_MESSAGE_CHARS_MAX, MODEL_RETRY_AFTER_S_MAX};

/// A failure before it is some endpoint's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What may be done about it.
    pub(super) kind: ErrorKind,
    /// What happened.
    pub(super) message: String,
    /// How long the endpoint asked to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// What the endpoint said of a request that it refused, for [`super::adapt`].
    pub(super) refused: Option<String>,
    /// Whether a reply had begun.
    pub(super) began: bool,
    /// What it answered with.
    pub(super) answer: Answer,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (message, answer) = (message.into(), Answer::default());
        Self { kind, message, retry_after: None, began: false, answer, refused: None }
    }

    /// It befell a reply that had begun.
    pub(super) fn in_reply(self) -> Self {
        Self { began: true, ..self }
    }

    /// A stream that cannot be relied on; something may have been spent.
    pub(super) fn broken(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Broken, message)
    }

    pub(super) fn timed_out(what: &str, bound: Duration) -> Self {
        Self::new(ErrorKind::TimedOut, format!("{what} within {} ms", bound.as_millis()))
    }

    /// An answer with a status that is no success.
    pub(super) fn of_answer(status: http::StatusCode, headers: &HeaderMap, body: &[u8], now: UnixMs) -> Self {
        let body = String::from_utf8_lossy(body);
        let fault = Fault::parse(&body);
        // A key, a permission or a missing model is no matter of length, whatever the words around it.
        let may_overflow = !matches!(status.as_u16(), 401..=404);
        // `server_error` says less than a status such as 529.
        let words = fault
            .class()
            .filter(|class| *class != Class::Server)
            .filter(|class| may_overflow || *class != Class::ContextLength);
        // Gateways answer 400 to what failed behind them.
        let told = fault.status.filter(|told| status.as_u16() == 400 && matches!(told, 429 | 500..));
        let class = words.unwrap_or_else(|| class_of_status(told.unwrap_or(status.as_u16())));
        // A redirect is not followed: the request would go where the configuration does not say.
        let kind = if status.is_redirection() { ErrorKind::Rejected } else { kind(class) };
        let said = |text: Option<Text<'_>>| text.map(|text| text.to_string());
        let code = said(fault.code.or(fault.kind)).map(|code| shorten(&code));
        let words = said(fault.words()).unwrap_or_else(|| body.trim().to_owned());
        let message = match (status.is_redirection(), words.is_empty()) {
            (true, _) => format!("HTTP {}: redirects are not followed", status.as_u16()),
            (false, true) => format!("HTTP {}", status.as_u16()),
            (false, false) => format!("HTTP {}: {}", status.as_u16(), shorten(&words)),
        };
        let more = [said(fault.param), said(fault.code), said(fault.upstream)];
        let words = more.into_iter().flatten().fold(words, |words, more| format!("{words}\n{more}"));
        // Servers that crash over an argument that they do not know say so with a 500.
        let refused = matches!(class, Class::Rejected | Class::Server)
            && match status.as_u16() {
                400 | 422 | 501 => true,
                404 | 500 => adapt::refuses(&words),
                _ => false,
            };
        let refused = refused.then_some(words);
        let answer = Answer { status: Some(status.as_u16()), code };
        // The model had written something: the endpoint is up.
        let began = class == Class::BadOutput;
        Self { kind, message, retry_after: retry_after(headers, now), answer, began, refused }
    }

    /// An error that came within a stream.
    pub(super) fn of_stream(class: Class, message: &str) -> Self {
        let refused = matches!(class, Class::Rejected | Class::Server) && adapt::refuses(message);
        let failure = Self::new(kind(class), format!("the endpoint gave up: {}", shorten(message)));
        Self { refused: refused.then(|| message.to_owned()), ..failure }
    }

    /// A request that got no answer.
    pub(super) fn of_request(error: &hyper_util::client::legacy::Error) -> Self {
        if error.is_connect() {
            return Self::of_transport(ErrorKind::Unreachable, "cannot connect", error);
        }
        Self::of_transport(kind_of(error), "the request failed", error)
    }

    /// An answer that came in part.
    pub(super) fn of_body(error: &hyper::Error) -> Self {
        Self::of_transport(kind_of(error), "the stream broke off", error)
    }

    /// An error of the transport and its causes; none of them names the URL.
    fn of_transport(kind: ErrorKind, what: &str, error: &(dyn Error + 'static)) -> Self {
        let mut message = what.to_owned();
        let (mut last, mut cause) = (String::new(), Some(error));
        while let Some(inner) = cause {
            let text = inner.to_string();
            if text != last {
                message.push_str(": ");
                message.push_str(&text);
            }
            (last, cause) = (text, inner.source());
        }
        Self::new(kind, shorten(&message))
    }
}

/// What a broken connection means: the kernel may have given it up for want of a sign of life.
fn kind_of(error: &(dyn Error + 'static)) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return ErrorKind::TimedOut;
        }
        cause = inner.source();
    }
    ErrorKind::Broken
}

fn kind(class: Class) -> ErrorKind {
    match class {
        Class::RateLimited => ErrorKind::RateLimited,
        Class::Overloaded => ErrorKind::Overloaded,
        Class::TimedOut => ErrorKind::TimedOut,
        Class::ContextLength => ErrorKind::ContextLength,
        Class::Server | Class::BadOutput => ErrorKind::Broken,
        Class::Rejected => ErrorKind::Rejected,
    }
}

/// The first [`MODEL_MESSAGE_CHARS_MAX`] characters, on one line.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String =
        text.chars().take(MODEL_MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// `retry-after-ms` (milliseconds), or `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: UnixMs) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let longest = Duration::from_secs(MODEL_RETRY_AFTER_S_MAX);
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Some(Duration::try_from_secs_f64(ms / 1000.0).map_or(longest, |wait| wait.min(longest)));
    }
    let value = text("retry-after")?;
    if let Some(seconds) = number(value) {
        return Some(Duration::try_from_secs_f64(seconds).map_or(longest, |wait| wait.min(longest)));
    }
    let at = httpdate::parse_http_date(value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_millis(now)).min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        // 1994-11-06T08:49:37Z, the example of RFC 9110.
        let now = 784_111_777_000 - 90_500;
        let ms = |headers: &HeaderMap| retry_after(headers, now).map(|wait| wait.as_millis());
        assert_eq!(ms(&headers("retry-after", "7")), Some(7_000));
        assert_eq!(ms(&headers("retry-after", "0.25")), Some(250));
        assert_eq!(ms(&headers("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")), Some(90_500));
        assert_eq!(ms(&headers("retry-after", "Sun, 06 Nov 1983 08:49:37 GMT")), Some(0), "a past date");
        assert_eq!(ms(&headers("retry-after-ms", "1500")), Some(1_500));
        assert_eq!(ms(&headers("retry-after", "soon")), None);
        assert_eq!(ms(&headers("retry-after", "-1")), None);
        assert_eq!(ms(&headers("retry-after", "1e300")), Some(u128::from(MODEL_RETRY_AFTER_S_MAX) * 1000));
        let mut both = headers("retry-after", "2");
        both.extend(headers("retry-after-ms", "1700"));
        assert_eq!(ms(&both), Some(1_700), "the finer one counts");
    }

    fn answer(status: u16, body: &str) -> (ErrorKind, String) {
        let status = http::StatusCode::from_u16(status).unwrap();
        let failure = Failure::of_answer(status, &HeaderMap::new(), body.as_bytes(), 0);
        (failure.kind, failure.message)
    }

    #[test]
    fn answers_are_classified() {
        for (status, body, expected) in [
            (400, r#"{"error":{"message":"no","type":"invalid_request_error"}}"#, ErrorKind::Rejected),
            (400, r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#, ErrorKind::ContextLength),
            (
                400,
                r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 2 > 1"}}"#,
                ErrorKind::ContextLength,
            ),
            (
                400,
                r#"{"error":{"type":"invalid_request_error","code":"tool_use_failed","message":"Failed to call a function."}}"#,
                ErrorKind::Broken,
            ),
            (
                400,
                r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8).","status":"INVALID_ARGUMENT"}}]"#,
                ErrorKind::ContextLength,
            ),
            (
                500,
                r#"{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}"#,
                ErrorKind::ContextLength,
            ),
            (403, r#"{"error":{"message":"Your plan has no long context window"}}"#, ErrorKind::Rejected),
            (401, "", ErrorKind::Rejected),
            (404, r#"{"error":"model not found"}"#, ErrorKind::Rejected),
            (408, "", ErrorKind::TimedOut),
            (413, "", ErrorKind::ContextLength),
            (429, "", ErrorKind::RateLimited),
            (429, r#"{"error":{"code":"insufficient_quota","message":"pay"}}"#, ErrorKind::Rejected),
            (500, r#"{"error":{"type":"api_error","message":"oops"}}"#, ErrorKind::Broken),
            (502, "<html>bad gateway</html>", ErrorKind::Broken),
            (503, "", ErrorKind::Overloaded),
            (504, "", ErrorKind::TimedOut),
            (
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                ErrorKind::Overloaded,
            ),
            (529, r#"{"error":{"type":"server_error","message":"busy"}}"#, ErrorKind::Overloaded),
            (307, "", ErrorKind::Rejected),
            (409, "", ErrorKind::TimedOut),
            (424, "", ErrorKind::Broken),
            (400, r#"{"error":{"message":"busy","code":429}}"#, ErrorKind::RateLimited),
            (400, r#"{"error":{"message":"gone","code":"503"}}"#, ErrorKind::Overloaded),
            (
                400,
                r#"{"error":{"message":"Provider returned error","metadata":{"raw":"upstream overloaded"}}}"#,
                ErrorKind::Overloaded,
            ),
        ] {
            assert_eq!(answer(status, body).0, expected, "{status} {body}");
        }
    }

    #[test]
    fn refused_parameters_are_told_in_every_way() {
        let refused = |status: u16, body: &str| {
            let status = http::StatusCode::from_u16(status).unwrap();
            Failure::of_answer(status, &HeaderMap::new(), body.as_bytes(), 0).refused
        };
        for status in [400, 404, 422, 500, 501] {
            let body = r#"{"error":{"message":"got an unexpected keyword argument 'max_tokens'"}}"#;
            assert!(refused(status, body).is_some_and(|words| words.contains("max_tokens")), "{status}");
        }
        assert_eq!(refused(500, r#"{"error":"max_tokens made me crash"}"#), None);
        assert_eq!(refused(401, r#"{"error":"unsupported: max_tokens"}"#), None);
        let words = "Unsupported parameter: 'max_tokens'";
        assert_eq!(Failure::of_stream(Class::Rejected, words).refused.as_deref(), Some(words));
        assert_eq!(Failure::of_stream(Class::RateLimited, words).refused, None);
    }

    #[test]
    fn messages_are_short_and_on_one_line() {
        assert_eq!(answer(400, r#"{"error":{"message":"a\nb"}}"#).1, "HTTP 400: a b");
        assert_eq!(answer(500, "").1, "HTTP 500");
        let long = answer(500, &"é".repeat(10_000)).1;
        assert_eq!(long.chars().count(), "HTTP 500: ".len() + MODEL_MESSAGE_CHARS_MAX + 1);
    }
}
