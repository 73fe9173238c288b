//! A reply made ready: texts filled in, ids given, tokens counted. It does not know a wire format.

use serde_json::Value;

use super::asked::Asked;
use super::plan::{Behaviour, Finish, Tokens};

/// What is said.
pub(crate) struct Said {
    /// Makes ids unique.
    pub(crate) serial: u64,
    pub(crate) model: String,
    pub(crate) thinking: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) calls: Vec<SaidCall>,
    pub(crate) finish: Finish,
    pub(crate) usage: Option<Tokens>,
    delta_bytes: usize,
}

/// A call with its id.
pub(crate) struct SaidCall {
    pub(crate) id: String,
    pub(crate) extra: Option<Value>,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Said {
    /// Fills in a behaviour's reply.
    pub(crate) fn new(behaviour: &Behaviour, asked: &Asked, serial: u64) -> Self {
        let reply = &behaviour.reply;
        let mut text = reply
            .text
            .as_ref()
            .map(|text| text.replace("{{input}}", &asked.input).replace("{{results}}", &asked.results.join("\n")));
        if let Some(bytes) = reply.pad_bytes {
            let text = text.get_or_insert_default();
            let missing = bytes.saturating_sub(text.len());
            text.push_str(&".".repeat(missing));
        }
        let prefix = match asked.wire {
            super::asked::Wire::OpenAi => "call",
            super::asked::Wire::Anthropic => "toolu",
        };
        let calls: Vec<_> = reply
            .calls
            .iter()
            .enumerate()
            .map(|(index, call)| SaidCall {
                id: call.id.clone().unwrap_or_else(|| format!("{prefix}_{serial}_{index}")),
                extra: call.extra.clone(),
                name: call.name.clone(),
                arguments: call.arguments.as_str().map_or_else(|| call.arguments.to_string(), str::to_owned),
            })
            .collect();
        let natural = if calls.is_empty() { Finish::Stop } else { Finish::ToolCalls };
        let output = text.as_ref().map_or(0, String::len)
            + reply.thinking.as_ref().map_or(0, String::len)
            + calls.iter().map(|call| call.name.len() + call.arguments.len()).sum::<usize>();
        let estimated = Tokens { input: tokens(asked.bytes), output: tokens(output), ..Tokens::default() };
        Self {
            serial,
            model: asked.model.clone(),
            thinking: reply.thinking.clone(),
            text,
            calls,
            finish: reply.finish.unwrap_or(natural),
            usage: (!reply.omit_usage).then(|| reply.usage.unwrap_or(estimated)),
            delta_bytes: behaviour.timing.delta_bytes.max(1),
        }
    }

    /// Cuts a text into deltas, between characters.
    pub(crate) fn pieces<'a>(&self, text: Option<&'a str>) -> impl Iterator<Item = &'a str> + use<'a> {
        let size = self.delta_bytes;
        let mut rest = text.unwrap_or_default();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut end = size.min(rest.len());
            while !rest.is_char_boundary(end) {
                end += 1;
            }
            let (piece, more) = rest.split_at(end);
            rest = more;
            Some(piece)
        })
    }
}

fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4).max(1)
}
