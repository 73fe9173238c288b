//! The command line: its arguments and, a file each, its commands.
//!
//! Commands talk to the library and to the terminal. What an agent does is not decided here.

mod ask;
mod check;
mod completions;
pub(crate) mod exit;
mod folder;
mod key;
mod progress;
mod replay;
mod run;
mod run_file;
mod runtime;
mod sandbox;
mod schema;
mod serve;
mod services;
mod signals;
mod state;
mod store;
mod task;
pub(crate) mod terminal;

use clap::{Parser, Subcommand};

use exit::Exit;
use terminal::Terminal;

const AFTER_HELP: &str = "\
Examples:
  mote run examples/quickstart                run an agent once, here, and show its steps
  mote check agent.yaml                       every mistake with its line and column
  mote serve agent.yaml --state /var/lib/mote the service
  mote task submit \"Sort ticket 42\" --watch   give a running service a task and follow it
  mote sandbox exec ID -- ls -l               run a program in a sandbox of mote-sandboxd

Exit codes:
  0  done
  1  the task failed or was cancelled, or the command failed
  2  the command line or agent.yaml is wrong
  3  the service cannot be reached, or is overloaded
  4  the service refused the request

Documentation: docs/cli.md, docs/agent-yaml.md";

/// Runs agents: one agent.yaml becomes one small process that plans, acts and observes, and whose tasks survive it.
#[derive(Debug, Parser)]
#[command(name = "mote", version, after_help = AFTER_HELP, propagate_version = true, max_term_width = 100)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

// Each command's arguments are only made once it is the one that runs (`defer`): all of them together take a millisecond,
// which every start would pay. What a command is for stands here, so that the list of commands knows it.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Run an agent on one task, here, and show its steps
    Run(run::Arguments),
    /// Serve an agent over HTTP, its tasks durable
    Serve(serve::Arguments),
    /// Check an agent.yaml: every mistake with its line and column, and what production would want
    Check(check::Arguments),
    /// Give tasks to a running service, watch and steer them
    Task(task::Arguments),
    /// Work with sandboxes of mote-sandboxd
    Sandbox(sandbox::Arguments),
    /// Replay a task's journal: each step, what it cost and how long it took
    Replay(replay::Arguments),
    /// Print the JSON Schema of agent.yaml, or the OpenAPI document of the service
    Schema(schema::Arguments),
    /// Look after the store: backup, restoration, erasure, whose it is
    Store(store::Arguments),
    /// Make API keys for a service
    Key(key::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

impl CommandLine {
    /// Runs the command to its end.
    pub(crate) fn execute(self, terminal: &mut Terminal) -> Result<(), Exit> {
        match self.command {
            Command::Run(arguments) => run::execute(arguments, terminal),
            Command::Serve(arguments) => serve::execute(arguments, terminal),
            Command::Check(arguments) => check::execute(&arguments, terminal),
            Command::Task(arguments) => task::execute(arguments, terminal),
            Command::Sandbox(arguments) => sandbox::execute(arguments, terminal),
            Command::Replay(arguments) => replay::execute(arguments, terminal),
            Command::Schema(arguments) => schema::execute(&arguments, terminal),
            Command::Store(arguments) => store::execute(arguments, terminal),
            Command::Key(arguments) => key::execute(&arguments, terminal),
            Command::Completions(arguments) => completions::execute(&arguments, terminal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        // Which builds all of them, the deferred ones too.
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself() {
        fn check(command: &clap::Command, path: &str) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(
                !about.is_empty() && !about.contains("that is meant") && !about.contains("one of these"),
                "{path} has no help of its own: {about}"
            );
            // Longer lines are wrapped once more, at `max_term_width`.
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let long = after.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{path}");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
            }
            for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
                check(below, &format!("{path} {}", below.get_name()));
            }
        }
        let mut all = CommandLine::command();
        assert!(
            all.get_subcommands().all(|command| command.get_about().is_some()),
            "the list of commands explains each"
        );
        let listed = |all: &clap::Command| {
            let about =
                |command: &clap::Command| (command.get_name().to_owned(), command.get_about().map(ToString::to_string));
            all.get_subcommands().filter(|command| command.get_name() != "help").map(about).collect::<Vec<_>>()
        };
        let before = listed(&all);
        all.build();
        assert_eq!(listed(&all), before, "a command's own help begins as the list of commands has it");
        assert!(all.get_subcommands().any(|command| command.get_arguments().next().is_some()), "nothing was built");
        check(&all, "mote");
    }
}
