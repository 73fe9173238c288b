//! Reading a secret from where `agent.yaml` says it is, and holding it so that it cannot be printed by accident.
//!
//! It does not cache or watch: a component reads its secrets when it is built.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use crate::limits::SECRET_BYTES_MAX;

/// Where a secret comes from; its value is read when a component is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file, its trailing newline dropped.
    File(PathBuf),
}

/// Why a secret has no value. Names where it was looked for, never what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment variable is not set.
    #[error("failed to read a secret: the environment variable {0} is not set")]
    NotSet(String),
    /// The environment variable is not UTF-8.
    #[error("failed to read a secret: the environment variable {0} is not valid UTF-8")]
    NotText(String),
    /// The file cannot be read, is too large or is not UTF-8.
    #[error("failed to read a secret from {path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// There is nothing but white space.
    #[error("failed to read a secret: {0} is empty")]
    Empty(String),
}

/// A secret's value: `Debug` and `Display` redact it; only [`SecretValue::expose`] gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

impl SecretValue {
    /// Holds a value that came from elsewhere than a [`Secret`] (a test, a derived key).
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Call it only where the value is used.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(redacted)")
    }
}

impl fmt::Display for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

impl fmt::Display for Secret {
    /// Where the secret is, not what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl Secret {
    /// Reads the value: of a file, without its trailing line end.
    ///
    /// # Errors
    /// If it is missing, empty, larger than [`SECRET_BYTES_MAX`] bytes or not UTF-8.
    pub fn read(&self) -> Result<SecretValue, Error> {
        let value = match self {
            Self::Env(name) => read_variable(name)?,
            Self::File(path) => read_file(path)?,
        };
        if value.trim().is_empty() {
            return Err(Error::Empty(self.to_string()));
        }
        Ok(SecretValue(value))
    }
}

#[allow(clippy::disallowed_methods, reason = "the configuration names the variable")]
fn read_variable(name: &str) -> Result<String, Error> {
    std::env::var(name).map_err(|error| match error {
        std::env::VarError::NotPresent => Error::NotSet(name.to_owned()),
        std::env::VarError::NotUnicode(_) => Error::NotText(name.to_owned()),
    })
}

fn read_file(path: &PathBuf) -> Result<String, Error> {
    let fail = |message: String| Error::File { path: path.clone(), message };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(fail(format!("it is larger than {SECRET_BYTES_MAX} bytes")));
    }
    let mut value = String::from_utf8(bytes).map_err(|_| fail("it is not valid UTF-8".to_owned()))?;
    let end = value.trim_end_matches(['\r', '\n']).len();
    value.truncate(end);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_loses_its_line_end_and_is_never_printed() {
        let path = std::env::temp_dir().join(format!("mote-secret-{}", std::process::id()));
        std::fs::write(&path, "s3cr3t-value\r\n").unwrap();
        let value = Secret::File(path.clone()).read().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(value.expose(), "s3cr3t-value");
        assert!(!format!("{value:?} {value}").contains("s3cr3t"));
        let missing = Secret::File(path.clone()).read().unwrap_err().to_string();
        assert!(missing.contains(path.to_str().unwrap()), "{missing}");
    }

    #[test]
    fn an_unset_variable_is_named() {
        let error = Secret::Env("MOTE_TEST_UNSET".to_owned()).read().unwrap_err();
        assert_eq!(error.to_string(), "failed to read a secret: the environment variable MOTE_TEST_UNSET is not set");
    }

    #[test]
    fn an_oversized_or_empty_file_is_refused() {
        let path = std::env::temp_dir().join(format!("mote-secret-size-{}", std::process::id()));
        std::fs::write(&path, vec![b'a'; usize::try_from(SECRET_BYTES_MAX).unwrap() + 1]).unwrap();
        let large = Secret::File(path.clone()).read().unwrap_err().to_string();
        std::fs::write(&path, "\n").unwrap();
        let empty = Secret::File(path.clone()).read().unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(large.contains("larger than"), "{large}");
        assert!(empty.ends_with("is empty"), "{empty}");
    }
}
