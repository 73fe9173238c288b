//! Takes what was said in a run out of a sentence that goes to the log: a provider may quote the prompt in its error.
//!
//! It compares texts; it does not know what is secret. Keys are taken out where they are known, in `model`.

use std::collections::HashSet;

use crate::limits::LOG_QUOTE_CHARS_MIN;
use crate::message::{Message, Part};

/// What stands in a quotation's place.
const HIDDEN: &str = "[content]";

/// The sentence without any run of [`LOG_QUOTE_CHARS_MIN`] characters that one of `texts` has too.
pub(crate) fn hide<'a>(sentence: &str, texts: impl Iterator<Item = &'a str>) -> String {
    let chars: Vec<char> = sentence.chars().collect();
    let windows: HashSet<&[char]> = chars.windows(LOG_QUOTE_CHARS_MIN).collect();
    if windows.is_empty() {
        return sentence.to_owned();
    }
    let mut quoted: HashSet<&[char]> = HashSet::new();
    for text in texts {
        let text: Vec<char> = text.chars().collect();
        quoted.extend(text.windows(LOG_QUOTE_CHARS_MIN).filter_map(|window| windows.get(window).copied()));
    }
    let mut is_hidden = vec![false; chars.len()];
    for (start, _) in chars.windows(LOG_QUOTE_CHARS_MIN).enumerate().filter(|(_, window)| quoted.contains(window)) {
        is_hidden[start..start + LOG_QUOTE_CHARS_MIN].fill(true);
    }
    let mut shown = String::with_capacity(sentence.len());
    for (index, (c, hidden)) in chars.iter().zip(&is_hidden).enumerate() {
        match (hidden, index > 0 && is_hidden[index - 1]) {
            (false, _) => shown.push(*c),
            (true, false) => shown.push_str(HIDDEN),
            (true, true) => {}
        }
    }
    shown
}

/// Every text of a message that a person, a model or a tool said.
pub(crate) fn texts(message: &Message) -> impl Iterator<Item = &str> {
    message.parts.iter().map(|part| match part {
        Part::Text { text } | Part::Reasoning { text, .. } => text.as_str(),
        Part::Call { arguments, .. } => arguments.as_str(),
        Part::Result { content, .. } => content.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_hidden_and_the_rest_stays() {
        let prompt = "My card is 4111 1111 1111 1111, order a lamp.";
        let check = |sentence: &str, expected: &str| {
            assert_eq!(hide(sentence, [prompt].into_iter()), expected, "{sentence}");
        };
        check("HTTP 400: bad content: 'My card is 4111 1111 1111 1111'", "HTTP 400: bad content: '[content]'");
        check("HTTP 429: too many requests in this minute", "HTTP 429: too many requests in this minute");
        check("short", "short");
        check("", "");
        check(prompt, "[content]");
        // A short run of letters is language, not a quotation.
        check("order a lamp failed", "order a lamp failed");
    }
}
