//! Whole streams of both providers, decoded: what comes out, however the bytes are cut.

#![allow(clippy::unwrap_used)]

use mote_wire::delta::{Delta, Finish, Usage};
use mote_wire::fault::{Class, Fault, class_of_status};
use mote_wire::sse::{Fixed, Framer};
use mote_wire::{Error, anthropic, openai};
use proptest::prelude::*;

/// One line a delta, for comparison.
fn show(delta: Delta<'_>) -> String {
    match delta {
        Delta::Text { index, text } => format!("text {index} {text}"),
        Delta::Reasoning { index, text } => format!("reasoning {index} {text}"),
        Delta::Signature { index, text } => format!("signature {index} {text}"),
        Delta::Redacted { index, data } => format!("redacted {index} {data}"),
        Delta::Call { index, id, name, distinct: _ } => {
            let text = |t: Option<mote_wire::json::Text<'_>>| t.map_or("-".to_owned(), |t| t.to_string());
            format!("call {index} {} {}", text(id), text(name))
        }
        Delta::Arguments { index, text } => format!("arguments {index} {text}"),
        Delta::CallExtra { index, json } => format!("extra {index} {json}"),
        Delta::ReasoningDetails { json } => format!("details {json}"),
        Delta::Usage(Usage { input, cache_read, cache_write, output, reasoning }) => {
            format!("usage in {input} read {cache_read} write {cache_write} out {output} reasoning {reasoning}")
        }
        Delta::Finish { finish, reason: _ } => format!("finish {finish:?}"),
        Delta::Done => "done".to_owned(),
        Delta::Fault(fault) => format!("fault {:?}", fault.class_in_stream()),
    }
}

#[derive(Default)]
struct Both {
    anthropic: anthropic::Decoder,
    openai: openai::Decoder,
}

#[derive(Clone, Copy, Debug)]
enum Wire {
    Anthropic,
    OpenAi,
}

impl Both {
    fn event(&mut self, wire: Wire, name: &str, data: &str) -> Result<Vec<String>, Error> {
        let mut seen = Vec::new();
        let mut sink = |delta: Delta<'_>| seen.push(show(delta));
        match wire {
            Wire::Anthropic => self.anthropic.event(name, data, &mut sink)?,
            Wire::OpenAi => self.openai.event(name, data, &mut sink)?,
        }
        Ok(seen)
    }
}

fn decode<'c>(wire: Wire, chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<String> {
    let mut memory = [0; 4096];
    let mut framer = Framer::new(Fixed::new(&mut memory));
    let mut decoder = Both::default();
    let mut seen = Vec::new();
    for mut chunk in chunks {
        while let Some(event) = framer.next(&mut chunk).unwrap() {
            seen.extend(decoder.event(wire, event.name, event.data).unwrap());
        }
    }
    seen
}

const ANTHROPIC: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"m","stop_reason":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Let me\nsee"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"b3BhcXVl"}}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"Looking “it” up 😀"}}

event: content_block_start
data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_1","name":"get_ticket","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"id\": \"T-1"}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"7\"}"}}

event: something_new
data: {"type":"something_new","index":{"not":"a number"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":89,"input_tokens":null}}

event: message_stop
data: {"type":"message_stop"}

"#;

const ANTHROPIC_DELTAS: [&str; 13] = [
    "usage in 3210 read 3000 write 200 out 1 reasoning 0",
    "reasoning 0 ",
    "reasoning 0 Let me\nsee",
    "signature 0 EqQB",
    "redacted 1 b3BhcXVl",
    "text 2 Looking “it” up 😀",
    "call 3 toolu_1 get_ticket",
    "arguments 3 ",
    "arguments 3 {\"id\": \"T-1",
    "arguments 3 7\"}",
    "usage in 3210 read 3000 write 200 out 89 reasoning 0",
    "finish ToolCalls",
    "done",
];

const OPENAI: &str = r#"data: {"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":null},"finish_reason":null}],"usage":null}

data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm","reasoning":"Hm"},"finish_reason":null}]}

data: {"choices":[{"index":0,"delta":{"reasoning":" well"}}]}

data: {"choices":[{"index":0,"delta":{"content":"Looking\u0020up"}},{"index":1,"delta":{"content":"another choice"}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"get_ticket","arguments":""}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"id\":"}},{"index":1,"function":{"arguments":"{}","name":"list"},"id":"call_b"}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: {"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":7}}}

