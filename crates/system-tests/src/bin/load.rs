//! The load generator as a program, for `cargo xtask bench`. Prints one line of JSON.
//!
//! It does not start what it loads.

use std::io::Write;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use system_tests::load::{Amount, Load, Shape, Target};
use system_tests::process::raise_file_limit;

/// Sends HTTP requests, in an open or a closed loop, and says how long the answers took.
#[derive(Parser)]
struct Flags {
    /// `http://host:port/path`.
    url: String,
    /// Method.
    #[arg(long, default_value = "POST")]
    method: String,
    /// JSON body.
    #[arg(long, default_value = "")]
    body: String,
    /// The loop.
    #[arg(long, value_enum, default_value = "closed")]
    shape: ShapeFlag,
    /// Connections of a closed loop.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests a second of an open loop.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// So many requests instead of a time (closed loop).
    #[arg(long)]
    requests: Option<u64>,
    /// Seconds before, that are not measured.
    #[arg(long, default_value_t = 0.0)]
    warmup: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeFlag {
    /// Requests start on a schedule, whatever the answers do.
    Open,
    /// Each connection sends its next request when it has its answer.
    Closed,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    raise_file_limit()?;
    let shape = match flags.shape {
        ShapeFlag::Open => Shape::Open { rate: flags.rate },
        ShapeFlag::Closed => Shape::Closed { connections: flags.connections },
    };
    let amount = match flags.requests {
        Some(requests) => Amount::Requests(requests),
        None => Amount::Time(Duration::try_from_secs_f64(flags.seconds)?),
    };
    let target = Target::new(&flags.url, &flags.method, &flags.body)?;
    if flags.warmup > 0.0 {
        let warmup = Amount::Time(Duration::try_from_secs_f64(flags.warmup)?);
        Load { shape, amount: warmup }.run(&target).await?;
    }
    let outcome = Load { shape, amount }.run(&target).await?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&outcome)?)?;
    Ok(())
}
