//! Ids of what the pool holds. An id is checked where it enters; from then on it can be a file name.
//!
//! It does not make ids: the daemon's state does.

use std::fmt;

use mote_sandbox_api::error::Failure;
use serde::{Deserialize, Serialize};

use crate::limits::POOL_ID_BYTES_MAX;

/// The id of a sandbox, a snapshot, a layer or a volume: lower-case letters, digits, `-` and `_`, and `.` within. It cannot
/// be empty, start with a point, or lead out of its folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// Checks the text.
    ///
    /// # Errors
    /// `invalid`, naming the kind of thing.
    pub fn new(kind: &str, text: impl Into<String>) -> Result<Self, Failure> {
        let text = text.into();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > POOL_ID_BYTES_MAX {
            return Err(Failure::invalid(kind, format!("1 to {POOL_ID_BYTES_MAX} characters are needed")));
        }
        if text.starts_with('.') || !text.chars().all(good) {
            return Err(Failure::invalid(kind, "only a-z, 0-9, '-', '_' and '.' (not first) can stand in it"));
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self, Failure> {
        Self::new("id", text)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_is_no_id() {
        for text in ["", ".", "..", ".new", "a/b", "a\0", "A", "a b", "é"] {
            assert!(Id::new("sandbox", text).is_err(), "{text:?}");
            assert!(serde_json::from_value::<Id>(text.into()).is_err(), "{text:?}");
        }
        assert!(Id::new("sandbox", "x".repeat(POOL_ID_BYTES_MAX + 1)).is_err());
        for text in ["sb0123456789abcdefghij", "pip-3.11_cache"] {
            assert_eq!(Id::new("volume", text).map(String::from), Ok(text.to_owned()));
        }
    }
}
