//! How many lines of the log each sandbox is given: what happens inside one neither floods the log nor takes the place of what is
//! said of the others.
//!
//! It knows no line, but whose it is and when it was said.

use std::collections::HashMap;

use crate::clock::UnixMs;
use crate::limits::{LOG_LINES_OF_SANDBOX_PER_SECOND, LOG_SANDBOXES_COUNTED_MAX};

/// Lines of each sandbox in one second.
#[derive(Debug, Default)]
pub(super) struct Shares {
    second: u64,
    lines: HashMap<String, u32>,
}

/// A sandbox and how many of its lines were left out.
pub(super) type LeftOut = (String, u32);

impl Shares {
    /// Whether a line of a sandbox is written at this time; and what was left out in a second that is over.
    pub(super) fn admit(&mut self, sandbox: &str, at: UnixMs) -> (bool, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        if self.second != at / 1000 {
            self.second = at / 1000;
            let beyond = |(sandbox, lines): (String, u32)| {
                let count = lines.saturating_sub(LOG_LINES_OF_SANDBOX_PER_SECOND);
                (count > 0).then_some((sandbox, count))
            };
            left_out = self.lines.drain().filter_map(beyond).collect();
        }
        // Those that find no room to be counted one by one share one account.
        let known = self.lines.contains_key(sandbox) || self.lines.len() < LOG_SANDBOXES_COUNTED_MAX;
        let account = if known { sandbox } else { "" };
        let lines = self.lines.entry(account.to_owned()).or_default();
        *lines = lines.saturating_add(1);
        (*lines <= LOG_LINES_OF_SANDBOX_PER_SECOND, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_has_its_lines_each_second_and_takes_none_of_anothers() {
        let mut shares = Shares::default();
        let written = |shares: &mut Shares, sandbox: &str, at| shares.admit(sandbox, at).0;
        let loud = (0..1000).filter(|_| written(&mut shares, "loud", 5_000)).count();
        assert_eq!(loud, LOG_LINES_OF_SANDBOX_PER_SECOND as usize);
        assert!(written(&mut shares, "quiet", 5_999));
        let (admitted, left_out) = shares.admit("quiet", 6_000);
        assert!(admitted, "a second later");
        assert_eq!(left_out, [("loud".to_owned(), 1000 - LOG_LINES_OF_SANDBOX_PER_SECOND)]);
        assert!(written(&mut shares, "loud", 6_000));
        assert_eq!(shares.admit("quiet", 7_000).1, [], "told once");
    }

    #[test]
    fn as_many_sandboxes_are_counted_as_there_is_room_for() {
        let mut shares = Shares::default();
        for number in 0..2 * LOG_SANDBOXES_COUNTED_MAX {
            shares.admit(&format!("sb{number}"), 1);
        }
        assert!(shares.lines.len() <= LOG_SANDBOXES_COUNTED_MAX + 1);
    }
}
