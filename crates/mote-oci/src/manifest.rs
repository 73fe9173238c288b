//! The documents of an image: index, manifest, configuration. Only what is needed of them.
//!
//! It does not fetch. Bounds are checked here, so that who reads a document holds only what is within them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Error;
use crate::digest::Digest;
use crate::limits::{BLOB_BYTES_MAX, LAYERS_MAX, MANIFESTS_MAX};

/// Media types of a manifest or an index, for `Accept`.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Something with a digest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Of its content.
    pub digest: Digest,
    /// Bytes of its content.
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Free text; `org.opencontainers.image.ref.name` is a layout's tag.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
}

impl Platform {
    /// What this program runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned() }
    }
}

/// An index or a manifest.
#[derive(Clone, Debug)]
pub enum Document {
    /// Images by platform.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Document {
    /// Reads an index or a manifest.
    ///
    /// # Errors
    /// [`Error::Document`] or [`Error::TooLarge`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let raw: Raw =
            serde_json::from_slice(bytes).map_err(|error| Error::Document("the manifest", error.to_string()))?;
        match (raw.manifests, raw.config) {
            (Some(manifests), None) if manifests.len() <= MANIFESTS_MAX => Ok(Self::Index(manifests)),
            (Some(_), None) => Err(Error::TooLarge("the index's number of manifests", MANIFESTS_MAX as u64)),
            (None, Some(config)) => {
                if raw.layers.len() > LAYERS_MAX {
                    return Err(Error::TooLarge("the image's number of layers", LAYERS_MAX as u64));
                }
                if raw.layers.iter().any(|layer| layer.size > BLOB_BYTES_MAX) {
                    return Err(Error::TooLarge("a layer", BLOB_BYTES_MAX));
                }
                Ok(Self::Manifest(Manifest { config, layers: raw.layers }))
            }
            _ => Err(Error::Document("the manifest", "it is neither an index nor a manifest".to_owned())),
        }
    }
}

/// The entry of an index for a platform.
///
/// # Errors
/// [`Error::Platform`] where there is none.
pub fn select<'a>(manifests: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor, Error> {
    // An index of one entry without a platform is how layouts often look.
    let only = if let [only] = manifests
        && only.platform.is_none()
    {
        Some(only)
    } else {
        None
    };
    manifests
        .iter()
        .find(|manifest| manifest.platform.as_ref() == Some(platform))
        .or(only)
        .ok_or_else(|| Error::Platform(format!("{}/{}", platform.os, platform.architecture)))
}

/// How a layer is compressed, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Reads a layer's media type.
///
/// # Errors
/// [`Error::Document`] where it is not a layer's, or the layer is kept elsewhere.
pub fn compression(media_type: &str) -> Result<Compression, Error> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Ok(Compression::None)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Ok(Compression::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Ok(Compression::Zstd)
        }
        other => Err(Error::Document("the manifest", format!("a layer has the media type {other:?}"))),
    }
}

/// How an image is run, and what its layers are when uncompressed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// How it is run.
    #[serde(default)]
    pub config: Config,
    /// What its layers are.
    #[serde(default)]
    pub rootfs: Rootfs,
}

/// How an image is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `NAME=VALUE`.
    #[serde(default)]
    pub env: Option<Vec<String>>,
    /// Name or number, with a group behind a colon where there is one.
    #[serde(default)]
    pub user: Option<String>,
    /// Working directory.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Program with its first arguments.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Its other arguments.
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
}

/// Digests of the layers, uncompressed, the lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Rootfs {
    /// One a layer.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

impl Image {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Error::Document`] where it is not one, or has not one digest for each of the manifest's layers.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, Error> {
        let image: Self =
            serde_json::from_slice(bytes).map_err(|error| Error::Document("the configuration", error.to_string()))?;
        if image.rootfs.diff_ids.len() != layers {
            let message = format!("it has {} digests for {layers} layers", image.rootfs.diff_ids.len());
            return Err(Error::Document("the configuration", message));
        }
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(architecture: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(architecture.unwrap_or_default().as_bytes()),
            size: 1,
            platform: architecture
                .map(|architecture| Platform { architecture: architecture.to_owned(), os: "linux".to_owned() }),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn an_index_is_read_by_platform() {
        let amd64 = Platform { architecture: "amd64".to_owned(), os: "linux".to_owned() };
        let both = [descriptor(Some("arm64")), descriptor(Some("amd64"))];
        assert_eq!(select(&both, &amd64).unwrap().digest, both[1].digest);
        assert!(select(&both[..1], &amd64).is_err());
        assert!(select(&[descriptor(None)], &amd64).is_ok());
    }

    #[test]
    fn a_document_that_is_neither_is_refused() {
        for bad in ["", "{}", "[]", r#"{"manifests":[],"config":{"digest":"sha256:0","size":1}}"#] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_before_anything_is_fetched() {
        let digest = Digest::of(b"");
        let text = format!(
            r#"{{"config":{{"digest":"{digest}","size":2}},"layers":[{{"digest":"{digest}","size":{}}}]}}"#,
            BLOB_BYTES_MAX + 1
        );
        assert!(matches!(Document::parse(text.as_bytes()), Err(Error::TooLarge(..))));
    }
}
