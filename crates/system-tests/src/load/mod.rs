//! A load generator: HTTP/1.1 requests in an open or a closed loop, and the distribution of how long the answers took.
//!
//! In an open loop the time is taken from when a request was due, not from when it was sent, so that a target that
//! stalls cannot hide it. It does not judge figures.

mod closed;
mod connection;
mod open;
mod outcome;

use std::time::Duration;

pub use connection::Target;
pub use outcome::Outcome;

/// How requests follow each other.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// On a schedule, whatever the answers do.
    Open {
        /// Requests a second.
        rate: u32,
    },
    /// One after the other on each connection.
    Closed {
        /// Connections.
        connections: usize,
    },
}

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// For so long.
    Time(Duration),
    /// So many.
    Requests(u64),
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How requests follow each other.
    pub shape: Shape,
    /// How much.
    pub amount: Amount,
}

impl Load {
    /// Sends it and waits for every answer.
    ///
    /// # Errors
    /// When the target cannot be reached at all. An answer with an error status is counted, not an error here.
    pub async fn run(&self, target: &Target) -> anyhow::Result<Outcome> {
        match self.shape {
            Shape::Open { rate } => open::run(target, rate, self.amount).await,
            Shape::Closed { connections } => closed::run(target, connections, self.amount).await,
        }
    }
}
