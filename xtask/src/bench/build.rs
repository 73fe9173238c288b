//! `cargo xtask bench build`: how long a newcomer's first build takes and what it needs, written into README.md.
//!
//! It builds in a folder of its own, so that nothing that was built before helps. What cargo downloads is not measured.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::machine;
use crate::{process, workspace};

const BEGIN: &str = "<!-- first build: written by `cargo xtask bench build` -->";
const END: &str = "<!-- end -->";

/// Measures and writes.
pub(super) fn run() -> Result<()> {
    let root = workspace::root();
    let folder = workspace::Metadata::read()?.target_directory.join("bench-build");
    remove(&folder)?;
    process::run(&mut process::cargo(&root, &["fetch", "--locked"]))?;
    let mut build = process::cargo(&root, &["build", "--release", "--locked", "--offline", "-p", "mote"]);
    build.env("CARGO_TARGET_DIR", &folder);
    let began = Instant::now();
    process::run(&mut build)?;
    let took = began.elapsed().as_secs_f64();
    let size = process::output(&mut process::command(
        &root,
        "du",
        &["--summarize", "--block-size=1M", &folder.to_string_lossy()],
    ))?;
    let size = size.split_whitespace().next().unwrap_or_default().to_owned();
    let about = machine::describe(&root)?;
    let said = |wanted: &str| about.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value.as_str());
    let line = format!(
        "The first build takes {:.1} minutes and {size} MiB on {} with {} ({}).",
        took / 60.0,
        said("processor"),
        said("memory"),
        said("Rust")
    );
    remove(&folder)?;
    let path = root.join("README.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    std::fs::write(&path, placed(&text, &line)?).with_context(|| format!("failed to write {}", path.display()))?;
    println!("{line}");
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The text with the line between its marks.
fn placed(text: &str, line: &str) -> Result<String> {
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("README.md has no place for the build's figure: {BEGIN} … {END}");
    };
    let (before, after) = (&text[..begin + BEGIN.len()], &text[end..]);
    Ok(format!("{before}\n{line}\n{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_placed_between_its_marks_and_the_readme_has_them() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(placed(&text, "new").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(placed("none", "new").is_err());
        let readme = std::fs::read_to_string(workspace::root().join("README.md")).unwrap();
        assert!(placed(&readme, "x").is_ok());
    }
}
