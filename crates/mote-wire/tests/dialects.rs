//! What servers write that the formats do not have: odd types, other names, other words. None of it costs the reply.

#![allow(clippy::unwrap_used)]

use mote_wire::delta::{Delta, Finish, Usage};
use mote_wire::fault::{Class, Fault, class_of_status};
use mote_wire::{anthropic, openai};

/// One line a delta, for comparison.
fn show(delta: Delta<'_>) -> String {
    match delta {
        Delta::Text { text, .. } => format!("text {text}"),
        Delta::Reasoning { text, .. } => format!("reasoning {text}"),
        Delta::Call { index, name, .. } => format!("call {index} {}", name.map_or("-".to_owned(), |n| n.to_string())),
        Delta::Arguments { index, text } => format!("arguments {index} {text}"),
        Delta::Usage(Usage { input, cache_read, output, .. }) => format!("in {input} read {cache_read} out {output}"),
        Delta::Finish { finish, .. } => format!("{finish:?}"),
        Delta::Fault(fault) => {
            format!("fault {:?} {}", fault.class_in_stream(), fault.words().map_or("-".to_owned(), |w| w.to_string()))
        }
        other => format!("{other:?}"),
    }
}

fn openai(data: &str) -> Vec<String> {
    let mut seen = Vec::new();
    openai::Decoder::default().event("", data, &mut |delta| seen.push(show(delta))).unwrap();
    seen
}

fn anthropic(data: &str) -> Vec<String> {
    let mut seen = Vec::new();
    anthropic::Decoder::default().event("", data, &mut |delta| seen.push(show(delta))).unwrap();
    seen
}

