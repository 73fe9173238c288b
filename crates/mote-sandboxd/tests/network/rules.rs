//! What a policy allows, how it changes while a sandbox runs, and the bounds it sets.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use mote_sandbox_api::error::Code;
use mote_sandbox_api::network::{Policy, Verdict};
use mote_sandboxd::network::decision::{Kind, Reason};

use super::world::{Sandbox, allow, deny, inspect, policy, text, world};

#[test]
fn an_allowed_name_is_reached_and_every_decision_is_kept_and_counted() {
    let sandbox = world().sandbox(&policy(vec![allow("good.example")]));
    for url in ["https://good.example/a", "http://good.example/b"] {
        let output = sandbox.curl(&[url]);
        assert!(text(&output).starts_with("internet"), "{output:?}");
    }
    assert!(!sandbox.curl(&["https://evil.example/"]).status.success());
    let kept: Vec<_> =
        sandbox.decisions().iter().map(|d| (d.kind, d.verdict, d.name.clone().unwrap_or_default())).collect();
    for (kind, verdict, name) in [
        (Kind::Dns, Verdict::Allow, "good.example"),
        (Kind::Tls, Verdict::Allow, "good.example"),
        (Kind::Http, Verdict::Allow, "good.example"),
        (Kind::Dns, Verdict::Deny, "evil.example."),
    ] {
        assert!(kept.contains(&(kind, verdict, name.to_owned())), "{kind:?} {name}: {kept:?}");
    }
    let usage = world().network.usage(&sandbox.id).unwrap();
    assert!(
        usage.sent_bytes > 100 && usage.received_bytes > 100 && usage.allowed >= 4 && usage.denied >= 1,
        "{usage:?}"
    );
}

#[test]
fn openssl_is_connected_to_the_server_itself_where_nothing_is_inspected() {
    let sandbox = world().sandbox(&policy(vec![allow("good.example")]));
    let mut openssl = sandbox.command("openssl");
    openssl.args(["s_client", "-connect", "good.example:443", "-verify_return_error", "-brief", "-CAfile"]);
    let output = openssl.arg(world().path("internet.pem")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("Verification: OK"), "{told}");
}

#[test]
fn wildcards_ports_and_blocks_are_held() {
    world().internet.name("a.good.example", &[super::internet::SERVER]);
    let mut ssh = allow("shared.example");
    ssh.ports = vec![22];
    let sandbox =
        world().sandbox(&policy(vec![allow("*.good.example"), ssh, allow("198.51.100.11"), deny("secret.example")]));
    let script = "
def greeting(host, port): return outcome(lambda: socket.create_connection((host, port), 10).recv(7))
print(https(resolve('a.good.example'), 'a.good.example')[:8], resolve('good.example'), greeting('shared.example', 22), \
     status(http(resolve('shared.example'), 'shared.example')), status(http(OTHER, OTHER)), resolve('secret.example'))";
    assert_eq!(sandbox.python(script), "HTTP/1.1 no-name b'SSH-2.0' 403 200 no-name");
}

