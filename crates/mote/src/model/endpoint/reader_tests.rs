//! How a body ends, and what that makes of the reply: no sockets, only bytes.

use serde_json::json;

use super::*;
use crate::message::Part;

const IDLE: Duration = Duration::from_secs(60);

/// A chunk with one choice; an empty reason is none.
fn chunk(delta: serde_json::Value, reason: &str) -> String {
    let reason = if reason.is_empty() { json!(null) } else { json!(reason) };
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}))
}

fn text(text: &str, reason: &str) -> String {
    chunk(json!({"content": text}), reason)
}

fn purge(arguments: &str, reason: &str) -> String {
    let function = json!({"name": "purge", "arguments": arguments});
    chunk(json!({"tool_calls": [{"index": 0, "id": "a", "function": function}]}), reason)
}

fn counted(output: u64) -> String {
    let usage = json!({"prompt_tokens": 1, "completion_tokens": output, "total_tokens": output + 1});
    format!("data: {}\n\n", json!({"choices": [], "usage": usage}))
}

fn reset() -> End {
    End::Broken(Failure::broken("the stream broke off: reset"))
}

/// What becomes of a body: its text or its calls' arguments, or why not.
fn read(pieces: &[&str], end: End) -> Result<String, String> {
    let (mut decoder, mut assembly) = (mote_wire::openai::Decoder::default(), Assembly::default());
    let deltas = &mut |_| {};
    let mut reader = Reader::new(&mut decoder, &mut assembly, deltas, IDLE);
    for piece in pieces {
        reader.take(piece.as_bytes(), "").map_err(|failure| failure.message)?;
    }
    reader.end(end).map_err(|failure| failure.message)?;
    let says = |part| match part {
        Part::Text { text } => text,
        Part::Call { arguments, .. } => arguments,
        other => unreachable!("{other:?}"),
    };
    Ok(assembly.into_reply(|_| None).parts.into_iter().map(says).collect())
}

/// How long a stream is waited for behind these pieces, milliseconds.
fn patience(pieces: &[&str]) -> Option<u128> {
    let (mut decoder, mut assembly) = (mote_wire::openai::Decoder::default(), Assembly::default());
    let deltas = &mut |_| {};
    let mut reader = Reader::new(&mut decoder, &mut assembly, deltas, IDLE);
    for piece in pieces {
        reader.take(piece.as_bytes(), "").unwrap();
    }
    reader.patience().map(|patience| patience.as_millis())
}

#[test]
fn a_call_without_arguments_that_may_be_cut_is_not_performed() {
    let (beside, apart) = (purge("", "tool_calls"), [purge("", ""), chunk(json!({}), "tool_calls")].concat());
    let said = [text("I will.", "stop"), purge("", "stop")].concat();
    for (stream, end) in [
        (&beside, reset()),
        (&beside, End::Closed),
        (&beside, End::Held),
        (&said, reset()),
        (&said, End::Closed),
        (&apart, reset()),
        (&apart, End::Held),
    ] {
        read(&[stream], end).unwrap_err();
    }
    let half = format!("{apart}data: {{\"choi");
    read(&[&half], End::Closed).unwrap_err();
    // Servers send none for a tool that has none.
    assert_eq!(read(&[&apart], End::Closed), Ok("{}".into()));
    for end in [reset(), End::Held, End::Closed] {
        assert_eq!(read(&[&beside, "data: [DONE]\n\n"], end), Ok("{}".into()));
    }
    let whole = [purge("{\"a\":1}", ""), chunk(json!({}), "tool_calls")].concat();
    for end in [reset(), End::Held, End::Closed] {
        assert_eq!(read(&[&whole], end), Ok("{\"a\":1}".into()));
    }
}

