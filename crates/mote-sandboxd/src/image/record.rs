//! What is known of an image, and under which keys it is kept.
//!
//! It does not keep: the pool does, through the keeper.

use std::collections::BTreeMap;
use std::path::Path;

use mote_oci::digest::Digest;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::ImageSource;
use serde::{Deserialize, Serialize};

use crate::filesystem::id::Id;
use crate::filesystem::recipe::Lower;
use crate::limits::IMAGE_NAME_BYTES_MAX;
use crate::template::record::IMAGE_NAME;

/// Before the id of an image that has a record.
pub(super) const DIGEST_ID: &str = "sha256:";
/// Before the id of an image that is a directory of the host.
pub(super) const DIRECTORY_ID: &str = "directory:";
/// The id of the host's own root.
pub(super) const HOST_ID: &str = "host:";
/// Before the key of a step of a recipe, as the name under which what it built is kept.
pub(super) const STEP_NAME: &str = "step:";
/// Before the id of a snapshot that came from elsewhere, as the name under which what it starts from is kept.
pub(super) const SNAPSHOT_NAME: &str = "snapshot:";
/// Before the key of a step of a template's build, as the name under which what it built is kept.
pub(super) const LAYER_NAME: &str = "layer:";
/// Before a registry's reference, as the name under which what was pulled is kept: `base` of a registry is not the image `base`.
pub(super) const REGISTRY_NAME: &str = "registry:";
/// Before the key of a name.
pub(super) const NAME_KEY: &str = "name-";

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of what it is made of; or the directory, or the host.
    pub id: String,
    /// Its trees, the topmost first.
    pub lower: Vec<Lower>,
    /// How it is run.
    #[serde(default)]
    pub config: Config,
    /// Where it came from, for people.
    pub source: String,
    /// Bytes of its files, where they were counted.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub created_ms: u64,
    /// Owners in its archives that are beyond 65,535, the last id inside: they became `nobody`.
    #[serde(default)]
    pub unmapped_owners: u64,
}

/// How an image is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User of processes that do not name one.
    #[serde(default)]
    pub user: Option<String>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// What it starts, with all arguments; sandboxes start nothing by themselves.
    #[serde(default)]
    pub entrypoint: Vec<String>,
}

/// A name of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) name: String,
    pub(super) id: String,
}

impl Image {
    /// An image whose id is the digest of what it is made of.
    #[must_use]
    pub fn new(lower: Vec<Lower>, config: Config, source: String, bytes: Option<u64>, created_ms: u64) -> Self {
        let made_of = serde_json::to_vec(&(&lower, &config)).unwrap_or_default();
        let id = Digest::of(&made_of).to_string();
        Self { id, lower, config, source, bytes, created_ms, unmapped_owners: 0 }
    }

    pub(super) fn of_directory(path: &Path) -> Self {
        let id = format!("{DIRECTORY_ID}{}", path.display());
        Self { lower: vec![Lower::Directory(path.to_path_buf())], ..Self::unrecorded(id) }
    }

    pub(super) fn of_host() -> Self {
        Self { lower: vec![Lower::Host], ..Self::unrecorded(HOST_ID.to_owned()) }
    }

    fn unrecorded(id: String) -> Self {
        let source = id.clone();
        let (lower, config) = (Vec::new(), Config::default());
        Self { id, lower, config, source, bytes: None, created_ms: 0, unmapped_owners: 0 }
    }
}

impl From<mote_oci::manifest::Config> for Config {
    fn from(config: mote_oci::manifest::Config) -> Self {
        let env = config.env.unwrap_or_default();
        let pairs = env.iter().filter_map(|pair| pair.split_once('='));
        let full = |text: Option<String>| text.filter(|text| !text.is_empty());
        let mut entrypoint = config.entrypoint.unwrap_or_default();
        entrypoint.extend(config.cmd.unwrap_or_default());
        Self {
            env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            user: full(config.user),
            cwd: full(config.working_dir),
            entrypoint,
        }
    }
}

/// The name under which what a source names is kept once it was imported.
pub(super) fn name_of(source: &ImageSource) -> String {
    match source {
        ImageSource::Name(name) | ImageSource::Snapshot(name) => name.clone(),
        ImageSource::Directory(path) => format!("{DIRECTORY_ID}{path}"),
        ImageSource::Host => HOST_ID.to_owned(),
        ImageSource::Tarball(path) => format!("tarball:{path}"),
        ImageSource::OciLayout(path) => format!("oci:{path}"),
        ImageSource::Registry(reference) => format!("{REGISTRY_NAME}{reference}"),
    }
}

/// Checks a name that a caller gives an image.
///
/// # Errors
/// `invalid`.
pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    let reserved = [
        DIGEST_ID,
        DIRECTORY_ID,
        HOST_ID,
        STEP_NAME,
        SNAPSHOT_NAME,
        REGISTRY_NAME,
        LAYER_NAME,
        IMAGE_NAME,
        "tarball:",
        "oci:",
    ];
    if name.is_empty() || name.len() > IMAGE_NAME_BYTES_MAX || name.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err(Failure::invalid(
            "name",
            format!("1 to {IMAGE_NAME_BYTES_MAX} characters without spaces are needed"),
        ));
    }
    if let Some(prefix) = reserved.iter().find(|prefix| name.starts_with(**prefix)) {
        return Err(Failure::invalid("name", format!("it may not begin with {prefix:?}")));
    }
    Ok(())
}

pub(super) fn image_key(id: &str) -> Result<Id, Failure> {
    let digest = Digest::parse(id).map_err(|error| Failure::invalid("image", error))?;
    Id::new("image", format!("image-{}", digest.hex()))
}

pub(super) fn name_key(name: &str) -> Result<Id, Failure> {
    Id::new("image", format!("{NAME_KEY}{}", Digest::of(name.as_bytes()).hex()))
}

pub(super) fn text(record: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(record)
        .map_err(|error| Failure::new(Code::Internal, format!("failed to write the record of an image: {error}")))
}
