//! HTTP and TLS that end at the daemon: inspection, headers, secrets, tapes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mote_sandbox_api::error::Code;
use mote_sandbox_api::network::{Header, Policy, Rule, SecretBinding, Tape};
use mote_sandboxd::network::decision::Reason;

use super::world::{SECRET, Sandbox, allow, inspect, policy, text, world};

fn with_secret(hosts: &[&str]) -> Policy {
    let binding = SecretBinding {
        secret: "token".to_owned(),
        env: "TOKEN".to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        body: true,
        ..SecretBinding::default()
    };
    Policy { secrets: vec![binding], ..policy(vec![allow("secret.example"), allow("good.example")]) }
}

fn placeholder(sandbox: &Sandbox, policy: &Policy) -> String {
    world().network.placeholders(&sandbox.id, policy)["TOKEN"].clone()
}

#[test]
fn inspected_tls_ends_at_the_daemon_and_begins_again() {
    let sandbox =
        world().sandbox(&policy(vec![inspect("good.example"), inspect("wrong.example"), allow("shared.example")]));
    let trusts = |url: &str, ca: &str| {
        let mut curl = sandbox.command("curl");
        let output =
            curl.args(["-sS", "--max-time", "20", "--noproxy", "*", "--cacert", &world().path(ca), url]).output();
        output.unwrap().status.success()
    };
    // A client that trusts the internet's authority alone sees that another stands between; where none does, it is content.
    assert!(!trusts("https://good.example/", "internet.pem") && trusts("https://good.example/", "both.pem"));
    assert!(trusts("https://shared.example/", "internet.pem"));
    let output = sandbox.curl(&["-d", "some body", "https://good.example/path?q=1"]);
    let answer = text(&output);
    assert!(
        answer.contains("server=good.example method=POST uri=/path?q=1") && answer.contains("body: some body"),
        "{answer}"
    );
    // A destination whose certificate does not hold.
    let output = sandbox.curl(&["https://wrong.example/"]);
    assert!(text(&output).contains("\"reason\":\"certificate\""), "{output:?}");
    assert!(sandbox.denied(Reason::Certificate));
}

#[test]
fn headers_are_set_at_egress() {
    let mut rule = allow("good.example");
    rule.headers.push(Header { name: "x-team".to_owned(), value: "blue".to_owned() });
    let sandbox = world().sandbox(&policy(vec![rule]));
    let answer = text(&sandbox.curl(&["-H", "X-Team: red", "https://good.example/"]));
    assert!(answer.contains("x-team: blue") && !answer.contains("red"), "{answer}");
}

#[test]
fn headers_go_out_in_the_clear_only_where_the_rule_says_so() {
    let mut rule = allow("good.example");
    rule.headers.push(Header { name: "x-key".to_owned(), value: "open-sesame".to_owned() });
    for plain_http in [false, true] {
        let sandbox = world().sandbox(&policy(vec![Rule { plain_http, ..rule.clone() }]));
        let answer = text(&sandbox.curl(&["http://good.example/"]));
        assert!(answer.contains("host: good.example"), "{answer}");
        assert_eq!(answer.contains("open-sesame"), plain_http, "{answer}");
    }
}

#[test]
fn a_secret_goes_to_its_host_alone_and_never_comes_inside() {
    let policy = with_secret(&["secret.example"]);
    let sandbox = world().sandbox(&policy);
    let placeholder = placeholder(&sandbox, &policy);
    let send = |url: &str| {
        let header = format!("Authorization: Bearer {placeholder}");
        text(&sandbox.curl(&["-H", &header, "-d", &format!("k={placeholder}"), url]))
    };
    // The server of the test says back what it was sent: it came, as its length tells, and is hidden on the way back.
    let answer = send("https://secret.example/");
    assert!(answer.contains(&format!("authorization: Bearer {placeholder}")), "{answer}");
    assert!(answer.contains(&format!("content-length: {}", "k=".len() + SECRET.len())), "{answer}");
    assert!(!answer.contains(SECRET));
    // Another host gets the placeholder, and so does the same host in the clear.
    for url in ["https://good.example/", "http://secret.example/"] {
        let answer = send(url);
        assert!(answer.contains(&format!("content-length: {}", "k=".len() + placeholder.len())), "{url}: {answer}");
        assert!(!answer.contains(SECRET));
    }
    let kept = format!("{:?}", sandbox.decisions());
    assert!(!kept.contains(SECRET) && !kept.contains(&placeholder));
}

