//! The terminal: results to stdout, all else to stderr; colour and a status line where a person looks on.
//!
//! The one place of the program that prints. It does not know what is printed.

use std::io::{self, IsTerminal, Write};

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Stands back.
    Dim,
    /// Stands out.
    Strong,
    /// Went well.
    Good,
    /// Deserves a look.
    Care,
    /// Went wrong.
    Bad,
}

/// stdout and stderr, and what they can do.
#[derive(Debug)]
pub(crate) struct Terminal {
    output_is_terminal: bool,
    notes_are_terminal: bool,
    is_open_to_questions: bool,
    color: bool,
    width: usize,
    status_shown: bool,
}

const WIDTH: usize = 100;

impl Terminal {
    /// Looks at what the streams are. Colour is off with `NO_COLOR` (no-color.org), on a dumb terminal and in pipes.
    #[allow(clippy::disallowed_methods, reason = "NO_COLOR and TERM say how to print, nothing else")]
    pub(crate) fn detect() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let notes_are_terminal = io::stderr().is_terminal() && !dumb;
        Self {
            output_is_terminal: io::stdout().is_terminal() && !dumb,
            notes_are_terminal,
            is_open_to_questions: io::stdin().is_terminal() && io::stderr().is_terminal(),
            color: notes_are_terminal && !set("NO_COLOR"),
            width: terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0)),
            status_shown: false,
        }
    }

    /// Whether a person watches stderr, where progress goes.
    pub(crate) fn is_interactive(&self) -> bool {
        self.notes_are_terminal
    }

    /// Whether a person can be asked: what is typed comes in, what is noted is seen.
    pub(crate) fn can_ask(&self) -> bool {
        self.is_open_to_questions
    }

    /// Columns.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// A line of the result, to stdout.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.clear_status();
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// Bytes of the result, to stdout, as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.clear_status();
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// A line beside the result, to stderr.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        self.clear_status();
        writeln!(io::stderr().lock(), "{text}")
    }

    /// The beginning of a line that a person ends.
    pub(crate) fn prompt(&mut self, text: &str) -> io::Result<()> {
        self.clear_status();
        let mut stderr = io::stderr().lock();
        write!(stderr, "{text}")?;
        stderr.flush()
    }

    /// Shows a line that the next one replaces: only where a person looks on.
    pub(crate) fn status(&mut self, text: &str) {
        if self.notes_are_terminal {
            let text = shorten(text, self.width.saturating_sub(1));
            // A status that cannot be shown is no loss.
            let _ = write!(io::stderr().lock(), "\r\x1b[2K{text}");
            self.status_shown = true;
        }
    }

    /// Takes the status line away.
    pub(crate) fn clear_status(&mut self) {
        if self.status_shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K");
            self.status_shown = false;
        }
    }

    /// The text as it looks on stderr.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if self.color { painted(style, text) } else { text.to_owned() }
    }

    /// The text as it looks on stdout.
    pub(crate) fn paint_output(&self, style: Style, text: &str) -> String {
        if self.color && self.output_is_terminal { painted(style, text) } else { text.to_owned() }
    }
}

fn painted(style: Style, text: &str) -> String {
    let code = match style {
        Style::Dim => 2,
        Style::Strong => 1,
        Style::Good => 32,
        Style::Care => 33,
        Style::Bad => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// One line of at most `width` characters, safe to print: what came from a model or a tool must not move the cursor.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let mut kept = String::new();
    let mut count = 0;
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if c == ' ' && kept.ends_with(' ') {
            continue;
        }
        if count + 1 >= width {
            kept.push('…');
            break;
        }
        kept.push(c);
        count += 1;
    }
    kept
}

/// Text that keeps its lines but no other control characters.
pub(crate) fn sanitized(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(shorten("a\x1b[2Jb\nc", 80), "a [2Jb c");
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(sanitized("a\x1b[2J\nb"), "a[2J\nb");
    }
}
