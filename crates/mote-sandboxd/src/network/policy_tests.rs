//! Which destinations a policy allows, denies, and refuses to be written.
//!
//! It makes no connection.

use mote_sandbox_api::network::{Header, Rule, SecretBinding};

use super::*;

fn rule(verdict: Verdict, to: &str, ports: &[u16]) -> Rule {
    Rule {
        verdict,
        to: to.to_owned(),
        ports: ports.to_vec(),
        over_deny: false,
        inspect: false,
        headers: vec![],
        plain_http: false,
    }
}

fn allow(to: &str) -> Rule {
    rule(Verdict::Allow, to, &[])
}

fn deny(to: &str) -> Rule {
    rule(Verdict::Deny, to, &[])
}

fn compiled(rules: Vec<Rule>) -> Compiled {
    Compiled::new(&Policy { rules, ..Policy::default() }).unwrap()
}

/// Decides about `address:port`, or `name@address:port` where the address was told for the name, or `name?address:port`
/// where it was not.
fn judge(policy: &Compiled, to: &str) -> Result<Treatment, Reason> {
    let (name, socket, told) = match (to.split_once('@'), to.split_once('?')) {
        (Some((name, socket)), _) => (Some(Name::parse(name).unwrap()), socket, true),
        (_, Some((name, socket))) => (Some(Name::parse(name).unwrap()), socket, false),
        (None, None) => (None, to, false),
    };
    let socket: std::net::SocketAddr = socket.parse().unwrap();
    policy.judge(&Destination { address: socket.ip(), port: socket.port(), name: name.as_ref(), told })
}

fn check(policy: &Compiled, to: &str, expected: Result<(), Reason>) {
    assert_eq!(judge(policy, to).map(|_| ()), expected, "{to}");
}

#[test]
fn what_no_rule_allows_is_refused() {
    let policy = compiled(vec![]);
    check(&policy, "1.1.1.1:443", Err(Reason::NoRule));
    check(&policy, "a.example@1.1.1.1:443", Err(Reason::NoRule));
}

#[test]
fn a_name_is_reached_only_where_its_address_was_told() {
    let policy = compiled(vec![allow("a.example"), allow("*.b.example")]);
    check(&policy, "a.example@1.1.1.1:443", Ok(()));
    check(&policy, "x.b.example@1.1.1.1:22", Ok(()));
    check(&policy, "a.example?1.1.1.1:443", Err(Reason::NotTold));
    check(&policy, "c.example@1.1.1.1:443", Err(Reason::NoRule));
    check(&policy, "1.1.1.1:443", Err(Reason::NoRule));
}

#[test]
fn deny_wins_by_name_by_address_and_by_port() {
    let policy = compiled(vec![
        allow("*"),
        allow("198.51.100.0/24"),
        deny("evil.example"),
        deny("198.51.100.66"),
        rule(Verdict::Deny, "*", &[25]),
    ]);
    check(&policy, "good.example@198.51.100.1:443", Ok(()));
    check(&policy, "198.51.100.1:443", Ok(()));
    check(&policy, "evil.example@198.51.100.1:443", Err(Reason::Rule));
    check(&policy, "evil.example?198.51.100.1:443", Err(Reason::Rule));
    check(&policy, "good.example@198.51.100.66:443", Err(Reason::Rule));
    check(&policy, "good.example@198.51.100.1:25", Err(Reason::Rule));
    assert_eq!(policy.resolves(&Name::parse("evil.example").unwrap()), Err(Reason::Rule));
    assert_eq!(policy.resolves(&Name::parse("good.example").unwrap()), Ok(()));
}

