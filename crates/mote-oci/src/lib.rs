//! A thin client of OCI images: what a reference names, fetched from a registry or an OCI layout, every byte checked
//! against the digest that was asked for.
//!
//! Formats: OCI image specification 1.1, OCI distribution specification 1.1, and the Docker media types that say the same.
//! It does not unpack: what is in a layer is a stranger's, and its reader has less privilege than this one.

pub mod digest;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod reference;
pub mod registry;

use std::path::Path;

use digest::Digest;

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference is not one.
    #[error("{0:?} names no image: {1}")]
    Reference(String, &'static str),
    /// A digest is not one, or of an algorithm other than SHA-256.
    #[error("{0:?} is not a SHA-256 digest")]
    Digest(String),
    /// What came is not what was asked for.
    #[error("{what} has the digest {found}, and {expected} was asked for")]
    Mismatch {
        /// Which.
        what: &'static str,
        /// Asked for.
        expected: Digest,
        /// Came.
        found: Digest,
    },
    /// A document does not follow the specification.
    #[error("failed to read {0}: {1}")]
    Document(&'static str, String),
    /// There is more than the limit allows.
    #[error("{0} is larger than {1}")]
    TooLarge(&'static str, u64),
    /// No image for this platform.
    #[error("the image is not offered for {0}")]
    Platform(String),
    /// There is no such image, or it is not shown without credentials.
    #[error("no image {0}")]
    NotFound(String),
    /// The registry wants credentials, or refuses these.
    #[error("the registry {0} refuses access")]
    Denied(String),
    /// The registry answered something else.
    #[error("the registry {0} answered {1}")]
    Status(String, u16),
    /// The connection failed.
    #[error("failed to reach the registry {0}: {1}")]
    Connection(String, String),
    /// The registry's certificate is not one that is trusted.
    #[error("failed to trust the registry {0}: {1}")]
    Certificate(String, String),
    /// Writing what came failed, or reading a layout.
    #[error("failed to read or write {0}: {1}")]
    File(String, std::io::Error),
}

impl Error {
    pub(crate) fn file(path: &Path, error: std::io::Error) -> Self {
        Self::File(path.display().to_string(), error)
    }
}