#[test]
fn a_field_of_another_type_does_not_cost_the_reply() {
    for (delta, expected) in [
        (r#"{"content":5}"#, &["text 5"][..]),
        (r#"{"content":{"type":"text","text":"Hi"}}"#, &["text Hi"]),
        (r#"{"content":{"text":{"value":"Hi"}}}"#, &["text Hi"]),
        (r#"{"content":[{"type":"text","text":{"value":"Hi"}},null]}"#, &["text Hi"]),
        (r#"{"content":false}"#, &[]),
        (r#"{"reasoning":{"content":"hm"},"content":"Hi"}"#, &["reasoning hm", "text Hi"]),
        (r#"{"reasoning":[{"text":"h"},"m"]}"#, &["reasoning h", "reasoning m"]),
        (r#"{"reasoning":[],"content":"Hi"}"#, &["text Hi"]),
        (r#"{"tool_calls":[null],"content":"Hi"}"#, &["text Hi"]),
        (
            r#"{"tool_calls":{"index":"1","id":"a","function":{"name":"x","arguments":"{}"}}}"#,
            &["call 1 x", "arguments 1 {}"],
        ),
        (r#"{"tool_calls":[{"id":"a","name":"x","arguments":{}}]}"#, &["call 0 x", "arguments 0 {}"]),
        (r#"{"function_call":{"name":"x","arguments":"{}"}}"#, &["call 0 x", "arguments 0 {}"]),
        (r#"{"function_call":{"arguments":"}"}}"#, &["arguments 0 }"]),
    ] {
        for holder in ["delta", "message"] {
            let data = format!(r#"{{"choices":[null,{{"index":"0","{holder}":{delta}}}]}}"#);
            assert_eq!(openai(&data), expected, "{data}");
        }
    }
    let odd = r#"{"type":"content_block_delta","index":"1","delta":{"type":"text_delta","text":{"value":"Hi"}}}"#;
    assert_eq!(anthropic(odd), ["text Hi"]);
}

#[test]
fn reasons_are_read_wherever_they_stand() {
    for (data, expected) in [
        (r#"{"choices":[{"finish_reason":"stop","native_finish_reason":"MALFORMED_FUNCTION_CALL"}]}"#, &["Failed"][..]),
        (r#"{"choices":[{"finish_reason":"stop","native_finish_reason":"MAX_TOKENS"}]}"#, &["Length"]),
        (r#"{"choices":[{"finish_reason":"length","native_finish_reason":"incomplete"}]}"#, &["Length"]),
        (r#"{"choices":[{"finish_reason":"tool_calls","native_finish_reason":"STOP"}]}"#, &["ToolCalls"]),
        (r#"{"choices":[{"finish_reason":"stop","stop_reason":"abort"}]}"#, &["Failed"]),
        (r#"{"choices":[{"finish_reason":"stop","stop_reason":151645}]}"#, &["Stop"]),
        (r#"{"choices":[{"finish_reason":"stop","stop_reason":"Error: "}]}"#, &["Stop"]),
        (r#"{"choices":[{"delta":{"finish_reason":"length"}}]}"#, &["Length"]),
        (r#"{"choices":[{"delta":{}}],"finish_reason":"stop"}"#, &["Stop"]),
        (r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"done_reason":"length"}"#, &["Stop", "Length"]),
    ] {
        assert_eq!(openai(data), expected, "{data}");
    }
    assert!(Finish::Failed > Finish::Length, "the stronger stands");
}

#[test]
fn counts_are_understood_in_every_form() {
    for (usage, expected) in [
        (r#"{"prompt_tokens":0,"completion_tokens":5,"total_tokens":15}"#, &["in 10 read 0 out 5"][..]),
        (
            r#"{"prompt_tokens":5,"completion_tokens":10,"total_tokens":1015,"prompt_tokens_details":{"cached_tokens":1000}}"#,
            &["in 1005 read 1000 out 10"],
        ),
        (
            r#"{"prompt_tokens":500,"completion_tokens":10,"total_tokens":910,"prompt_tokens_details":{"cached_tokens":400}}"#,
            &["in 900 read 400 out 10"],
        ),
        (r#"{"prompt_tokens":"12","completion_tokens":1e1}"#, &["in 12 read 0 out 10"]),
        (r#"{"prompt_tokens":12,"completion_tokens":18446744073709551615}"#, &["in 12 read 0 out 0"]),
        (r#"{"prompt_tokens":18446744073709551615,"completion_tokens":18446744073709551615}"#, &[]),
        (r#"{"prompt_tokens":"many","completion_tokens":true}"#, &[]),
    ] {
        assert_eq!(openai(&format!(r#"{{"choices":[],"usage":{usage}}}"#)), expected, "{usage}");
    }
    let message = r#"{"type":"message_delta","usage":{"input_tokens":"7","output_tokens":18446744073709551615}}"#;
    assert_eq!(anthropic(message), ["in 7 read 0 out 0"]);
}

#[test]
fn flat_errors_keep_their_words() {
    for (data, expected) in [
        (
            r#"{"base_resp":{"status_code":1002,"status_msg":"rate limit"},"choices":null}"#,
            "fault RateLimited rate limit",
        ),
        (r#"{"base_resp":{"status_code":2013,"status_msg":"bad param"}}"#, "fault Rejected bad param"),
        (r#"{"id":"1","error_code":336100,"error_msg":"try again"}"#, "fault Server try again"),
        (r#"{"success":false,"msg":"gone","code":500}"#, "fault Server gone"),
    ] {
        assert_eq!(openai(data), [expected], "{data}");
        assert_eq!(anthropic(data), [expected], "{data}");
    }
    let well = r#"{"base_resp":{"status_code":0,"status_msg":""},"choices":[{"delta":{"content":"Hi"}}]}"#;
    assert_eq!(openai(well), ["text Hi"]);
}

fn class(message: &str) -> Option<Class> {
    Fault::parse(&format!(r#"{{"error":{{"message":"{message}","code":400}}}}"#)).class()
}

#[test]
fn more_wordings_of_an_overflow_are_known() {
    for message in [
        "input token count is 40000 but model only supports up to 32768",
        "length of prompt_tokens (12345) must be less than max_seq_len (4096).",
        "litellm.ContextWindowExceededError: too long",
        "prompt token count (5000) cannot exceed 4096",
        "Request prompt has 5000 tokens in total, larger than the model input length limit 4096.",
        "input length 5000 exceeds session_len 4096",
        "Prompt 超长",
        "input tokens exceeds the limit",
        "The input would exceed the model's maximum context of 8192",
        "Prompt length (5000) exceeds the maximum sequence length (4096)",
        "maximum context size is 4096",
        "The prompt exceeds the truncation length",
        "The input is longer than the maximum allowed",
        "maximum context length is 8192 tokens (see https://x/quota)",
        "Your input exceeds the context window of this model.",
    ] {
        assert_eq!(class(message), Some(Class::ContextLength), "{message}");
    }
    let writer = r#"{"errors":[{"description":"prompt is too long"}]}"#;
    assert_eq!(Fault::parse(writer).class(), Some(Class::ContextLength));
    for message in [
        "`max_tokens` must be less than or equal to `8192`, the maximum value is less than the context window for this model",
        "max_tokens must be less than or equal to 8192, less than the context window for this model",
        "image exceeds the maximum allowed length of 8000 pixels",
        "Your plan has no long context window",
    ] {
        assert_eq!(class(message), None, "{message}");
    }
}

#[test]
fn output_that_the_server_could_not_read_is_known_without_its_code() {
    for message in [
        "Failed to generate JSON. Please adjust your prompt.",
        "Parsing failed. The model generated output that could not be parsed.",
        "Failed to validate JSON",
        "error parsing tool call: raw='{'",
        "attempted to call tool 'x' which was not in request.tools",
    ] {
        assert_eq!(class(message), Some(Class::BadOutput), "{message}");
    }
    let field = r#"{"error":{"message":"no","failed_generation":"<function"}}"#;
    assert_eq!(Fault::parse(field).class(), Some(Class::BadOutput));
}

#[test]
fn statuses_and_gateways_say_whether_to_try_again() {
    for (status, class) in [
        (409, Class::TimedOut),
        (425, Class::TimedOut),
        (499, Class::TimedOut),
        (424, Class::Server),
        (498, Class::Overloaded),
        (400, Class::Rejected),
    ] {
        assert_eq!(class_of_status(status), class, "{status}");
    }
    let behind = r#"{"error":{"message":"Provider returned error","metadata":{"raw":"upstream overloaded"}}}"#;
    assert_eq!(Fault::parse(behind).class(), Some(Class::Overloaded));
}
