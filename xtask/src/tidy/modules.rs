//! Which of a crate's modules may use which: no cycles, and in `crates/mote` none that stands further down in the table of
//! ARCHITECTURE.md, which names them all.
//!
//! It looks at the first level of modules, and not at what only tests use.

use std::collections::{BTreeMap, BTreeSet};

use super::{Outcome, RustFile};

/// The document with the table.
pub(super) const TABLE: &str = "ARCHITECTURE.md";
/// The heading above it.
const HEADING: &str = "Within `crates/mote/src`, each module may use those above it:";
/// The crate that it is of.
const LAYERED: &str = "crates/mote/src/";
/// Modules that are known to stand in a cycle: none may join them, and those that leave are taken off.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "crates/mote-sandboxd/src/",
        &["filesystem", "image", "keeper", "lifecycle", "namespace", "state", "template", "transfer"],
    ),
    ("crates/mote-sandbox-init/src/", &["operation", "process", "sandbox", "termination"]),
];

/// Users and what they use, of one crate.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Looks at every crate.
pub(super) fn check(rust: &[RustFile], architecture: &str) -> Outcome {
    let crates: BTreeSet<&str> = rust.iter().filter_map(|file| Some(source(&file.path)?.0)).collect();
    let (mut looked_at, mut findings) = (0, Vec::new());
    for folder in crates {
        let edges = edges(rust, folder);
        looked_at += edges.values().map(BTreeSet::len).sum::<usize>();
        let known = KNOWN.iter().find(|(known, _)| *known == folder).map_or(&[][..], |(_, modules)| *modules);
        let circular = circular(&edges);
        let strangers = circular.iter().filter(|module| !known.contains(&module.as_str()));
        findings.extend(strangers.map(|module| format!("{folder}{module}: uses what uses it, if by a detour")));
        let freed = known.iter().filter(|module| !circular.contains(**module));
        findings.extend(
            freed.map(|module| format!("{folder}{module}: in no cycle any more; take it off the list of known ones")),
        );
        if folder == LAYERED {
            findings.extend(layers(&edges, &table(architecture)));
        }
    }
    Outcome { rule: "modules", things: "uses of one module by another", looked_at, findings }
}

/// The crate's source folder and the module of a file that is no test.
fn source(path: &str) -> Option<(&str, &str)> {
    let at = path.strip_prefix("crates/")?.find("/src/")? + "crates/".len() + "/src/".len();
    let (folder, rest) = path.split_at(at);
    let is_test = rest.split('/').any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"));
    let top = rest.split('/').next()?.trim_end_matches(".rs");
    (!is_test && !["lib", "main", "bin", "commands"].contains(&top)).then_some((folder, top))
}

fn edges(rust: &[RustFile], folder: &str) -> Edges {
    let own = || rust.iter().filter_map(|file| Some((file, source(&file.path)?))).filter(|(_, (of, _))| *of == folder);
    let modules: BTreeSet<&str> = own().map(|(_, (_, module))| module).collect();
    let mut edges: Edges = modules.iter().map(|module| ((*module).to_owned(), BTreeSet::new())).collect();
    for (file, (_, module)) in own() {
        // Unit tests stand at a file's end and may use what they like.
        let code = file.masked.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let used = used(code).into_iter().filter(|used| modules.contains(used.as_str()) && used != module);
        edges.entry(module.to_owned()).or_default().extend(used);
    }
    edges
}

