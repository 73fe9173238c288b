//! `cargo xtask`: the project's own chores, one file a command.
//!
//! It runs the binaries that the workspace builds; it does not link any of the workspace's crates.

mod bench;
mod checklist;
mod dist;
mod guest;
mod local_model;
mod packages;
mod process;
mod python;
mod schemas;
mod source;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask", version, about)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what the tests need, builds what they run, and runs them all.
    Test(test::Options),
    /// Installs a small model for `examples/local-model`.
    LocalModel(local_model::Options),
    /// Checks the rules that no compiler checks: arrows between crates, documents, lengths, unsafe, headers.
    Tidy(tidy::Options),
    /// Prints each promised item beside the test that shows it, or `missing`.
    Checklist(checklist::Options),
    /// Builds the binary that ships: `target/dist/mote`.
    Dist(dist::Options),
    /// Measures footprint and speed beside the peers.
    Bench(bench::Options),
    /// Writes the generated documents anew.
    Schemas(schemas::Options),
}

fn main() -> ExitCode {
    let ended = match Line::parse().command {
        Command::Test(options) => test::run(&options),
        Command::LocalModel(options) => local_model::run(&options),
        Command::Tidy(options) => tidy::run(&options),
        Command::Checklist(options) => checklist::run(&options),
        Command::Dist(options) => dist::run(&options).map(|_| ()),
        Command::Bench(options) => bench::run(&options),
        Command::Schemas(options) => schemas::run(&options),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
