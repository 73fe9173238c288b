//! Folders that a command works in: one that was asked for, or one of its own that goes with it.
//!
//! It does not know what is put into them.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use mote::clock::{System, new_id};

/// A folder.
#[derive(Debug)]
pub(crate) enum Folder {
    /// Asked for: it stays.
    Kept(PathBuf),
    /// In the system's temporary folder, gone when this is dropped.
    Passing(Passing),
}

impl Folder {
    /// The folder that was asked for, else a passing one.
    pub(crate) fn new(asked: Option<PathBuf>, prefix: &str) -> anyhow::Result<Self> {
        match asked {
            Some(path) => Ok(Self::Kept(path)),
            None => Passing::within(&std::env::temp_dir(), prefix).map(Self::Passing),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) | Self::Passing(Passing { path, .. }) => path,
        }
    }

    /// What is in it is still wanted; an empty one goes all the same.
    pub(crate) fn keep(&mut self) {
        if let Self::Passing(passing) = self {
            passing.wanted = true;
        }
    }
}

/// A folder of this process in one that everybody may write: nobody can guess its name, nobody else may look into it.
#[derive(Debug)]
pub(crate) struct Passing {
    path: PathBuf,
    wanted: bool,
}

impl Passing {
    fn within(parent: &Path, prefix: &str) -> anyhow::Result<Self> {
        let path = parent.join(new_id(prefix, &System));
        // Not recursive: what is there already, a link for one, is an error.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("failed to make {}", path.display()))?;
        Ok(Self { path, wanted: false })
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // It is in the system's temporary folder: what cannot be removed now goes with that.
        let _ = if self.wanted { std::fs::remove_dir(&self.path) } else { std::fs::remove_dir_all(&self.path) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_passing_folder_is_its_owners_alone_and_goes_unless_something_in_it_is_wanted() {
        let parent = tempfile::tempdir().unwrap();
        let left = || std::fs::read_dir(parent.path()).unwrap().count();
        let folders = [(); 2].map(|()| Folder::Passing(Passing::within(parent.path(), "mote").unwrap()));
        assert_ne!(folders[0].path(), folders[1].path());
        let mode = std::fs::metadata(folders[0].path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(folders[0].path().join("log"), "x").unwrap();
        drop(folders);
        assert_eq!(left(), 0);
        for (file, stays) in [(None, 0), (Some("log"), 1)] {
            let mut folder = Folder::Passing(Passing::within(parent.path(), "mote").unwrap());
            folder.keep();
            if let Some(file) = file {
                std::fs::write(folder.path().join(file), "x").unwrap();
            }
            drop(folder);
            assert_eq!(left(), stays);
        }
    }
}
