//! Why a model stopped, in the spellings of the servers that speak either wire format.
//!
//! Names that are documented come first. A name that no list has is read by its words, so that the next server's spelling of
//! an error or of the limit of length is none of a good end; what says nothing is [`Finish::Other`].

use crate::delta::Finish;
use crate::json::{Text, Value};

/// Whole names, compared without case.
const NAMES: [(&str, Finish); 48] = [
    // OpenAI, Anthropic, Gemini (`STOP`), Cohere (`COMPLETE`), Hugging Face TGI (`eos_token`).
    ("stop", Finish::Stop),
    ("end_turn", Finish::Stop),
    ("stop_sequence", Finish::Stop),
    ("complete", Finish::Stop),
    ("completed", Finish::Stop),
    ("eos", Finish::Stop),
    ("eos_token", Finish::Stop),
    ("end_of_turn", Finish::Stop),
    ("finished", Finish::Stop),
    ("tool_calls", Finish::ToolCalls),
    ("tool_call", Finish::ToolCalls),
    ("tool_use", Finish::ToolCalls),
    ("function_call", Finish::ToolCalls),
    ("function_calls", Finish::ToolCalls),
    // Mistral `model_length`, Anthropic `model_context_window_exceeded`, Cohere `ERROR_LIMIT`.
    ("length", Finish::Length),
    ("max_tokens", Finish::Length),
    ("max_output_tokens", Finish::Length),
    ("max_completion_tokens", Finish::Length),
    ("max_new_tokens", Finish::Length),
    ("max_length", Finish::Length),
    ("model_length", Finish::Length),
    ("token_limit", Finish::Length),
    ("limit", Finish::Length),
    ("error_limit", Finish::Length),
    ("model_context_window_exceeded", Finish::Length),
    ("content_filter", Finish::ContentFilter),
    ("content_filtered", Finish::ContentFilter),
    ("refusal", Finish::ContentFilter),
    // Gemini's, Zhipu's `sensitive`, Bedrock's `guardrail_intervened`, Cohere's `ERROR_TOXIC`.
    ("safety", Finish::ContentFilter),
    ("recitation", Finish::ContentFilter),
    ("blocklist", Finish::ContentFilter),
    ("prohibited_content", Finish::ContentFilter),
    ("spii", Finish::ContentFilter),
    ("sensitive", Finish::ContentFilter),
    ("guardrail_intervened", Finish::ContentFilter),
    ("error_toxic", Finish::ContentFilter),
    // DeepSeek `insufficient_system_resource`, vLLM and SGLang `abort`, Zhipu `network_error`, Azure `content_filter_error`
    // (the filter itself failed).
    ("insufficient_system_resource", Finish::Failed),
    ("abort", Finish::Failed),
    ("error", Finish::Failed),
    ("network_error", Finish::Failed),
    ("content_filter_error", Finish::Failed),
    ("malformed_function_call", Finish::Failed),
    ("unexpected_tool_call", Finish::Failed),
    ("too_many_tool_calls", Finish::Failed),
    // Gemini `LANGUAGE` (one that it does not speak), Ollama `load` (the model was only loaded).
    ("language", Finish::Failed),
    ("load", Finish::Failed),
    ("oom", Finish::Failed),
    ("exceeded", Finish::Length),
];

/// Words of which one within a name says what it means; the first that is found counts.
const WORDS: [(&str, Finish); 52] = [
    ("max_tokens", Finish::Length),
    ("max_output", Finish::Length),
    ("max_new_tokens", Finish::Length),
    ("maxtokens", Finish::Length),
    ("max_length", Finish::Length),
    ("token_limit", Finish::Length),
    ("context_length", Finish::Length),
    ("context_window", Finish::Length),
    ("context_exceeded", Finish::Length),
    ("context_full", Finish::Length),
    ("context_limit", Finish::Length),
    ("context_overflow", Finish::Length),
    ("out_of_tokens", Finish::Length),
    ("length", Finish::Length),
    ("error", Finish::Failed),
    ("fail", Finish::Failed),
    ("abort", Finish::Failed),
    ("cancel", Finish::Failed),
    ("timeout", Finish::Failed),
    ("timed_out", Finish::Failed),
    ("insufficient", Finish::Failed),
    ("overload", Finish::Failed),
    ("unavailable", Finish::Failed),
    ("malformed", Finish::Failed),
    ("invalid", Finish::Failed),
    ("unexpected", Finish::Failed),
    ("interrupt", Finish::Failed),
    ("preempt", Finish::Failed),
    ("evict", Finish::Failed),
    ("disconnect", Finish::Failed),
    ("shutdown", Finish::Failed),
    ("crash", Finish::Failed),
    // The reply is not whole, in other words.
    ("incomplete", Finish::Failed),
    ("partial", Finish::Failed),
    ("reject", Finish::Failed),
    ("kill", Finish::Failed),
    ("terminat", Finish::Failed),
    ("expire", Finish::Failed),
    ("throttl", Finish::Failed),
    ("rate_limit", Finish::Failed),
    ("quota", Finish::Failed),
    ("exhaust", Finish::Failed),
    ("out_of_memory", Finish::Failed),
    ("kv_cache", Finish::Failed),
    ("drop", Finish::Failed),
    ("missing", Finish::Failed),
    ("repetition", Finish::Failed),
    ("filter", Finish::ContentFilter),
    ("safety", Finish::ContentFilter),
    ("prohibited", Finish::ContentFilter),
    ("moderation", Finish::ContentFilter),
    ("blocked", Finish::ContentFilter),
];

