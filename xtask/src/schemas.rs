//! `cargo xtask schemas`: writes the documents that are generated from the code.
//!
//! It does not compare them with what is checked in; tests beside their subjects do.

use anyhow::Result;

use crate::{process, workspace};

/// The tests that compare `docs/openapi.json` and `docs/agent.schema.json` with the code, and write them where `UPDATE` is
/// set. The binary carries both files as they stand, not what generates them.
const TESTS: [&str; 2] = [
    "api::openapi::tests::the_document_in_the_repository_is_what_the_code_says",
    "config::json_schema::tests::the_published_schema_is_the_generated_one",
];

/// Options of `schemas`.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Writes both.
pub(crate) fn run(_options: &Options) -> Result<()> {
    let root = workspace::root();
    let arguments = [&["test", "--quiet", "--package", "mote", "--lib", "--", "--exact"][..], &TESTS].concat();
    process::run(process::cargo(&root, &arguments).env("UPDATE", "1"))?;
    println!("xtask: wrote docs/openapi.json and docs/agent.schema.json");
    Ok(())
}
