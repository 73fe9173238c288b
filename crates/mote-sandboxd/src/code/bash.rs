//! The bash driver: bash itself, interactive and without a terminal, fed one line a cell.
//!
//! Interactive, because an interrupt then ends the whole cell and leaves the shell alive. What is printed goes out as it
//! is; a line with a mark, the cell's number and its exit status follows on both streams, so that both are known to be read
//! to the end. The mark is the context's random id. Code can learn it, as it can learn all that its shell reads; code that
//! prints it fools itself alone: what stands behind a mark is bounded, and says nothing but how a cell of this context ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use memchr::memchr;
use memchr::memmem::Finder;

use super::message::{Message, Printed};
use crate::limits::CODE_MARK_LINE_BYTES_MAX;

/// What the shell is told first: no history, and no expansion of `!`.
pub(super) const PREPARATION: &str = "set +H +o history; unset HISTFILE PROMPT_COMMAND\n";

/// An interactive shell prompts on standard error unless told not to.
pub(super) fn environment() -> BTreeMap<String, String> {
    ["PS0", "PS1", "PS2", "PROMPT_COMMAND", "HISTFILE"].map(|name| (name.to_owned(), String::new())).into()
}

/// Text as one word on one line, whatever is in it.
fn quoted(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 8);
    word.push_str("$'");
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b' ' | b'_' | b'-' | b'.' | b'/' | b'=' | b':' | b',' => {
                word.push(char::from(byte));
            }
            // Writing to a string does not fail.
            byte => drop(write!(word, "\\{byte:03o}")),
        }
    }
    word.push('\'');
    word
}

/// Whether bash takes this as the name of a variable.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The lines that begin the shell's life: the mark that says that it listens and where it is.
pub(super) fn greeting(mark: &str) -> String {
    format!("printf '\\n%s ready %s\\n' {mark} \"$PWD\"; printf '\\n%s ready\\n' {mark} >&2\n")
}

/// What the mark says behind a cell's number when the whole cell was read and is carried out.
pub(super) const BEGUN: &str = "begun";

/// The lines of a cell.
///
/// An interrupt discards what the shell has read of a line, and the rest is then a line of its own. So a cell begins with an
/// empty line, for an interrupt that came before it; it says that it was read to its end, before which it is not
/// interrupted; and what ends it stands on the cell's own line, and twice more for where an interrupt, or an error of the
/// shell's, discarded that line or the next. No part of these lines leaves a quote open.
pub(super) fn command(mark: &str, cell: u64, code: &str, env: &BTreeMap<String, String>) -> String {
    let mut lines = String::from("\n");
    let names: Vec<&str> = env.keys().map(String::as_str).filter(|name| is_name(name)).collect();
    let mut restore = String::new();
    for name in &names {
        let value = quoted(&env[*name]);
        // Writing to a string does not fail.
        let _ =
            writeln!(lines, "__mote_had_{name}=${{{name}+set}}; __mote_was_{name}=${{{name}-}}; export {name}={value}");
        let _ = write!(
            restore,
            "if [[ -n $__mote_had_{name} ]]; then export {name}=$__mote_was_{name}; else unset {name}; fi; \
             unset __mote_had_{name} __mote_was_{name}; "
        );
    }
    let end = format!(
        "{restore}printf \\\\n%s\\ %s\\ %s\\\\n {mark} {cell} $__mote_status; printf \\\\n%s\\ %s\\\\n {mark} {cell} >&2; \
         __mote_cell="
    );
    let _ = writeln!(
        lines,
        "__mote_cell={cell}; printf \\\\n%s\\ %s\\ {BEGUN}\\\\n {mark} {cell}; eval {} </dev/null; __mote_status=$?; {end}",
        quoted(code)
    );
    let _ = writeln!(lines, "__mote_status=$?; if [[ $__mote_cell == {cell} ]]; then {end}; fi");
    let _ = writeln!(lines, "__mote_status=130; if [[ $__mote_cell == {cell} ]]; then {end}; fi");
    lines
}

/// What was read of a stream and is not yet told: it may be the beginning of a mark, or of the line behind one.
#[derive(Debug, Default)]
pub(super) struct Stream {
    held: Vec<u8>,
    /// Where a mark was read whose line is not whole yet: how many bytes of the line are held. All of them were looked at.
    line: Option<usize>,
}

/// What a stream held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Something printed.
    Text(String),
    /// A mark, and what stands behind it on its line.
    Mark(String),
}