/// What a name means that is known as a whole.
fn named(reason: Text<'_>) -> Option<Finish> {
    NAMES.into_iter().find_map(|(name, finish)| reason.is_ignoring_case(name).then_some(finish))
}

/// What a reason means; `None` where there is none: it is empty, or says `null` in words.
pub(crate) fn read(reason: Text<'_>) -> Option<Finish> {
    if reason.chars().all(char::is_whitespace) || ["null", "none"].iter().any(|word| reason.is_ignoring_case(word)) {
        return None;
    }
    let worded = || WORDS.into_iter().find_map(|(word, finish)| reason.contains_ignoring_case(word).then_some(finish));
    Some(named(reason).or_else(worded).unwrap_or(Finish::Other))
}

/// The reason in a field of a choice or a message: text, or an object whose `type` is the text (SGLang's own form). What has
/// another form says nothing.
pub(crate) fn of_field(field: Option<Value<'_>>) -> Option<(Finish, Text<'_>)> {
    let field = field?;
    let kind = || field.fields(["type"]).ok().and_then(|[kind]| kind).and_then(|kind| kind.text().ok());
    let text = field.text().ok().or_else(kind)?;
    read(text).map(|finish| (finish, text))
}

/// Where a choice has its reasons, beside the format's own field.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Aside<'a> {
    /// Within the delta.
    pub(crate) inner: Option<Value<'a>>,
    /// What the provider behind a gateway said (OpenRouter's `native_finish_reason`).
    pub(crate) native: Option<Value<'a>>,
    /// `stop_reason`. vLLM has the number of a token or a stop string here, beside `finish_reason`.
    pub(crate) stop: Option<Value<'a>>,
}

/// The reason of a choice: the format's own, unless another says more.
pub(crate) fn of_choice<'a>(field: Option<Value<'a>>, aside: Aside<'a>) -> Option<(Finish, Text<'a>)> {
    let own = stronger(of_field(field), of_field(aside.inner));
    let weak = own.is_none_or(|(finish, _)| finish < Finish::Length);
    let native = of_field(aside.native).filter(|(finish, _)| weak && *finish >= Finish::Length);
    let stop = of_field(aside.stop)
        .filter(|(_, reason)| named(*reason).is_some())
        .filter(|(finish, _)| own.is_none() || *finish == Finish::Failed);
    stronger(stronger(own, native), stop)
}

type Reason<'a> = Option<(Finish, Text<'a>)>;

/// Of two reasons the one that says more.
fn stronger<'a>(one: Reason<'a>, other: Reason<'a>) -> Reason<'a> {
    if other.map(|(finish, _)| finish) > one.map(|(finish, _)| finish) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_in_every_spelling() {
        let check = |reasons: &[&str], expected| {
            for reason in reasons {
                assert_eq!(read(Text::plain(reason)), expected, "{reason}");
            }
        };
        check(&["", " ", "null", "None"], None);
        check(&["stop", "STOP", "end_turn", "COMPLETE", "eos_token"], Some(Finish::Stop));
        check(&["tool_calls", "TOOL_CALLS", "function_call", "tool_use"], Some(Finish::ToolCalls));
        check(
            &[
                "length",
                "max_tokens",
                "MAX_TOKENS",
                "max_output_tokens",
                "model_length",
                "token_limit",
                "token_limit_reached",
                "max_tokens_exceeded",
                "LENGTH_LIMIT",
                "context_length_exceeded",
                "FinishReason.MAX_TOKENS",
                "ERROR_LIMIT",
                "context_exceeded",
                "context_full",
                "exceeded",
                "ran_out_of_tokens",
            ],
            Some(Finish::Length),
        );
        check(
            &["content_filter", "SAFETY", "refusal", "content_filter: PROHIBITED_CONTENT", "guardrail_intervened"],
            Some(Finish::ContentFilter),
        );
        check(
            &[
                "insufficient_system_resource",
                "error",
                "ERROR",
                "abort",
                "aborted",
                "cancelled",
                "content_filter_error",
                "function_call_filter: MALFORMED_FUNCTION_CALL",
                "network_error",
                "server_error",
                "engine_overloaded",
                "timeout",
                "failed",
            ],
            Some(Finish::Failed),
        );
        check(&["pause_turn", "novel", "unknown", "OTHER"], Some(Finish::Other));
    }

    #[test]
    fn what_says_that_the_reply_is_not_whole_is_a_failure() {
        for reason in [
            "incomplete",
            "partial",
            "rejected",
            "killed",
            "terminated",
            "expired",
            "throttled",
            "rate_limit",
            "quota_exceeded",
            "out_of_memory",
            "oom",
            "kv_cache_full",
            "dropped",
            "load",
            "MISSING_THOUGHT_SIGNATURE",
            "LANGUAGE",
            "repetition",
        ] {
            assert_eq!(read(Text::plain(reason)), Some(Finish::Failed), "{reason}");
        }
    }
}
