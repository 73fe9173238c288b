//! What a host can truly enforce, found by trying it, and what each profile gives.
//!
//! It does not probe: the daemon does, at start, and answers `GET /v1/capabilities` with these types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::{Profile, Spec};

/// Whether something is there, with the reason where it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Support {
    /// It was tried and works.
    pub available: bool,
    /// How it is done, or why it is not there.
    pub detail: String,
}

impl Support {
    /// It works, and how.
    pub fn yes(detail: impl Into<String>) -> Self {
        Self { available: true, detail: detail.into() }
    }

    /// It does not, and why.
    pub fn no(detail: impl Into<String>) -> Self {
        Self { available: false, detail: detail.into() }
    }
}

/// Answer of `GET /v1/capabilities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Capabilities {
    /// Version of the contract.
    pub api: String,
    /// Version of the daemon.
    pub version: String,
    /// Substrates that can be asked for: `container`, later `microvm` and `vm`.
    pub substrates: BTreeMap<String, Support>,
    /// Mechanisms, by name: `user_namespaces`, `cgroup.memory`, `seccomp`, `landlock`, `disk_quota`, `network_policy`, …
    pub enforcement: BTreeMap<String, Support>,
    /// What a sandbox can be asked: `snapshot.live`, `pause.memory`, `clock.offset`, `entropy.seed`, …
    pub features: BTreeMap<String, Support>,
    /// The defaults of each profile, in full.
    pub profiles: BTreeMap<ProfileName, Spec>,
}

/// A profile as a key in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ProfileName {
    /// [`Profile::Training`].
    Training,
    /// [`Profile::Production`].
    Production,
}

impl From<Profile> for ProfileName {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Training => Self::Training,
            Profile::Production => Self::Production,
        }
    }
}
