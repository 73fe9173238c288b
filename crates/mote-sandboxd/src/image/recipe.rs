//! Recipes of images: what `mote-sandboxd image build` reads. Strict: an unknown field is an error with its line.
//!
//! It does not build: [`super::command`] has mmdebstrap do that.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use mote_oci::digest::Digest;
use mote_sandbox_api::error::{Code, Failure};
use serde::{Deserialize, Serialize};

use crate::limits::{RECIPE_BYTES_MAX, RECIPE_ENTRIES_MAX};

/// A recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the image is called.
    pub name: String,
    /// What it starts from: `debian:SUITE`.
    pub from: String,
    /// Debian packages, with those they need.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Requirements for pip, as on its command line.
    #[serde(default)]
    pub pip: Vec<String>,
    /// Packages for npm, installed for all users.
    #[serde(default)]
    pub npm: Vec<String>,
    /// Files, written after the packages are there.
    #[serde(default)]
    pub files: Vec<FileEntry>,
    /// Lines for the shell inside, run last, in order.
    #[serde(default)]
    pub run: Vec<String>,
    /// Environment of every process of a sandbox with this image.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User of processes that do not name one.
    #[serde(default)]
    pub user: Option<String>,
    /// Working directory of processes that do not name one.
    #[serde(default)]
    pub cwd: Option<String>,
}

/// A file of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Absolute path inside.
    pub path: String,
    /// What it holds.
    #[serde(default)]
    pub content: Option<String>,
    /// A file beside the recipe that has what it holds.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Permission bits in octal digits.
    #[serde(default)]
    pub mode: Option<String>,
}

/// A recipe with the contents of its files: all that the image is made from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file says.
    pub recipe: Recipe,
    /// The suite of Debian.
    pub suite: String,
    /// Contents of `files`, in their order.
    pub contents: Vec<Vec<u8>>,
    /// Of all of it: the same recipe with the same files has the same digest.
    pub digest: Digest,
}

/// Reads a recipe and the files that it names.
///
/// # Errors
/// `invalid`, naming the file and the line or the field.
pub fn load(path: &Path) -> Result<Loaded, Failure> {
    let text = String::from_utf8(read(path)?)
        .map_err(|_| Failure::invalid("recipe", format!("{} is not UTF-8", path.display())))?;
    let recipe = parse(&text, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let contents = recipe.files.iter().map(|file| content(file, folder)).collect::<Result<Vec<_>, _>>()?;
    let suite = recipe.from.strip_prefix("debian:").unwrap_or_default().to_owned();
    let digests: Vec<Digest> = contents.iter().map(|content| Digest::of(content)).collect();
    let made_from = serde_json::to_vec(&(&recipe, digests))
        .map_err(|error| Failure::new(Code::Internal, format!("failed to digest a recipe: {error}")))?;
    Ok(Loaded { digest: Digest::of(&made_from), recipe, suite, contents })
}

fn parse(text: &str, path: &Path) -> Result<Recipe, Failure> {
    let recipe: Recipe = serde_saphyr::from_str(text).map_err(|error| {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        let line = error.location().map_or(0, |at| at.line());
        Failure::invalid("recipe", format!("{}:{line}: {first}", path.display())).with("line", line)
    })?;
    let refuse = |field: &str, why: &str| {
        // The parser's spans end with the document: the line is that of the field's name.
        let line =
            text.lines().position(|line| line.trim_start().starts_with(&format!("{field}:"))).map_or(0, |at| at + 1);
        Err(Failure::invalid(field, format!("{}:{line}: {why}", path.display())).with("line", line))
    };
    let suite = recipe.from.strip_prefix("debian:").unwrap_or_default();
    if suite.is_empty() || !suite.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
        return refuse("from", "\"debian:SUITE\" is needed, as in debian:bookworm");
    }
    if !recipe.packages.iter().all(|name| is_package(name)) {
        return refuse("packages", "a name holds a-z, 0-9, '+', '-', '.' and, behind '=' or '/', a version or suite");
    }
    for (field, words) in [("pip", &recipe.pip), ("npm", &recipe.npm)] {
        if words.iter().any(|word| word.is_empty() || word.starts_with('-') || word.chars().any(char::is_control)) {
            return refuse(field, "an entry may not be empty or an option");
        }
    }
    let entries = recipe.packages.len() + recipe.pip.len() + recipe.npm.len() + recipe.files.len() + recipe.run.len();
    if entries > RECIPE_ENTRIES_MAX {
        return refuse("name", &format!("the recipe has more than {RECIPE_ENTRIES_MAX} entries"));
    }
    if recipe.files.iter().any(|file| !is_path(&file.path)) {
        return refuse("files", "a path is absolute, without \"..\", and no directory");
    }
    if recipe.files.iter().any(|file| file.content.is_some() == file.source.is_some()) {
        return refuse("files", "a file has either content or source");
    }
    if recipe.files.iter().any(|file| file.mode.as_deref().is_some_and(|mode| octal(mode).is_none())) {
        return refuse("files", "a mode is up to four octal digits, in quotes");
    }
    Ok(recipe)
}

fn is_package(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '=' | '/' | ':' | '~');
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && name.chars().all(good)
}

fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && !path.ends_with('/')
        && !path.split('/').any(|part| part == "..")
        && !path.chars().any(char::is_control)
}

/// Permission bits.
pub(super) fn octal(mode: &str) -> Option<u32> {
    u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o7777)
}

fn content(file: &FileEntry, folder: &Path) -> Result<Vec<u8>, Failure> {
    match (&file.content, &file.source) {
        (Some(content), _) => Ok(content.clone().into_bytes()),
        (None, Some(source)) => read(&folder.join(source)),
        (None, None) => Ok(Vec::new()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(RECIPE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::invalid("recipe", format!("failed to read {}: {error}", path.display())))?;
    if bytes.len() as u64 > RECIPE_BYTES_MAX {
        let message = format!("{} is larger than {RECIPE_BYTES_MAX} bytes", path.display());
        return Err(Failure::new(Code::TooLarge, message).with("limit", RECIPE_BYTES_MAX));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let check = |text: &str, line: usize, words: &str| {
            let failure = parse(text, Path::new("r.yaml")).unwrap_err();
            assert!(failure.message.contains(&format!("r.yaml:{line}")), "{}", failure.message);
            assert!(failure.message.contains(words), "{}", failure.message);
        };
        check("name: a\nfrom: debian:bookworm\npackage: [git]\n", 3, "package");
        check("name: a\nfrom: ubuntu:jammy\n", 2, "debian:SUITE");
        check("name: a\nfrom: debian:bookworm\npackages: [\"git; rm -rf /\"]\n", 3, "a name holds");
        check("name: a\nfrom: debian:bookworm\npip: [--index-url=http://x]\n", 3, "option");
        check("name: a\nfrom: debian:bookworm\nfiles:\n- path: ../x\n  content: y\n", 3, "absolute");
    }

    #[test]
    fn what_a_file_holds_is_part_of_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = folder.path().join("r.yaml");
        std::fs::write(&recipe, "name: a\nfrom: debian:bookworm\nfiles:\n- path: /etc/x\n  source: x\n").unwrap();
        let mut digests = std::collections::HashSet::new();
        for text in ["one", "two", "one"] {
            std::fs::write(folder.path().join("x"), text).unwrap();
            digests.insert(load(&recipe).unwrap().digest);
        }
        assert_eq!(digests.len(), 2);
    }
}
