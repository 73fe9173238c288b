//! The bash driver: bash itself, interactive and without a terminal, fed one line a cell.
//!
//! Interactive, because an interrupt then ends the whole cell and leaves the shell alive. A cell has its own standard streams:
//! between cells those of the shell lead nowhere, so that no prompt, trace or trap of the code is heard, and what the code makes
//! of its streams (`exec >file`) lasts. A line with a mark, the cell's number and its exit status follows on both of the shell's
//! first streams, so that both are known to be read to the end. The mark is the context's random id. Code can learn it, as it
//! can learn all that its shell reads; code that prints it fools itself alone: what stands behind a mark is bounded, and says
//! nothing but how a cell of this context ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use memchr::memchr;
use memchr::memmem::Finder;

use super::message::{Message, Printed};
use crate::limits::CODE_MARK_LINE_BYTES_MAX;

/// What the shell is told first: no history and no expansion of `!`, the streams (60 and 61 are the cells', 62 and 63 the
/// driver's), and the functions that begin and end a cell. What could be an alias of the code's is said as `\builtin` (but `exec`, whose
/// redirections would then not last).
///
/// `set -e` ends an interactive shell, too: a trap ends the cell before that. It does not see failures in place of a trap of
/// the code's own for `ERR`. Signal 63 interrupts behind the command that the shell waits for: an interrupt that comes while it
/// waits is that command's, and one that comes later comes too late.
pub(super) const PREPARATION: &str = r#"set +H +o history; unset HISTFILE PROMPT_COMMAND; exec 60>&1 61>&2 62>&1 63>&2 >/dev/null 2>&1
__mote_open() { __mote_last=${__mote_status:-0}; __mote_status=; __mote_cell=$2; \builtin printf '\036%s %s begun\n' "$1" "$2" >&62; }
__mote_begin() { case ${__mote_flags-} in *x*) \builtin set -x ;; esac; case ${__mote_flags-} in *e*) \builtin set -e; return 0 ;; esac; return "$__mote_last"; }
__mote_end() { __mote_got "$1"; \exec 60>&64 61>&65; }
__mote_got() { if [[ -z ${__mote_status-} ]]; then __mote_status=$1; __mote_flags=$-; \builtin set +xe; fi; }
__mote_failed() { if [[ $- == *e* && $BASHPID == "$$" ]]; then __mote_got "$1"; \builtin kill -INT "$$"; fi; }
__mote_close() { __mote_got 130; \builtin printf '\036%s %s %s\n' "$1" "$2" "$__mote_status" >&62; \builtin printf '\036%s %s\n' "$1" "$2" >&63; __mote_cell=; }
trap '__mote_failed "$?"' ERR; trap '__mote_got 130; \builtin kill -INT "$$"' 63; set -E
"#;

/// A mark is printed behind this, which text does not contain: it can be told at once whether what was read may become a mark, so that
/// nothing else is held back, not even the end of a line.
const MARK_BEGIN: char = '\u{1e}';

/// Without prompts until the shell is told where its own streams lead.
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
    format!("printf '\\036%s ready %s\\n' {mark} \"$PWD\" >&62; printf '\\036%s ready\\n' {mark} >&63\n")
}

/// Ends, from outside, what a shell waits for and what does not listen to an interrupt: its descendants that began with the cell,
/// `$2` hundredths of a second ago. What earlier cells left in the background lives on. The shell is told before, so that it does
/// not go on with the cell.
pub(super) const END_CHILDREN: &str = r#"root=$1; IFS= read -r now </proc/uptime; now=${now%% *}; since=$((${now%.*}${now#*.} - $2 - 10))
all=" $root "; more=1
while [ "$more" ]; do
  more=
  for file in /proc/[0-9]*/stat; do
    { IFS= read -r line <"$file"; } 2>/dev/null || continue
    pid=${file#/proc/}; pid=${pid%/stat}
    case $all in *" $pid "*) continue ;; esac
    set -- ${line##*) }
    case $all in *" $2 "*) [ "${20}" -ge "$since" ] && { all="$all$pid "; more=1; } ;; esac
  done