data: [DONE]

"#;

const OPENAI_DELTAS: [&str; 11] = [
    "reasoning 0 Hm",
    "reasoning 1  well",
    "text 0 Looking up",
    "call 0 call_a get_ticket",
    "arguments 0 {\"id\":",
    "call 1 call_b list",
    "arguments 1 {}",
    "arguments 0 1}",
    "finish ToolCalls",
    "usage in 100 read 64 write 0 out 20 reasoning 7",
    "done",
];

#[test]
fn an_anthropic_stream_is_decoded() {
    assert_eq!(decode(Wire::Anthropic, [ANTHROPIC.as_bytes()]), ANTHROPIC_DELTAS);
}

#[test]
fn an_openai_stream_is_decoded() {
    assert_eq!(decode(Wire::OpenAi, [OPENAI.as_bytes()]), OPENAI_DELTAS);
}

#[test]
fn every_split_of_a_stream_in_two_gives_the_same() {
    for (wire, stream, deltas) in
        [(Wire::Anthropic, ANTHROPIC, &ANTHROPIC_DELTAS[..]), (Wire::OpenAi, OPENAI, &OPENAI_DELTAS[..])]
    {
        let stream = stream.replace('\n', "\r\n");
        for cut in 0..stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            assert_eq!(decode(wire, [head, tail]), deltas, "{wire:?} cut at {cut}");
        }
    }
}

fn one(wire: Wire, data: &str) -> Result<Vec<String>, Error> {
    Both::default().event(wire, "", data)
}

#[test]
fn stop_reasons_are_mapped() {
    for (reason, finish) in [
        ("end_turn", Finish::Stop),
        ("stop_sequence", Finish::Stop),
        ("max_tokens", Finish::Length),
        ("model_context_window_exceeded", Finish::Length),
        ("refusal", Finish::ContentFilter),
        ("pause_turn", Finish::Other),
    ] {
        let data = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}"}}}}"#);
        assert_eq!(one(Wire::Anthropic, &data).unwrap(), [format!("finish {finish:?}")]);
    }
    for (reason, finish) in [
        ("stop", Finish::Stop),
        ("length", Finish::Length),
        ("content_filter", Finish::ContentFilter),
        ("novel", Finish::Other),
        ("insufficient_system_resource", Finish::Failed),
    ] {
        let data = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}"#);
        assert_eq!(one(Wire::OpenAi, &data).unwrap(), [format!("finish {finish:?}")]);
    }
    assert!(one(Wire::OpenAi, r#"{"choices":[{"delta":{},"finish_reason":""}]}"#).unwrap().is_empty(), "no reason");
    assert!(one(Wire::Anthropic, r#"{"type":"message_delta","delta":{"stop_reason":""}}"#).unwrap().is_empty());
    let object = r#"{"choices":[{"delta":{},"finish_reason":{"type":"abort","message":"gone"}}]}"#;
    assert_eq!(one(Wire::OpenAi, object).unwrap(), ["finish Failed"]);
}

#[test]
fn compatible_servers_quirks_are_understood() {
    let no_index = r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"x","arguments":"{}"}},{"id":"b","function":{"name":"y","arguments":{"k": [1]}}}]}}]}"#;
    assert_eq!(
        one(Wire::OpenAi, no_index).unwrap(),
        ["call 0 a x", "arguments 0 {}", "call 1 b y", "arguments 1 {\"k\": [1]}"]
    );
    let deepseek = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_cache_hit_tokens":4}}"#;
    assert_eq!(one(Wire::OpenAi, deepseek).unwrap(), ["usage in 9 read 4 write 0 out 1 reasoning 0"]);
    let refusal = r#"{"choices":[{"delta":{"refusal":"I cannot"}}]}"#;
    assert_eq!(one(Wire::OpenAi, refusal).unwrap(), ["text 0 I cannot"]);
    let whole = r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"n","input":{"a":1}}}"#;
    assert_eq!(one(Wire::Anthropic, whole).unwrap(), ["call 0 t n", "arguments 0 {\"a\":1}"]);
}

