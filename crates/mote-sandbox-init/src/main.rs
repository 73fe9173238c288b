//! The first process inside a sandbox: reaps what is orphaned, starts processes, and serves the guest's side of
//! `mote_sandbox_api::guest` on the listening socket that it inherits.
//!
//! It holds no policy and no secret: whatever it refuses, the sandbox's namespaces refuse already.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