done
kill -63 "$root"
for pid in $all; do [ "$pid" = "$root" ] || kill -9 "$pid"; done 2>/dev/null
"#;

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
        let _ = writeln!(
            lines,
            "__mote_had_{name}=${{{name}+set}}; __mote_was_{name}=${{{name}-}}; \\builtin export {name}={value}"
        );
        let _ = write!(
            restore,
            "if [[ -n ${{__mote_had_{name}-}} ]]; then {name}=$__mote_was_{name}; \\builtin export {name}; \
             else \\builtin unset {name}; fi; \\builtin unset __mote_had_{name} __mote_was_{name}; "
        );
    }
    let end = format!("{restore}__mote_close {mark} {cell}");
    // An empty line, so that a backslash at the code's end joins nothing to it.
    let whole = format!(
        "{{ __mote_begin; }} >/dev/null 2>&1\n{code}\n\n{{ __mote_end \"$?\"; }} 64>&1 65>&2 >/dev/null 2>&1\n"
    );
    let _ = writeln!(
        lines,
        "__mote_open {mark} {cell}; \\builtin eval {} >&60 2>&61 </dev/null; __mote_got $?; {end}",
        quoted(&whole)
    );
    let _ = writeln!(lines, "__mote_got $?; if [[ $__mote_cell == {cell} ]]; then {end}; fi");
    let _ = writeln!(lines, "__mote_got 130; if [[ $__mote_cell == {cell} ]]; then {end}; fi");
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
        let needle = format!("{MARK_BEGIN}{mark} ");
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

    const MARK: &str = "m";

    #[test]
    fn code_is_one_line_whatever_is_in_it() {
        let command = command(MARK, 7, "echo 'é'\necho \"$x\" `b`", &BTreeMap::new());
        assert_eq!(command.lines().count(), 4);
        assert!(command.contains("echo \\047\\303\\251\\047\\012"), "{command}");
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
        assert!(!command(MARK, 1, ":", &env).contains("rm"));
    }

    /// What bash itself prints for these lines, to its standard output.
    fn said(lines: &str) -> String {
        both(lines).0
    }

    /// The same, with what it prints to its standard error.
    fn both(lines: &str) -> (String, String) {
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "--noediting", "-i"]).envs(environment());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let mut input = shell.stdin.take().unwrap();
        let all = format!("{PREPARATION}{lines}");
        let writer = std::thread::spawn(move || input.write_all(all.as_bytes()));
        let printed = shell.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        (String::from_utf8(printed.stdout).unwrap(), String::from_utf8(printed.stderr).unwrap())
    }

    /// What the cells print, each in order, and how each ended: its number and its status.
    fn cells(codes: &[&str]) -> (String, String, Vec<String>) {
        let lines: Vec<String> =
            (1..).zip(codes).map(|(cell, code)| command(MARK, cell, code, &BTreeMap::new())).collect();
        let (out, err) = both(&lines.concat());
        let split = |text: String| {
            let (mut stream, mut said, mut marks) = (Stream::default(), String::new(), Vec::new());
            for piece in stream.feed(MARK, text.as_bytes()) {
                match piece {
                    Piece::Text(text) => said.push_str(&text),
                    Piece::Mark(mark) => marks.push(mark),
                }
            }
            (said, marks)
        };
        let ((out, marks), (err, ends)) = (split(out), split(err));
        assert_eq!(ends, (1..=codes.len()).map(|cell| cell.to_string()).collect::<Vec<_>>(), "{marks:?}");
        // What an interactive shell says while it starts.
        let err = err.lines().filter(|line| !line.starts_with("bash: ") || line.contains("command not found"));
        let err = err.map(|line| format!("{line}\n")).collect();
        (out, err, marks.into_iter().filter(|mark| !mark.ends_with(BEGUN)).collect())
    }

    #[test]
    fn what_a_cell_sets_does_not_disturb_the_session() {
        for setting in [
            "PS1='prompt '; PS2='more '; PS0='zero '; PROMPT_COMMAND='echo asked'",
            "set -x",
            "set -v; set -u; set -f; IFS=_; set -o noclobber",
            "alias printf=false eval=false builtin=false export=false unset=false set=false exec=false trap=false",
            "trap 'echo trapped' DEBUG RETURN USR1 EXIT >/dev/null",
            "trap : DEBUG; trap : ERR; trap : RETURN",
            "set -e",
            "shopt -s extglob nullglob; BASH_XTRACEFD=2",
            "PS4='trace '",
            "exec </etc/passwd",
            "echo kept \\",
            "# a comment",
            "cat <<end\nunfinished",
        ] {
            let (out, _, ends) =
                cells(&["x=41", setting, "echo $((x + 1))", "f() { return 5; }; if f; then :; fi; true"]);
            assert_eq!(ends, ["1 0", "2 0", "3 0", "4 0"], "{setting}");
            assert!(out.contains("42\n"), "{setting}: {out}");
            assert!(!out.contains("asked") && !out.contains("prompt"), "{setting}: {out}");
        }
    }

    #[test]
    fn a_trace_is_of_the_code_alone() {
        let (_, err, _) = cells(&["set -x", "echo seen", "set +x"]);
        assert!(err.contains("echo seen") && err.contains("set +x"), "{err}");
        assert!(!err.contains("__mote") && !err.contains("printf"), "{err}");
    }

    #[test]
    fn a_failure_under_set_e_ends_the_cell_and_keeps_the_shell() {
        let codes = [
            "x=1; set -e; false; echo never",
            "echo \"$x $?\"; f() { return 7; }; f; echo never",
            "if false; then :; fi; false || echo or; (exit 3) || true; y=$(false; echo sub) && echo $y",
            "set -o pipefail; false | cat; echo never",
            "set +e; false; echo on",
        ];
        let (out, _, ends) = cells(&codes);
        // A substitution does not inherit `-e` unless bash is told so.
        assert_eq!(out, "1 0\nor\nsub\non\n");
        assert_eq!(ends, ["1 1", "2 7", "3 0", "4 1", "5 0"]);
    }

    #[test]
    fn where_a_cell_sends_its_output_lasts_and_the_session_is_still_heard() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out").display().to_string();
        let to_file = format!("exec 3>&1 >{file} 2>&1; echo one");
        let (out, err, ends) =
            cells(&[&to_file, "echo two; nosuch-command", "exec >&3; echo three", "exec 2>&1; echo four >&2"]);
        assert_eq!((out.as_str(), err.as_str()), ("three\nfour\n", ""));
        assert_eq!(ends, ["1 0", "2 127", "3 0", "4 0"]);
        let said = std::fs::read_to_string(&file).unwrap();
        assert!(said.starts_with("one\ntwo\n") && said.contains("nosuch-command"), "{said}");
    }

    #[test]
    fn a_status_is_the_next_cells_and_what_is_no_code_is_told() {
        let (out, _, ends) =
            cells(&["(exit 9)", "echo $?", "echo 'open", "echo ${none?missing}; echo never", "echo on"]);
        assert_eq!(out, "9\non\n");
        assert_eq!((&ends[0][..], &ends[1][..], &ends[4][..]), ("1 9", "2 0", "5 0"));
        assert!(ends[2] != "3 0" && ends[3] != "4 0", "{ends:?}");
    }

    #[test]
    fn an_interrupted_cell_is_told_and_its_variables_are_as_before() {
        let env = [("A".to_owned(), "in \"the cell".to_owned()), ("B".to_owned(), "b".to_owned())].into();
        let mut lines = command(MARK, 1, "A='a  b'", &BTreeMap::new());
        lines += &command(MARK, 2, "x=42; echo $A$B; kill -INT $$; echo never", &env);
        lines += &command(MARK, 3, "echo \"$x $A ${B-none}\"; false", &BTreeMap::new());
        let told = "#1 begun\n#1 0\n#2 begun\nin \"the cellb\n#2 130\n#3 begun\n42 a  b none\n#3 1\n";
        let told = told.replace('#', &format!("{MARK_BEGIN}{MARK} "));
        assert_eq!(said(&lines), told);
    }

    /// Wherever an interrupt cuts what ends a cell, the cell ends, and the next one is whole.
    #[test]
    fn an_interrupt_between_cells_breaks_none() {
        let env = [("A".to_owned(), "a".to_owned())].into();
        let of = |cell| command(MARK, cell, "kill -INT $$", &env);
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
            let ends = printed.matches(&format!("{MARK_BEGIN}{MARK} {cell} 1")).count();
            assert!(ends >= 1 && printed.contains(&format!("{MARK_BEGIN}{MARK} {cell} begun\n")), "{cell}: {ends}");
        }
        assert!(!printed.contains("\n\n\n"), "{printed}");
    }

    #[test]
    fn a_mark_with_an_endless_line_is_text_and_holds_no_memory() {
        let (mut stream, mut told) = (Stream::default(), 0);
        let part = [b'x'; 1000];
        let pieces = stream.feed(MARK, format!("{MARK_BEGIN}{MARK} 7 ").as_bytes());
        assert_eq!(pieces, []);
        for _ in 0..1000 {
            for piece in stream.feed(MARK, &part) {
                let Piece::Text(text) = piece else { panic!("{piece:?}") };
                told += text.len();
            }
            assert!(stream.held.len() <= CODE_MARK_LINE_BYTES_MAX, "{}", stream.held.len());
        }
        assert_eq!(told, MARK.len() + "\u{1e} 7 ".len() + 1000 * part.len());
        // What is printed next is read as before.
        assert_eq!(stream.feed(MARK, format!("{MARK_BEGIN}{MARK} 8 0\n").as_bytes()), [Piece::Mark("8 0".to_owned())]);
    }

    #[test]
    fn what_cannot_be_the_beginning_of_a_mark_is_told_at_once() {
        let mut stream = Stream::default();
        assert_eq!(stream.feed(MARK, b"a line\n"), [Piece::Text("a line\n".to_owned())]);
        assert_eq!(stream.feed(MARK, b"\n\n"), [Piece::Text("\n\n".to_owned())]);
        assert_eq!(stream.feed(MARK, b"half\x1e"), [Piece::Text("half".to_owned())]);
        assert_eq!(stream.feed(MARK, b"m 3 0\nmore"), [Piece::Mark("3 0".to_owned()), Piece::Text("more".to_owned())]);
    }

    #[test]
    fn the_longest_line_of_a_mark_is_read_and_one_byte_more_is_text() {
        for (length, is_mark) in [(CODE_MARK_LINE_BYTES_MAX, true), (CODE_MARK_LINE_BYTES_MAX + 1, false)] {
            let line = "y".repeat(length);
            let mut stream = Stream::default();
            let mut pieces = stream.feed(MARK, format!("{MARK_BEGIN}{MARK} {line}\n").as_bytes());
            pieces.extend(stream.feed(MARK, b"z"));
            assert_eq!(pieces.first() == Some(&Piece::Mark(line)), is_mark, "{length}");
        }
    }

    proptest! {
        #[test]
        fn text_and_marks_come_apart_however_they_are_cut(cuts in proptest::collection::vec(1usize..9, 1..40)) {
            let all = "eins\nzwei é\n\u{1e}m 3 0\nund\nm 5\n\u{1e} \u{1e}m 4 1\n".as_bytes();
            let (mut stream, mut text, mut marks, mut rest) = (Stream::default(), String::new(), Vec::new(), all);
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                for piece in stream.feed(MARK, now) {
                    match piece {
                        Piece::Text(piece) => text.push_str(&piece),
                        Piece::Mark(said) => marks.push(said),
                    }
                }
            }
            prop_assert_eq!(text, "eins\nzwei é\nund\nm 5\n\u{1e} ");
            prop_assert_eq!(marks, ["3 0", "4 1"]);
        }
    }
}