#[test]
fn content_may_be_a_list_of_parts() {
    let parts = r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"Paid"},{"type":"reference","reference_ids":[1]},{"type":"thinking","thinking":"so"}]}}]}"#;
    assert_eq!(one(Wire::OpenAi, parts).unwrap(), ["reasoning 2 hm", "text 0 Paid", "reasoning 2 so"]);
}

#[test]
fn whole_answers_are_read_like_streams() {
    let body = r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","tool_calls":[{"id":"a","function":{"name":"x","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
    let mut seen = Vec::new();
    openai::Decoder::default().whole(body, &mut |delta| seen.push(show(delta))).unwrap();
    let usage = "usage in 3 read 0 write 0 out 2 reasoning 0";
    assert_eq!(seen, [usage, "text 0 Hi", "call 0 a x", "arguments 0 {}", "finish ToolCalls", "done"]);
    let body = r#"{"type":"message","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"text","text":"Hi"},{"type":"tool_use","id":"t","name":"x","input":{"a":1}}],"stop_reason":"tool_use","usage":{"input_tokens":3,"output_tokens":2}}"#;
    let mut seen = Vec::new();
    anthropic::Decoder::default().whole(body, &mut |delta| seen.push(show(delta))).unwrap();
    let rest = ["text 1 Hi", "call 2 t x", "arguments 2 {\"a\":1}", "finish ToolCalls", "done"];
    assert_eq!(seen[..3], [usage, "reasoning 0 hm", "signature 0 s"]);
    assert_eq!(seen[3..], rest);
}

#[test]
fn a_last_message_repeats_nothing_and_adds_what_was_not_streamed() {
    let mut decoder = Both::default();
    let mut event = |data| decoder.event(Wire::OpenAi, "", data).unwrap();
    event(r#"{"choices":[{"delta":{"content":"Hi"}}]}"#);
    let last = r#"{"object":"chat.completion","choices":[{"message":{"content":"Hi","tool_calls":[{"id":"a","function":{"name":"x","arguments":"{}"}}]},"finish_reason":"stop"}]}"#;
    assert_eq!(event(last), ["call 0 a x", "arguments 0 {}", "finish Stop"]);
    // A server that writes `message` where the format has `delta`.
    let mut decoder = Both::default();
    for text in ["a", "b"] {
        let chunk = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}]}}"#);
        assert_eq!(decoder.event(Wire::OpenAi, "", &chunk).unwrap(), [format!("text 0 {text}")]);
    }
}

#[test]
fn counts_are_read_wherever_they_stand() {
    for (data, expected) in [
        (
            r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":1012,"completion_tokens_details":{"reasoning_tokens":1000}}}"#,
            "usage in 10 read 0 write 0 out 1002 reasoning 1000",
        ),
        (
            r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":1000}}}"#,
            "usage in 10 read 0 write 0 out 1002 reasoning 1000",
        ),
        (
            r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30,"completion_tokens_details":{"reasoning_tokens":15}}}"#,
            "usage in 10 read 0 write 0 out 20 reasoning 15",
        ),
        (
            r#"{"choices":[{"index":0,"delta":{},"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}]}"#,
            "usage in 4 read 0 write 0 out 2 reasoning 0",
        ),
        (
            r#"{"choices":[],"x_groq":{"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}}"#,
            "usage in 4 read 0 write 0 out 2 reasoning 0",
        ),
        (
            r#"{"choices":[],"timings":{"prompt_n":3,"cache_n":7,"predicted_n":5,"predicted_ms":12.5}}"#,
            "usage in 10 read 7 write 0 out 5 reasoning 0",
        ),
    ] {
        assert_eq!(one(Wire::OpenAi, data).unwrap(), [expected], "{data}");
    }
    let nothing = r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#;
    assert!(one(Wire::OpenAi, nothing).unwrap().is_empty(), "zeros count nothing");
    let mut decoder = Both::default();
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":1000,"output_tokens":1}}}"#;
    decoder.event(Wire::Anthropic, "", start).unwrap();
    let end = r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":0,"output_tokens":3}}"#;
    let seen = decoder.event(Wire::Anthropic, "", end).unwrap();
    assert_eq!(seen, ["usage in 1000 read 0 write 0 out 3 reasoning 0"], "the larger stands");
}

