//! The workspace as cargo and git see it: its root, its target directory, its packages, its files.
//!
//! It does not judge what it finds; the rules of `tidy` do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// What `cargo metadata` says, as far as it is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// Every package that the lock file names.
    pub(crate) packages: Vec<Package>,
    /// Ids of the workspace's own packages.
    pub(crate) workspace_members: Vec<String>,
    /// Where cargo writes.
    pub(crate) target_directory: PathBuf,
}

/// One package.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its id: unique.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// What it declares, of every kind.
    pub(crate) dependencies: Vec<Dependency>,
}

/// A declared dependency.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// `None` is a normal one; else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// Reads it from cargo; a lock file that is out of date is an error.
    pub(crate) fn read() -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = process::output(&mut process::cargo(folder, &["metadata", "--format-version", "1", "--locked"]))?;
        serde_json::from_str(&text).context("failed to read the output of cargo metadata")
    }

    /// The workspace's own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }
}

/// A package that is really built, for some target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Built {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// SPDX expression; empty if it names none.
    pub(crate) licence: String,
}

/// Every package that is built with every feature of the workspace on, for any target. `cargo metadata` would also name
/// optional packages that no feature turns on.
pub(crate) fn built(root: &Path) -> Result<BTreeSet<Built>> {
    let arguments = [
        "tree",
        "--workspace",
        "--all-features",
        "--target",
        "all",
        "--locked",
        "--prefix",
        "none",
        "--format",
        "{p}\t{l}",
    ];
    let listing = process::output(&mut process::cargo(root, &arguments))?;
    Ok(listing.lines().filter_map(parse_built).collect())
}

/// `name v1.2.3 (path)<tab>licence (*)`: the mark stands where the package's own dependencies were printed before.
fn parse_built(line: &str) -> Option<Built> {
    let (package, licence) = line.split_once('\t')?;
    let mut words = package.split(' ');
    let name = words.next().filter(|name| !name.is_empty())?.to_owned();
    let version = words.next()?.strip_prefix('v')?.to_owned();
    let licence = licence.strip_suffix("(*)").unwrap_or(licence).trim().to_owned();
    Some(Built { name, version, licence })
}

/// The workspace's root, from where this program was built.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Every file that git knows or would take, with its text; those that are not UTF-8 are left out.
pub(crate) fn files(root: &Path) -> Result<BTreeMap<String, String>> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let listing = process::output(&mut process::command(root, "git", &arguments))?;
    let mut files = BTreeMap::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that was deleted but not committed is still listed.
        let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            files.insert(path.to_owned(), text);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_cargo_tree_is_a_package() {
        let built = |name: &str, version: &str, licence: &str| {
            Some(Built { name: name.to_owned(), version: version.to_owned(), licence: licence.to_owned() })
        };
        assert_eq!(parse_built("anyhow v1.0.1\tMIT OR Apache-2.0 (*)"), built("anyhow", "1.0.1", "MIT OR Apache-2.0"));
        assert_eq!(parse_built("mote v0.1.0 (/a b)\tApache-2.0"), built("mote", "0.1.0", "Apache-2.0"));
        assert_eq!(parse_built(""), None);
    }
}
