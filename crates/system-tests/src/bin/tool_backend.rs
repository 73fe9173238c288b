//! The tool backend as a process of its own. Prints one line of JSON with its address.
//!
//! It does not stop by itself: end it with a signal.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use system_tests::backend::Backend;
use system_tests::fake_model::announcement;
use system_tests::process::raise_file_limit;

/// A tool backend that counts requests and effects.
#[derive(Parser)]
struct Flags {
    /// Address; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    raise_file_limit()?;
    let backend = Backend::listen(flags.listen).await.context("failed to listen")?;
    writeln!(std::io::stdout(), "{}", announcement(backend.address()))?;
    backend.join().await;
    Ok(())
}
