//! Paths inside a sandbox as the kernel has them: bytes, which need not be UTF-8.
//!
//! It does not resolve them: what a path means is known inside alone.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// A path as the kernel has it: any bytes but NUL. In JSON it is a string where it is UTF-8, else `{"base64": "…"}`.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct RawPath(Vec<u8>);

/// A path in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes {
        #[serde(with = "base64_text")]
        base64: Vec<u8>,
    },
}

impl RawPath {
    /// The path of these bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The path that base64 (RFC 4648, section 4) stands for.
    ///
    /// # Errors
    /// `invalid`, naming the field.
    pub fn from_base64(field: &str, text: &str) -> Result<Self, Failure> {
        let bytes = BASE64.decode(text.as_bytes());
        bytes.map(Self).map_err(|error| Failure::invalid(field, format_args!("it is not base64: {error}")))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Into<String>> From<T> for RawPath {
    fn from(text: T) -> Self {
        Self(text.into().into_bytes())
    }
}

impl From<Written> for RawPath {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => Self(text.into_bytes()),
            Written::Bytes { base64 } => Self(base64),
        }
    }
}

impl From<RawPath> for Written {
    fn from(path: RawPath) -> Self {
        String::from_utf8(path.0).map_or_else(|error| Self::Bytes { base64: error.into_bytes() }, Self::Text)
    }
}

impl std::fmt::Display for RawPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Debug for RawPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Bytes as base64.
mod base64_text {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        BASE64.encode(bytes).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(deserializer)?.as_bytes()).map_err(D::Error::custom)
    }
}

/// The base64 of bytes that are not UTF-8; nothing where they are, since a string then says it all.
#[must_use]
pub fn base64_unless_text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| BASE64.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_in_json_is_text_where_it_can_be() {
        let written = |path: &RawPath| serde_json::to_string(path).expect("it is JSON");
        assert_eq!(written(&RawPath::from("/é")), "\"/é\"");
        assert_eq!(written(&RawPath::new(vec![b'/', 0xff])), "{\"base64\":\"L/8=\"}");
        assert!(serde_json::from_str::<RawPath>("{\"base64\":\"?\"}").is_err());
        assert_eq!(RawPath::from_base64("path_base64", "?").unwrap_err().context["field"], "path_base64");
    }

    proptest! {
        #[test]
        fn a_path_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let path = RawPath::new(bytes);
            let written = serde_json::to_string(&path).expect("it is JSON");
            prop_assert_eq!(serde_json::from_str::<RawPath>(&written).expect("it reads back"), path);
        }
    }
}
