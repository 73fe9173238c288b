//! The command `mote-sandboxd`: reads the command line and the environment, and starts the service or its keeper.
//!
//! It holds no logic of either.

use std::process::ExitCode;

use mote_sandboxd::filesystem::worker;
use mote_sandboxd::keeper;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(worker::SUBCOMMAND) => worker::main(&arguments[2..]),
        Some(keeper::start::SUBCOMMAND) => match keeper::server::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                use std::io::Write as _;
                let _ = writeln!(std::io::stderr(), "mote-sandboxd: {error}");
                ExitCode::FAILURE
            }
        },
        _ => ExitCode::FAILURE,
    }
}
