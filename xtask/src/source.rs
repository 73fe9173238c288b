//! Reading Rust source well enough for the rules: comments and strings blanked out, functions found.
//!
//! It is a scanner, not a parser: it does not expand macros and does not resolve names.

/// A function that the scanner found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// Inline modules around it, outermost first.
    pub(crate) modules: Vec<String>,
    /// The line of its `fn`, from 1.
    pub(crate) line: usize,
    /// Lines from its `fn` to its closing brace, both counted.
    pub(crate) lines: usize,
}

/// The text with the contents of comments, strings and characters replaced by spaces; lines stay where they are.
pub(crate) fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        match end {
            Some(end) => {
                let blank = bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' });
                out.extend(blank);
                at = end;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment, string or character that starts at `at` ends; `None` if none starts there.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(block_comment_end(bytes, at));
    }
    match rest[0] {
        b'"' => Some(string_end(bytes, at + 1)),
        b'r' if !after_word => raw_string_end(bytes, at + 1),
        b'b' | b'c' if !after_word && rest.get(1) == Some(&b'r') => raw_string_end(bytes, at + 2),
        b'\'' => character_end(bytes, at),
        _ => None,
    }
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut index) = (0_usize, at);
    while index < bytes.len() {
        if bytes[index..].starts_with(b"/*") {
            depth += 1;
            index += 2;
        } else if bytes[index..].starts_with(b"*/") {
            depth -= 1;
            index += 2;
            if depth == 0 {
                return index;
            }
        } else {
            index += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut index: usize) -> usize {
    while index < bytes.len() {
        match bytes[index] {
            b'\\' => index += 2,
            b'"' => return index + 1,
            _ => index += 1,
        }
    }
    bytes.len()
}

/// `hashes_at` is just behind the `r`. An identifier such as `r#type` is no string.
fn raw_string_end(bytes: &[u8], hashes_at: usize) -> Option<usize> {
    let hashes = bytes[hashes_at..].iter().take_while(|byte| **byte == b'#').count();
    let open = hashes_at + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let found = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    Some(found.map_or(bytes.len(), |offset| open + 1 + offset + close.len()))
}

/// A character, or `None` for a lifetime.
fn character_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // A character is one to four bytes long; a lifetime has no closing quote that near.
    let length = match bytes.get(at + 1)? {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (bytes.get(at + 1 + length) == Some(&b'\'')).then_some(at + length + 2)
}

/// A word, or one character of punctuation, with its line.
struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn tokens(masked: &str) -> Vec<Token<'_>> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let mut tokens = Vec::new();
    for (number, line) in masked.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|character| !is_word(character)).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                tokens.push(Token { text: &rest[..length], line: number + 1 });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

/// Whether `word` stands in the masked text as a word of its own; its lines, from 1.
pub(crate) fn word_lines(masked: &str, word: &str) -> Vec<usize> {
    tokens(masked).iter().filter(|token| token.text == word).map(|token| token.line).collect()
}

/// Every function with a body, in order of its `fn`.
pub(crate) fn functions(masked: &str) -> Vec<Function> {
    let tokens = tokens(masked);
    let mut found = Vec::new();
    let mut modules: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut index = 0;
    while index < tokens.len() {
        let next = tokens.get(index + 1).map_or("", |token| token.text);
        match tokens[index].text {
            "#" if next == "[" => {
                index = close(&tokens, index + 1, "[", "]");
            }
            "mod" if tokens.get(index + 2).is_some_and(|token| token.text == "{") => {
                modules.push((next.to_owned(), depth));
            }
            "fn" if next.starts_with(|first: char| first.is_alphabetic() || first == '_') => {
                if let Some(open) = body(&tokens, index + 2) {
                    let end = close(&tokens, open, "{", "}");
                    let last = tokens.get(end).map_or(tokens[index].line, |token| token.line);
                    found.push(Function {
                        name: next.to_owned(),
                        modules: modules.iter().map(|(name, _)| name.clone()).collect(),
                        line: tokens[index].line,
                        lines: last + 1 - tokens[index].line,
                    });
                }
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if modules.last().is_some_and(|(_, outer)| *outer == depth) {
                    modules.pop();
                }
            }
            _ => {}
        }
        index += 1;
    }
    found
}

/// The index of the bracket that closes the one at `open`.
fn close(tokens: &[Token<'_>], open: usize, opening: &str, closing: &str) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if token.text == opening {
            depth += 1;
        } else if token.text == closing {
            depth -= 1;
            if depth == 0 {
                return index;
            }
        }
    }
    tokens.len()
}

/// The index of the brace that opens the function's body; `None` for a declaration that ends in a semicolon.
fn body(tokens: &[Token<'_>], from: usize) -> Option<usize> {
    let mut nesting = 0_i32;
    for (index, token) in tokens.iter().enumerate().skip(from) {
        match token.text {
            "(" | "[" => nesting += 1,
            ")" | "]" => nesting -= 1,
            "{" if nesting == 0 => return Some(index),
            ";" if nesting == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked_and_lines_kept() {
        let text =
            "let a = \"unsafe { }\"; // unsafe\n/* unsafe /* { */ */ let b = 'x'; let c: &'static str = r#\"}\"}\"#;\n";
        let masked = mask(text);
        assert_eq!(masked.lines().count(), 2);
        assert!(!masked.contains("unsafe") && !masked.contains('{') && !masked.contains('}'), "{masked}");
        assert!(masked.contains("let b =") && masked.contains("'static str"), "{masked}");
    }

    #[test]
    fn quotes_within_characters_do_not_open_strings() {
        let masked = mask("match c { '\"' => 1, '\\'' => 2, '\\\\' => 3, 'é' => 4 } fn after() {}");
        assert!(masked.contains("fn after() {}"), "{masked}");
    }

    #[test]
    fn functions_are_found_with_their_modules_and_lengths() {
        let text = "fn plain() {\n    if true {\n    }\n}\ntrait T { fn declared(&self) -> [u8; 4]; }\n#[cfg(test)]\nmod tests {\n    \
                    #[test]\n    fn one() {}\n    #[tokio::test(flavor = \"multi_thread\")]\n    async fn two() {}\n    fn three() {}\n}\n";
        let found = functions(&mask(text));
        let shape: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.modules.join("::"), f.lines)).collect();
        let inner = || "tests".to_owned();
        let expected = [("plain", String::new(), 4), ("one", inner(), 1), ("two", inner(), 1), ("three", inner(), 1)];
        assert_eq!(shape, expected);
    }

    #[test]
    fn a_word_is_found_only_as_a_word() {
        assert_eq!(word_lines(&mask("#![deny(unsafe_code)]\nunsafe fn f() {} // unsafe"), "unsafe"), [2]);
    }
}
