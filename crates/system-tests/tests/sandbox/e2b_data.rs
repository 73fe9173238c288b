//! E2B's data plane as E2B's own server has it: files, watches, commands. What each script checks stands in the script.

use std::process::Command;

use super::e2b::{client, packages, python};
use super::fixture::Daemon;

async fn python_client(script: &'static str) {
    let daemon = Daemon::start().await;
    let output = client(&daemon, move || {
        let mut command = Command::new(python());
        command.args(["-c", script]);
        command
    });
    assert_eq!(output.await, "ok");
}

#[tokio::test]
async fn files_and_watches_are_as_e2bs_own_server_has_them() {
    python_client(include_str!("e2b_files.py")).await;
}

#[tokio::test]
async fn commands_and_their_ends_are_as_e2bs_own_server_has_them() {
    python_client(include_str!("e2b_commands.py")).await;
}

#[tokio::test]
async fn files_of_volumes_are_reached_without_a_sandbox_and_no_link_leads_out() {
    python_client(include_str!("e2b_volumes.py")).await;
}

#[tokio::test]
async fn the_data_plane_works_from_javascript_as_from_python() {
    let daemon = Daemon::start().await;
    let output = client(&daemon, || {
        let folder = packages();
        // Modules are found from the script's own folder.
        let script = folder.join("e2b_data.mjs");
        std::fs::write(&script, include_str!("e2b_data.mjs")).unwrap();
        let mut command = Command::new("node");
        command.arg(script).current_dir(folder);
        command
    });
    assert_eq!(output.await, "ok");
}
