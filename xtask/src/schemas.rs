//! `cargo xtask schemas`: writes the documents that are generated from the code.
//!
//! It does not compare them with what is checked in; tests beside their subjects do.

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// Each document with the arguments of `mote` that print it.
const DOCUMENTS: [(&str, &[&str]); 2] =
    [("docs/agent.schema.json", &["schema"]), ("docs/openapi.json", &["schema", "--openapi"])];

/// Options of `schemas`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Writes nothing and fails where a document is not what the code says.
    #[arg(long)]
    check: bool,
}

/// Runs `mote` once a document.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    for (path, arguments) in DOCUMENTS {
        let line = [&["run", "--quiet", "--package", "mote", "--bin", "mote", "--"], arguments].concat();
        let wanted = process::output(&mut process::cargo(&root, &line))?;
        serde_json::from_str::<serde_json::Value>(&wanted)
            .with_context(|| format!("failed to read what is to be {path}"))?;
        let place = root.join(path);
        if std::fs::read_to_string(&place).is_ok_and(|have| have == wanted) {
            println!("xtask: {path} is up to date");
        } else if options.check {
            bail!("failed to match {path} with the code: run `cargo xtask schemas`");
        } else {
            std::fs::write(&place, wanted).with_context(|| format!("failed to write {path}"))?;
            println!("xtask: wrote {path}");
        }
    }
    Ok(())
}
