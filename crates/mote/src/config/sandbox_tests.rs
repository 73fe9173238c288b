//! What `mote check` says of a sandbox in `tools`.

use mote_sandbox_api::network::Verdict;
use mote_sandbox_api::spec::{ImageSource, OnLeaseEnd, Profile};

use super::tests::{check, parse, with};
use super::*;
use crate::tools::sandbox::config::{Facility, Release};

const WHOLE: &str = r#"  - sandbox:
      profile: training
      allow: [files, shell]
      image: "registry:registry.internal/tools:3"
      url: https://sandboxes.internal/
      ca: {file: ca.pem}
      key: {env: MOTE_TEST_UNSET}
      network: {allow: [pypi.org, "*.pythonhosted.org", 10.0.0.0/8], deny: [evil.pypi.org], private_ranges: [10.0.0.0/8], secrets: [{secret: github, env: TOKEN, hosts: [api.github.com]}]}
      env: {LANG: C.UTF-8}
      user: root
      resources: {memory: 512MiB, cpu_milli: 500, pids: 64, disk: 1GiB}
      release: idle
      lease: 20m
      deadline: 2d
      timeout: 5m
      output_max: 8KiB
      approval: true
"#;

/// The good file with this entry in place of its built-in tool.
fn tools(entry: &str) -> String {
    with("  - builtin: wait_until\n", entry)
}

#[test]
fn every_field_is_taken() {
    let sandbox = parse(&tools(WHOLE)).unwrap().agent.sandbox.unwrap();
    assert_eq!(sandbox.allow, [Facility::Shell, Facility::Files]);
    assert_eq!(sandbox.url, "https://sandboxes.internal");
    assert_eq!(sandbox.ca, Some(PathBuf::from("/nonexistent/ca.pem")));
    assert_eq!(sandbox.key, Some(Secret::Env("MOTE_TEST_UNSET".to_owned())));
    assert_eq!((sandbox.release, sandbox.output_max, sandbox.approval), (Release::Idle, 8 << 10, true));
    assert_eq!(sandbox.timeout, Duration::from_secs(300));
    let spec = sandbox.spec;
    assert_eq!(spec.profile, Profile::Training);
    assert_eq!(spec.image, Some(ImageSource::Registry("registry.internal/tools:3".to_owned())));
    assert_eq!((spec.lease, spec.on_lease_end), (Some(Duration::from_secs(1200)), Some(OnLeaseEnd::Remove)));
    assert_eq!((spec.resources.memory, spec.resources.pids), (Some(512 << 20), Some(64)));
    let policy = spec.network.unwrap();
    assert_eq!(policy.rules.iter().filter(|rule| rule.verdict == Verdict::Allow).count(), 3);
    assert_eq!((policy.rules[3].verdict, policy.rules[3].to.as_str()), (Verdict::Deny, "evil.pypi.org"));
    assert_eq!(policy.secrets[0].hosts, ["api.github.com"]);
}

#[test]
fn little_has_to_be_said() {
    let entry = "  - {sandbox: {profile: production, allow: [shell, python, files]}}\n";
    let sandbox = parse(&tools(entry)).unwrap().agent.sandbox.unwrap();
    assert_eq!(sandbox.release, Release::Session);
    assert_eq!(sandbox.spec.on_lease_end, Some(OnLeaseEnd::Pause));
    assert_eq!((sandbox.spec.image, sandbox.spec.network), (None, None));
    assert_eq!(sandbox.timeout, Duration::from_secs(120));
}

