//! Recipes of images: what `mote-sandboxd image build` reads. Strict: an unknown field is an error with its line.
//!
//! It does not build: [`super::build`] does.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::{Code, Failure};
use serde::{Deserialize, Serialize};

use crate::limits::{RECIPE_BYTES_MAX, RECIPE_ENTRIES_MAX};

/// Name of the recipe in a directory.
const FILE: &str = "recipe.yaml";

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
    /// The recipe's file.
    pub path: PathBuf,
    /// Where in it its fields stand.
    pub lines: Lines,
}

/// Lines of a recipe's fields and of their items, from 1. The parser's own positions end with the document.
#[derive(Clone, Debug, Default)]
pub struct Lines(BTreeMap<String, (usize, Vec<(usize, String)>)>);

impl Lines {
    fn new(text: &str) -> Self {
        let mut lines = Self::default();
        let (mut field, mut indent) = (None::<String>, None);
        for (number, line) in (1..).zip(text.lines()) {
            let bare = line.trim_start();
            let depth = line.len() - bare.len();
            if depth == 0
                && let Some((name, _)) = line.split_once(':').filter(|_| !line.starts_with(['-', '#']))
            {
                lines.0.insert(name.to_owned(), (number, Vec::new()));
                (field, indent) = (Some(name.to_owned()), None);
            } else if let (Some(item), Some(field)) = (bare.strip_prefix('-'), &field)
                && item.is_empty() | item.starts_with(' ')
                && *indent.get_or_insert(depth) == depth
                && let Some((_, items)) = lines.0.get_mut(field)
            {
                items.push((number, item.trim().trim_matches(['"', '\'']).to_owned()));
            }
        }
        lines
    }

    /// The line of an item of a field; the field's where its items do not stand on lines of their own.
    pub(super) fn of(&self, field: &str, item: usize) -> usize {
        self.0.get(field).map_or(1, |(line, items)| items.get(item).map_or(*line, |(line, _)| *line))
    }

    /// The line of the item that a message names. The tool's own name, which its every line may begin with, is no such item.
    pub(super) fn named_in(&self, field: &str, message: &str) -> Option<usize> {
        let (_, items) = self.0.get(field)?;
        let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_' | '@' | '/');
        let words: Vec<&str> = message.split(|c| !of_name(c)).map(|word| word.trim_end_matches('.')).collect();
        let name = |item: &str| item.split(|c| !of_name(c)).next().unwrap_or_default().to_owned();
        let is_named = |name: &str| !name.is_empty() && name != field && words.contains(&name);
        let found = items.iter().find(|(_, item)| is_named(&name(item)));
        found.map(|(line, _)| *line)
    }
}

/// Reads a recipe and the files that it names. A directory stands for its `recipe.yaml`.
///
/// # Errors
/// `invalid`, naming the file and the line or the field.
pub fn load(path: &Path) -> Result<Loaded, Failure> {
    let within = path.join(FILE);
    let path = if path.is_dir() { &within } else { path };
    let text = String::from_utf8(read(path)?)
        .map_err(|_| Failure::invalid("recipe", format!("{} is not UTF-8", path.display())))?;
    let lines = Lines::new(&text);
    let recipe = parse(&text, path, &lines)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let contents = recipe.files.iter().enumerate().map(|(at, file)| {
        content(file, folder).map_err(|mut failure| {
            let line = lines.of("files", at);
            let why = failure.message.trim_start_matches("recipe: ");
            failure.message = format!("{}:{line}: files: {why}", path.display());
            failure.with("line", line)
        })
    });
    let contents = contents.collect::<Result<Vec<_>, _>>()?;
    let suite = recipe.from.strip_prefix("debian:").unwrap_or_default().to_owned();
    Ok(Loaded { recipe, suite, contents, path: path.to_owned(), lines })
}

fn parse(text: &str, path: &Path, lines: &Lines) -> Result<Recipe, Failure> {
    let recipe: Recipe = serde_saphyr::from_str(text).map_err(|error| {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        let line = error.location().map_or(0, |at| at.line());
        Failure::invalid("recipe", format!("{}:{line}: {first}", path.display())).with("line", line)
    })?;
    match fault(&recipe) {
        None => Ok(recipe),
        Some((field, item, why)) => {
            let line = lines.of(field, item);
            Err(Failure::invalid(field, format!("{}:{line}: {why}", path.display())).with("line", line))
        }
    }
}

