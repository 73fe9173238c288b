//! Where a JSON container that comes in pieces ends, without reading it: braces, brackets and strings are counted.
//!
//! It says nothing of whether the text is valid JSON.

/// How far a text has got that is to be one JSON object or array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    depth: u32,
    in_string: bool,
    after_escape: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Nothing but white space came.
    #[default]
    Blank,
    /// A container is open, or something else stands where one should.
    Open,
    /// The container was closed.
    Complete,
}

impl Extent {
    /// Takes the next piece of the text.
    pub fn push(&mut self, piece: &[u8]) {
        for &byte in piece {
            if self.in_string {
                match byte {
                    _ if self.after_escape => self.after_escape = false,
                    b'\\' => self.after_escape = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            let closed = self.depth == 0 && matches!(byte, b'}' | b']') && self.state == State::Open;
            self.state = if closed { State::Complete } else { State::Open };
        }
    }

    /// Whether the container was opened and closed, and nothing came after it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Whether nothing but white space came.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.state == State::Blank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[&str]) -> Extent {
        let mut extent = Extent::default();
        for piece in pieces {
            extent.push(piece.as_bytes());
        }
        extent
    }

    #[test]
    fn a_container_is_complete_when_it_closes() {
        for whole in ["{}", " {\"a\": [1, \"}\\\"\"]} \n", "[[]]"] {
            assert!(of(&[whole]).is_complete(), "{whole}");
            let (a, b) = whole.split_at(whole.len() / 2);
            assert!(of(&[a, b]).is_complete(), "{a}|{b}");
        }
        for cut in ["", "{", "{\"a\":1", "{\"a\":\"}", "\"text\"", "1", "null", "{}x", "}"] {
            assert!(!of(&[cut]).is_complete(), "{cut}");
        }
        assert!(of(&[" ", "\n"]).is_blank() && !of(&["{"]).is_blank());
    }
}
