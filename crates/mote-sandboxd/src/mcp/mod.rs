//! The gateway of MCP servers that E2B's clients start inside: `mcp-gateway`, which they expect of the image.
//!
//! It puts the program there; it does not start it, and knows nothing of what it is configured with: the client says that to
//! the program. It needs Python 3 inside.

use bytes::Bytes;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::FileTarget;

use crate::guest::Guest;

/// The template that E2B's clients ask for where they name none and want MCP servers.
pub const TEMPLATE: &str = "mcp-gateway";

/// Where the program is put.
const PROGRAM: &str = "/usr/local/bin/mcp-gateway";
/// Where it is put in an image whose programs cannot be added to (the host's), and what has a login shell find it there.
const PROGRAM_APART: &str = "/opt/mcp-gateway/bin/mcp-gateway";
const PROFILE: &str = "/etc/profile.d/mcp-gateway.sh";
const PROFILE_LINE: &str = "PATH=\"$PATH:/opt/mcp-gateway/bin\"\n";
/// Where an image may have one of its own, which is then left as it is.
const OWN: [&str; 2] = [PROGRAM, "/usr/bin/mcp-gateway"];
/// What runs it.
const PYTHON: [&str; 2] = ["/usr/bin/python3", "/usr/local/bin/python3"];

const SOURCE: &str = include_str!("gateway.py");

fn root(path: &str) -> FileTarget {
    FileTarget::new(path, Some("0".to_owned()))
}

/// Whether one of these files is there.
async fn has(guest: &Guest, paths: &[&str]) -> Result<bool, Failure> {
    for path in paths {
        match guest.stat(root(path)).await {
            Ok(_) => return Ok(true),
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(false)
}

/// Puts the program into a sandbox whose image has none.
///
/// # Errors
/// `unsupported` where nothing inside could run it; the guest's.
pub async fn install(guest: &Guest) -> Result<(), Failure> {
    if has(guest, &OWN).await? {
        return Ok(());
    }
    if !has(guest, &PYTHON).await? {
        return Err(Failure::unsupported("mcp", "the image has no python3, which the gateway of MCP servers needs")
            .remedy("make the sandbox of an image with python3, or with a program mcp-gateway of its own"));
    }
    let source = Bytes::from_static(SOURCE.as_bytes());
    match guest.write_whole(root(PROGRAM), Some(0o755), source.clone()).await {
        Err(failure) if failure.code == Code::Forbidden => {
            guest.write_whole(root(PROGRAM_APART), Some(0o755), source).await?;
            guest.write_whole(root(PROFILE), Some(0o644), Bytes::from_static(PROFILE_LINE.as_bytes())).await.map(drop)
        }
        written => written.map(drop),
    }
}
