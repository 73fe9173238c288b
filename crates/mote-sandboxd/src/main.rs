//! The command `mote-sandboxd`: reads the command line and the environment, and starts the service or its keeper.
//!
//! It holds no logic of either.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