#[test]
fn every_mistake_in_it_is_reported_with_its_place() {
    let entry = r#"  - sandbox:
      allow: [shell, shel, shell]
      image: "dir:relative"
      url: "ftp://sandboxes.internal"
      network: {allow: ["https://pypi.org", ok.org], private_ranges: [10.0.0.1], secrets: [{secret: s, env: 2X, hosts: []}]}
      resources: {memory: 512, pids: 0, disk: 0B}
      release: never
      lease: 1m
      deadline: 30s
      output_max: 0B
      timeut: 3s
"#;
    check(
        &tools(entry),
        &[
            "agent.yaml:18:22: error: tools[1].sandbox.allow[1]: must be one of `shell`, `python`, `files`\n    hint: did you mean `shell`?",
            "agent.yaml:18:28: error: tools[1].sandbox.allow[2]: `shell` is written twice",
            "agent.yaml:19:14: error: tools[1].sandbox.image: the path is the daemon's and must be absolute",
            "agent.yaml:20:12: error: tools[1].sandbox.url: must be an http or https URL, not ftp",
            "agent.yaml:21:25: error: tools[1].sandbox.network.allow[0]: \"https://pypi.org\" is not a destination\n    hint: write a name (pypi.org), *.NAME, an address, a CIDR block, or * for every public destination",
            "agent.yaml:21:71: error: tools[1].sandbox.network.private_ranges[0]: is not a CIDR block, such as 10.0.0.0/8",
            "agent.yaml:21:109: error: tools[1].sandbox.network.secrets[0].env: is not the name of an environment variable\n    hint: write the variable's name, such as ANTHROPIC_API_KEY; the secret itself never stands in agent.yaml",
            "agent.yaml:21:120: error: tools[1].sandbox.network.secrets[0].hosts: names no host: nobody could receive the secret",
            "agent.yaml:22:27: error: tools[1].sandbox.resources.memory: must be text, not a number\n    hint: write a unit: 512B, 64KiB or 1MB",
            "agent.yaml:22:38: error: tools[1].sandbox.resources.pids: must be 1 or more",
            "agent.yaml:22:47: error: tools[1].sandbox.resources.disk: must be more than zero",
            "agent.yaml:23:16: error: tools[1].sandbox.release: must be one of `turn`, `session`, `idle`",
            "agent.yaml:24:14: error: tools[1].sandbox.lease: is shorter than `timeout`\n    hint: a command that still runs when the lease ends would be stopped: make the lease the longer of the two",
            "agent.yaml:25:17: error: tools[1].sandbox.deadline: is shorter than `lease`",
            "agent.yaml:26:19: error: tools[1].sandbox.output_max: must be from 1B to 16777216B",
            "agent.yaml:27:7: error: tools[1].sandbox.timeut: unknown field `timeut`\n    hint: did you mean `timeout`?",
        ],
    );
}

#[test]
fn what_is_allowed_is_said_once_and_has_names_of_its_own() {
    check(
        &tools("  - sandbox: {profile: training}\n"),
        &[
            "agent.yaml:17:14: error: tools[1].sandbox.allow: `allow` is missing\n    hint: say what the agent may do: `allow: [shell, python, files]`, or some of these",
        ],
    );
    check(
        &tools("  - sandbox: {allow: []}\n"),
        &[
            "agent.yaml:17:22: error: tools[1].sandbox.allow: allows nothing\n    hint: write `[shell, python, files]`, or some of these",
        ],
    );
    check(
        &tools("  - sandbox: {allow: [shell], url: \"http://127.0.0.1:7070\", ca: {file: ca.pem}}\n"),
        &["agent.yaml:17:65: error: tools[1].sandbox.ca: only an https address has a certificate"],
    );
    check(
        &tools("  - sandbox: {allow: [shell]}\n  - sandbox: {allow: [python]}\n"),
        &["agent.yaml:18:14: error: tools[2].sandbox: an agent has one sandbox, and this is another"],
    );
    check(
        &tools("  - sandbox: {allow: [shell]}\n").replace("name: get_ticket", "name: shell"),
        &["agent.yaml:17:22: error: tools[1].sandbox.allow: two tools are named `shell`"],
    );
}

#[test]
fn an_inline_key_is_refused_and_production_is_advised() {
    let inline = parse(&tools("  - sandbox: {allow: [shell], key: sk-1234}\n")).unwrap_err();
    assert!(!format!("{inline:?}").contains("sk-1234"));
    assert!(inline[0].hint.as_ref().unwrap().contains("never written into agent.yaml"), "{inline:?}");
    let entry = "  - sandbox: {allow: [shell], url: \"http://sandboxes.internal:7070\", key: {env: MOTE_TEST_UNSET}, network: {allow: [\"*\"]}}\n";
    let warnings: Vec<String> =
        parse(&tools(entry)).unwrap().warnings.into_iter().map(|w| format!("{}: {}", w.path, w.message)).collect();
    for expected in [
        "tools[1].sandbox.url: plain HTTP to sandboxes.internal: readable on the way",
        "tools[1].sandbox.key: failed to read a secret: the environment variable MOTE_TEST_UNSET is not set",
        "tools[1].sandbox.network.allow: what the agent runs reaches every public host",
    ] {
        assert!(warnings.iter().any(|warning| warning == expected), "{expected}: {warnings:?}");
    }
}

#[test]
fn the_digest_covers_it() {
    let digest = |entry: &str| parse(&tools(entry)).unwrap().agent.digest;
    let original = digest(WHOLE);
    for (line, replacement) in [
        ("[files, shell]", "[shell]"),
        ("pypi.org,", "pypi.net,"),
        ("release: idle", "release: turn"),
        ("512MiB", "1GiB"),
    ] {
        assert!(WHOLE.contains(line), "{line}");
        assert_ne!(digest(&WHOLE.replacen(line, replacement, 1)), original, "{line}");
    }
    assert_eq!(digest(&WHOLE.replace("MOTE_TEST_UNSET", "MOTE_TEST_OTHER")), original, "where the key is kept");
}
