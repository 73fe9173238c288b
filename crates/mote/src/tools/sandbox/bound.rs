//! Output within a bound: its beginning and its end, and how much was left out between.
//!
//! It never holds more than the bound, however much comes in.

use std::collections::VecDeque;

/// Gathers bytes as they come.
#[derive(Debug)]
pub(super) struct Middle {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    cut: u64,
}

impl Middle {
    pub(super) fn new(max: usize) -> Self {
        Self { half: max / 2, head: Vec::new(), tail: VecDeque::new(), cut: 0 }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        // Of a long piece only its end can stay.
        let skipped = rest.len().saturating_sub(self.half);
        self.tail.extend(&rest[skipped..]);
        let over = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..over);
        self.cut += (skipped + over) as u64;
    }

    /// The text, with a line that says what was left out; and how much that was, in bytes.
    pub(super) fn text(self) -> (String, u64) {
        let tail = Vec::from(self.tail);
        if self.cut == 0 {
            let whole = [self.head, tail].concat();
            return (String::from_utf8_lossy(&whole).into_owned(), 0);
        }
        let (head, tail) =
            (String::from_utf8_lossy(whole_end(&self.head)), String::from_utf8_lossy(whole_start(&tail)));
        (format!("{head}\n[… {} bytes left out …]\n{tail}", self.cut), self.cut)
    }
}

/// A text within `max` bytes, its beginning and its end.
pub(super) fn middle(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut middle = Middle::new(max);
    middle.add(text.as_bytes());
    middle.text().0
}

/// Without the part of a character at the end.
fn whole_end(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        if byte & 0xc0 == 0xc0 {
            let length = if byte >= 0xf0 {
                4
            } else if byte >= 0xe0 {
                3
            } else {
                2
            };
            return if back < length { &bytes[..bytes.len() - back] } else { bytes };
        }
        if byte & 0x80 == 0 {
            break;
        }
    }
    bytes
}

/// Without the part of a character at the start.
fn whole_start(bytes: &[u8]) -> &[u8] {
    let parts = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    &bytes[parts..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], max: usize, expected: &str) {
        let mut middle = Middle::new(max);
        pieces.iter().for_each(|piece| middle.add(piece.as_bytes()));
        assert_eq!(middle.text().0, expected, "{pieces:?}");
    }

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        check(&["abc", "def"], 6, "abcdef");
        check(&["abc", "defg"], 6, "abc\n[… 1 bytes left out …]\nefg");
        check(&["0123456789", "0123456789"], 6, "012\n[… 14 bytes left out …]\n789");
        check(&["a", "", "b"], 6, "ab");
    }

    #[test]
    fn no_character_is_cut_in_two() {
        check(&["é", "é", "é", "é"], 6, "é\n[… 2 bytes left out …]\né");
        check(&["€", "€", "€"], 8, "€\n[… 1 bytes left out …]\n€");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut middle = Middle::new(1000);
        for _ in 0..1000 {
            middle.add(&[b'x'; 999]);
        }
        assert!(middle.head.len() + middle.tail.len() <= 1000 && middle.tail.capacity() < 4096);
        assert_eq!(middle.text().1, 999_000 - 1000);
    }
}