#[test]
fn a_value_that_was_written_for_its_place_does_not_come_back_either() {
    let policy = with_secret(&["secret.example"]);
    let sandbox = world().sandbox(&policy);
    let placeholder = placeholder(&sandbox, &policy);
    let basic = STANDARD.encode(format!("me:{SECRET}"));
    // The server of the test says back what it was sent, basic credentials in base64.
    let answer = text(&sandbox.curl(&["-u", &format!("me:{placeholder}"), "https://secret.example/"]));
    assert!(answer.contains("authorization: Basic ") && answer.contains(&placeholder), "{answer}");
    assert!(!answer.contains(&basic) && !answer.contains(&basic[8..basic.len() - 8]), "{answer}");
}

#[test]
fn a_secret_that_changes_is_used_as_it_is_and_one_that_is_removed_is_not_used() {
    let mut policy = with_secret(&["secret.example"]);
    policy.secrets[0].secret = "changing".to_owned();
    let set = |value: Option<&str>| {
        *world().secrets.changing.lock().unwrap() = value.map(str::to_owned);
        world().network.renew("changing");
    };
    set(Some("the-first-value"));
    let sandbox = world().sandbox(&policy);
    let placeholder = placeholder(&sandbox, &policy);
    let length = || {
        let answer = text(&sandbox.curl(&["-d", &format!("k={placeholder}"), "https://secret.example/"]));
        let line = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
        line.and_then(|length| length.parse::<usize>().ok()).unwrap_or_else(|| panic!("{answer}")) - "k=".len()
    };
    assert_eq!(length(), "the-first-value".len());
    set(Some("a-second-and-longer-value"));
    assert_eq!(length(), "a-second-and-longer-value".len());
    set(None);
    assert_eq!(length(), placeholder.len(), "nothing is swapped");
    // As after a restart of the daemon: what has it bound is served, and swaps nothing.
    let adopted = world().sandbox(&policy);
    assert!(text(&adopted.curl(&["https://secret.example/"])).starts_with("internet"));
    // What would bind it anew is refused.
    assert_eq!(world().network.check("sb", &policy).unwrap_err().code, Code::Invalid);
}

#[test]
fn a_secret_that_is_not_there_is_refused_at_once() {
    let mut policy = with_secret(&["secret.example"]);
    policy.secrets[0].secret = "other".to_owned();
    let failure = world().network.check("sb", &policy).unwrap_err();
    assert_eq!((failure.code, failure.context["field"].as_str()), (Code::Invalid, "network.secrets[0].secret"));
}

