//! The command `mote-sandboxd`: reads the command line and the environment, and starts the service or its keeper.
//!
//! It holds no logic of either.

use mote_sandboxd::filesystem::worker;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == worker::SUBCOMMAND) {
        return worker::main(&arguments[2..]);
    }
    std::process::ExitCode::FAILURE
}