#[test]
fn overflows_are_known_by_their_wordings() {
    for message in [
        "The input (263000 tokens) is longer than the model's context length (262144 tokens).",
        "Requested token count exceeds the model's maximum context length of 4096 tokens.",
        "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens). Use a shorter input.",
        "This model's maximum context length is 4096 tokens. However, you requested 4109 tokens (13 in the messages, 4096 in the completion). Please reduce the length of the messages or completion.",
        "The decoder prompt (length 21535) is longer than the maximum model length of 16384. Make sure that `max_model_len` is no smaller than the number of text tokens.",
        "The prompt (total length 25938) is too long to fit into the model (context length 4096).",
        "You passed 5001 input tokens and requested 0 output tokens. However, the model's context length is only 4096 tokens, resulting in a maximum input length of 4096 tokens.",
        "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 4096 tokens and your request has 21 input tokens",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Invalid request: Your request exceeded model token limit: 131072",
        "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 4970>= n_ctx: 4096).",
        "Trying to keep the first 6330 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough.",
        "the request exceeds the available context size, try increasing it",
        "Context size has been exceeded.",
        "Input is too long for requested model.",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 8000 `inputs` tokens and 500 `max_new_tokens`",
        "Please reduce the length of the messages or completion.",
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 150000 tokens",
        "prompt token count of 130000 exceeds the limit of 128000",
        "Range of input length should be [1, 30720]",
        "invalid params, context window exceeds limit (2013)",
        "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 7000, please reduce your message size and try again.",
    ] {
        let body = format!(r#"{{"error":{{"message":"{message}","code":400}}}}"#);
        assert_eq!(Fault::parse(&body).class(), Some(Class::ContextLength), "{message}");
    }
    for message in [
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens, whereas you provided 5000.",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        "Too many tokens, please wait before trying again.",
        "This request would exceed your organization's rate limit of 30,000 input tokens per minute",
        "messages: text content blocks must be non-empty",
    ] {
        let body = format!(r#"{{"error":{{"message":"{message}"}}}}"#);
        assert_eq!(Fault::parse(&body).class(), None, "{message}");
    }
}

#[test]
fn errors_are_read_in_every_shape() {
    let xai = r#"{"code":"Client specified an invalid argument","error":"This model's maximum prompt length is 1"}"#;
    let fault = Fault::parse(xai);
    assert_eq!((fault.class(), fault.status), (Some(Class::ContextLength), None));
    let gemini = r#"[{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}]"#;
    assert_eq!(Fault::parse(gemini).class(), Some(Class::RateLimited));
    let behind = r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"message\":\"Input is too long for requested model.\"}"}}}"#;
    assert_eq!(Fault::parse(behind).class(), Some(Class::ContextLength));
    let groq =
        r#"{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed"}}"#;
    assert_eq!(Fault::parse(groq).class(), Some(Class::BadOutput));
    let litellm = r#"{"error":{"message":"slow down","type":null,"code":"429"}}"#;
    assert_eq!(Fault::parse(litellm).class_in_stream(), Class::RateLimited);
    let spring = r#"{"status":503,"error":"Service Unavailable","message":"no node"}"#;
    let fault = Fault::parse(spring);
    assert_eq!((fault.class_in_stream(), fault.words().unwrap().to_string()), (Class::Overloaded, "no node".into()));
    for data in [
        r#"{"object":"error","message":"EngineCore encountered an issue.","type":"InternalServerError","code":500}"#,
        r#"{"detail":"gone"}"#,
        r#"{"message":"gone","code":"500"}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"code":502,"message":"gone"}}]}"#,
        r#"[{"error":{"code":500,"message":"gone"}}]"#,
        r#"{"error":"gone"}"#,
    ] {
        assert_eq!(one(Wire::OpenAi, data).unwrap(), ["fault Server"], "{data}");
    }
    for data in
        [r#"{"error":null,"choices":[]}"#, r#"{"error":"","choices":[]}"#, r#"{"id":"1","object":"ping"}"#, " ", ""]
    {
        assert!(one(Wire::OpenAi, data).unwrap().is_empty(), "{data}");
    }
    assert!(one(Wire::Anthropic, "").unwrap().is_empty());
}

