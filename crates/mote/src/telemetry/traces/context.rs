//! W3C Trace Context: reading and writing `traceparent` (https://www.w3.org/TR/trace-context/), and the ids of a run.
//!
//! It does not handle `tracestate`: mote adds no vendor data of its own.

use sha2::{Digest, Sha256};

use crate::clock::Clock;

/// Which span of which trace, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Trace id, not 0.
    pub trace: u128,
    /// Span id, not 0.
    pub span: u64,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. `None` if it is malformed or an id is 0; later versions are read as version 00, as the
    /// specification asks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let version = hex(text.get(0..2)?)?;
        let shape = match version {
            0xff => false,
            0 => text.len() == 55,
            _ => text.len() == 55 || text.as_bytes().get(55) == Some(&b'-'),
        };
        let dash = |at: usize| text.as_bytes().get(at) == Some(&b'-');
        if !(shape && dash(2) && dash(35) && dash(52)) {
            return None;
        }
        let trace = hex(text.get(3..35)?)?;
        let span = u64::try_from(hex(text.get(36..52)?)?).ok()?;
        let flags = hex(text.get(53..55)?)?;
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// Writes a `traceparent` of version 00.
    #[must_use]
    pub fn format(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// Another span of the same trace.
    pub(super) fn child(&self, clock: &dyn Clock) -> Self {
        Self { span: span_id(clock), ..*self }
    }

    /// The trace of a task that came without one: derived from its id, so that whichever process resumes the run stays in
    /// the same trace.
    pub(super) fn of_task(task: &str, clock: &dyn Clock) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&Sha256::digest(format!("mote trace v1\0{task}"))[..16]);
        Self { trace: u128::from_be_bytes(first).max(1), span: span_id(clock), sampled: true }
    }
}

fn span_id(clock: &dyn Clock) -> u64 {
    clock.random().max(1)
}

/// Lower-case digits only, as the specification asks.
fn hex(text: &str) -> Option<u128> {
    let valid = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if valid { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_header_survives_the_round_trip() {
        let context = TraceContext::parse(VALID).unwrap();
        assert!(context.sampled);
        assert_eq!(context.format(), VALID);
        let unsampled = TraceContext::parse(&VALID.replace("-01", "-00")).unwrap();
        assert!(!unsampled.sampled);
        assert!(TraceContext::parse(&VALID.replace("-01", "-03")).unwrap().sampled);
        let later = format!("cc{}-what-comes", &VALID[2..]);
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn a_malformed_header_is_ignored() {
        for text in [
            "",
            "00",
            &VALID[..54],
            &format!("{VALID}-more"),
            &format!("ff{}", &VALID[2..]),
            &VALID.to_uppercase(),
            &VALID.replace("b7ad6b7169203331", "0000000000000000"),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &VALID.replace('-', "_"),
            &format!("cc{}more", &VALID[2..]),
            "00-é",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_task_keeps_its_trace() {
        let clock = crate::clock::System;
        let (first, second) = (TraceContext::of_task("task_1", &clock), TraceContext::of_task("task_1", &clock));
        assert_eq!(first.trace, second.trace);
        assert_ne!(first.span, second.span);
        assert_ne!(first.trace, TraceContext::of_task("task_2", &clock).trace);
    }
}
