//! `cargo xtask schemas`: writes the documents that are generated from the code.
//!
//! It does not compare them with what is checked in; tests beside their subjects do.

use anyhow::{Context, Result};

use crate::{process, workspace};

/// The JSON Schema of `agent.yaml`: what `mote schema` prints.
const AGENT: &str = "docs/agent.schema.json";
/// The test that compares `docs/openapi.json` with the code, and writes it where `UPDATE` is set. No command prints it: it is
/// part of the binary as the file stands.
const OPENAPI_TEST: &str = "api::openapi::tests::the_document_in_the_repository_is_what_the_code_says";

/// Options of `schemas`.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Writes both.
pub(crate) fn run(_options: &Options) -> Result<()> {
    let root = workspace::root();
    let arguments = ["test", "--quiet", "--package", "mote", "--lib", "--", "--exact", OPENAPI_TEST];
    process::run(process::cargo(&root, &arguments).env("UPDATE", "1"))?;
    let line = ["run", "--quiet", "--package", "mote", "--bin", "mote", "--", "schema"];
    let schema = process::output(&mut process::cargo(&root, &line))?;
    serde_json::from_str::<serde_json::Value>(&schema)
        .with_context(|| format!("failed to read what is to be {AGENT}"))?;
    std::fs::write(root.join(AGENT), schema).with_context(|| format!("failed to write {AGENT}"))?;
    println!("xtask: wrote docs/openapi.json and {AGENT}");
    Ok(())
}