#[test]
fn an_allowance_over_denials_wins_where_it_matches_and_nowhere_else() {
    let over = |to: &str, ports: &[u16]| Rule { over_deny: true, ..rule(Verdict::Allow, to, ports) };
    let policy = compiled(vec![
        allow("*"),
        deny("*"),
        deny("203.0.113.0/24"),
        allow("weak.example"),
        over("good.example", &[443]),
        over("203.0.113.9", &[]),
    ]);
    check(&policy, "good.example@203.0.113.1:443", Ok(()));
    check(&policy, "203.0.113.9:22", Ok(()));
    for refused in ["good.example@1.1.1.1:80", "weak.example@1.1.1.1:443", "good.example?1.1.1.1:443", "1.1.1.1:443"] {
        check(&policy, refused, Err(Reason::Rule));
    }
    check(&policy, "203.0.113.10:22", Err(Reason::Rule));
    check(&policy, "good.example@10.0.0.1:443", Err(Reason::SpecialRange));
    assert_eq!(policy.resolves(&Name::parse("good.example").unwrap()), Ok(()));
    assert_eq!(policy.resolves(&Name::parse("weak.example").unwrap()), Err(Reason::Rule));
}

#[test]
fn ports_bound_a_rule() {
    let policy = compiled(vec![rule(Verdict::Allow, "a.example", &[443, 22])]);
    check(&policy, "a.example@1.1.1.1:443", Ok(()));
    check(&policy, "a.example@1.1.1.1:80", Err(Reason::NoRule));
}

#[test]
fn special_ranges_need_both_a_rule_and_an_opening() {
    let policy = compiled(vec![allow("*"), allow("10.0.0.0/8"), allow("inner.example"), allow("169.254.169.254")]);
    for to in [
        "10.0.0.1:80",
        "inner.example@10.0.0.1:80",
        "169.254.169.254:80",
        "inner.example@127.0.0.1:80",
        "[::ffff:10.0.0.1]:80",
        "[fd00:ec2::254]:80",
    ] {
        check(&policy, to, Err(Reason::SpecialRange));
    }
    let opened = Compiled::new(&Policy {
        rules: vec![allow("inner.example"), allow("10.0.0.0/16"), allow("*")],
        private_ranges: vec!["10.0.0.0/8".to_owned()],
        ..Policy::default()
    })
    .unwrap();
    check(&opened, "10.0.0.1:80", Ok(()));
    check(&opened, "inner.example@10.9.0.1:80", Ok(()));
    check(&opened, "10.9.0.1:80", Err(Reason::NoRule));
    check(&opened, "inner.example@192.168.0.1:80", Err(Reason::SpecialRange));
}

#[test]
fn a_connection_that_no_first_byte_could_make_allowed_is_refused_at_once() {
    let policy = compiled(vec![rule(Verdict::Allow, "a.example", &[443]), allow("198.51.100.0/28")]);
    let told = [Name::parse("a.example").unwrap()];
    let could = |address: &str, port: u16, told: &[Name]| policy.could_allow(address.parse().unwrap(), port, told);
    assert_eq!(could("1.1.1.1", 443, &told), Ok(()));
    assert_eq!(could("1.1.1.1", 80, &told), Err(Reason::NoRule));
    assert_eq!(could("1.1.1.1", 443, &[]), Err(Reason::NoRule));
    assert_eq!(could("198.51.100.3", 9, &[]), Ok(()));
}

#[test]
fn treatment_gathers_from_every_rule_that_allows() {
    let mut headed = allow("api.example");
    headed.headers.push(Header { name: "x-team".to_owned(), value: "blue".to_owned() });
    let policy = Compiled::new(&Policy {
        rules: vec![headed, allow("*.example")],
        secrets: vec![SecretBinding {
            secret: "key".to_owned(),
            env: "KEY".to_owned(),
            hosts: vec!["api.example".to_owned()],
            ..SecretBinding::default()
        }],
        ..Policy::default()
    })
    .unwrap();
    let treatment = judge(&policy, "api.example@1.1.1.1:443").unwrap();
    assert!(treatment.inspect && treatment.secrets && treatment.headers.len() == 1);
    let other = judge(&policy, "other.example@1.1.1.1:443").unwrap();
    assert!(!other.inspect && !other.secrets && other.headers.is_empty());
}

#[test]
fn a_secret_does_not_follow_a_name_to_an_address_that_was_not_told() {
    let policy = Compiled::new(&Policy {
        rules: vec![allow("*")],
        secrets: vec![SecretBinding {
            secret: "key".to_owned(),
            env: "KEY".to_owned(),
            hosts: vec!["api.example".to_owned()],
            ..SecretBinding::default()
        }],
        ..Policy::default()
    })
    .unwrap();
    assert!(judge(&policy, "api.example@1.1.1.1:443").unwrap().secrets);
    assert!(!judge(&policy, "api.example?6.6.6.6:443").unwrap().secrets);
}

