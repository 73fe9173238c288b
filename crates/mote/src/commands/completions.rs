//! `mote completions`: scripts that complete the command line in a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::CommandLine;
use super::exit::Exit;
use super::terminal::Terminal;

const AFTER_HELP: &str = "\
Examples:
  mote completions bash > /etc/bash_completion.d/mote
  mote completions zsh > ~/.zfunc/_mote
  mote completions fish > ~/.config/fish/completions/mote.fish";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn execute(arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "mote", &mut script);
    terminal.raw(&script)?;
    Ok(())
}
