//! What a caller is told when a request fails: a stable code, what happened, what to do, and the facts.
//!
//! It does not know how a transport carries it: the daemon's API maps a code to a status, E2B's adapter to E2B's shapes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Stable codes; each is described in `docs/sandbox-errors.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// A field of the request is missing, of the wrong type or out of its bounds.
    Invalid,
    /// No key, or one that is not known.
    Unauthenticated,
    /// The key or token does not allow it.
    Forbidden,
    /// No such sandbox, snapshot, image, volume, process or file.
    NotFound,
    /// The name or id is taken, or an idempotency key came back with another body.
    Conflict,
    /// The transition is not legal in the sandbox's state.
    IllegalTransition,
    /// It cannot be done while something else is under way (a snapshot on overlay under open writers).
    Busy,
    /// A quota, a rate or a queue's bound is reached; try again later.
    Exhausted,
    /// The disk quota of the sandbox, or the pool, is full.
    NoSpace,
    /// The payload is larger than the named limit.
    TooLarge,
    /// The time that the request allowed has passed.
    Timeout,
    /// This host, substrate or version cannot do it; the context names the feature.
    Unsupported,
    /// The sandbox ended while the request was under way.
    Gone,
    /// Something outside that it depends on (a registry) cannot be reached, or answered what it should not.
    Unreachable,
    /// A defect of the daemon or the host; the log has more.
    Internal,
}

impl Code {
    /// Every code, for documents and tests.
    pub const ALL: [Self; 15] = [
        Self::Invalid,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::IllegalTransition,
        Self::Busy,
        Self::Exhausted,
        Self::NoSpace,
        Self::TooLarge,
        Self::Timeout,
        Self::Unsupported,
        Self::Gone,
        Self::Unreachable,
        Self::Internal,
    ];

    /// HTTP status that the native API answers with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::IllegalTransition | Self::Busy => 409,
            Self::Gone => 410,
            Self::TooLarge => 413,
            Self::Exhausted => 429,
            Self::Unsupported => 501,
            Self::Unreachable => 502,
            Self::Timeout => 504,
            Self::NoSpace => 507,
            Self::Internal => 500,
        }
    }

    /// The code as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::IllegalTransition => "illegal_transition",
            Self::Busy => "busy",
            Self::Exhausted => "exhausted",
            Self::NoSpace => "no_space",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
            Self::Gone => "gone",
            Self::Unreachable => "unreachable",
            Self::Internal => "internal",
        }
    }
}

/// The body of every failed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[error("{message}")]
pub struct Failure {
    /// Stable code.
    pub code: Code,
    /// What happened, fit to be shown: "failed to …: …".
    pub message: String,
    /// What the caller can do about it, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
    /// The facts: the field, the limit, the states, the feature.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
}

impl Failure {
    /// A failure with neither remediation nor context.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remediation: None, context: BTreeMap::new() }
    }

    /// `invalid`, naming the field.
    pub fn invalid(field: &str, message: impl std::fmt::Display) -> Self {
        Self::new(Code::Invalid, format!("{field}: {message}")).with("field", field)
    }

    /// `not_found`, naming what kind of thing and which.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Self::new(Code::NotFound, format!("no {kind} {id:?}")).with("kind", kind).with("id", id)
    }

    /// `unsupported`, naming the feature.
    pub fn unsupported(feature: &str, message: impl Into<String>) -> Self {
        Self::new(Code::Unsupported, message).with("feature", feature)
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.context.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says what the caller can do.
    #[must_use]
    pub fn remedy(mut self, remediation: impl Into<String>) -> Self {
        self.remediation = Some(remediation.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_reads_in_json_as_it_is_named_in_code() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(&code).expect("a code is a string"), format!("{:?}", code.as_str()));
        }
    }

    #[test]
    fn a_failure_without_facts_carries_no_empty_fields() {
        let body = serde_json::to_string(&Failure::new(Code::Busy, "it writes")).expect("it serialises");
        assert_eq!(body, r#"{"code":"busy","message":"it writes"}"#);
    }
}