#[test]
fn a_name_may_be_hidden_only_where_no_name_matters() {
    let any = |rules: Vec<Rule>, to: &str| judge(&compiled(rules), to).unwrap().any_name;
    assert!(any(vec![allow("*")], "a.example@1.1.1.1:443"));
    assert!(any(vec![allow("1.1.1.0/24"), allow("a.example")], "a.example@1.1.1.1:443"));
    assert!(any(vec![allow("*"), rule(Verdict::Deny, "evil.example", &[80])], "a.example@1.1.1.1:443"));
    assert!(!any(vec![allow("a.example")], "a.example@1.1.1.1:443"));
    assert!(!any(vec![allow("*"), deny("evil.example")], "a.example@1.1.1.1:443"));
    let read = Rule { inspect: true, ..allow("read.example") };
    assert!(!any(vec![allow("*"), read], "a.example@1.1.1.1:443"));
}

#[test]
fn what_is_wrong_is_named() {
    let failed = |rule: Rule| Compiled::new(&Policy { rules: vec![rule], ..Policy::default() }).unwrap_err();
    assert_eq!(failed(allow("a.example:443")).context["field"], "network.rules[0].to");
    assert_eq!(failed(allow("a.*.example")).context["field"], "network.rules[0].to");
    assert_eq!(failed(rule(Verdict::Allow, "a.example", &[0])).context["field"], "network.rules[0].ports");
    let mut inspected = deny("a.example");
    inspected.inspect = true;
    assert_eq!(failed(inspected).context["field"], "network.rules[0].inspect");
    let over = Rule { over_deny: true, ..deny("a.example") };
    assert_eq!(failed(over).context["field"], "network.rules[0].over_deny");
    let mut host = allow("a.example");
    host.headers.push(Header { name: "Host".to_owned(), value: "b.example".to_owned() });
    assert_eq!(failed(host).context["field"], "network.rules[0].headers");
    let everywhere = Policy {
        secrets: vec![SecretBinding {
            secret: "k".to_owned(),
            env: "K".to_owned(),
            hosts: vec!["*".to_owned()],
            ..SecretBinding::default()
        }],
        ..Policy::default()
    };
    assert_eq!(Compiled::new(&everywhere).unwrap_err().context["field"], "network.secrets[0].hosts");
}

#[test]
fn previews_are_held_to_ports_and_token() {
    let policy = Policy { ingress_ports: Some(vec![8080]), ingress_token: true, ..Policy::default() };
    assert_eq!(admits(Some(&policy), 8080, true), Ok(()));
    assert_eq!(admits(Some(&policy), 8080, false), Err(Reason::Token));
    assert_eq!(admits(Some(&policy), 22, true), Err(Reason::NoRule));
    assert_eq!(admits(Some(&Policy::default()), 22, false), Ok(()));
}

#[test]
fn without_a_policy_previews_are_closed_to_whoever_shows_nothing() {
    assert_eq!(admits(None, 8080, false), Err(Reason::Token));
    assert_eq!(admits(None, 8080, true), Ok(()));
}

#[test]
fn a_header_that_names_a_secret_which_is_not_bound_is_refused() {
    let mut rule = allow("a.example");
    let header = |value: &str| Header { name: "x-key".to_owned(), value: value.to_owned() };
    rule.headers = vec![header("Key mote-secret-{bound}"), header("mote-secret-{bound} and mote-secret-{other}")];
    let binding = |secret: &str| SecretBinding {
        secret: secret.to_owned(),
        env: "K".to_owned(),
        hosts: vec!["a.example".to_owned()],
        ..SecretBinding::default()
    };
    let mut policy =
        Policy { rules: vec![allow("b.example"), rule], secrets: vec![binding("bound")], ..Policy::default() };
    let failure = check_references(&policy).unwrap_err();
    assert_eq!(failure.context["field"], "network.rules[1].headers");
    assert!(failure.message.contains("\"other\""), "{failure}");
    policy.secrets.push(binding("other"));
    assert_eq!(check_references(&policy), Ok(()));
}
