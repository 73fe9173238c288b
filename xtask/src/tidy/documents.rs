//! Paths named in documents exist: Markdown links, and paths in backticks in Markdown and in Rust's own doc comments.
//!
//! It does not follow links to other hosts, and it takes a word for a path only if it starts at a folder of this
//! repository.

use std::collections::BTreeMap;

use super::Outcome;

/// Checks every document.
pub(super) fn check(files: &BTreeMap<String, String>) -> Outcome {
    let mut looked_at = 0;
    let mut findings = Vec::new();
    for (document, text) in files {
        let is_markdown = document.ends_with(".md");
        if !is_markdown && !document.ends_with(".rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let mut named = Vec::new();
            if is_markdown {
                named.extend(links(line).iter().filter_map(|link| resolved(document, link)));
            }
            if is_markdown || line.trim_start().starts_with("//") {
                named.extend(backticked(line).into_iter().filter(|word| is_path(word, files)).map(str::to_owned));
            }
            for path in named {
                looked_at += 1;
                if !exists(&path, files) {
                    findings.push(format!("{document}:{}: names {path}, which does not exist", number + 1));
                }
            }
        }
    }
    Outcome { rule: "documents", things: "paths named", looked_at, findings }
}

/// A structure whose every field has to stand in a table of a document: its source, its name, the document.
const TABLES: [(&str, &str, &str); 1] =
    [("crates/mote-sandboxd/src/config.rs", "pub struct Config {", "docs/sandbox-config.md")];

/// Checks that tables of fields are whole, and name none that is gone.
pub(super) fn fields(files: &BTreeMap<String, String>) -> Outcome {
    let mut looked_at = 0;
    let mut findings = Vec::new();
    for (source, structure, document) in TABLES {
        let (Some(code), Some(text)) = (files.get(source), files.get(document)) else {
            findings.push(format!("{source} or {document} is not there"));
            continue;
        };
        let body = code.split(structure).nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
        let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next());
        let fields: Vec<&str> = fields.collect();
        let rows: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name)).collect();
        looked_at += fields.len();
        let absent = fields.iter().filter(|field| !rows.contains(field) && !text.contains(&format!("\n{field}:")));
        findings.extend(absent.map(|field| format!("{document}: does not tell of the field {field} of {source}")));
        let gone = rows.iter().filter(|row| !fields.contains(row));
        findings.extend(gone.map(|row| format!("{document}: tells of {row}, which {source} does not have")));
    }
    Outcome { rule: "fields", things: "fields of configurations", looked_at, findings }
}

/// Targets of `[text](target)`.
fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// What stands between single backticks.
fn backticked(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// A link's path from the root, without its fragment; `None` for another host or a place in the same document.
fn resolved(document: &str, link: &str) -> Option<String> {
    let path = link.split('#').next().unwrap_or("");
    if path.is_empty() || path.contains(':') {
        return None;
    }
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            ".." => _ = parts.pop(),
            "." => {}
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether a word in backticks means a path of this repository: it has a slash, no characters that paths here have
/// not, and starts at one of the repository's folders.
fn is_path(word: &str, files: &BTreeMap<String, String>) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    let Some((top, _)) = word.split_once('/') else { return false };
    // What cargo writes is named in documents and is not in git.
    !top.is_empty() && top != "target" && word.chars().all(plain) && exists(top, files)
}

fn exists(path: &str, files: &BTreeMap<String, String>) -> bool {
    let path = path.trim_end_matches('/');
    let folder = format!("{path}/");
    files.contains_key(path) || files.range(folder.clone()..).next().is_some_and(|(file, _)| file.starts_with(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(document: &str, text: &str) -> (usize, Vec<String>) {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for path in ["docs/errors.md", "crates/mote/src/lib.rs", "README.md"] {
            files.insert(path.to_owned(), String::new());
        }
        files.insert(document.to_owned(), text.to_owned());
        let outcome = check(&files);
        (outcome.looked_at, outcome.findings)
    }

    #[test]
    fn paths_that_exist_pass() {
        let text = "See [errors](errors.md#codes), [up](../README.md), `crates/mote/src/` and `docs/errors.md`.";
        assert_eq!(findings("docs/a.md", text), (4, Vec::new()));
        assert_eq!(findings("crates/mote/src/x.rs", "/// See `docs/errors.md`.\n"), (1, Vec::new()));
    }

    #[test]
    fn paths_that_are_gone_are_named_with_their_line() {
        let expected = "docs/a.md:2: names crates/mote/src/gone.rs, which does not exist";
        assert_eq!(findings("docs/a.md", "\n`crates/mote/src/gone.rs`").1, [expected]);
        assert_eq!(findings("docs/a.md", "[x](gone.md)").1, ["docs/a.md:1: names docs/gone.md, which does not exist"]);
        assert_eq!(findings("crates/mote/src/x.rs", "//! `docs/gone.md`").1.len(), 1);
    }

    #[test]
    fn a_field_that_no_table_tells_of_is_named_and_so_is_a_row_of_none() {
        let (source, structure, document) = TABLES[0];
        let code =
            format!("{structure}\n    /// A.\n    pub one: u8,\n    pub two: Vec<u8>,\n    pub three: u8,\n}}\n");
        let of = |table: &str| {
            let files = [(source.to_owned(), code.clone()), (document.to_owned(), table.to_owned())].into();
            let outcome = fields(&files);
            (outcome.looked_at, outcome.findings)
        };
        assert_eq!(of("| `one` | x |\n| `two` |\n```yaml\nthree: 3\n```"), (3, Vec::new()));
        let (_, findings) = of("| `one` |\n| `four` |");
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings[0].contains("field two") && findings[2].contains("tells of four"), "{findings:?}");
    }

    #[test]
    fn what_is_no_path_is_left_alone() {
        let text = "`POST /run`, `/tasks/{id}`, `text/event-stream`, `mote/v1`, `target/dist/mote`, [h](https://example.org/a)";
        assert_eq!(findings("docs/a.md", text), (0, Vec::new()));
    }
}
