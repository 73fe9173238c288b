//! `cargo xtask checklist`: what was promised, each item beside the test that shows it, or `missing`.
//!
//! It does not run the tests. A test that is named and does not exist is an error; an item without one is only shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{source, workspace};

/// Where the items are.
const FILE: &str = "docs/checklist.toml";

/// Options of `checklist`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Prints only what is missing.
    #[arg(long)]
    missing: bool,
    /// Prints every test that can be named.
    #[arg(long)]
    tests: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checklist {
    list: Vec<List>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    name: String,
    item: Vec<Item>,
}

/// One promise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    /// Stable, `list.word`.
    id: String,
    /// What was promised.
    text: String,
    /// `package::modules::test`; `xtask:COMMAND` for what a command checks; `file:PATH` for what is there or not.
    #[serde(default)]
    tests: Vec<String>,
}

/// Reads the list, checks the names, prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let files = workspace::files(&workspace::root())?;
    let known = tests(&files);
    if options.tests {
        known.iter().for_each(|test| println!("{test}"));
        return Ok(());
    }
    let text = files.get(FILE).with_context(|| format!("failed to find {FILE}"))?;
    let checklist: Checklist = toml::from_str(text).with_context(|| format!("failed to read {FILE}"))?;
    let mistakes = mistakes(&checklist, &known, &files);
    for list in &checklist.list {
        print(list, options.missing);
    }
    let items = || checklist.list.iter().flat_map(|list| &list.item);
    let missing = items().filter(|item| item.tests.is_empty()).count();
    println!("\n{} items, {missing} missing", items().count());
    if !mistakes.is_empty() {
        bail!("failed to read {FILE}:\n  {}", mistakes.join("\n  "));
    }
    Ok(())
}

fn print(list: &List, only_missing: bool) {
    let shown: Vec<&Item> = list.item.iter().filter(|item| !only_missing || item.tests.is_empty()).collect();
    if shown.is_empty() {
        return;
    }
    println!("\n{}", list.name);
    for item in shown {
        println!("  {}: {}", item.id, item.text);
        if item.tests.is_empty() {
            println!("      missing");
        }
        for test in &item.tests {
            println!("      {test}");
        }
    }
}

/// What is wrong with the list itself: an id used twice, a test that does not exist.
fn mistakes(checklist: &Checklist, known: &BTreeSet<String>, files: &BTreeMap<String, String>) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut ids = BTreeSet::new();
    for item in checklist.list.iter().flat_map(|list| &list.item) {
        if !ids.insert(&item.id) {
            mistakes.push(format!("{}: the id is used twice", item.id));
        }
        for test in &item.tests {
            if !exists(test, known, files) {
                mistakes.push(format!("{}: no such test: {test}", item.id));
            }
        }
    }
    mistakes
}

fn exists(test: &str, known: &BTreeSet<String>, files: &BTreeMap<String, String>) -> bool {
    match test.split_once(':') {
        Some(("file", path)) => files.contains_key(path),
        Some(("xtask", command)) if !command.starts_with(':') => {
            files.contains_key(&format!("xtask/src/{command}.rs"))
                || files.contains_key(&format!("xtask/src/{command}/mod.rs"))
        }
        _ => known.contains(test),
    }
}

/// Every test of the workspace as `package::modules::name`.
fn tests(files: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let Some(module) = module_of(path) else { continue };
        for function in source::functions(&source::mask(text)).into_iter().filter(|function| function.is_test) {
            let mut parts = vec![module.clone()];
            parts.extend(function.modules);
            parts.push(function.name);
            tests.insert(parts.join("::"));
        }
    }
    tests
}

/// `crates/mote/src/store/mod.rs` is `mote::store`; a `main.rs`, as a `lib.rs`, is its package.
fn module_of(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let at = parts.iter().position(|part| matches!(*part, "src" | "tests" | "benches"))?;
    let mut module = vec![*parts.get(at.checked_sub(1)?)?];
    module.extend(&parts[at + 1..parts.len() - 1]);
    let stem = Path::new(path).file_stem()?.to_str()?;
    if !matches!(stem, "lib" | "main" | "mod") {
        module.push(stem);
    }
    Some(module.join("::"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod checks {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn tests_are_named_by_package_and_module() {
        let test = "#[test]\nfn holds() {}\n";
        let inner = format!("mod tests {{\n{test}}}\n");
        let files = files(&[
            ("crates/mote/src/store/mod.rs", &inner),
            ("crates/mote/src/store/sqlite.rs", test),
            ("crates/system-tests/tests/crash/matrix.rs", test),
            ("crates/mote-core/src/lib.rs", test),
            ("xtask/src/source.rs", "fn no_test() {}"),
        ]);
        let names: Vec<String> = tests(&files).into_iter().collect();
        let expected = [
            "mote-core::holds",
            "mote::store::sqlite::holds",
            "mote::store::tests::holds",
            "system-tests::crash::matrix::holds",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_named_test_that_does_not_exist_is_a_mistake_and_a_missing_one_is_not() {
        let text = "[[list]]\nname = \"l\"\n[[list.item]]\nid = \"a\"\ntext = \"t\"\n[[list.item]]\nid = \"b\"\ntext = \"t\"\n\
                    tests = [\"mote::gone\", \"xtask::here\", \"file:README.md\", \"xtask:tidy\"]\n";
        let checklist: Checklist = toml::from_str(text).unwrap();
        let files = files(&[("README.md", ""), ("xtask/src/tidy/mod.rs", "")]);
        assert_eq!(
            mistakes(&checklist, &BTreeSet::from(["xtask::here".to_owned()]), &files),
            ["b: no such test: mote::gone"]
        );
        let known = BTreeSet::from(["mote::gone".to_owned(), "xtask::here".to_owned()]);
        assert_eq!(mistakes(&checklist, &known, &files), [""; 0]);
    }
}