impl Stream {
    /// Takes bytes; gives what is certain. Each byte is looked at once, and no more than a mark and
    /// [`CODE_MARK_LINE_BYTES_MAX`] bytes are held: a longer line is none of ours, whoever printed the mark.
    pub(super) fn feed(&mut self, mark: &str, bytes: &[u8]) -> Vec<Piece> {
        let needle = format!("\n{mark} ");
        let finder = Finder::new(&needle);
        self.held.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        // All before this was told.
        let mut at = 0;
        loop {
            if let Some(known) = self.line {
                let end = memchr(b'\n', &self.held[at + known..]).map(|found| known + found);
                let length = end.unwrap_or(self.held.len() - at);
                if length > CODE_MARK_LINE_BYTES_MAX {
                    pieces.push(Piece::Text(needle.clone()));
                    self.line = None;
                } else if let Some(length) = end {
                    pieces.push(Piece::Mark(String::from_utf8_lossy(&self.held[at..at + length]).into_owned()));
                    at += length + 1;
                    self.line = None;
                } else {
                    self.line = Some(length);
                    break;
                }
            } else if let Some(found) = finder.find(&self.held[at..]) {
                tell(&self.held[at..at + found], &mut pieces);
                at += found + needle.len();
                self.line = Some(0);
            } else {
                let rest = &self.held[at..];
                // The end of what is held may be the beginning of a mark, or of a character.
                let keep = (1..=rest.len().min(needle.len() - 1))
                    .rev()
                    .find(|length| needle.as_bytes().starts_with(&rest[rest.len() - length..]))
                    .unwrap_or(0);
                let end = whole_characters(rest, rest.len() - keep);
                tell(&rest[..end], &mut pieces);
                at += end;
                break;
            }
        }
        self.held.drain(..at);
        pieces
    }
}

fn tell(text: &[u8], pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Text(String::from_utf8_lossy(text).into_owned()));
    }
}

/// The longest beginning, up to `end`, that does not cut a character of UTF-8.
fn whole_characters(bytes: &[u8], end: usize) -> usize {
    match std::str::from_utf8(&bytes[..end]) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => end,
    }
}

/// What is told of a status that is not 0, before the number.
const FAILED: &str = "the last command ended with status ";

/// The exit status that the error of a cell tells of, by its name and value; nothing where it is another error.
#[must_use]
pub fn status(name: &str, value: &str) -> Option<i32> {
    match name {
        "ExitStatus" => value.strip_prefix(FAILED)?.parse().ok(),
        "Interrupted" => Some(130),
        _ => None,
    }
}

/// What a cell's exit status means.
pub(super) fn verdict(status: &str) -> Option<Message> {
    match status {
        "0" => None,
        "130" => Some(Message::error("Interrupted", "the execution was interrupted")),
        status => Some(Message::error("ExitStatus", format!("{FAILED}{status}"))),
    }
}

