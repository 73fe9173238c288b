//! What a sandbox is to be: image, profile, limits, network, volumes, life.
//!
//! It does not fill in defaults: a profile's defaults are the daemon's, printed by `GET /v1/capabilities`. A field that is
//! absent here means "as the profile says".

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::network::Policy;
use crate::units;

/// A set of defaults; the code path is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// No network, short life, warm pool, reset by rollback: for rollouts.
    Training,
    /// Policy-bound egress, long life, pause across gaps: for sessions.
    #[default]
    Production,
}

/// Where a root filesystem comes from. As text: a plain name is an image of the daemon's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// An image in the daemon's store, by name (`base`) or digest (`sha256:…`).
    Name(String),
    /// A directory of the host, used read-only. Only where the administrator allows the path.
    Directory(String),
    /// A tarball of the host, imported once by digest.
    Tarball(String),
    /// An OCI layout of the host: `PATH[:TAG]`.
    OciLayout(String),
    /// An image of a registry: `HOST/REPO[:TAG|@DIGEST]`.
    Registry(String),
    /// The host's own root, read-only.
    Host,
    /// The filesystem of a snapshot.
    Snapshot(String),
}

/// Bounds on what a sandbox may use. Enforced by cgroups, quota groups and resource limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Bytes of memory, page cache included.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "size_option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "512MiB"))]
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes that the sandbox may write to its own filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "size_option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "512MiB"))]
    pub disk: Option<u64>,
    /// Bytes a second of block input and output.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "size_option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "512MiB"))]
    pub io: Option<u64>,
}

/// A volume mounted in a sandbox. Volumes outlive sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Name of the volume.
    pub name: String,
    /// Absolute path inside.
    pub path: String,
    /// Mounted read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// A host directory bound read-only: large data that is not copied. Only where the administrator allows the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DataMount {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path inside.
    pub path: String,
}

/// What happens when the lease runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnLeaseEnd {
    /// The sandbox is removed.
    Remove,
    /// The sandbox is paused; it can be resumed until its deadline.
    Pause,
    /// Its processes are ended and its files kept; it can be resumed until its deadline.
    Stop,
}

impl OnLeaseEnd {
    /// Whether the sandbox can be resumed afterwards.
    #[must_use]
    pub const fn keeps(self) -> bool {
        matches!(self, Self::Pause | Self::Stop)
    }
}

/// How a sandbox is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The root filesystem; the daemon's default image where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    /// The set of defaults for every field that is absent.
    #[serde(default)]
    pub profile: Profile,
    /// Free keys and values, by which sandboxes can be listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Environment of every process started inside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User of processes that do not name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory of processes that do not name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Bounds on what it may use.
    #[serde(default)]
    pub resources: Resources,
    /// What it may reach; nothing where absent and the profile does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Policy>,
    /// Volumes to mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// Host data to bind read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataMount>,
    /// Time without renewal after which `on_lease_end` happens. A lease is kept alive by its holder: [`Self::deadline`] is not.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::duration::option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "40m"))]
    pub lease: Option<Duration>,
    /// What happens when the lease runs out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lease_end: Option<OnLeaseEnd>,
    /// Wall time from creation after which the sandbox is removed whatever happens.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::duration::option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "40m"))]
    pub deadline: Option<Duration>,
    /// A request that needs the sandbox awake resumes it when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Requests to the data plane need the sandbox's own token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
}

mod size_option {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::units;

    #[expect(clippy::ref_option, reason = "the shape that serde's `with` calls")]
    pub(super) fn serialize<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_some(&units::format_size(*bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.map(|text| units::parse_size(&text).map_err(de::Error::custom)).transpose()
    }
}