/// The first thing that is wrong: field, item, why.
fn fault(recipe: &Recipe) -> Option<(&'static str, usize, String)> {
    let entries = recipe.packages.len() + recipe.pip.len() + recipe.npm.len() + recipe.files.len() + recipe.run.len();
    if entries > RECIPE_ENTRIES_MAX {
        return Some(("name", 0, format!("the recipe has more than {RECIPE_ENTRIES_MAX} entries")));
    }
    if let Err(failure) = super::record::check_name(&recipe.name) {
        return Some(("name", 0, failure.message));
    }
    let suite = recipe.from.strip_prefix("debian:").unwrap_or_default();
    if suite.is_empty() || !suite.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
        return Some(("from", 0, "\"debian:SUITE\" is needed, as in debian:bookworm".to_owned()));
    }
    if let Some(at) = recipe.packages.iter().position(|name| !is_package(name)) {
        let why = "a name holds a-z, 0-9, '+', '-', '.' and, behind '=' or '/', a version or suite";
        return Some(("packages", at, format!("{:?}: {why}", recipe.packages[at])));
    }
    for (field, words) in [("pip", &recipe.pip), ("npm", &recipe.npm)] {
        let wrong = |word: &String| word.is_empty() || word.starts_with('-') || word.chars().any(char::is_control);
        if let Some(at) = words.iter().position(wrong) {
            return Some((field, at, "an entry may not be empty or an option".to_owned()));
        }
    }
    for (at, file) in recipe.files.iter().enumerate() {
        let why = if !is_path(&file.path) {
            "a path is absolute, without \"..\", and no directory"
        } else if file.content.is_some() == file.source.is_some() {
            "a file has either content or source"
        } else if file.mode.as_deref().is_some_and(|mode| octal(mode).is_none()) {
            "a mode is up to four octal digits, in quotes"
        } else {
            continue;
        };
        return Some(("files", at, format!("{:?}: {why}", file.path)));
    }
    let empty = recipe.run.iter().position(|line| line.trim().is_empty() || line.contains('\0'));
    empty.map(|at| ("run", at, "a line may not be empty or hold a zero".to_owned()))
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
            let failure = parse(text, Path::new("r.yaml"), &Lines::new(text)).unwrap_err();
            assert!(failure.message.contains(&format!("r.yaml:{line}")), "{}", failure.message);
            assert!(failure.message.contains(words), "{}", failure.message);
        };
        check("name: a\nfrom: debian:bookworm\npackage: [git]\n", 3, "package");
        check("name: a\nfrom: ubuntu:jammy\n", 2, "debian:SUITE");
        check("name: a\nfrom: debian:bookworm\npackages: [\"git; rm -rf /\"]\n", 3, "a name holds");
        check("name: a\nfrom: debian:bookworm\npip: [--index-url=http://x]\n", 3, "option");
        check("name: a\nfrom: debian:bookworm\nfiles:\n- path: ../x\n  content: y\n", 4, "absolute");
        check("name: a\nfrom: debian:bookworm\npackages:\n  # two\n  - git\n  - \"a b\"\n", 6, "a name holds");
        check("name: a\nfrom: debian:bookworm\nrun:\n- echo\n- ''\n", 5, "empty");
        check("name: a b\nfrom: debian:bookworm\n", 1, "without spaces");
    }

    #[test]
    fn what_a_program_says_leads_to_the_line_of_the_item() {
        let text = "name: a\npackages:\n- git\n- no-such\npip: [x]\nnpm:\n  - npm\n  - \"@a/b@1.0\"\n";
        let lines = Lines::new(text);
        assert_eq!(lines.named_in("packages", "E: Unable to locate package no-such"), Some(4));
        assert_eq!(lines.named_in("packages", "E: Unable to locate package no-such-thing."), None);
        assert_eq!(lines.named_in("npm", "npm error 404 Not Found - @a/b@1.0"), Some(8));
        assert_eq!((lines.of("pip", 0), lines.of("packages", 1), lines.of("absent", 3)), (5, 4, 1));
    }

    #[test]
    fn a_file_that_is_not_there_is_told_with_the_recipes_line() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = folder.path().join("r.yaml");
        std::fs::write(&recipe, "name: a\nfrom: debian:bookworm\nfiles:\n- path: /etc/x\n  source: x\n").unwrap();
        let failure = load(&recipe).unwrap_err();
        assert!(failure.message.contains("r.yaml:4: files: "), "{failure}");
    }
}
