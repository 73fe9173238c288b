//! MCP servers inside, as E2B's SDK asks for them, and the official client of the protocol: both unmodified.

use std::process::Command;

use system_tests::process::binary::scratch;

use super::e2b::{client, interpreter};
use super::fixture::Daemon;

#[tokio::test]
async fn mcp_servers_inside_are_reached_through_one_gateway() {
    let daemon = Daemon::start().await;
    let output = client(&daemon, || {
        let python = interpreter(scratch().unwrap().join("venv-mcp"), "sandbox-mcp.txt", "e2b, mcp");
        let mut command = Command::new(python);
        command.args(["-c", include_str!("e2b_mcp.py")]);
        command
    });
    assert_eq!(output.await, "ok");
}
