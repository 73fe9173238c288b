//! Counts what a sandbox sends and receives, and holds it to its bandwidth.
//!
//! It knows no rule and no protocol: it wraps a stream to a destination.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A bucket of tokens that fills at a rate. It is asked after the fact and answers how long to wait before the next piece.
#[derive(Debug)]
pub struct Bucket(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Tokens a second; no bound where `None`.
    rate: Option<u64>,
    /// When the bucket is full again, if nothing more is taken.
    full_at: Option<Instant>,
}

/// What a bucket holds, as time: so much may pass at once.
const BURST: Duration = Duration::from_millis(250);

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self(Mutex::new(State { rate, full_at: None }))
    }

    /// Changes the rate.
    pub fn set_rate(&self, rate: Option<u64>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { rate, full_at: None };
    }

    /// Takes `count` tokens, and says how long it takes until they are there.
    pub fn take(&self, count: u64, now: Instant) -> Option<Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = state.rate?;
        let cost = Duration::from_nanos(count.saturating_mul(1_000_000_000) / rate.max(1));
        let full_at = state.full_at.map_or(now, |full_at| full_at.max(now)) + cost;
        state.full_at = Some(full_at);
        let wait = full_at.saturating_duration_since(now).saturating_sub(BURST);
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes one token where it is there, and none where it is not.
    pub fn try_take(&self, now: Instant) -> bool {
        {
            let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.full_at.is_some_and(|full_at| full_at.saturating_duration_since(now) > BURST) {
                return false;
            }
        }
        self.take(1, now);
        true
    }
}

/// The counters and buckets of one sandbox.
#[derive(Debug)]
pub struct Meter {
    /// Bytes sent to destinations.
    pub sent: AtomicU64,
    /// Bytes received from destinations.
    pub received: AtomicU64,
    sending: Bucket,
    receiving: Bucket,
}

impl Meter {
    /// A meter at nought. `rate` is in bytes a second, of each direction.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sending: Bucket::new(rate),
            receiving: Bucket::new(rate),
        }
    }

    /// Changes the bandwidth, of open connections too.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.sending.set_rate(rate);
        self.receiving.set_rate(rate);
    }
}

/// A stream to a destination, counted and held to the bandwidth of its sandbox.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
    read_wait: Option<Pin<Box<Sleep>>>,
    write_wait: Option<Pin<Box<Sleep>>>,
}

impl<S> Metered<S> {
    /// Wraps a stream.
    pub fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter, read_wait: None, write_wait: None }
    }
}

/// Waits until a bucket gives again.
fn held(wait: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    let pending = wait.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_pending());
    if !pending {
        *wait = None;
    }
    pending
}

fn hold(bucket: &Bucket, count: usize) -> Option<Pin<Box<Sleep>>> {
    bucket.take(count as u64, Instant::now()).map(|wait| Box::pin(tokio::time::sleep(wait)))
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if held(&mut this.read_wait, cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            this.meter.received.fetch_add(count as u64, Ordering::Relaxed);
            this.read_wait = hold(&this.meter.receiving, count);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> Metered<S> {
    fn wrote(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.meter.sent.fetch_add(*count as u64, Ordering::Relaxed);
            self.write_wait = hold(&self.meter.sending, *count);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if held(&mut this.write_wait, cx) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if held(&mut this.write_wait, cx) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_rate_over_time() {
        let bucket = Bucket::new(Some(1000));
        let start = Instant::now();
        for _ in 0..100 {
            if let Some(wait) = bucket.take(100, Instant::now()) {
                tokio::time::sleep(wait).await;
            }
        }
        let took = start.elapsed();
        assert!(took > Duration::from_millis(9500) && took < Duration::from_millis(10_100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_without_a_rate_never_waits() {
        assert_eq!(Bucket::new(None).take(u64::MAX, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_refuses_a_flood_and_recovers() {
        let bucket = Bucket::new(Some(100));
        let given = (0..1000).filter(|_| bucket.try_take(Instant::now())).count();
        assert!((20..=30).contains(&given), "{given}");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(bucket.try_take(Instant::now()));
    }
}
