//! Third-party packages: one crypto provider, and the bans and licences of `deny.toml`, checked without a network.
//!
//! It does not know advisories; `cargo deny check` does, where it is installed.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Outcome;
use crate::workspace::Built;

/// The part of `deny.toml` that is checked here.
#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    /// `name`, or `name@<1.2.3`.
    #[serde(rename = "crate")]
    package: String,
    #[serde(default)]
    reason: String,
}

/// Two crypto providers in one process is a panic at the first client that finds the wrong one.
pub(super) fn providers(packages: &BTreeSet<Built>) -> Outcome {
    let present = |name: &str| packages.iter().any(|package| package.name == name);
    let mut findings = Vec::new();
    if present("ring") && present("aws-lc-sys") {
        findings.push("ring stands in the tree beside aws-lc-sys; `cargo tree -i ring` says through whom".to_owned());
    }
    Outcome { rule: "crypto", things: "packages", looked_at: packages.len(), findings }
}

/// Every package's licence is allowed, and no banned package or version is in the tree.
pub(super) fn policy(packages: &BTreeSet<Built>, deny: &str) -> Result<Outcome> {
    let deny: Deny = toml::from_str(deny).context("failed to read deny.toml")?;
    let mut findings = Vec::new();
    for package in packages {
        if !licence_allowed(&package.licence, &deny.licenses.allow) {
            findings
                .push(format!("{} {}: licence `{}` is not allowed", package.name, package.version, package.licence));
        }
        for ban in &deny.bans.deny {
            if banned(&ban.package, &package.name, &package.version) {
                findings.push(format!("{} {}: banned: {}", package.name, package.version, ban.reason));
            }
        }
    }
    Ok(Outcome { rule: "policy", things: "packages", looked_at: packages.len(), findings })
}

/// One alternative of an `OR` whose every part is allowed. `/` is the old way to write `OR`.
fn licence_allowed(expression: &str, allow: &[String]) -> bool {
    let flat = expression.replace('/', " OR ");
    let flat = flat.trim();
    if let Some(parts) = split_outside_brackets(flat, " OR ") {
        return parts.iter().any(|part| licence_allowed(part, allow));
    }
    if let Some(parts) = split_outside_brackets(flat, " AND ") {
        return parts.iter().all(|part| licence_allowed(part, allow));
    }
    match flat.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => licence_allowed(inner, allow),
        None => allow.iter().any(|allowed| allowed == flat),
    }
}

/// The parts between separators that stand outside every bracket; `None` if there is no such separator.
fn split_outside_brackets<'a>(text: &'a str, separator: &str) -> Option<Vec<&'a str>> {
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 && index >= start && text[index..].starts_with(separator) => {
                parts.push(text[start..index].trim());
                start = index + separator.len();
            }
            _ => {}
        }
    }
    (start > 0).then(|| {
        parts.push(text[start..].trim());
        parts
    })
}

fn banned(ban: &str, name: &str, version: &str) -> bool {
    match ban.split_once("@<") {
        None => ban == name,
        Some((banned_name, below)) => banned_name == name && numbers(version) < numbers(below),
    }
}

/// `1.2.3-rc.1` as numbers; what is no number counts as zero.
fn numbers(version: &str) -> Vec<u64> {
    let core = version.split(['-', '+']).next().unwrap_or(version);
    core.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    fn packages(packages: &[(&str, &str, &str)]) -> BTreeSet<Built> {
        let owned = |text: &&str| (*text).to_owned();
        let built = |(name, version, licence): &(&str, &str, &str)| Built {
            name: owned(name),
            version: owned(version),
            licence: owned(licence),
        };
        packages.iter().map(built).collect()
    }

    const DENY: &str =
        "[licenses]\nallow = [\"MIT\", \"ISC\"]\n[bans]\ndeny = [{ crate = \"h2@<0.4.16\", reason = \"old\" }]\n";

    #[test]
    fn two_crypto_providers_are_found_and_one_is_not() {
        assert!(providers(&packages(&[("aws-lc-sys", "0.1.0", "ISC")])).findings.is_empty());
        let both = packages(&[("aws-lc-sys", "0.1.0", "ISC"), ("ring", "0.17.0", "ISC")]);
        assert_eq!(providers(&both).findings.len(), 1);
    }

    #[test]
    fn licences_are_read_as_expressions() {
        let allow = ["MIT".to_owned(), "ISC".to_owned()];
        for good in ["MIT", "GPL-2.0 OR MIT", "MIT/Apache-2.0", "ISC AND (MIT OR GPL-2.0)"] {
            assert!(licence_allowed(good, &allow), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-2.0", "(GPL-2.0 OR LGPL-2.1) AND MIT"] {
            assert!(!licence_allowed(bad, &allow), "{bad}");
        }
    }

    #[test]
    fn a_banned_version_is_found_and_a_newer_one_is_not() {
        assert_eq!(policy(&packages(&[("h2", "0.4.9", "MIT")]), DENY).unwrap().findings, ["h2 0.4.9: banned: old"]);
        assert_eq!(policy(&packages(&[("h2", "0.4.16", "MIT")]), DENY).unwrap().findings, [""; 0]);
    }
}
