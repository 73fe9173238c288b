//! What an endpoint turned out not to take: parameters that one server needs and the next refuses. The first request that is
//! refused for one is sent again without it, and the endpoint is remembered to want it so.
//!
//! Only parameters without which the run can go on are here. Nothing is remembered beyond the process, and nothing of a request
//! that was refused all the same.

use std::sync::{Mutex, PoisonError};

use crate::config::OutputLimitField;

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
const REFUSALS: [&str; 20] = [
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
];

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
        let refuses = REFUSALS.iter().any(|phrase| words.contains(phrase));
        let names = |field: &str| names(&words, field);
        let (limit, other) = (self.limit.name(), self.limit.other());
        if self.limit_may_change && ((refuses && names(limit)) || (words.contains("required") && names(other.name()))) {
            return Some(Self { limit: other, limit_may_change: false, ..self });
        }
        if self.counted && (names("stream_options") || names("include_usage")) {
            return Some(Self { counted: false, ..self });
        }
        if self.temperature && refuses && names("temperature") {
            return Some(Self { temperature: false, ..self });
        }
        // Refused in whatever words, as a format or because of its schema: the prompt asks for it instead.
        if self.constrained && ["response_format", "json_schema", "output_config"].into_iter().any(names) {
            return Some(Self { constrained: false, ..self });
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

    /// It took a request of this shape.
    pub(super) fn keep(&self, taken: Shape) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = taken;
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
        ] {
            assert_eq!(shape().after(words).map(|shape| shape.limit), Some(other), "{words}");
        }
        let stream_options = "Unrecognized request argument supplied: stream_options";
        assert_eq!(shape().after(stream_options), Some(Shape { counted: false, ..shape() }));
        let temperature = "Unsupported value: 'temperature' does not support 0.2 with this model.";
        assert_eq!(shape().after(temperature), Some(Shape { temperature: false, ..shape() }));
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
