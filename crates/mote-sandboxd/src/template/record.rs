//! What is kept of templates and their builds.
//!
//! It does not keep: `state` does.

use std::collections::BTreeMap;

use mote_sandbox_api::spec::Resources;
use serde::{Deserialize, Serialize};

use super::log::Entry;
use crate::clock::UnixMs;

/// Before a template's id and its build's, as the name of the image that the build has made.
pub const IMAGE_NAME: &str = "template:";

/// A template: a name, and the builds that its tags name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// `tp` and 20 characters.
    pub id: String,
    /// What callers call it; no two have the same.
    pub name: String,
    /// As its owner has set it. Every key sees every template: it changes nothing here.
    #[serde(default)]
    pub public: bool,
    /// Milliseconds since the epoch.
    pub created_ms: UnixMs,
    /// When a build of it ended well, or its tags changed.
    pub updated_ms: UnixMs,
    /// By tag.
    #[serde(default)]
    pub tags: BTreeMap<String, Tagged>,
}

/// What a tag names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    /// A build that ended well.
    pub build: String,
    /// Since when.
    pub at_ms: UnixMs,
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was asked for; what it is built from has yet to come.
    Waiting,
    /// It runs, or waits for others to end.
    Building,
    /// It ended well.
    Ready,
    /// It failed, was cancelled, or the daemon ended meanwhile.
    Error,
}

impl Status {
    /// E2B's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Error => "error",
        }
    }
}

/// Why a build failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// For people.
    pub message: String,
    /// `base`, the number of a step from 1, or `finalize`.
    #[serde(default)]
    pub step: Option<String>,
    /// The last entries of that step.
    #[serde(default)]
    pub entries: Vec<Entry>,
}

/// A build of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// A UUID.
    pub id: String,
    /// The template's id.
    pub template: String,
    /// How far it is.
    pub status: Status,
    /// Tags that it gets when it ends well.
    pub tags: Vec<String>,
    /// Processors that a sandbox of it has; the profile's where absent.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Memory in MiB that a sandbox of it has; the profile's where absent.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Command that runs in every sandbox of it.
    #[serde(default)]
    pub start: Option<String>,
    /// Command that succeeds once a sandbox of it is ready.
    #[serde(default)]
    pub ready: Option<String>,
    /// Milliseconds since the epoch.
    pub created_ms: UnixMs,
    /// When its status changed last.
    pub updated_ms: UnixMs,
    /// When it ended.
    #[serde(default)]
    pub finished_ms: Option<UnixMs>,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<Reason>,
}

impl Build {
    /// Name of the image that it makes.
    #[must_use]
    pub fn image(&self) -> String {
        format!("{IMAGE_NAME}{}/{}", self.template, self.id)
    }

    /// What a sandbox of it may use, as far as its owner said.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources {
            memory: self.memory_mib.map(|mib| mib << 20),
            cpu_milli: self.cpus.map(|cpus| cpus * 1000),
            ..Resources::default()
        }
    }
}

/// The template that an image's name tells of, where it is one of a build.
#[must_use]
pub fn template_of(image: &str) -> Option<&str> {
    image.strip_prefix(IMAGE_NAME)?.split_once('/').map(|(template, _)| template)
}
