//! The `mote` command: reads the command line, runs one command, maps its end to an exit code.
//!
//! It holds no logic of the service; each command stands in a file of `commands/`.

mod commands;

use clap::Parser;

use commands::{CommandLine, exit::Code, terminal::Terminal};

fn main() -> std::process::ExitCode {
    // Clients that are built before there is a provider panic.
    mote::tls::install_provider();
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Help and version are errors to clap that go to stdout; nothing can be done if that is closed.
            let _ = error.print();
            return if error.use_stderr() { Code::Usage } else { Code::Done }.into();
        }
    };
    let mut terminal = Terminal::detect();
    let end = line.execute(&mut terminal);
    terminal.clear_status();
    match end {
        Ok(()) => Code::Done.into(),
        Err(exit) => exit.report(&mut terminal).into(),
    }
}
