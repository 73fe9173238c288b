//! The closed loop: each connection sends its next request when it has its answer. Shows throughput.
//!
//! It does not show how long a request waits under a given arrival rate; the open loop does.

use std::cell::Cell;
use std::rc::Rc;

use tokio::task::LocalSet;
use tokio::time::Instant;

use super::connection::{Connection, Target};
use super::outcome::Samples;
use super::{Amount, Outcome};

/// Runs it.
pub(super) async fn run(target: &Target, connections: usize, amount: Amount) -> anyhow::Result<Outcome> {
    // Refused at once if nothing listens, rather than once a connection.
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(target).await?);
    }
    let started = Instant::now();
    let left = Rc::new(Cell::new(match amount {
        Amount::Requests(requests) => requests,
        Amount::Time(_) => u64::MAX,
    }));
    let until = match amount {
        Amount::Time(time) => Some(started + time),
        Amount::Requests(_) => None,
    };
    let local = LocalSet::new();
    let workers: Vec<_> = open
        .into_iter()
        .map(|connection| local.spawn_local(work(connection, target.clone(), Rc::clone(&left), until)))
        .collect();
    let mut samples = Samples::default();
    local
        .run_until(async {
            for worker in workers {
                samples.merge(worker.await?);
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(samples.outcome(started.elapsed()))
}

async fn work(mut connection: Connection, target: Target, left: Rc<Cell<u64>>, until: Option<Instant>) -> Samples {
    let mut samples = Samples::default();
    while left.get() > 0 && until.is_none_or(|until| Instant::now() < until) {
        left.set(left.get() - 1);
        let asked = Instant::now();
        let answer = connection.ask(&target).await;
        let broken = answer.is_err();
        samples.add(asked.elapsed(), answer);
        if broken || !connection.is_open() {
            match Connection::open(&target).await {
                Ok(fresh) => connection = fresh,
                Err(error) => {
                    samples.add(asked.elapsed(), Err(error));
                    return samples;
                }
            }
        }
    }
    samples
}
