//! Host names in one canonical form, and the patterns of rules over them.
//!
//! It resolves nothing.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr;

/// A host name: lower case, ASCII (labels of other scripts in punycode), no dot at the end, 253 bytes at most.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text is no host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing, or an empty label.
    #[error("{0:?} has an empty label")]
    Empty(String),
    /// More than 253 bytes, or a label of more than 63.
    #[error("{0:?} is longer than a host name may be")]
    Long(String),
    /// A character that no host name holds.
    #[error("{0:?} has a character that no host name holds")]
    Character(String),
    /// An address, or something that some programs read as one (`127.1`, `0x7f000001`).
    #[error("{0:?} reads as an address")]
    Address(String),
    /// A star anywhere but as the whole first label.
    #[error("{0:?}: a wildcard is `*.` in front of a name")]
    Wildcard(String),
}

impl Name {
    /// Reads a host name, with or without a dot at the end.
    ///
    /// # Errors
    /// [`Error`], with the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let shown = || text.chars().take(80).collect::<String>();
        // Far beyond what may pass, and before work is spent on it.
        if text.len() > 1024 {
            return Err(Error::Long(shown()));
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            rr::Name::from_utf8(text).map_err(|_| Error::Character(shown()))?.to_ascii().to_ascii_lowercase()
        };
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.len() > 253 {
            return Err(Error::Long(shown()));
        }
        for label in name.split('.') {
            match label.len() {
                0 => return Err(Error::Empty(shown())),
                1..=63 => {}
                _ => return Err(Error::Long(shown())),
            }
            if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
                return Err(Error::Character(shown()));
            }
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
        if number || name.parse::<IpAddr>().is_ok() {
            return Err(Error::Address(shown()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Names that a rule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One name.
    Exact(Name),
    /// Every name below one, at any depth; not that name itself.
    Below(Name),
}

impl Pattern {
    /// Reads `example.org` or `*.example.org`.
    ///
    /// # Errors
    /// [`Error`], with the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let pattern = match text.strip_prefix("*.") {
            Some(rest) if !rest.contains('*') => Self::Below(Name::parse(rest)?),
            None if !text.contains('*') => Self::Exact(Name::parse(text)?),
            Some(_) | None => return Err(Error::Wildcard(text.chars().take(80).collect())),
        };
        Ok(pattern)
    }

    /// Whether it means a name.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Below(top) => {
                name.0.strip_suffix(&*top.0).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(Name::parse(text).unwrap().as_str(), expected);
    }

    #[test]
    fn names_have_one_form() {
        check("PyPI.org.", "pypi.org");
        check("bücher.example", "xn--bcher-kva.example");
        check("_dmarc.example.org", "_dmarc.example.org");
        check("localhost", "localhost");
    }

    #[test]
    fn what_could_be_read_as_something_else_is_no_name() {
        for text in [
            "",
            ".",
            "a..b",
            "127.0.0.1",
            "1.2",
            "0x7f.0x1",
            "a b",
            "a/b",
            "a@b",
            "a:443",
            "::1",
            "[::1]",
            "a\0.org",
            "*.org",
        ] {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
        assert!(Name::parse(&"a".repeat(64)).is_err());
        assert!(Name::parse(&"a.".repeat(127)).is_ok());
        assert!(Name::parse(&format!("{}a", "a.".repeat(127))).is_err());
    }

    #[test]
    fn a_wildcard_means_names_below_and_no_other() {
        let pattern = Pattern::parse("*.Example.org").unwrap();
        let matches = |name: &str| pattern.matches(&Name::parse(name).unwrap());
        assert!(matches("a.example.org") && matches("a.b.example.org"));
        assert!(!matches("example.org") && !matches("evilexample.org") && !matches("example.org.evil.com"));
        for text in ["*", "*.", "a.*.org", "*a.org", "*.*.org"] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }
}
