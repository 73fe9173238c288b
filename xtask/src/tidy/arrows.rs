//! Who may depend on whom among the workspace's own crates, dev- and build-dependencies included.
//!
//! It does not look at third-party packages; [`super::packages`] does.

use super::Outcome;
use crate::workspace::Metadata;

/// Each crate with the crates that it may depend on (ARCHITECTURE.md, "Crates"). `*` stands for any.
const ALLOWED: &[(&str, &[&str])] = &[
    ("mote-core", &[]),
    ("mote-wire", &[]),
    ("mote-artifact", &[]),
    ("mote-sandbox-api", &[]),
    ("mote-sandbox-sys", &[]),
    ("mote-http", &[]),
    ("mote-oci", &["mote-artifact"]),
    ("mote", &["mote-core", "mote-wire", "mote-artifact", "mote-http", "mote-oci", "mote-sandbox-api"]),
    ("mote-sandboxd", &["mote-http", "mote-oci", "mote-sandbox-api", "mote-sandbox-sys"]),
    ("mote-sandbox-init", &["mote-sandbox-api", "mote-sandbox-sys"]),
    ("system-tests", &["*"]),
    ("xtask", &[]),
];

/// Compares the workspace's edges with the table.
pub(super) fn check(metadata: &Metadata) -> Outcome {
    let names: Vec<&str> = metadata.members().map(|package| package.name.as_str()).collect();
    let mut looked_at = 0;
    let mut findings = Vec::new();
    for package in metadata.members() {
        looked_at += 1;
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
            findings.push(format!("{}: not in the table of crates (xtask/src/tidy/arrows.rs)", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| names.contains(&dependency.name.as_str())) {
            looked_at += 1;
            // Nothing may use the system tests, not even a crate that may use anything.
            let any = allowed.contains(&"*") && dependency.name != "system-tests";
            if !any && !allowed.contains(&dependency.name.as_str()) {
                let kind = dependency.kind.as_deref().unwrap_or("normal");
                findings.push(format!("{} -> {}: forbidden ({kind} dependency)", package.name, dependency.name));
            }
        }
    }
    Outcome { rule: "arrows", things: "crates and edges", looked_at, findings }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, Package};

    fn findings(edges: &[(&str, &str, Option<&str>)], names: &[&str]) -> Vec<String> {
        let package = |name: &&str| Package {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            dependencies: edges
                .iter()
                .filter(|(from, _, _)| from == name)
                .map(|(_, to, kind)| Dependency { name: (*to).to_owned(), kind: kind.map(str::to_owned) })
                .collect(),
        };
        let metadata = Metadata {
            packages: names.iter().map(package).collect(),
            workspace_members: names.iter().map(|name| (*name).to_owned()).collect(),
            target_directory: "target".into(),
        };
        check(&metadata).findings
    }

    const NAMES: &[&str] = &["mote-core", "mote", "system-tests", "xtask"];

    #[test]
    fn the_drawn_arrows_pass() {
        let edges = [("mote", "mote-core", None), ("system-tests", "mote", None), ("mote", "serde", None)];
        assert_eq!(findings(&edges, NAMES), [""; 0]);
    }

    #[test]
    fn a_forbidden_arrow_is_named_whatever_its_kind() {
        assert_eq!(
            findings(&[("mote-core", "mote", None)], NAMES),
            ["mote-core -> mote: forbidden (normal dependency)"]
        );
        let dev = [("mote", "system-tests", Some("dev"))];
        assert_eq!(findings(&dev, NAMES), ["mote -> system-tests: forbidden (dev dependency)"]);
        assert_eq!(findings(&[("xtask", "mote-core", None)], NAMES).len(), 1);
    }

    #[test]
    fn a_crate_outside_the_table_is_named() {
        assert_eq!(findings(&[], &["mote-extras"]).len(), 1);
    }
}