/// The modules that a text names after `crate::`, alone or in braces.
fn used(code: &str) -> BTreeSet<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut used = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(list) = after.strip_prefix('{') else {
            used.insert(name(after));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ if start && !c.is_whitespace() => {
                    used.insert(name(&list[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    used
}

/// The modules of which each uses the other, if by a detour.
fn circular(edges: &Edges) -> BTreeSet<String> {
    let reach = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(module) = open.pop() {
            let next = edges.get(&module).into_iter().flatten().filter(|next| seen.insert((*next).clone()));
            open.extend(next.cloned().collect::<Vec<_>>());
        }
        seen
    };
    edges.keys().filter(|module| reach(module).contains(*module)).cloned().collect()
}

/// The modules that the document's table names, in its order.
fn table(architecture: &str) -> Vec<String> {
    let after = architecture.split_once(HEADING).map_or("", |(_, after)| after);
    let rows = after.trim_start().lines().take_while(|line| line.starts_with('|'));
    let name =
        |row: &str| row.split('`').nth(1).map(|name| name.trim_end_matches('/').trim_end_matches(".rs").to_owned());
    rows.filter_map(name).collect()
}

fn layers(edges: &Edges, table: &[String]) -> Vec<String> {
    let place = |module: &str| table.iter().position(|name| name == module);
    let mut findings = Vec::new();
    for module in edges.keys() {
        if place(module).is_none() {
            findings.push(format!("{LAYERED}{module}: not in the table of modules in {TABLE}"));
        }
    }
    for name in table.iter().filter(|name| !edges.contains_key(*name)) {
        findings.push(format!("{TABLE}: the table names the module {name}, which is not there"));
    }
    for (module, used) in edges {
        let up = used.iter().filter(|used| place(used) > place(module));
        findings.extend(up.map(|used| format!("{LAYERED}{module} uses {used}, which stands below it in {TABLE}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "Within `crates/mote/src`, each module may use those above it:\n\n\
                         | module | what |\n|---|---|\n| `clock.rs` | time |\n| `store/` | rows |\n| `api/` | HTTP |\n";

    fn findings(files: &[(&str, &str)], architecture: &str) -> Vec<String> {
        let rust: Vec<RustFile> = files.iter().map(|(path, text)| RustFile::new(path, text)).collect();
        check(&rust, architecture).findings
    }

    fn mote(api: &'static str, store: &'static str) -> Vec<(&'static str, &'static str)> {
        vec![
            ("crates/mote/src/clock.rs", "pub struct Clock;"),
            ("crates/mote/src/store/mod.rs", store),
            ("crates/mote/src/api/mod.rs", api),
        ]
    }

    /// What is known of other crates is not of these.
    fn own(found: Vec<String>) -> Vec<String> {
        found.into_iter().filter(|finding| !finding.contains("take it off")).collect()
    }

    #[test]
    fn uses_of_what_stands_above_pass() {
        let files = mote("use crate::{clock::Clock, store};", "use crate::clock::Clock;");
        assert_eq!(own(findings(&files, ORDER)), [""; 0]);
    }

    #[test]
    fn a_use_of_what_stands_below_and_a_cycle_are_named() {
        let found = own(findings(&mote("use crate::store;", "fn f() { crate::api::g() }"), ORDER)).join("\n");
        for part in ["store uses api", "src/api: uses what uses it", "src/store: uses what uses it"] {
            assert!(found.contains(part), "{part}: {found}");
        }
    }

    #[test]
    fn tests_and_comments_may_name_what_they_like() {
        let store = "// crate::api\npub struct S;\n#[cfg(test)]\nmod tests { use crate::api::x; }";
        assert_eq!(own(findings(&mote("use crate::store::S;", store), ORDER)), [""; 0]);
        let mut files = mote("use crate::store::S;", "pub struct S;");
        files.push(("crates/mote/src/store/tests.rs", "use crate::api::x;"));
        assert_eq!(own(findings(&files, ORDER)), [""; 0]);
    }

    #[test]
    fn the_table_and_the_modules_are_the_same() {
        let mut files = mote("", "");
        files.push(("crates/mote/src/extra.rs", ""));
        let found = own(findings(&files, &ORDER.replace("| `store/` | rows |\n", "| `gone/` | rows |\n")));
        let found = found.join("\n");
        assert!(found.contains("src/extra: not in the table") && found.contains("names the module gone"), "{found}");
    }

    #[test]
    fn a_known_cycle_that_is_gone_is_taken_off_the_list() {
        let found = findings(&[("crates/mote-sandbox-init/src/process.rs", "")], ORDER).join("\n");
        assert!(found.contains("process: in no cycle any more"), "{found}");
    }
}
