//! Log lines on refused requests: who was refused what, and why. A stranger can cause as many refusals as they like, so the
//! lines are bounded, and what was left out is counted.
//!
//! It refuses nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::problem::{Code, Problem};
use crate::limits::REFUSAL_LINES_PER_SECOND;

/// Bounds the lines of one process.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<Second>);

/// What was written in the present second.
#[derive(Debug)]
struct Second {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(Second { began: Instant::now(), lines: 0, left_out: 0 }))
    }
}

impl Refusals {
    /// Writes the line of a refusal; request id, route and key are in the span around it.
    pub(super) fn log(&self, problem: &Problem, status: u16, latency_ms: u64) {
        let Some(left_out) = self.admit(Instant::now()) else { return };
        let left_out = (left_out > 0).then_some(left_out);
        tracing::info!(
            status,
            code = problem.code.as_str(),
            detail = problem.public_detail(),
            latency_ms,
            left_out,
            "refused"
        );
    }

    /// Whether another line may be written now, and how many were left out before it.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(second.began) >= Duration::from_secs(1) {
            (second.began, second.lines) = (now, 0);
        }
        if second.lines == REFUSAL_LINES_PER_SECOND {
            second.left_out += 1;
            return None;
        }
        second.lines += 1;
        Some(std::mem::take(&mut second.left_out))
    }
}

/// Whether a refusal is worth a line: the request was wrong, or its sender may not. Overload and what is not found come in
/// thousands and are counted by the metrics.
pub(super) fn is_worth_a_line(code: Code) -> bool {
    matches!(code.status().as_u16(), 400 | 401 | 403 | 413 | 415 | 422)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_writes_no_more_lines_than_the_limit_and_the_rest_is_counted() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let written = (0..1_000).filter_map(|_| refusals.admit(now)).collect::<Vec<_>>();
        assert_eq!(written, vec![0; REFUSAL_LINES_PER_SECOND as usize]);
        let later = now + Duration::from_secs(2);
        assert_eq!(refusals.admit(later), Some(1_000 - u64::from(REFUSAL_LINES_PER_SECOND)));
        assert_eq!(refusals.admit(later), Some(0));
    }

    #[test]
    fn refusals_are_lines_and_overload_is_none() {
        let lines = |status: u16| {
            Code::ALL.iter().filter(|code| code.status().as_u16() == status).all(|code| is_worth_a_line(*code))
        };
        assert!([401, 403, 422].into_iter().all(lines));
        assert!(![404, 409, 429, 503].into_iter().any(lines));
    }
}
