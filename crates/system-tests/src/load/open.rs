//! The open loop: requests start on a schedule, whatever the answers do. Shows latency.
//!
//! Its schedule is kept by a thread that sleeps, because the runtime's timer is as coarse as a millisecond. It does not
//! slow down when the target does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::connection::{Connection, Target};
use super::outcome::Samples;
use super::{Amount, Outcome};
use crate::limits::LOAD_IN_FLIGHT_MAX;

type Pool = Rc<RefCell<Vec<Connection>>>;

/// Runs it.
pub(super) async fn run(target: &Target, rate: u32, amount: Amount) -> anyhow::Result<Outcome> {
    if rate == 0 {
        bail!("failed to send at a rate of 0 requests a second");
    }
    let count = match amount {
        Amount::Requests(requests) => requests,
        Amount::Time(time) => (time.as_secs_f64() * f64::from(rate)) as u64,
    };
    let pool: Pool = Rc::new(RefCell::new(vec![Connection::open(target).await?]));
    let (due, mut schedule) = mpsc::channel(LOAD_IN_FLIGHT_MAX);
    let started = Instant::now();
    let pacer = std::thread::spawn(move || pace(started, rate, count, &due));
    let samples = Rc::new(RefCell::new(Samples::default()));
    let local = LocalSet::new();
    local
        .run_until(async {
            while let Some(at) = schedule.recv().await {
                if Rc::strong_count(&samples) > LOAD_IN_FLIGHT_MAX {
                    samples.borrow_mut().add(at.elapsed(), Err(anyhow::anyhow!("too many requests in flight")));
                    continue;
                }
                tokio::task::spawn_local(one(at, target.clone(), Rc::clone(&pool), Rc::clone(&samples)));
            }
        })
        .await;
    // What is still in flight.
    local.await;
    if pacer.join().is_err() {
        bail!("failed to keep the schedule: its thread panicked");
    }
    let samples = std::mem::take(&mut *samples.borrow_mut());
    Ok(samples.outcome(started.elapsed()))
}

/// Sends each request's due time when it has come.
fn pace(started: Instant, rate: u32, count: u64, due: &mpsc::Sender<Instant>) {
    for index in 0..count {
        let at = started + Duration::from_secs_f64(index as f64 / f64::from(rate));
        let wait = at.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        if due.blocking_send(at).is_err() {
            return;
        }
    }
}

async fn one(at: Instant, target: Target, pool: Pool, samples: Rc<RefCell<Samples>>) {
    let idle = pool.borrow_mut().pop();
    let connection = match idle {
        Some(connection) if connection.is_open() => Ok(connection),
        _ => Connection::open(&target).await,
    };
    let answer = match connection {
        Ok(mut connection) => {
            let answer = connection.ask(&target).await;
            if answer.is_ok() && connection.is_open() {
                pool.borrow_mut().push(connection);
            }
            answer
        }
        Err(error) => Err(error),
    };
    samples.borrow_mut().add(at.elapsed(), answer);
}
