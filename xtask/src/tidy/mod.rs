//! `cargo xtask tidy`: the rules that no compiler checks, each in a file of its own.
//!
//! Every rule says how many things it looked at; a rule that looked at nothing fails, because a rule that silently
//! checks nothing is worse than none. It changes no file, except the length baseline when asked to lower it.

mod arrows;
mod documents;
mod headers;
mod limits;
mod modules;
mod names;
mod packages;
mod ratchet;
mod unsafety;

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::{source, workspace};

/// Options of `tidy`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Lowers the length baseline to what the files are now; never raises it.
    #[arg(long)]
    update: bool,
}

/// What a rule found.
#[derive(Debug)]
struct Outcome {
    /// The rule's name.
    rule: &'static str,
    /// What it counts, in the plural.
    things: &'static str,
    /// How many of them it looked at.
    looked_at: usize,
    /// What is wrong, each with the place.
    findings: Vec<String>,
}

/// A Rust file of the repository.
#[derive(Debug)]
struct RustFile {
    /// Path from the root.
    path: String,
    /// As written.
    text: String,
    /// With comments and strings blanked out.
    masked: String,
}

impl RustFile {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), masked: source::mask(text) }
    }
}

/// Runs every rule.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let files = workspace::files(&root)?;
    let metadata = workspace::Metadata::read()?;
    let built = workspace::built(&root)?;
    let rust = rust_files(&files);
    let baseline = ratchet::Baseline::parse(files.get(ratchet::FILE).map_or("", String::as_str))?;
    if options.update {
        std::fs::write(root.join(ratchet::FILE), ratchet::lowered(&baseline, &rust).to_string())?;
        println!("xtask: wrote {}", ratchet::FILE);
        return Ok(());
    }
    let outcomes = [
        arrows::check(&metadata),
        modules::check(&rust, files.get(modules::TABLE).map_or("", String::as_str)),
        packages::providers(&built),
        packages::policy(&built, files.get("deny.toml").map_or("", String::as_str))?,
        documents::check(&files),
        documents::fields(&files),
        ratchet::check(&baseline, &rust),
        unsafety::check(&rust),
        headers::check(&rust),
        limits::check(&rust),
        names::check(&files),
    ];
    report(&outcomes)
}

fn rust_files(files: &BTreeMap<String, String>) -> Vec<RustFile> {
    let is_rust = |path: &&String| path.ends_with(".rs");
    files.keys().filter(is_rust).map(|path| RustFile::new(path, &files[path])).collect()
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    let mut failed = 0;
    for outcome in outcomes {
        let Outcome { rule, things, looked_at, findings } = outcome;
        println!("tidy: {rule:<10} {looked_at:>5} {things}, {} findings", findings.len());
        for finding in findings {
            println!("  {finding}");
        }
        if *looked_at == 0 {
            println!("  the rule looked at nothing: it no longer finds what it is to check");
        }
        failed += usize::from(*looked_at == 0 || !findings.is_empty());
    }
    if failed > 0 {
        bail!("failed to pass {failed} of {} rules", outcomes.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(looked_at: usize, findings: &[&str]) -> Outcome {
        let findings = findings.iter().map(|finding| (*finding).to_owned()).collect();
        Outcome { rule: "rule", things: "things", looked_at, findings }
    }

    #[test]
    fn a_finding_fails_and_so_does_looking_at_nothing() {
        assert!(report(&[outcome(1, &[])]).is_ok());
        assert!(report(&[outcome(1, &["bad"])]).is_err());
        assert!(report(&[outcome(1, &[]), outcome(0, &[])]).is_err());
    }
}
