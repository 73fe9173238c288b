//! Adds a key's line to the file of keys: whole or not at all, whatever happens in between, and one writer at a time.
//!
//! It does not remove lines; an editor does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{NewKey, keys};

/// Why a line was not added. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The file is there and is none, or would be none with the line.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Another key has the name.
    #[error("failed to add the key to {}: line {line} has the name {name:?} already", path.display())]
    NameTaken {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// From 1.
        line: usize,
    },
    /// It cannot be written.
    #[error("failed to write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Adds the line of a new key. A file that is not there is made for its owner alone (mode 0600); one that is there keeps
/// its mode and, where this process may give files away, its owner.
///
/// # Errors
/// [`AppendError`].
pub fn append(path: &Path, new: &NewKey) -> Result<(), AppendError> {
    let failed = |source| AppendError::Write { path: path.to_owned(), source };
    // A link (a mounted secret, a file kept elsewhere) stays one: what it leads to is replaced.
    let target = match path.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed(error)),
    };
    // Held until the end. It is the file itself that is locked, so that nothing is left beside it.
    let _lock = lock(&target).map_err(failed)?;
    let text = keys::read_text(path)?;
    let entries = keys::parse_lines(path, &text)?;
    let line = new.line.as_str();
    let mut added = text.clone();
    if !added.is_empty() && !added.ends_with('\n') {
        added.push('\n');
    }
    added.push_str(line);
    added.push('\n');
    let name = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    if let Some((line, _)) = entries.iter().find(|(_, known)| *known == name) {
        return Err(AppendError::NameTaken { path: path.to_owned(), name: name.to_owned(), line: *line });
    }
    // The service will read what is written, so that it must be able to.
    keys::parse_lines(path, &added)?;
    replace(&target, &added).map_err(failed)
}

/// Opens the file, or makes it, and locks it. Whoever waited may hold one that was replaced meanwhile, and opens it anew.
fn lock(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        file.lock()?;
        let (held, now) = (file.metadata()?, std::fs::metadata(path));
        if now.is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}

/// Writes a file beside the old one, makes it durable, and puts it in the old one's place.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let old = std::fs::metadata(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = write_new(&partial, text, &old).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // What cannot be removed holds no secret.
        let _ = std::fs::remove_file(&partial);
        return written;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn write_new(partial: &Path, text: &str, old: &std::fs::Metadata) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial)?;
    file.write_all(text.as_bytes())?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        // Only root may give a file away; another user's is then this user's.
        let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o777))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::{Keys, Scope, generate};
    use crate::clock::System;

    fn key(name: &str) -> NewKey {
        generate(name, &[Scope::Run], None, None).unwrap()
    }

    #[test]
    fn a_key_is_added_and_the_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let (first, second) = (key("ci"), key("ops"));
        append(&path, &first).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        append(&path, &second).unwrap();
        assert_eq!(mode(), 0o600);
        let keys = Keys::open(&path, Arc::new(System)).unwrap();
        assert!(keys.check(&first.key).is_ok() && keys.check(&second.key).is_ok());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_stands_in_the_file_stays_and_a_last_line_without_its_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let old = key("old");
        std::fs::write(&path, format!("# ours\n{}", old.line)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let new = key("new");
        append(&path, &new).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("# ours\n{}\n{}\n", old.line, new.line));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640, "whoever read it still does");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        append(&link, &key("third")).unwrap();
        assert!(link.is_symlink() && std::fs::read_to_string(&path).unwrap().contains(" third "));
    }

    #[test]
    fn a_name_that_is_taken_and_a_file_that_is_none_are_refused_and_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        append(&path, &key("ci")).unwrap();
        let before = std::fs::read_to_string(&path).unwrap();
        let taken = append(&path, &key("ci")).unwrap_err().to_string();
        assert!(taken.contains("line 1") && taken.contains("\"ci\""), "{taken}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        std::fs::write(&path, "no key\n").unwrap();
        let broken = append(&path, &key("new")).unwrap_err().to_string();
        assert!(broken.contains("line 1"), "{broken}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "no key\n");
        assert!(append(&folder.path().join("none/keys"), &key("new")).is_err());
    }

    #[test]
    fn two_writers_lose_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::thread::scope(|scope| {
            for index in 0..8 {
                let path = &path;
                scope.spawn(move || append(path, &key(&format!("k{index}"))).unwrap());
            }
        });
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 8);
    }
}