/// A conversation that goes on until it is cut: lines said back by the server that speaks first.
struct Conversation {
    client: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Conversation {
    fn start(sandbox: &Sandbox) -> Self {
        let script = "import socket, sys
s = socket.create_connection(('shared.example', 22), 10); f = s.makefile('rb'); f.readline()
for line in sys.stdin:
    try:
        s.sendall(line.encode()); print((f.readline() or b'cut').decode().strip(), flush=True)
    except OSError: print('cut', flush=True)";
        Self::with(sandbox, script)
    }

    /// One with a server of TLS, in which the client says nothing until it is told to: then it says who answered.
    fn silent(sandbox: &Sandbox) -> Self {
        let script = format!(
            "import socket, ssl, sys
c = ssl.create_default_context(cafile='{}'); s = socket.create_connection(('good.example', 8443), 60)
for line in sys.stdin:
    try: c.wrap_socket(s, server_hostname='good.example'); print('the server itself', flush=True)
    except ssl.SSLError as error: print(error.reason, flush=True)
    except OSError: print('cut', flush=True)",
            world().path("internet.pem")
        );
        Self::with(sandbox, &script)
    }

    fn with(sandbox: &Sandbox, script: &str) -> Self {
        let mut python = sandbox.command("python3");
        let mut client = python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()));
        Self { client, stdin, stdout }
    }

    /// Says hello, and tells what came back.
    fn say(&mut self) -> String {
        writeln!(self.stdin, "hello").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

#[test]
fn a_change_of_policy_holds_at_once_and_cuts_what_it_does_not_allow() {
    let sandbox = world().sandbox(&policy(vec![allow("shared.example"), allow("good.example")]));
    let mut conversation = Conversation::start(&sandbox);
    assert_eq!(conversation.say(), "hello");
    sandbox.update(&policy(vec![allow("shared.example")]));
    assert_eq!(conversation.say(), "hello", "what is still allowed goes on");
    assert_eq!(sandbox.python("print(resolve('good.example'))"), "no-name");
    sandbox.update(&policy(vec![inspect("shared.example")]));
    assert_eq!(conversation.say(), "cut", "what is to be inspected does not go on unread");
    sandbox.update(&policy(vec![allow("shared.example")]));
    let mut conversation = Conversation::start(&sandbox);
    assert_eq!(conversation.say(), "hello");
    sandbox.update(&policy(vec![allow("good.example")]));
    assert_eq!(conversation.say(), "cut");
    assert!(sandbox.denied(Reason::Changed));
    assert_eq!(sandbox.python("print(resolve('good.example'), resolve('shared.example'))"), "198.51.100.10 no-name");
    let broken = sandbox.try_update(&policy(vec![allow("no:name")])).unwrap_err();
    assert_eq!((broken.code, broken.context["field"].as_str()), (Code::Invalid, "network.rules[0].to"));
    assert_eq!(sandbox.python("print(resolve('good.example'))"), "198.51.100.10", "the policy before stays");
}

#[test]
fn a_change_of_policy_holds_for_a_connection_that_has_said_nothing_yet() {
    for before in [vec![allow("*")], vec![allow("*"), deny("other.example")]] {
        for (after, expected) in [
            (vec![allow("*"), deny("good.example")], "TLSV1_ALERT_ACCESS_DENIED"),
            (vec![allow("*"), inspect("good.example")], "CERTIFICATE_VERIFY_FAILED"),
            (vec![allow("*")], "the server itself"),
        ] {
            let sandbox = world().sandbox(&policy(before.clone()));
            let accepted = || *world().internet.accepted.lock().unwrap();
            let earlier = accepted();
            let mut silent = Conversation::silent(&sandbox);
            // The destination was dialled: the daemon waits for either side to speak.
            while accepted() == earlier {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            sandbox.update(&policy(after.clone()));
            assert_eq!(silent.say(), expected, "{before:?} {after:?}");
        }
    }
}

#[test]
fn connections_are_bounded() {
    let bounded = Policy { connections: Some(3), ..policy(vec![allow("shared.example")]) };
    let sandbox = world().sandbox(&bounded);
    let script = "
def one():
    s = socket.create_connection(('shared.example', 22), 10); kept.append(s); return s.recv(3)
kept = []; print([outcome(one) for n in range(5)])";
    assert_eq!(sandbox.python(script), "[b'SSH', b'SSH', b'SSH', 'reset', 'reset']");
    assert!(sandbox.denied(Reason::Connections));
}

#[test]
fn bandwidth_is_bounded() {
    let slow = Policy { bandwidth_bytes: Some(1_000_000), ..policy(vec![allow("good.example")]) };
    let script = "
t = time.monotonic(); n = len(https(resolve('good.example'), 'good.example', path='/large?3000000')); t = time.monotonic() - t
print(n > 3000000, 'slow' if t > 2.5 else 'fast')";
    // A lower bound alone is asserted: three seconds of bytes, less the burst.
    assert_eq!(world().sandbox(&slow).python(script), "True slow");
}

#[test]
fn previews_are_held_to_the_policy() {
    let ingress = Policy { ingress_ports: Some(vec![8080]), ingress_token: true, ..Policy::default() };
    let sandbox = world().sandbox(&ingress);
    let ask =
        |port, token| world().network.ingress(&sandbox.id, Some(&ingress), port, token).map_err(|failure| failure.code);
    assert_eq!(ask(8080, true), Ok(()));
    assert_eq!(ask(8080, false), Err(Code::Forbidden));
    assert_eq!(ask(22, true), Err(Code::Forbidden));
    assert!(sandbox.denied(Reason::Token) && sandbox.denied(Reason::NoRule));
}

#[test]
fn a_sandbox_that_is_detached_reaches_nothing_more() {
    let sandbox = world().sandbox(&policy(vec![allow("shared.example")]));
    let mut conversation = Conversation::start(&sandbox);
    assert_eq!(conversation.say(), "hello");
    world().network.detach(&sandbox.id);
    assert_eq!(conversation.say(), "cut");
    assert_eq!(world().network.usage(&sandbox.id), None);
}

#[test]
fn a_namespace_without_a_policy_has_a_loopback_and_nothing_else() {
    let namespace = super::namespaces::Namespace::new();
    namespace.call(mote_sandboxd::network::keeper::isolate).unwrap();
    let script = "import socket
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(); socket.create_connection(l.getsockname()); print('inside')
try: socket.create_connection(('198.51.100.10', 80), 5); print('reached')
except OSError as error: print(error.errno)";
    let output = namespace.command("python3").args(["-c", script]).output().unwrap();
    assert_eq!(text(&output), "inside\n101\n");
}

#[test]
fn rules_that_were_read_and_written_again_are_those_that_nft_made() {
    let [first, second] = [super::namespaces::Namespace::new(), super::namespaces::Namespace::new()];
    let rules = first.call(mote_sandboxd::network::keeper::learn).unwrap();
    second.call(move || rules.write()).unwrap();
    let listed = |namespace: &super::namespaces::Namespace| {
        text(&namespace.command("nft").args(["list", "ruleset"]).output().unwrap())
    };
    assert!(listed(&first).contains("policy drop"), "{}", listed(&first));
    assert_eq!(listed(&first), listed(&second));
}
