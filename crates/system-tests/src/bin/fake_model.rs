//! The fake model as a process of its own, for benches and peers. Prints one line of JSON with its address.
//!
//! It does not stop by itself: end it with a signal.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use system_tests::fake_model::{FakeModel, Plan, announcement};
use system_tests::process::raise_file_limit;

/// A fake hosted-model server speaking OpenAI Chat Completions and Anthropic Messages.
#[derive(Parser)]
struct Flags {
    /// Address; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Added before every answer, ms.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// A plan (JSON).
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Requests to remember for `/_control/requests`.
    #[arg(long, default_value_t = 0)]
    record: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    raise_file_limit()?;
    let fake = FakeModel::listen(flags.listen, flags.delay_ms, flags.record).await.context("failed to listen")?;
    if let Some(path) = &flags.plan {
        let text = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        let plan: Plan = serde_json::from_slice(&text).with_context(|| format!("failed to read {}", path.display()))?;
        fake.set(plan);
    }
    writeln!(std::io::stdout(), "{}", announcement(fake.address()))?;
    fake.join().await;
    Ok(())
}