#[test]
fn faults_are_classified_by_their_words() {
    for (body, class) in [
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, Some(Class::Overloaded)),
        (
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 208310 tokens > 200000 maximum"}}"#,
            Some(Class::ContextLength),
        ),
        (r#"{"type":"error","error":{"type":"request_too_large","message":"x"}}"#, Some(Class::ContextLength)),
        (
            r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            Some(Class::ContextLength),
        ),
        (
            r#"{"error":{"message":"Quota","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            Some(Class::Rejected),
        ),
        (
            r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#,
            Some(Class::RateLimited),
        ),
        (r#"{"error":"model 'x' not found"}"#, None),
        (
            r#"{"object":"error","message":"This model's maximum context length is 10","code":400}"#,
            Some(Class::ContextLength),
        ),
        (r#"{"detail":[{"msg":"bad"}]}"#, None),
        ("<html>", None),
        ("", None),
    ] {
        assert_eq!(Fault::parse(body).class(), class, "{body}");
    }
    let message = |body| Fault::parse(body).message.map(|m| m.to_string());
    assert_eq!(message(r#"{"error":"model 'x' not found"}"#).as_deref(), Some("model 'x' not found"));
    assert_eq!(message(r#"{"detail":[{"msg":"bad"}]}"#).as_deref(), Some(r#"[{"msg":"bad"}]"#));
    assert_eq!(message("[]"), None);
}

#[test]
fn faults_end_streams_of_both_kinds() {
    let anthropic = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    assert_eq!(one(Wire::Anthropic, anthropic).unwrap(), ["fault Overloaded"]);
    let by_code = r#"{"error":{"code":429,"message":"x"},"choices":[]}"#;
    assert_eq!(one(Wire::OpenAi, by_code).unwrap(), ["fault RateLimited"]);
    assert_eq!(one(Wire::OpenAi, r#"{"error":{"message":"boom"}}"#).unwrap(), ["fault Server"]);
    assert_eq!(class_of_status(529), Class::Overloaded);
    assert_eq!(class_of_status(404), Class::Rejected);
    assert_eq!(class_of_status(500), Class::Server);
}

#[test]
fn malformed_events_are_errors() {
    for data in ["{", "nonsense", "7", "[]", r#"{"choices":{}}"#] {
        assert!(one(Wire::OpenAi, data).is_err(), "{data}");
    }
    assert!(one(Wire::Anthropic, "{\"type\":5}").is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut memory = [0; 64];
        let mut framer = Framer::new(Fixed::new(&mut memory));
        let mut chunk = bytes.as_slice();
        while let Ok(Some(event)) = framer.next(&mut chunk) {
            let _ = one(Wire::Anthropic, event.data);
            let _ = one(Wire::OpenAi, event.data);
        }
    }

    #[test]
    fn a_damaged_stream_never_panics(wire in prop_oneof![Just(Wire::Anthropic), Just(Wire::OpenAi)],
                                     at in 0usize..4000, byte in any::<u8>(), size in 1usize..64) {
        let mut bytes = match wire { Wire::Anthropic => ANTHROPIC, Wire::OpenAi => OPENAI }.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let mut memory = [0; 4096];
        let mut framer = Framer::new(Fixed::new(&mut memory));
        let mut decoder = Both::default();
        for mut chunk in bytes.chunks(size) {
            while let Ok(Some(event)) = framer.next(&mut chunk) {
                let _ = decoder.event(wire, event.name, event.data);
            }
        }
    }
}

#[test]
fn what_a_provider_wants_back_is_passed_on_as_it_came() {
    let chunk = r#"data: {"choices":[{"index":0,"delta":{"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}],"tool_calls":[{"index":1,"id":"a","function":{"name":"get","arguments":"{}"},"extra_content":{"google": {"thought_signature":"S\u0049G"}}}]}}]}

"#;
    let expected = [
        r#"details [{"type":"reasoning.encrypted","data":"x"}]"#,
        "call 1 a get",
        "arguments 1 {}",
        r#"extra 1 {"google": {"thought_signature":"S\u0049G"}}"#,
    ];
    assert_eq!(decode(Wire::OpenAi, [chunk.as_bytes()]), expected);
}
