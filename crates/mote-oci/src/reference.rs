//! What an image is called: `HOST/REPOSITORY[:TAG][@DIGEST]`.
//!
//! Docker's short names are understood: a name without a host is Docker Hub's. It does not look anything up.

use std::fmt;

use crate::Error;
use crate::digest::Digest;

const HUB: &str = "docker.io";
const HUB_ADDRESS: &str = "registry-1.docker.io";
const BYTES_MAX: usize = 512;

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host, with a port where there is one.
    pub host: String,
    /// Repository, without a slash at either end.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest is given.
    pub tag: Option<String>,
    /// Digest of the manifest or index.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`Error::Reference`] or [`Error::Digest`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why| Error::Reference(text.chars().take(128).collect(), why);
        if text.len() > BYTES_MAX {
            return Err(bad("it is too long"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (host, rest) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), rest),
            _ => (HUB.to_owned(), name),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (rest, None),
        };
        let repository = if host == HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']')) {
            return Err(bad("the host is not one"));
        }
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
        };
        if !repository.split('/').all(part) {
            return Err(bad("the repository holds a-z, 0-9, '.', '_', '-' between slashes"));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if tag.as_ref().is_some_and(|tag| tag.is_empty() || tag.len() > 128 || !tag.chars().all(good)) {
            return Err(bad("the tag holds letters, digits, '.', '_', '-'"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { host, repository, tag, digest })
    }

    /// Where requests go: Docker Hub's registry has another name than its images.
    #[must_use]
    pub fn address(&self) -> &str {
        if self.host == HUB { HUB_ADDRESS } else { &self.host }
    }

    /// What a manifest is asked for by: the digest where there is one.
    #[must_use]
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_are_docker_hubs() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Reference::parse(text).map(|reference| reference.to_string()).unwrap(), expected);
        };
        check("debian", "docker.io/library/debian:latest");
        check("user/tool:1.2", "docker.io/user/tool:1.2");
        check("localhost:5000/a/b", "localhost:5000/a/b:latest");
        check("ghcr.io/o/r:v1", "ghcr.io/o/r:v1");
        assert_eq!(Reference::parse("debian").unwrap().address(), "registry-1.docker.io");
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_reference() {
        for bad in [
            "",
            "host.io/",
            "host.io/../x",
            "host.io/a//b",
            "Host.io/UPPER",
            "host.io/a:t/../x",
            "a@sha256:x",
            "h.io/a?b",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in "[a-z.:/@0-9_-]{1,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
