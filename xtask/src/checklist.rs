//! `cargo xtask checklist`: what was promised, each item beside the test that shows it, or `missing`; and `unshown` where what
//! is named does not show it: as the item itself says, or because all that it names is a file that exists, or a bench.
//!
//! It does not run the tests. A test that is named and does not exist is an error; an item without one is only shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{process, workspace};

/// Where the items are.
const FILE: &str = "docs/checklist.toml";

/// Options of `checklist`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Prints only what is missing or unshown.
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
    /// Why what is named does not show it: a test of something else, or of a part of it.
    #[serde(default)]
    unshown: Option<String>,
}

/// Documents that an item may promise as such: that they are there is all that can be shown of them.
const DOCUMENTS: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"];

impl Item {
    fn is_open(&self) -> bool {
        self.tests.is_empty() || self.unshown().is_some()
    }

    /// Why what is named does not show it, if it does not.
    fn unshown(&self) -> Option<&str> {
        if let Some(why) = &self.unshown {
            return Some(why);
        }
        let mut shows = self.tests.iter().filter_map(|test| shows_nothing(test));
        let (first, named) = (shows.next()?, 1 + shows.count());
        (named == self.tests.len()).then_some(first)
    }
}

/// Why something that can be named shows nothing by itself; none where it is a test or a check.
fn shows_nothing(test: &str) -> Option<&'static str> {
    match test.split_once(':') {
        Some(("file", path)) if !DOCUMENTS.contains(&path) => Some("that a file exists shows nothing of what it does"),
        Some(("xtask", "bench")) => Some("a bench measures it when somebody runs it; no check holds it to the figure"),
        _ => None,
    }
}

/// Reads the list, checks the names, prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let files = workspace::files(&root)?;
    let known = tests(&root)?;
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
    let unshown = items().filter(|item| !item.tests.is_empty() && item.unshown().is_some()).count();
    println!("\n{} items, {missing} missing, {unshown} unshown", items().count());
    if !mistakes.is_empty() {
        bail!("failed to read {FILE}:\n  {}", mistakes.join("\n  "));
    }
    Ok(())
}

fn print(list: &List, only_missing: bool) {
    let shown: Vec<&Item> = list.item.iter().filter(|item| !only_missing || item.is_open()).collect();
    if shown.is_empty() {
        return;
    }
    println!("\n{}", list.name);
    for item in shown {
        println!("  {}: {}", item.id, item.text);
        if item.tests.is_empty() {
            println!("      missing");
        }
        if let Some(why) = item.unshown() {
            println!("      unshown: {why}");
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
        if item.unshown.as_ref().is_some_and(String::is_empty) {
            mistakes.push(format!("{}: unshown without a reason", item.id));
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

/// Every test that cargo builds, as `package::modules::name`: from the test binaries themselves, so that what a macro makes
/// is there and what a `cfg` leaves out is not.
fn tests(root: &Path) -> Result<BTreeSet<String>> {
    let arguments = ["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"];
    let messages = process::output(&mut process::cargo(root, &arguments))?;
    let mut tests = BTreeSet::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("failed to read what cargo says")?;
        let (Some(binary), Some(target), Some(manifest)) = (message.executable, message.target, message.manifest_path)
        else {
            continue;
        };
        if !message.profile.is_some_and(|profile| profile.test) {
            continue;
        }
        let Some(prefix) = prefix(&manifest, &target) else { continue };
        let listing = process::output(&mut process::command(root, &binary, &["--list", "--format", "terse"]))?;
        let names = listing.lines().filter_map(|line| line.strip_suffix(": test"));
        tests.extend(names.map(|name| format!("{prefix}::{name}")));
    }
    if tests.is_empty() {
        bail!("failed to find any test");
    }
    Ok(tests)
}

/// What cargo says of one thing that it built, as far as it is used here.
#[derive(Deserialize)]
struct Message {
    executable: Option<String>,
    target: Option<Target>,
    manifest_path: Option<String>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The package's folder, and for a test binary of its own its name, unless that is only `main`.
fn prefix(manifest: &str, target: &Target) -> Option<String> {
    let package = Path::new(manifest).parent()?.file_name()?.to_str()?;
    let own = target.kind.iter().any(|kind| kind == "test") && target.name != "main";
    Some(if own { format!("{package}::{}", target.name) } else { package.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod checks {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn tests_are_named_by_package_and_binary() {
        let target = |name: &str, kind: &str| Target { name: name.to_owned(), kind: vec![kind.to_owned()] };
        assert_eq!(prefix("/w/crates/mote/Cargo.toml", &target("mote", "lib")).unwrap(), "mote");
        assert_eq!(prefix("/w/crates/mote-core/Cargo.toml", &target("golden", "test")).unwrap(), "mote-core::golden");
        assert_eq!(prefix("/w/crates/system-tests/Cargo.toml", &target("main", "test")).unwrap(), "system-tests");
    }

    #[test]
    fn a_file_that_exists_and_a_bench_show_nothing_by_themselves() {
        let check = |tests: &[&str], shown: bool| {
            let tests = tests.iter().map(|test| (*test).to_owned()).collect();
            let item = Item { id: "i".to_owned(), text: "t".to_owned(), tests, unshown: None };
            assert_eq!(item.unshown().is_none(), shown, "{:?}", item.tests);
            assert_eq!(item.is_open(), !shown || item.tests.is_empty(), "{:?}", item.tests);
        };
        check(&["mote::tests::one"], true);
        check(&["file:crates/mote/src/lib.rs", "xtask:bench"], false);
        check(&["file:docs/sandbox.md"], false);
        check(&["file:deny.toml", "mote::tests::one"], true);
        check(&["file:README.md"], true);
        check(&["xtask:tidy"], true);
        check(&[], true);
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
