//! Files that tell programs which sandbox they run in, where E2B's server leaves them.
//!
//! They are made anew each time: a link or a file that stands there is not written through.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use mote_sandbox_api::guest::{E2B_FOLDER, E2B_SANDBOX, E2B_SANDBOX_ID, E2B_TEMPLATE_ID};

/// Each variable with the permission bits of its file.
const FILES: [(&str, u32); 3] = [(E2B_SANDBOX, 0o444), (E2B_SANDBOX_ID, 0o644), (E2B_TEMPLATE_ID, 0o644)];

/// Writes what an environment says below `root`, which is `/` but in tests; nothing where it is no sandbox of E2B's surface.
pub(crate) fn leave(env: &BTreeMap<String, String>, root: &Path) -> io::Result<()> {
    if !env.contains_key(E2B_SANDBOX) {
        return Ok(());
    }
    let folder = root.join(E2B_FOLDER.trim_start_matches('/'));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder)?;
    for (name, mode) in FILES {
        let path = folder.join(format!(".{name}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(value) = env.get(name) {
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?.write_all(value.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_is_replaced_and_not_written_through() {
        let root = std::env::temp_dir().join(format!("mote-marks-{}", std::process::id()));
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        fs::create_dir_all(root.join("run/e2b")).unwrap();
        fs::write(root.join("victim"), "kept").unwrap();
        std::os::unix::fs::symlink(root.join("victim"), root.join("run/e2b/.E2B_SANDBOX")).unwrap();
        leave(&of(&[(E2B_SANDBOX, "true"), (E2B_SANDBOX_ID, "one")]), &root).unwrap();
        leave(&of(&[(E2B_SANDBOX, "true"), (E2B_SANDBOX_ID, "two")]), &root).unwrap();
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
        assert_eq!((read("victim").as_str(), read("run/e2b/.E2B_SANDBOX").as_str()), ("kept", "true"));
        assert_eq!((read("run/e2b/.E2B_SANDBOX_ID").as_str(), read("run/e2b/.E2B_TEMPLATE_ID").as_str()), ("two", ""));
        fs::remove_dir_all(&root).unwrap();
        leave(&of(&[("A", "b")]), &root).unwrap();
        assert!(!root.exists(), "other sandboxes have none");
    }
}
