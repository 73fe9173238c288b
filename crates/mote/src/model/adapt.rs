//! What an endpoint turned out not to take: parameters that one server needs and the next refuses. The first request that is
//! refused for one is sent again without it, and the endpoint is remembered to want it so.
//!
//! Only parameters without which the run can go on are here. Nothing is remembered beyond the process, and nothing of a request
//! that was refused all the same.

use std::sync::{Mutex, PoisonError};

use crate::model::config::OutputLimitField;

/// How the requests to an endpoint are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// The name of the limit of the reply.
    pub(super) limit: LimitField,
    /// Whether another name may be tried.
    limit_may_change: bool,
    /// Whether the usage is asked for (`stream_options`).
    pub(super) counted: bool,
    /// Whether a configured temperature is sent.
    pub(super) temperature: bool,
    /// Whether the provider constrains the output by its schema; otherwise the system prompt asks for it.
    pub(super) constrained: bool,
}

/// The names of the limit of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitField {
    MaxTokens,
    MaxCompletionTokens,
}

impl LimitField {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::MaxTokens => Self::MaxCompletionTokens,
            Self::MaxCompletionTokens => Self::MaxTokens,
        }
    }
}

/// What an endpoint says when it does not take a parameter, in lower case.
const REFUSALS: [&str; 23] = [
    "unsupported",
    "not supported",
    "not support",
    "n't support",
    "unrecognized",
    "unrecognised",
    "unknown",
    "not permitted",
    "not allowed",
    "unexpected",
    "extra inputs",
    "extra fields",
    "extra_forbidden",
    "deprecated",
    "unavailable",
    "not available",
    "additional properties",
    "only the default",
    "not accept",
    "not implemented",
    "must not be",
    "invalid parameter",
    "not recognized",
];

/// What it says when it misses one.
const WANTS: [&str; 7] =
    ["required", "missing", "must provide", "must be provided", "must specify", "must be specified", "please provide"];

/// What it says of a temperature that it cannot change.
const FIXED: [&str; 6] =
    ["only 1 ", "only be set to 1", "only be 1", "must be set to 1", "only the default", "must be exactly 1"];

/// What it says of a parameter that it may not name.
const NAMELESS: [&str; 4] =
    ["additional properties", "additionalproperties", "extra inputs are not permitted", "extra fields not permitted"];

/// Whether these are words that refuse a parameter.
pub(super) fn refuses(words: &str) -> bool {
    let words = words.to_lowercase();
    REFUSALS.into_iter().chain(WANTS).chain(FIXED).chain(["instead"]).any(|phrase| words.contains(phrase))
}

impl Shape {
    /// How an endpoint is written to first. `own` is whether it is OpenAI's own, whose newer models refuse the old name of the
    /// limit, which compatible servers know alone.
    pub(super) fn new(field: OutputLimitField, own: bool) -> Self {
        let limit = match field {
            OutputLimitField::MaxTokens => LimitField::MaxTokens,
            OutputLimitField::Auto if !own => LimitField::MaxTokens,
            OutputLimitField::MaxCompletionTokens | OutputLimitField::Auto => LimitField::MaxCompletionTokens,
        };
        let limit_may_change = field == OutputLimitField::Auto;
        Self { limit, limit_may_change, counted: true, temperature: true, constrained: true }
    }

    /// How to write to an endpoint that refused a request with these words; `None` if they name nothing that could be left out.
    /// Each step leaves less to change, so that steps end.
    pub(super) fn after(self, words: &str) -> Option<Self> {
        let words = words.to_lowercase();
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| words.contains(phrase));
        let refuses = says(&REFUSALS);
        let names = |field: &str| names(&words, field);
        let (limit, other) = (self.limit.name(), self.limit.other());
        let refused = names(limit) && (refuses || (words.contains("instead") && names(other.name())));
        if self.limit_may_change && (refused || (says(&WANTS) && names(other.name()))) {
            return Some(Self { limit: other, limit_may_change: false, ..self });
        }
        let options = ["stream_options", "include_usage", "streamoptions", "includeusage"];
        if self.counted && options.into_iter().any(names) {
            return Some(Self { counted: false, ..self });
        }
        if self.temperature && (refuses || says(&FIXED)) && names("temperature") {
            return Some(Self { temperature: false, ..self });
        }
        // Refused in whatever words, as a format or because of its schema: the prompt asks for it instead.
        if self.constrained && ["response_format", "json_schema", "output_config"].into_iter().any(names) {
            return Some(Self { constrained: false, ..self });
        }
        // Without a name it is most likely the one that no other client sends.
        if self.counted && says(&NAMELESS) {
            return Some(Self { counted: false, ..self });
        }
        None
    }
}