#[test]
fn a_broken_connection_cuts_what_went_on_behind_its_reason() {
    let stream = [text("The ref", "stop"), text("und is", "stop")].concat();
    assert_eq!(read(&[&stream], reset()), Err("the stream broke off: reset".into()));
    assert_eq!(read(&[&text("The ref", "stop")], reset()), Err("the stream broke off: reset".into()));
    assert_eq!(read(&[&stream], End::Closed), Ok("The refund is".into()));
    let clear = [text("The refund is", ""), chunk(json!({}), "stop")].concat();
    assert_eq!(read(&[&clear], reset()), Ok("The refund is".into()));
}

#[test]
fn half_an_event_behind_the_end_of_a_reply_loses_nothing() {
    let finished = [text("Paid.", ""), chunk(json!({}), "stop"), counted(5)].concat();
    for tail in ["data: [DO", "data: {\"x", "data: {\"choices\":[],\"usage\":{\"prompt", ": keep-al", "da"] {
        for end in [reset(), End::Held, End::Closed] {
            assert_eq!(read(&[&finished, tail], end), Ok("Paid.".into()), "{tail}");
        }
        let unfinished = text("Paid", "");
        assert_eq!(read(&[&unfinished, tail], reset()), Err("the stream broke off: reset".into()), "{tail}");
        assert_eq!(read(&[&unfinished, tail], End::Closed), Err(CUT.into()), "{tail}");
    }
    let fault = "data: {\"error\":{\"message\":\"gone\"}}\n";
    assert_eq!(read(&[&finished, fault], End::Closed), Err("the endpoint gave up: gone".into()));
}

#[test]
fn an_event_whose_end_is_held_back_is_taken() {
    let begun = text("Paid.", "");
    for last in [chunk(json!({}), "stop").as_str(), "data: [DONE]\n\n"] {
        for kept in [1, 2] {
            let (mut decoder, mut assembly) = (mote_wire::openai::Decoder::default(), Assembly::default());
            let deltas = &mut |_| {};
            let mut reader = Reader::new(&mut decoder, &mut assembly, deltas, IDLE);
            reader.take(begun.as_bytes(), "").unwrap();
            assert_eq!(reader.patience(), None);
            reader.take(&last.as_bytes()[..last.len() - kept], "").unwrap();
            assert_eq!(reader.patience(), Some(Duration::from_millis(MODEL_LINGER_MS)), "{last}");
            assert!(reader.expire().unwrap());
            assert!(reader.is_settled(), "{last}");
            assert!(!reader.expire().unwrap(), "once");
            reader.end(End::Held).unwrap();
        }
    }
}

#[test]
fn what_follows_a_reply_does_not_make_it_wait() {
    let (linger, count) = (u128::from(MODEL_LINGER_MS), u128::from(MODEL_COUNT_WAIT_MS));
    let finished = [text("Paid.", ""), chunk(json!({}), "stop")].concat();
    assert_eq!(patience(&[&text("Paid.", "")]), None);
    assert_eq!(patience(&[&finished]), Some(count));
    assert_eq!(patience(&[&counted(1), &finished]), Some(count), "what was counted before the end is not all");
    assert_eq!(patience(&[&finished, &counted(5)]), Some(linger));
    for tail in [": keep-al", "data: {\"x"] {
        assert_eq!(patience(&[&finished, &counted(5), tail]), Some(linger), "{tail}");
    }
}

#[test]
fn only_an_encoding_that_compresses_hides_what_a_body_says() {
    let of = |value: &str| {
        let value = http::HeaderValue::from_str(value).unwrap();
        super::super::compression(&http::HeaderMap::from_iter([(http::header::CONTENT_ENCODING, value)]))
    };
    for plain in ["", "none", "utf-8", "chunked", "identity", "identity, none"] {
        assert_eq!(of(plain), None, "{plain}");
    }
    for (encoding, name) in [("GZIP", "gzip"), ("x-gzip", "x-gzip"), ("identity, br", "br"), ("zstd,gzip", "zstd")] {
        assert_eq!(of(encoding), Some(name));
    }
}