#[test]
fn what_was_recorded_is_replayed_and_nothing_leaves() {
    for name in ["taped.good.example", "keyed.good.example"] {
        world().internet.name(name, &[super::internet::SERVER]);
    }
    let asked =
        || world().internet.asked.lock().unwrap().iter().filter(|name| name.ends_with("ed.good.example")).count();
    let mut record = with_secret(&["keyed.good.example"]);
    record.rules = vec![allow("*.good.example")];
    record.tape = Some(Tape::Record("world".to_owned()));
    let recorded = world().sandbox(&record);
    let token = placeholder(&recorded, &record);
    let mut answers = Vec::new();
    for arguments in [
        vec!["https://taped.good.example/page?n=1".to_owned()],
        vec!["-d".to_owned(), "body".to_owned(), "http://taped.good.example/form".to_owned()],
        vec![format!("https://keyed.good.example/?k={token}")],
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        answers.push(text(&recorded.curl(&arguments)));
    }
    assert!(answers.iter().all(|answer| answer.starts_with("internet")), "{answers:?}");
    let tape = std::fs::read_to_string(world().path("network/tapes/world.jsonl")).unwrap();
    assert!(!tape.contains(SECRET) && !tape.contains(&token) && tape.contains("{{secret:token}}"), "{tape}");

    let replay = Policy { tape: Some(Tape::Replay("world".to_owned())), rules: vec![], ..record };
    let replayed = world().sandbox(&replay);
    let before = asked();
    assert_eq!(text(&replayed.curl(&["https://taped.good.example/page?n=1"])), answers[0]);
    assert_eq!(text(&replayed.curl(&["-d", "body", "http://taped.good.example/form"])), answers[1]);
    let token = placeholder(&replayed, &replay);
    assert!(text(&replayed.curl(&[&format!("https://keyed.good.example/?k={token}")])).contains("{{secret:token}}"));
    let missing = text(&replayed.curl(&["-d", "another body", "http://taped.good.example/form"]));
    assert!(missing.contains("\"code\":\"not_on_tape\""), "{missing}");
    assert_eq!(replayed.python("print(resolve('evil.example'), status(http(SERVER, SERVER)))"), "no-name 502");
    assert_eq!(asked(), before, "a question left the host");
    assert_eq!(world().network.usage(&replayed.id).unwrap().sent_bytes, 0);
    let absent = Policy { tape: Some(Tape::Replay("absent".to_owned())), ..Policy::default() };
    assert_eq!(replayed.try_update(&absent).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_websocket_passes_and_other_upgrades_do_not() {
    // The server of the test does not switch: what it is asked shows what passed.
    let sandbox = world().sandbox(&policy(vec![inspect("good.example")]));
    let ask = |protocol: &str| {
        let upgrade = format!("Upgrade: {protocol}");
        text(&sandbox.curl(&["-H", "Connection: Upgrade", "-H", &upgrade, "https://good.example/"]))
    };
    assert!(ask("websocket").contains("upgrade: websocket"));
    assert!(!ask("h2c").contains("h2c"));
}

#[test]
fn an_answer_that_could_hide_an_echo_of_a_secret_does_not_come_inside() {
    let mut policy = with_secret(&["secret.example"]);
    policy.secrets[0].query = true;
    let sandbox = world().sandbox(&policy);
    let placeholder = placeholder(&sandbox, &policy);
    let header = format!("Authorization: Bearer {placeholder}");
    let ask = |host: &str, how: &str| text(&sandbox.curl(&["-H", &header, &format!("https://{host}/as?{how}")]));
    // The server of the test says back what it was sent, and says of it what it is told to.
    assert!(ask("secret.example", "status=201").contains(&placeholder));
    for hiding in ["content-encoding=gzip", "content-encoding=identity&content-encoding=br", "status=206"] {
        let answer = ask("secret.example", hiding);
        assert!(answer.contains("\"reason\":\"protocol\"") && !answer.contains("internet"), "{hiding}: {answer}");
    }
    // Of a host that receives none, what comes is its own matter; a part is not even asked for where secrets go.
    let range = |host: &str| {
        let url = format!("https://{host}/");
        text(&sandbox.curl(&["-H", &header, "-H", "Range: bytes=0-9", "-H", "Accept-Encoding: gzip", &url]))
    };
    assert!(
        range("good.example").contains("range: bytes=0-9") && range("good.example").contains("accept-encoding: gzip")
    );
    let asked = range("secret.example");
    assert!(!asked.contains("range:") && asked.contains("accept-encoding: identity"), "{asked}");
    // Another protocol is not begun with a secret, wherever in the request it stands.
    let url = format!("https://secret.example/?k={placeholder}");
    let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    for arguments in [&["-H", &header, "https://secret.example/"][..], &[url.as_str()]] {
        let answer = text(&sandbox.curl(&[&upgrade[..], arguments].concat()));
        assert!(answer.contains("`upgrade` of its binding") && !answer.contains("internet"), "{answer}");
    }
    let plain = text(&sandbox.curl(&[&upgrade[..], &["https://secret.example/"]].concat()));
    assert!(plain.contains("upgrade: websocket"), "without one it is: {plain}");
}
