//! Pieces in, parts out: which call a piece belongs to, and what is no reply.

use super::*;

fn call(index: u32, id: &'static str, name: &'static str) -> Piece<'static> {
    Piece::Call { index, id: Some(Text::plain(id)), name: Some(Text::plain(name)), distinct: false }
}

fn finish(finish: Ended, reason: &'static str) -> Piece<'static> {
    Piece::Finish { finish, reason: Text::plain(reason) }
}

fn arguments(index: u32, text: &str) -> Piece<'_> {
    Piece::Arguments { index, text: Text::plain(text) }
}

fn gather(pieces: &[Piece<'_>]) -> (Assembled, Vec<Delta>) {
    let mut seen = Vec::new();
    let mut assembly = Assembly::default();
    for piece in pieces {
        assembly.take(*piece, &mut |delta| seen.push(delta)).unwrap();
    }
    (assembly.into_reply(|_| None), seen)
}

#[test]
fn blocks_keep_their_order_and_calls_their_arguments() {
    let text = |text| Piece::Text { index: 1, text: Text::plain(text) };
    let (reply, seen) = gather(&[
        Piece::Reasoning { index: 0, text: Text::plain("hm") },
        text("a"),
        text("b"),
        call(2, "x", "first"),
        call(3, "y", "second"),
        arguments(3, "{\"n\":2}"),
        arguments(2, ""),
        finish(Ended::Stop, "stop"),
    ]);
    let expected = [
        Part::Reasoning { text: "hm".into(), opaque: None },
        Part::Text { text: "ab".into() },
        Part::Call { id: "x".into(), name: "first".into(), arguments: "{}".into(), opaque: None },
        Part::Call { id: "y".into(), name: "second".into(), arguments: "{\"n\":2}".into(), opaque: None },
    ];
    assert_eq!(reply.parts, expected);
    assert_eq!(reply.finish, Finish::ToolCalls, "the calls decide, whatever the server called the end");
    assert_eq!(seen.len(), 5, "reasoning, two texts, two calls: {seen:?}");
}

#[test]
fn calls_of_one_index_are_told_apart_by_their_ids() {
    let (reply, _) = gather(&[call(0, "x", "first"), arguments(0, "1"), call(0, "y", "second"), arguments(0, "2")]);
    let expected = [
        Part::Call { id: "x".into(), name: "first".into(), arguments: "1".into(), opaque: None },
        Part::Call { id: "y".into(), name: "second".into(), arguments: "2".into(), opaque: None },
    ];
    assert_eq!(reply.parts, expected);
}

#[test]
fn limits_refuse() {
    let mut assembly = Assembly::default();
    let half = "x".repeat(MODEL_REPLY_BYTES_MAX / 2 + 1);
    let piece = Piece::Text { index: 0, text: Text::plain(&half) };
    assert_eq!(assembly.take(piece, &mut |_| {}), Ok(()));
    assert_eq!(assembly.take(piece, &mut |_| {}), Err(Refusal::TooLarge));
    let mut assembly = Assembly::default();
    for index in 0..MODEL_REPLY_CALLS_MAX {
        assert_eq!(assembly.take(arguments(u32::try_from(index).unwrap(), "1"), &mut |_| {}), Ok(()));
    }
    assert_eq!(assembly.take(call(999, "z", "late"), &mut |_| {}), Err(Refusal::TooManyCalls));
}

/// The calls that pieces make: id, name and arguments of each.
fn calls(pieces: &[Piece<'_>]) -> Vec<(String, String, String)> {
    let (reply, _) = gather(pieces);
    let call = |part| match part {
        Part::Call { id, name, arguments, .. } => (id, name, arguments),
        other => unreachable!("{other:?}"),
    };
    reply.parts.into_iter().map(call).collect()
}

fn check_calls(pieces: &[Piece<'_>], expected: &[(&str, &str)]) {
    let calls = calls(pieces);
    let seen: Vec<_> = calls.iter().map(|(_, name, arguments)| (name.as_str(), arguments.as_str())).collect();
    assert_eq!(seen, expected, "{pieces:?}");
}

#[test]
fn a_name_without_an_id_over_complete_arguments_begins_a_call() {
    let (one, two) = ("{\"id\":1}", "{\"id\":2}");
    check_calls(
        &[call(0, "", "get"), arguments(0, one), call(0, "", "get"), arguments(0, two)],
        &[("get", one), ("get", two)],
    );
    let pieces =
        [call(0, "", "get"), arguments(0, one), call(0, "", "get"), arguments(0, "{\"id\":"), arguments(0, "2}")];
    check_calls(&pieces, &[("get", one), ("get", two)]);
    check_calls(&[call(0, "", "get"), arguments(0, one), call(0, "", "list")], &[("get", one), ("list", "{}")]);
    let twin = Piece::Call { index: 0, id: None, name: Some(Text::plain("get")), distinct: true };
    check_calls(&[call(0, "", "get"), arguments(0, one), twin, arguments(0, one)], &[("get", one), ("get", one)]);
}

#[test]
fn a_new_id_without_a_name_never_begins_a_call() {
    let pieces = [call(0, "1", "get"), call(0, "2", ""), arguments(0, "{\"a\""), call(0, "3", ""), arguments(0, ":1}")];
    assert_eq!(calls(&pieces), [("1".into(), "get".into(), "{\"a\":1}".into())]);
    let named =
        [call(0, "1", "get"), call(0, "2", "get"), arguments(0, "{\"a\""), call(0, "3", "get"), arguments(0, ":1}")];
    check_calls(&named, &[("get", "{\"a\":1}")]);
}

#[test]
fn a_name_is_put_together_and_never_doubled() {
    let whole = arguments(0, "{}");
    for names in [
        &["get_", "ticket"][..],
        &["get_ticket", "get_ticket"],
        &["get_", "get_tick", "get_ticket"],
        &["get_", "ticket", "get_ticket"],
    ] {
        let mut pieces: Vec<_> = names.iter().map(|name| call(0, "a", name)).collect();
        pieces.push(whole);
        let (reply, seen) = gather(&pieces);
        assert!(matches!(&reply.parts[..], [Part::Call { name, .. }] if name == "get_ticket"), "{names:?} {reply:?}");
        assert_eq!(seen, [Delta::Call { name: "get_ticket".into() }], "{names:?}");
    }
}

#[test]
fn a_call_that_is_repeated_whole_is_one() {
    let said = "{\"id\":1}";
    let begun = [call(0, "a", "get"), arguments(0, "{\"id\""), arguments(0, ":1}")];
    for again in [
        &[call(0, "a", "get"), arguments(0, said)][..],
        &[call(0, "a", "get"), arguments(0, "{ \"id\": 1 }")],
        &[call(0, "", "get"), arguments(0, said)],
        &[arguments(0, said)],
        &[call(0, "a", "get")],
        &[call(0, "a", "get"), arguments(0, "")],
    ] {
        check_calls(&[&begun[..], again].concat(), &[("get", said)]);
    }
    let other = [call(0, "b", "get"), arguments(0, said)];
    check_calls(&[&begun[..], &other].concat(), &[("get", said), ("get", said)]);
}

fn bare(index: u32, id: &'static str) -> Piece<'static> {
    Piece::Call { index, id: Some(Text::plain(id)), name: None, distinct: false }
}

fn listed(index: u32, id: &'static str, name: &'static str) -> Piece<'static> {
    Piece::Call { index, id: Some(Text::plain(id)), name: Some(Text::plain(name)), distinct: true }
}

#[test]
fn whatever_repeats_a_call_is_not_performed_again() {
    let (one, two) = ("{\"id\":1}", "{\"id\":2}");
    let unstable = [call(0, "1", "get"), bare(0, "2"), arguments(0, "{\"id\""), bare(0, "3"), arguments(0, ":1}")];
    for again in [&[call(0, "4", "get"), arguments(0, one)][..], &[call(0, "4", "get"), arguments(0, "")]] {
        check_calls(&[&unstable[..], again].concat(), &[("get", one)]);
    }
    check_calls(&[&unstable[..], &[call(0, "4", "get"), arguments(0, two)]].concat(), &[("get", one), ("get", two)]);
    let begun = [call(0, "x", "get"), arguments(0, one)];
    for again in [
        &[call(0, "x", "get"), arguments(0, "{\"id"), arguments(0, "\":1}")][..],
        &[call(0, "x", "get"), arguments(0, "{\"id"), call(0, "x", "get"), arguments(0, "\":1}")],
        &[arguments(0, "{\"id"), arguments(0, "\":1}")],
        &[call(1, "x", "get"), arguments(1, one)],
        &[listed(0, "x", "get"), arguments(0, one)],
        &[listed(1, "x", "get"), arguments(1, one)],
        &[listed(1, "x", "get")],
    ] {
        check_calls(&[&begun[..], again].concat(), &[("get", one)]);
    }
    let list = [call(0, "", "get"), arguments(0, one), listed(0, "", "get"), arguments(0, two)];
    check_calls(&[list, list].concat(), &[("get", one), ("get", two)]);
    let twins = [call(0, "", "get"), arguments(0, one), listed(0, "", "get"), arguments(0, one)];
    check_calls(&[twins, twins].concat(), &[("get", one), ("get", one)]);
    check_calls(&[call(0, "x", "get"), arguments(0, "{}"), call(0, "y", "get"), arguments(0, "")], &[("get", "{}")]);
}

#[test]
fn two_equal_calls_with_ids_of_their_own_are_two() {
    let one = "{\"id\":1}";
    for second in [listed(0, "b", "get"), call(1, "b", "get"), listed(1, "b", "get"), call(0, "b", "get")] {
        let Piece::Call { index, .. } = second else { unreachable!() };
        check_calls(
            &[call(0, "a", "get"), arguments(0, one), second, arguments(index, one)],
            &[("get", one), ("get", one)],
        );
    }
}

#[test]
fn empty_arguments_give_way_to_those_that_follow() {
    let (first, rest) = (arguments(0, "{\"id\":"), arguments(0, "1}"));
    for begun in [call(0, "x", "get"), listed(0, "x", "get")] {
        check_calls(&[begun, arguments(0, "{}"), first, rest], &[("get", "{\"id\":1}")]);
    }
    check_calls(&[call(0, "x", "get"), arguments(0, "{}"), call(0, "x", "get"), first, rest], &[("get", "{\"id\":1}")]);
    check_calls(&[listed(0, "x", "get"), arguments(0, "{\"id\":1}"), first, rest], &[("get", "{\"id\":1}")]);
    // What is no repetition spoils the call: it is not performed.
    check_calls(&[call(0, "x", "get"), arguments(0, "{\"id\":2}"), first, rest], &[("get", "{\"id\":2}{\"id\":1}")]);
}

#[test]
fn pieces_that_interleave_at_one_index_go_where_their_ids_say() {
    let (one, two) = ("{\"id\":1}", "{\"id\":2}");
    for (other, first) in [("list", "a"), ("get", "a"), ("list", "b"), ("get", "b")] {
        let (second, firsts, seconds) = if first == "a" { ("b", one, two) } else { ("a", two, one) };
        let pieces = [
            call(0, "a", "get"),
            call(0, "b", other),
            bare(0, first),
            arguments(0, firsts),
            bare(0, second),
            arguments(0, seconds),
        ];
        check_calls(&pieces, &[("get", one), (other, two)]);
    }
}

#[test]
fn halves_of_a_character_are_joined_in_text_and_arguments() {
    let text = |json: &'static str| mote_wire::json::Value::parse(json).unwrap().text().unwrap();
    let (first, second) = (text(r#""a\ud83d""#), text(r#""\ude00b""#));
    let (reply, seen) = gather(&[
        Piece::Text { index: 0, text: first },
        Piece::Text { index: 0, text: second },
        call(0, "x", "get"),
        Piece::Arguments { index: 0, text: first },
        Piece::Arguments { index: 0, text: second },
        finish(Ended::ToolCalls, "tool_calls"),
    ]);
    assert_eq!(reply.parts[0], Part::Text { text: "a😀b".into() });
    assert!(matches!(&reply.parts[1], Part::Call { arguments, .. } if arguments == "a😀b"), "{reply:?}");
    assert_eq!(seen[..2], [Delta::Text("a".into()), Delta::Text("😀b".into())]);
}

/// What becomes of a stream of these pieces.
fn conclude(pieces: &[Piece<'_>], sure: bool) -> Result<Finish, Refusal> {
    let mut assembly = Assembly::default();
    for piece in pieces {
        assembly.take(*piece, &mut |_| {})?;
    }
    assembly.conclude(sure).map(|()| assembly.into_reply(|_| None).finish)
}

#[test]
fn what_was_cut_or_says_nothing_is_no_reply() {
    let text = Piece::Text { index: 0, text: Text::plain("The refund is") };
    let thought = Piece::Reasoning { index: 0, text: Text::plain("hm") };
    let (done, stop) = (Piece::Done, finish(Ended::Stop, "stop"));
    let (length, filter) = (finish(Ended::Length, "length"), finish(Ended::ContentFilter, "safety"));
    let (other, failed) = (finish(Ended::Other, "novel"), finish(Ended::Failed, "abort"));
    let (purge, cut, whole) = (call(0, "a", "purge"), arguments(0, "{\"id\":\"1"), arguments(0, "{}"));
    for (pieces, expected) in [
        (&[text][..], Err(Refusal::Cut)),
        (&[text, other], Err(Refusal::Cut)),
        (&[purge, whole], Err(Refusal::Cut)),
        (&[text, done], Ok(Finish::Stop)),
        (&[text, other, done], Ok(Finish::Stop)),
        (&[purge, whole, done], Ok(Finish::ToolCalls)),
        (&[purge, done], Err(Refusal::CutCall)),
        (&[purge, cut, done], Err(Refusal::CutCall)),
        (&[purge, other, done], Err(Refusal::CutCall)),
        (&[text, purge, whole, call(1, "b", "purge"), done], Err(Refusal::CutCall)),
        (&[purge, finish(Ended::ToolCalls, "tool_use")], Ok(Finish::ToolCalls)),
        (&[purge, cut, stop], Ok(Finish::ToolCalls)),
        (&[text, stop, finish(Ended::Other, "novel")], Ok(Finish::Stop)),
        (&[text, length, stop, other], Ok(Finish::Length)),
        (&[text, stop, failed], Err(Refusal::Failed { reason: "abort".into() })),
        (&[text, failed, stop, done], Err(Refusal::Failed { reason: "abort".into() })),
        (&[done], Err(Refusal::Empty)),
        (&[stop, done], Err(Refusal::Empty)),
        (&[thought, stop], Err(Refusal::Empty)),
        (&[finish(Ended::ToolCalls, "tool_use"), done], Err(Refusal::Empty)),
        (&[length], Ok(Finish::Length)),
        (&[filter, done], Ok(Finish::ContentFilter)),
        (
            &[text, finish(Ended::ToolCalls, "tool_calls"), done],
            Err(Refusal::Failed { reason: "tool_calls, but without a call".to_owned() }),
        ),
    ] {
        assert_eq!(conclude(pieces, true), expected, "{pieces:?}");
    }
    let calls = finish(Ended::ToolCalls, "tool_calls");
    assert_eq!(conclude(&[text, purge, calls], false), Err(Refusal::CutCall));
    assert_eq!(conclude(&[text, purge, calls, done], false), Ok(Finish::ToolCalls));
    assert_eq!(conclude(&[text, purge, length], false), Ok(Finish::Length), "nothing of it is performed");
}

#[test]
fn of_two_counts_the_larger_stands() {
    let counted = |input, output| Piece::Usage(Counted { input, output, ..Counted::default() });
    let (reply, _) = gather(&[counted(1_000, 1), counted(0, 3)]);
    assert_eq!(reply.usage, Some(Usage { input: 1_000, output: 3, ..Usage::default() }));
    let text = Piece::Text { index: 0, text: Text::plain("A long text") };
    // No output for a text is no count, and the input is one all the same.
    let counted = gather(&[text, counted(1_000, 0)]).0.usage;
    assert_eq!(counted, Some(Usage { input: 1_000, ..Usage::default() }));
}
