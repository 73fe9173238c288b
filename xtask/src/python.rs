//! Virtual environments from PyPI: the official clients that the tests use, the peers that the benches run.
//!
//! It installs into the target directory only, never into the system's Python.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// Whether Python here can make virtual environments (Debian packages that part separately).
pub(crate) fn can_make_venvs(root: &Path) -> bool {
    process::output(&mut process::command(root, "python3", &["-c", "import venv, ensurepip"])).is_ok()
}

/// The environment in `folder` with what the file NAME.txt in `xtask/requirements` pins. Made anew only when that file changed.
pub(crate) fn venv(folder: &Path, name: &str, install: bool) -> Result<PathBuf> {
    let root = workspace::root();
    let requirements = root.join(format!("xtask/requirements/{name}.txt"));
    let wanted =
        std::fs::read_to_string(&requirements).with_context(|| format!("failed to read {}", requirements.display()))?;
    let stamp = folder.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(folder.to_path_buf());
    }
    if !install {
        bail!("failed to find the virtual environment {}: run once without --no-install", folder.display());
    }
    let shown = folder.to_string_lossy();
    process::run(&mut process::command(&root, "python3", &["-m", "venv", &shown]))?;
    let python = folder.join("bin/python");
    let arguments = ["-m", "pip", "install", "--quiet", "--requirement", &requirements.to_string_lossy()];
    process::run(&mut process::command(&root, &python.to_string_lossy(), &arguments))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("failed to write {}", stamp.display()))?;
    Ok(folder.to_path_buf())
}
