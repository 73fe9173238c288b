//! `cargo xtask schemas`: writes the documents that are generated from the code.
//!
//! It does not compare them with what is checked in; tests beside their subjects do.

use anyhow::Result;

use crate::{process, workspace};

/// The tests, by package, that compare a document with the code, and write it where `UPDATE` is set. The binaries carry the
/// files as they stand, not what generates them.
const TESTS: [(&str, &str); 5] = [
    ("mote", "api::openapi::tests::the_document_in_the_repository_is_what_the_code_says"),
    ("mote", "api::openapi::events::the_page_of_events_says_what_the_code_says"),
    ("mote", "config::json_schema::tests::the_published_schema_is_the_generated_one"),
    ("mote", "store::sqlite::create::tests::the_bytes_of_an_empty_store_are_what_the_schema_makes"),
    ("mote-sandboxd", "api::native::openapi::tests::the_document_in_the_repository_is_what_the_code_says"),
];

/// Options of `schemas`.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Writes them all.
pub(crate) fn run(_options: &Options) -> Result<()> {
    let root = workspace::root();
    for (package, test) in TESTS {
        let arguments = ["test", "--quiet", "--package", package, "--lib", "--", "--exact", test];
        process::run(process::cargo(&root, &arguments).env("UPDATE", "1"))?;
    }
    println!(
        "xtask: wrote docs/openapi.json, docs/events.md, docs/agent.schema.json, docs/sandbox-openapi.json and the empty store"
    );
    Ok(())
}
