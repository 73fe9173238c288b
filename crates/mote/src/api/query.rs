//! Query strings, read as strictly as bodies: a parameter that nobody knows, or one given twice, is refused.
//!
//! It knows no route's parameters; each route takes what it knows and calls [`Params::finish`].

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;

use super::problem::{Code, Problem};
use crate::clock::UnixMs;
use crate::limits;
use crate::timestamp::parse_rfc3339_clamped;

/// The parameters of a query, in order.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(Problem::new(Code::InvalidQuery, rejection.body_text())),
        }
    }
}

impl Params {
    /// The values of a parameter that may be repeated.
    pub(super) fn take_all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect()
    }

    /// The value of a parameter.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.take_all(name);
        if values.len() > 1 {
            return Err(wrong(name, "is given more than once"));
        }
        Ok(values.pop())
    }

    /// A whole number.
    pub(super) fn take_number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        let value = self.take(name)?;
        let parse = |text: String| {
            number(&text).ok_or_else(|| wrong(name, format_args!("{text:?} is not a whole number of at most 63 bits")))
        };
        value.map(parse).transpose()
    }

    /// `limit`: how many entries a page has at most.
    pub(super) fn take_limit(&mut self) -> Result<usize, Problem> {
        const LIMIT: u64 = 50;
        let limit = self.take_number("limit")?.unwrap_or(LIMIT);
        if !(1..=limits::PAGE_MAX as u64).contains(&limit) {
            return Err(wrong("limit", format_args!("must be 1 to {}", limits::PAGE_MAX)));
        }
        Ok(usize::try_from(limit).unwrap_or(limits::PAGE_MAX))
    }

    /// An RFC 3339 time; one before 1970 is as good as 1970.
    pub(super) fn take_time(&mut self, name: &str) -> Result<Option<UnixMs>, Problem> {
        let value = self.take(name)?;
        let parse = |text: String| {
            // In a query, the plus of an offset that was not escaped arrives as a blank.
            let text = match text.rfind(' ') {
                Some(at) if at > 18 => format!("{}+{}", &text[..at], &text[at + 1..]),
                _ => text,
            };
            parse_rfc3339_clamped(&text).ok_or_else(|| {
                wrong(name, format_args!("{text:?} is not an RFC 3339 time such as 2026-11-23T09:00:00Z"))
            })
        };
        value.map(parse).transpose()
    }

    /// `true` or `false`; absent is false.
    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(wrong(name, format_args!("must be true or false, not {other:?}"))),
        }
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(wrong(name, "is not a parameter of this route")),
        }
    }
}

/// A whole number that the store can keep.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && i64::try_from(*number).is_ok())
}

pub(super) fn wrong(name: &str, message: impl std::fmt::Display) -> Problem {
    Problem::field(Code::InvalidQuery, name, message)
}