/// A message of something printed now.
pub(super) fn printed(is_error: bool, text: String, now_ns: u64) -> Message {
    let printed = Printed { text, timestamp: now_ns };
    if is_error { Message::Stderr(printed) } else { Message::Stdout(printed) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn code_is_one_line_whatever_is_in_it() {
        let command = command("mark", 7, "echo 'é'\necho \"$x\" `b`", &BTreeMap::new());
        assert_eq!(command.lines().count(), 4);
        assert!(command.contains("eval $'echo \\047\\303\\251\\047\\012"), "{command}");
    }

    #[test]
    fn a_status_is_read_as_it_was_told() {
        for told in ["1", "127", "130", "255"] {
            let Some(Message::Error { name, value, .. }) = verdict(told) else { panic!("{told} is no error") };
            assert_eq!(status(&name, &value), told.parse().ok());
        }
        assert_eq!(status("TimeoutError", "the last command ended with status 1"), None);
    }

    #[test]
    fn a_name_that_is_none_never_reaches_the_shell() {
        let env = [("A;rm".to_owned(), "x".to_owned())].into();
        assert!(!command("mark", 1, ":", &env).contains("rm"));
    }

    /// What bash itself prints to its standard output for these lines.
    fn said(lines: &str) -> String {
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "--noediting", "-i"]).envs(environment());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().unwrap();
        let mut input = shell.stdin.take().unwrap();
        let all = format!("{PREPARATION}{lines}");
        let writer = std::thread::spawn(move || input.write_all(all.as_bytes()));
        let printed = shell.wait_with_output().unwrap().stdout;
        writer.join().unwrap().unwrap();
        String::from_utf8(printed).unwrap()
    }

    #[test]
    fn an_interrupted_cell_is_told_and_its_variables_are_as_before() {
        let env = [("A".to_owned(), "in \"the cell".to_owned()), ("B".to_owned(), "b".to_owned())].into();
        let mut lines = command("m", 1, "A='a  b'", &BTreeMap::new());
        lines += &command("m", 2, "x=42; echo $A$B; kill -INT $$; echo never", &env);
        lines += &command("m", 3, "echo \"$x $A ${B-none}\"; false", &BTreeMap::new());
        let told = "\nm 1 begun\n\nm 1 0\n\nm 2 begun\nin \"the cellb\n\nm 2 130\n\nm 3 begun\n42 a  b none\n\nm 3 1\n";
        assert_eq!(said(&lines), told);
    }

    /// Wherever an interrupt cuts what ends a cell, the cell ends, and the next one is whole.
    #[test]
    fn an_interrupt_between_cells_breaks_none() {
        let env = [("A".to_owned(), "a".to_owned())].into();
        let of = |cell| command("m", cell, "kill -INT $$", &env);
        let length = of(100).lines().rev().nth(1).unwrap().len();
        let mut lines = String::new();
        for cut in 0..length {
            let whole = of(100 + cut as u64);
            let [empty, set, eval, first, second] = whole.lines().collect::<Vec<_>>()[..] else { panic!("{whole}") };
            // The empty line is what an interrupt of an idle shell takes.
            assert_eq!(empty, "");
            lines += &format!("{set}\n{eval}\n{}\n{second}\n", &first[cut..]);
        }
        let printed = said(&lines);
        for cell in 100..100 + length {
            let ends = printed.matches(&format!("\nm {cell} 1")).count();
            assert!(ends >= 1 && printed.contains(&format!("\nm {cell} begun\n")), "{cell}: {ends}");
        }
        assert!(!printed.contains("\n\n\n"), "{printed}");
    }

    #[test]
    fn a_mark_with_an_endless_line_is_text_and_holds_no_memory() {
        let (mut stream, mut told) = (Stream::default(), 0);
        let part = [b'x'; 1000];
        let pieces = stream.feed("mark", b"\nmark 7 ");
        assert_eq!(pieces, []);
        for _ in 0..1000 {
            for piece in stream.feed("mark", &part) {
                let Piece::Text(text) = piece else { panic!("{piece:?}") };
                told += text.len();
            }
            assert!(stream.held.len() <= CODE_MARK_LINE_BYTES_MAX, "{}", stream.held.len());
        }
        assert_eq!(told, "\nmark 7 ".len() + 1000 * part.len());
        // What is printed next is read as before.
        assert_eq!(stream.feed("mark", b"\nmark 8 0\n"), [Piece::Mark("8 0".to_owned())]);
    }

    #[test]
    fn the_longest_line_of_a_mark_is_read_and_one_byte_more_is_text() {
        for (length, is_mark) in [(CODE_MARK_LINE_BYTES_MAX, true), (CODE_MARK_LINE_BYTES_MAX + 1, false)] {
            let line = "y".repeat(length);
            let mut stream = Stream::default();
            let mut pieces = stream.feed("mark", format!("\nmark {line}\n").as_bytes());
            pieces.extend(stream.feed("mark", b"z"));
            assert_eq!(pieces.first() == Some(&Piece::Mark(line)), is_mark, "{length}");
        }
    }

    proptest! {
        #[test]
        fn text_and_marks_come_apart_however_they_are_cut(cuts in proptest::collection::vec(1usize..9, 1..40)) {
            let all = "eins\nzwei é\n\nmark 3 0\nund\nmar\n\nmark 4 1\n".as_bytes();
            let (mut stream, mut text, mut marks, mut rest) = (Stream::default(), String::new(), Vec::new(), all);
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                for piece in stream.feed("mark", now) {
                    match piece {
                        Piece::Text(piece) => text.push_str(&piece),
                        Piece::Mark(said) => marks.push(said),
                    }
                }
            }
            prop_assert_eq!(text, "eins\nzwei é\nund\nmar\n");
            prop_assert_eq!(marks, ["3 0", "4 1"]);
        }
    }
}
