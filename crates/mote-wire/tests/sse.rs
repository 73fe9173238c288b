//! The framer against the specification's rules, and against every way of cutting a stream.

#![allow(clippy::unwrap_used)]

use mote_wire::sse::{Error, Fixed, Framer};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
    id: String,
    retry_ms: Option<u32>,
}

/// Frames a stream given in pieces; the events before an error count too.
fn frame<'c>(chunks: impl IntoIterator<Item = &'c [u8]>, capacity: usize) -> (Vec<Event>, Option<Error>, bool) {
    let mut memory = vec![0; capacity];
    let mut framer = Framer::new(Fixed::new(&mut memory));
    let mut events = Vec::new();
    for mut chunk in chunks {
        loop {
            match framer.next(&mut chunk) {
                Ok(Some(event)) => events.push(Event {
                    name: event.name.into(),
                    data: event.data.into(),
                    id: event.id.into(),
                    retry_ms: event.retry_ms,
                }),
                Ok(None) => break,
                Err(error) => return (events, Some(error), false),
            }
        }
    }
    let mid_event = framer.is_mid_event();
    (events, None, mid_event)
}

fn data(stream: &str) -> Vec<String> {
    frame([stream.as_bytes()], 1024).0.into_iter().map(|event| event.data).collect()
}

#[test]
fn every_line_end_ends_a_line() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = format!("event: a{end}data: 1{end}{end}data:2{end}{end}");
        assert_eq!(data(&stream), ["1", "2"], "line end {end:?}");
    }
}

#[test]
fn a_carriage_return_dispatches_without_waiting_for_a_line_feed() {
    assert_eq!(data("data: 1\r\r"), ["1"]);
}

#[test]
fn fields_follow_the_specification() {
    assert_eq!(data("data: a\ndata:\ndata:  b\n\n"), ["a\n\n b"], "lines are joined, one space goes");
    assert_eq!(data("data\n\n"), [""], "a field without a colon has an empty value");
    assert_eq!(data("event: x\n\n: comment\n\n"), [""; 0], "no data, no event");
    assert_eq!(
        data(": a comment\nfoo: bar\ndata: x\ndatax: y\ndata\u{e9}: z\n\n"),
        ["x"],
        "the unknown is passed over"
    );
    assert_eq!(data("\u{feff}data: x\n\n"), ["x"], "a byte-order mark is dropped");
    assert_eq!(data("\u{feff}\u{feff}data: x\n\n"), [""; 0], "but only one");
    assert_eq!(data("data: x"), [""; 0], "what never ended never happened");
}

#[test]
fn names_belong_to_one_event_and_ids_to_all_that_follow() {
    let stream =
        "id: 7\nevent: a\nretry: 250\ndata: 1\n\ndata: 2\n\nid: bad\0id\nretry: 2x\ndata: 3\n\nid\ndata: 4\n\n";
    let (events, error, _) = frame([stream.as_bytes()], 64);
    assert_eq!(error, None);
    let seen: Vec<_> = events.iter().map(|e| (e.name.as_str(), e.id.as_str(), e.retry_ms, e.data.as_str())).collect();
    assert_eq!(seen, [("a", "7", Some(250), "1"), ("", "7", None, "2"), ("", "7", None, "3"), ("", "", None, "4")]);
}

#[test]
fn limits_are_typed_errors() {
    assert_eq!(frame(["data: 12345\n\n".as_bytes()], 4).1, Some(Error::EventTooLong { limit: 4 }));
    assert_eq!(frame(["data: 1234\n\n".as_bytes()], 4).1, None);
    assert_eq!(frame(["data: 12\ndata: 34\n\n".as_bytes()], 4).1, Some(Error::EventTooLong { limit: 4 }));
    let long = format!("event: {}\ndata: 1\n\n", "n".repeat(65));
    let (events, error, _) = frame([long.as_bytes()], 64);
    assert_eq!(
        (events[0].name.as_str(), events[0].data.as_str(), error),
        ("", "1", None),
        "a name too long is ignored"
    );
    let long = format!("id: 7\ndata: 1\n\nid: {}\ndata: 2\n\n", "n".repeat(10_000));
    let (events, error, _) = frame([long.as_bytes()], 64);
    assert_eq!((events[1].id.as_str(), events[1].data.as_str(), error), ("7", "2", None), "so is an id");
    let comment = format!(": {}\ndata: 1\n\n", "c".repeat(10_000));
    assert_eq!(frame([comment.as_bytes()], 4).1, None, "comments cost nothing");
}

#[test]
fn bytes_that_are_no_utf_8_cost_a_character() {
    for (stream, data) in [
        (&b"data: a\xffb\n\n"[..], "a\u{FFFD}b"),
        (b"data: a\xe2\x82\ndata: \xacb\n\n", "a\u{FFFD}\n\u{FFFD}b"),
        (b"data: \xf0\x9f\x98\x80\xf0\x9f\n\n", "\u{1F600}\u{FFFD}"),
        (b"data: \xe2\x82x\n\n", "\u{FFFD}x"),
    ] {
        for cut in 0..stream.len() {
            let (head, tail) = stream.split_at(cut);
            let (events, error, _) = frame([head, tail], 64);
            assert_eq!((events[0].data.as_str(), error), (data, None), "{stream:?} cut at {cut}");
        }
        let (events, ..) = frame(stream.chunks(1), 64);
        assert_eq!(events[0].data, data, "{stream:?} byte by byte");
    }
}

#[test]
fn a_cut_stream_is_told_from_a_finished_one() {
    assert!(!frame(["data: 1\n\n".as_bytes()], 64).2);
    assert!(frame(["data: 1\n\ndata: 2\n".as_bytes()], 64).2);
    assert!(frame(["data: 1\n\nda".as_bytes()], 64).2);
}

/// Bytes that make the rules interesting.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("data".as_bytes().to_vec()),
        Just("event".as_bytes().to_vec()),
        Just("id".as_bytes().to_vec()),
        Just("retry".as_bytes().to_vec()),
        Just(": ".as_bytes().to_vec()),
        Just(":".as_bytes().to_vec()),
        Just("\n".as_bytes().to_vec()),
        Just("\r".as_bytes().to_vec()),
        Just("\r\n\r\n".as_bytes().to_vec()),
        Just("\u{feff}".as_bytes().to_vec()),
        Just(b"12".to_vec()),
        Just("é{\"a\":1}".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events(bytes in stream(), cuts in proptest::collection::vec(0usize..200, 0..12)) {
        let whole = frame([bytes.as_slice()], 64);
        prop_assert_eq!(&frame(bytes.chunks(1), 64), &whole);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let chunks: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&frame(chunks, 64), &whole);
    }

    #[test]
    fn text_survives_framing(lines in proptest::collection::vec("[^\r\n\u{feff}]{0,20}", 1..5)) {
        let body: String = lines.iter().map(|line| format!("data: {line}\n")).collect();
        prop_assert_eq!(data(&format!("{body}\n")), [lines.join("\n")]);
    }
}