/// Whether a text names a field: not as a part of a longer name.
fn names(text: &str, field: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(field).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + field.len()..).unwrap_or_default());
        !before.ends_with(part) && !after.starts_with(part)
    })
}

/// What is known of an endpoint, shared by all calls of it.
#[derive(Debug)]
pub(super) struct Learned(Mutex<Shape>);

impl Learned {
    pub(super) fn new(first: Shape) -> Self {
        Self(Mutex::new(first))
    }

    /// How it is written to now.
    pub(super) fn shape(&self) -> Shape {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It took a request of this shape. Another call may change the limit's name again: the server may have been replaced.
    pub(super) fn keep(&self, taken: Shape) {
        let mut shape = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *shape = Shape { limit_may_change: shape.limit_may_change, ..taken };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape::new(OutputLimitField::Auto, false)
    }

    #[test]
    fn a_refused_parameter_is_left_out_or_renamed() {
        let other = LimitField::MaxCompletionTokens;
        for words in [
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            r#"[{"type":"extra_forbidden","loc":["body","max_tokens"],"msg":"Extra inputs are not permitted"}]"#,
            "litellm.UnsupportedParamsError: o1 does not support parameters: ['max_tokens']",
            "Unrecognized request argument supplied: max_tokens",
            "max_completion_tokens: Field required",
            "`max_tokens` must not be set. Use `max_completion_tokens`.",
            "Please use max_completion_tokens instead of max_tokens",
            "Invalid parameter: 'max_tokens'",
            "max_completion_tokens is missing",
            "you must provide max_completion_tokens",
            "create() got an unexpected keyword argument 'max_tokens'",
        ] {
            assert_eq!(shape().after(words).map(|shape| shape.limit), Some(other), "{words}");
        }
        for words in [
            "Unrecognized request argument supplied: stream_options",
            "generate() got an unexpected keyword argument 'stream_options'",
            "unknown field streamOptions",
            "Additional properties are not allowed",
        ] {
            assert_eq!(shape().after(words), Some(Shape { counted: false, ..shape() }), "{words}");
        }
        for words in [
            "Unsupported value: 'temperature' does not support 0.2 with this model.",
            "invalid temperature: only 1 is allowed for this model",
            "temperature may only be set to 1",
        ] {
            assert_eq!(shape().after(words), Some(Shape { temperature: false, ..shape() }), "{words}");
        }
        for words in ["This response_format type is unavailable now", "Invalid schema for response_format 'result'"] {
            assert_eq!(shape().after(words), Some(Shape { constrained: false, ..shape() }));
        }
    }

    #[test]
    fn other_mistakes_change_nothing() {
        for words in [
            "max_tokens is too large: 5000. This model supports at most 4096 completion tokens",
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
            "temperature: range: 0..1",
            "unsupported model",
            "Unknown field: my_max_tokens",
        ] {
            assert_eq!(shape().after(words), None, "{words}");
        }
    }

    #[test]
    fn what_was_learned_may_be_learned_anew() {
        let learned = Learned::new(shape());
        learned.keep(shape().after("unsupported: max_tokens").unwrap());
        assert_eq!(learned.shape().limit, LimitField::MaxCompletionTokens);
        let back = learned.shape().after("unsupported: max_completion_tokens").unwrap();
        assert_eq!(back.limit, LimitField::MaxTokens);
        assert_eq!(back.after("unsupported: max_tokens"), None, "once in a call");
        learned.keep(back);
        assert_eq!(learned.shape(), shape());
    }

    #[test]
    fn steps_end() {
        let all = "unsupported: max_tokens max_completion_tokens stream_options temperature response_format";
        let steps = std::iter::successors(Some(shape()), |shape| shape.after(all)).count();
        assert_eq!(steps, 5, "the first and one for each of the four");
        let set = Shape::new(OutputLimitField::MaxTokens, true);
        assert_eq!(
            (set.limit, set.after("unsupported: max_tokens")),
            (LimitField::MaxTokens, None),
            "what is set stays"
        );
        assert_eq!(Shape::new(OutputLimitField::Auto, true).limit, LimitField::MaxCompletionTokens);
    }
}
