//! What is read strictly, and what a request becomes.

use super::*;

fn submission(json: &str) -> Result<Submission, String> {
    let parsed = parse::<RunRequest>(json.as_bytes());
    let submission = parsed.and_then(|request| request.into_submission(&Principal::anonymous()));
    submission.map_err(|problem| {
        let body = serde_json::to_value(problem.body("r")).unwrap();
        format!("{} {}", body["code"].as_str().unwrap(), body["detail"].as_str().unwrap())
    })
}

#[test]
fn a_request_becomes_a_submission() {
    let json = r#"{"input": "hello", "session": "s", "tenant": "acme", "user": "u", "labels": {"k": "v"},
        "context": {"a": 1}, "budget": {"usd": 0.25, "tokens": 1000}, "active": "10m", "expires": "2h"}"#;
    let found = submission(json).unwrap();
    assert_eq!(found.input, [Message::text(Role::User, "hello")]);
    assert_eq!(found.owner.tenant, "acme");
    assert_eq!(found.owner.labels["k"], "v");
    assert_eq!(found.budget, Bound { nano_usd: Some(250_000_000), tokens: Some(1000) });
    assert_eq!((found.active, found.expires), (Some(Duration::from_secs(600)), Some(Duration::from_secs(7200))));
}

#[test]
fn messages_become_a_transcript() {
    let json = r#"{"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}]}"#;
    let roles: Vec<_> = submission(json).unwrap().input.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User]);
}

#[test]
fn a_wrong_request_is_refused_naming_the_field() {
    let long = "x".repeat(limits::NAME_CHARS_MAX + 1);
    let labels = (0..=limits::LABELS_MAX).map(|n| format!("\"k{n}\": \"v\"")).collect::<Vec<_>>().join(",");
    for (json, code, part) in [
        ("{", "invalid_json", "EOF"),
        (r#"{"input": "a"} x"#, "invalid_json", "trailing"),
        ("[]", "invalid_request", "body: "),
        ("{}", "invalid_request", "missing field `input`"),
        (r#"{"input": 1}"#, "invalid_request", "input: "),
        (r#"{"input": " "}"#, "invalid_request", "input: must not be empty"),
        (r#"{"input": []}"#, "invalid_request", "input: must not be empty"),
        (r#"{"input": "a", "inputs": 1}"#, "invalid_request", "unknown field `inputs`"),
        (r#"{"input": "a", "budget": {"euro": 1}}"#, "invalid_request", "unknown field `euro`"),
        (r#"{"input": "a", "budget": {"usd": "1"}}"#, "invalid_request", "budget.usd: "),
        (r#"{"input": "a", "budget": {"usd": -1}}"#, "invalid_request", "budget.usd: "),
        (r#"{"input": "a", "budget": {"tokens": 0}}"#, "invalid_request", "budget.tokens: "),
        (r#"{"input": "a", "active": "10"}"#, "invalid_request", "active: "),
        (r#"{"input": "a", "active": "0s"}"#, "invalid_request", "active: "),
        (r#"{"input": "a", "expires": 10}"#, "invalid_request", "expires: "),
        (r#"{"input": "a", "expires": "99999999999999999999d"}"#, "invalid_request", "expires: "),
        (r#"{"input": "a", "session": ""}"#, "invalid_request", "session: must be 1 to 128 characters"),
        (r#"{"input": "a", "user": "a\u0000b"}"#, "invalid_request", "user: must not contain control"),
        (&format!(r#"{{"input": "a", "tenant": "{long}"}}"#), "invalid_request", "tenant: "),
        (&format!(r#"{{"input": "a", "labels": {{{labels}}}}}"#), "invalid_request", "labels: at most 16"),
        (r#"{"input": "a", "labels": {"a=b": "c"}}"#, "invalid_request", "labels.a=b: "),
        (r#"{"input": "a", "labels": {"a": 1}}"#, "invalid_request", "labels.a: "),
        (r#"{"input": [{"role": "tool", "content": "a"}]}"#, "invalid_request", "input[0].role: "),
        (r#"{"input": [{"role": "assistant", "content": "a"}]}"#, "invalid_request", "must be the user's"),
        (r#"{"input": [{"role": "user", "content": "a", "name": 1}]}"#, "invalid_request", "unknown field `name`"),
    ] {
        let refusal = submission(json).unwrap_err();
        assert!(refusal.starts_with(code) && refusal.contains(part), "{json} gave {refusal}");
    }
}

#[test]
fn null_is_as_good_as_left_out() {
    let plain = submission(r#"{"input": "a"}"#).unwrap();
    let nulls = r#"{"input": "a", "session": null, "tenant": null, "user": null, "context": null, "labels": null,
        "budget": null, "active": null, "expires": null}"#;
    let inner = r#"{"input": "a", "labels": {"k": null}, "budget": {"usd": null, "tokens": null}}"#;
    for json in [nulls, inner] {
        assert_eq!(format!("{:?}", submission(json).unwrap()), format!("{plain:?}"), "{json}");
    }
    let mail = |json: &str| parse::<InputRequest>(json.as_bytes()).and_then(InputRequest::into_mail);
    assert!(mail(r#"{"approve": true, "call": null, "content": null, "user": null}"#).is_ok());
    for json in [r#"{"content": null}"#, r#"{"approve": null}"#, "{}"] {
        assert!(mail(json).unwrap_err().detail().contains("one of approve and content"), "{json}");
    }
}

#[test]
fn a_list_is_no_object_wherever_it_stands() {
    for (json, field) in [
        (r#"["hello"]"#, "body"),
        (r#"["hello", null, null, null, null, {}, {}, null, null]"#, "body"),
        (r#"{"input": "a", "budget": [0.5, 10]}"#, "budget"),
        (r#"{"input": [["user", "hello"]]}"#, "input[0]"),
        (r#"{"input": "a", "labels": [["k", "v"]]}"#, "labels"),
    ] {
        let refusal = submission(json).unwrap_err();
        assert!(refusal.starts_with(&format!("invalid_request {field}: invalid type: sequence")), "{json}: {refusal}");
    }
    let answer = parse::<InputRequest>(br#"["c", true]"#).unwrap_err();
    assert!(answer.detail().contains("expected an object"), "{}", answer.detail());
}

#[test]
fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
    let tokens = |text: &str| submission(&format!(r#"{{"input": "a", "budget": {{"tokens": {text}}}}}"#));
    for (text, expected) in [("2", 2), ("2.0", 2), ("2e3", 2_000), ("9007199254740991", limits::BUDGET_TOKENS_MAX)] {
        assert_eq!(tokens(text).unwrap().budget.tokens, Some(expected), "{text}");
    }
    for text in ["2.5", "-1", "1e300", "9007199254740992", "0", "\"2\""] {
        assert!(tokens(text).unwrap_err().starts_with("invalid_request budget.tokens: "), "{text}");
    }
}

#[test]
fn names_are_counted_in_characters() {
    let name = |count: usize| format!(r#"{{"input": "a", "session": "{}"}}"#, "é".repeat(count));
    assert!(submission(&name(limits::NAME_CHARS_MAX)).is_ok());
    assert!(submission(&name(limits::NAME_CHARS_MAX + 1)).unwrap_err().contains("1 to 128 characters"));
}

#[test]
fn stored_text_that_is_not_json_is_sent_as_a_string() {
    assert_eq!(raw("{\"a\":1}".into()).get(), "{\"a\":1}");
    assert_eq!(raw("plain".into()).get(), "\"plain\"");
}
