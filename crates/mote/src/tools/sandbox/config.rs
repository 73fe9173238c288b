//! The validated sandbox of an agent, and where its daemon is found when the file does not say.
//!
//! It talks to no daemon: [`super::client`] does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mote_sandbox_api::spec::{ImageSource, Spec};

use crate::secret::Secret;

/// Where a daemon listens by default.
pub const SANDBOX_URL: &str = "http://127.0.0.1:7070";
/// Variable that names another address.
pub const SANDBOX_URL_VARIABLE: &str = "MOTE_SANDBOX_URL";
/// Variable that holds an API key.
pub const SANDBOX_KEY_VARIABLE: &str = "MOTE_SANDBOX_KEY";
/// Where a daemon leaves the key that it makes at its first start; root alone can read it.
pub const SANDBOX_KEY_FILE: &str = "/var/lib/mote-sandbox/daemon/admin.key";

/// The sandbox of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxTool {
    /// The daemon's address, without a slash at its end.
    pub url: String,
    /// Certificates of a private authority.
    pub ca: Option<PathBuf>,
    /// The place of the daemon's API key; none is sent without one.
    pub key: Option<Secret>,
    /// What the agent may do, in order and none twice.
    pub allow: Vec<Facility>,
    /// How the sandbox is made; its metadata is added when it is.
    pub spec: Spec,
    /// When it is given back.
    pub release: Release,
    /// Longest that one command or one piece of code may run.
    pub timeout: Duration,
    /// Bound on the result of a call, bytes.
    pub output_max: usize,
    /// Whether a person approves each call that may change something.
    pub approval: bool,
}

/// What an agent may do in its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Facility {
    /// Commands.
    Shell,
    /// Python that keeps its variables.
    Python,
    /// Files.
    Files,
}

impl Facility {
    /// As agent.yaml spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Python => "python",
            Self::Files => "files",
        }
    }

    /// The tools that it gives the model.
    #[must_use]
    pub fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Shell => &["shell"],
            Self::Python => &["python"],
            Self::Files => &["file_read", "file_list", "file_write", "file_edit"],
        }
    }
}

/// When a sandbox is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// At the end of each task.
    Turn,
    /// With its session.
    Session,
    /// With its session, or after a lease without use.
    Idle,
}

impl Release {
    /// As agent.yaml spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Session => "session",
            Self::Idle => "idle",
        }
    }
}

/// Reads an image's text: `NAME`, `snapshot:ID`, `dir:PATH`, `tar:PATH`, `oci:PATH[:TAG]`, `registry:HOST/REPO[:TAG]`, `host`.
///
/// # Errors
/// If it is empty.
pub fn image_source(text: &str) -> Result<ImageSource, String> {
    Ok(match text.split_once(':') {
        Some(("snapshot", id)) => ImageSource::Snapshot(id.to_owned()),
        Some(("dir", path)) => ImageSource::Directory(path.to_owned()),
        Some(("tar", path)) => ImageSource::Tarball(path.to_owned()),
        Some(("oci", path)) => ImageSource::OciLayout(path.to_owned()),
        Some(("registry", reference)) => ImageSource::Registry(reference.to_owned()),
        _ if text == "host" => ImageSource::Host,
        _ if text.is_empty() => return Err("it must not be empty".to_owned()),
        _ => ImageSource::Name(text.to_owned()),
    })
}

/// The daemon's address where the file names none.
#[allow(clippy::disallowed_methods, reason = "the configuration names no address")]
pub(crate) fn default_url() -> String {
    let named = std::env::var(SANDBOX_URL_VARIABLE).ok().filter(|url| !url.is_empty());
    named.unwrap_or_else(|| SANDBOX_URL.to_owned())
}

/// The place of the daemon's key where the file names none: the variable, else the daemon's own file if it is there.
pub(crate) fn default_key() -> Option<Secret> {
    let variable = Secret::Env(SANDBOX_KEY_VARIABLE.to_owned());
    if variable.read().is_ok() {
        return Some(variable);
    }
    Path::new(SANDBOX_KEY_FILE).is_file().then(|| Secret::File(PathBuf::from(SANDBOX_KEY_FILE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_apart_by_their_prefix() {
        assert_eq!(image_source("base"), Ok(ImageSource::Name("base".to_owned())));
        assert_eq!(image_source("sha256:ab"), Ok(ImageSource::Name("sha256:ab".to_owned())));
        assert_eq!(image_source("snapshot:sn1"), Ok(ImageSource::Snapshot("sn1".to_owned())));
        assert_eq!(image_source("registry:a.test/b:1"), Ok(ImageSource::Registry("a.test/b:1".to_owned())));
        assert_eq!(image_source("host"), Ok(ImageSource::Host));
        assert!(image_source("").is_err());
    }
}
