//! Requests a minute, counted for each key or, where the service runs without keys, for each address; told to clients in
//! the RateLimit headers (draft-ietf-httpapi-ratelimit-headers).
//!
//! It protects the process from a busy client; it is not a quota of work: budgets are.

use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::problem::{Code, Problem};
use crate::limits;

pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The window that `server.rate` speaks of.
const WINDOW: Duration = Duration::from_secs(60);
/// Buckets are swept once in so many requests at most, so that a flood of addresses does not make each request sweep.
const SWEEP_EVERY: u64 = 1_000;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Bucket {
    /// An API key, by name: as many as the file of keys has.
    Key(Arc<str>),
    /// An IPv4 address, or the /64 of an IPv6 address, which is one customer's.
    Address(IpAddr),
    /// Every address that came while the table was full.
    Rest,
}

impl Bucket {
    pub(super) fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let prefix = u128::from(v6) & !u128::from(u64::MAX);
                Self::Address(IpAddr::V6(prefix.into()))
            }
            v4 @ IpAddr::V4(_) => Self::Address(v4),
        }
    }
}

type Buckets = RateLimiter<Bucket, HashMapStateStore<Bucket, RandomState>, DefaultClock, StateInformationMiddleware>;

/// The limiter.
pub(super) struct Limiter {
    buckets: Buckets,
    clock: DefaultClock,
    per_minute: NonZeroU32,
    requests: AtomicU64,
}

/// What the limiter says of one request.
pub(super) struct Verdict {
    per_minute: NonZeroU32,
    remaining: u32,
    /// Set on a refusal.
    wait: Option<Duration>,
}

impl Limiter {
    /// `None` for a rate of 0, which configuration refuses.
    pub(super) fn new(per_minute: u32) -> Option<Self> {
        let per_minute = NonZeroU32::new(per_minute)?;
        let clock = DefaultClock::default();
        let buckets = Buckets::new(Quota::per_minute(per_minute), HashMapStateStore::default(), clock.clone());
        Some(Self { buckets, clock, per_minute, requests: AtomicU64::new(0) })
    }

    pub(super) fn check(&self, bucket: Bucket) -> Verdict {
        let bucket = self.placed(bucket);
        let per_minute = self.per_minute;
        match self.buckets.check_key(&bucket) {
            Ok(state) => Verdict { per_minute, remaining: state.remaining_burst_capacity(), wait: None },
            Err(refusal) => {
                let wait = refusal.wait_time_from(self.clock.now());
                Verdict { per_minute, remaining: 0, wait: Some(wait) }
            }
        }
    }

    /// The bucket, or the shared one if the table is full of busy ones.
    fn placed(&self, bucket: Bucket) -> Bucket {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        if request % SWEEP_EVERY == SWEEP_EVERY - 1 {
            // A bucket that has filled up again says nothing: forget it.
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
        let is_address = matches!(bucket, Bucket::Address(_));
        if is_address && self.buckets.len() >= limits::RATE_KEYS_MAX { Bucket::Rest } else { bucket }
    }
}

impl Verdict {
    pub(super) fn allowed(&self) -> bool {
        self.wait.is_none()
    }

    pub(super) fn problem(&self) -> Problem {
        let detail = format!("more than {} requests a minute", self.per_minute);
        Problem::new(Code::RateLimited, detail).retry_after(self.wait.unwrap_or(limits::RETRY_AFTER))
    }

    /// Writes `RateLimit-Policy` and `RateLimit`: `t` is the time until the whole quota is free again.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let (quota, window) = (u64::from(self.per_minute.get()), WINDOW.as_secs());
        let used = quota.saturating_sub(u64::from(self.remaining));
        let until_full = (used * window).div_ceil(quota);
        let policy = format!("\"default\";q={quota};w={window}");
        let limit = format!("\"default\";r={};t={until_full}", self.remaining);
        for (name, text) in [(POLICY, policy), (LIMIT, limit)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_apart_and_a_refusal_says_when_to_come_back() {
        let limiter = Limiter::new(2).unwrap();
        let key = |name: &str| Bucket::Key(name.into());
        assert!(limiter.check(key("a")).allowed());
        let second = limiter.check(key("a"));
        assert!(second.allowed());
        let mut headers = HeaderMap::new();
        second.write(&mut headers);
        assert_eq!(headers[POLICY], "\"default\";q=2;w=60");
        assert_eq!(headers[LIMIT], "\"default\";r=0;t=60");
        let third = limiter.check(key("a"));
        assert!(third.wait.is_some_and(|wait| wait <= Duration::from_secs(30)));
        assert!(limiter.check(key("b")).allowed());
    }

    #[test]
    fn an_ipv6_customer_is_one_bucket() {
        let bucket = |text: &str| Bucket::of_address(text.parse().unwrap());
        assert_eq!(bucket("2001:db8::1"), bucket("2001:db8::ffff:1"));
        assert_ne!(bucket("2001:db8::1"), bucket("2001:db8:0:1::1"));
        assert_eq!(bucket("::ffff:192.0.2.1"), bucket("192.0.2.1"));
    }

    #[test]
    fn addresses_beyond_the_table_share_a_bucket() {
        let limiter = Limiter::new(2).unwrap();
        for n in 0..u32::try_from(limits::RATE_KEYS_MAX).unwrap() {
            limiter.check(Bucket::of_address(std::net::Ipv4Addr::from(n).into()));
        }
        let newcomer = |n: u8| Bucket::of_address(IpAddr::from([203, 0, 113, n]));
        assert!(limiter.check(newcomer(1)).allowed() && limiter.check(newcomer(2)).allowed());
        assert!(!limiter.check(newcomer(3)).allowed());
        assert!(limiter.buckets.len() <= limits::RATE_KEYS_MAX + 1);
        assert!(limiter.check(Bucket::Key("named".into())).allowed(), "a named key keeps its own");
    }
}
