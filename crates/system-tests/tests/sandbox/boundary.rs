//! The network boundary of the whole daemon, against an internet of its own: the daemon stands in a network namespace of the
//! test's, between its sandboxes and servers on 198.51.100.0/24. Each way out that is refused inside is open to the host.
//!
//! The rules one by one, and every known leak against the boundary alone, stand in `mote-sandboxd`'s `tests/network`, whose
//! servers and clients these are.

#[allow(dead_code, missing_docs, unreachable_pub)]
#[path = "../../../mote-sandboxd/tests/network/internet.rs"]
mod internet;
#[allow(dead_code, missing_docs, unreachable_pub)]
#[path = "../../../mote-sandboxd/tests/network/namespaces.rs"]
mod namespaces;

use std::future::Future;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use self::internet::{Internet, RESOLVER};
pub(super) use self::internet::{METADATA, OTHER, PRIVATE, SERVER};
use self::namespaces::Namespace;
use crate::fixture::{Daemon, Options};

/// What stands around the daemon.
pub(super) struct World {
    internet: Internet,
    host: Namespace,
    authority: tempfile::NamedTempFile,
}

/// Runs a test with a daemon whose host is a namespace of its own, with a way to the test's internet.
pub(super) fn with_world<F, T>(test: T)
where
    F: Future<Output = ()> + Send,
    T: FnOnce(Arc<World>, Daemon) -> F + Send + 'static,
{
    with_options(Options::default(), test);
}

/// The same, with a daemon started another way: one that has a file of the system's resolver asks the same server by that.
pub(super) fn with_options<F, T>(options: Options, test: T)
where
    F: Future<Output = ()> + Send,
    T: FnOnce(Arc<World>, Daemon) -> F + Send + 'static,
{
    let (outside, host) = (Namespace::new(), Namespace::new());
    host.ip("link set lo up");
    host.ip(&format!("link add out0 type veth peer name in0 netns {}", outside.pid()));
    host.ip("addr add 198.51.100.1/24 dev out0");
    host.ip("link set out0 up");
    outside.ip("link set lo up");
    outside.ip("link set in0 up");
    for address in [SERVER, OTHER, RESOLVER] {
        outside.ip(&format!("addr add {address}/24 dev in0"));
    }
    // What the host itself can reach, and a sandbox must not.
    for address in [PRIVATE, METADATA] {
        outside.ip(&format!("addr add {address}/32 dev in0"));
        host.ip(&format!("route add {address}/32 dev out0"));
    }
    let servers = outside.runtime();
    let internet = servers.block_on(async { tokio::spawn(Internet::start()).await.unwrap() });
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), &internet.root_pem).unwrap();
    let world = Arc::new(World { internet, host, authority });
    // The daemon, and the requests to it, are made by workers that are in the namespace.
    let clients = world.host.runtime();
    let running = clients.spawn({
        let world = Arc::clone(&world);
        async move {
            let named = if options.resolver.is_some() { "system".to_owned() } else { RESOLVER.to_string() };
            let config =
                format!("resolver: {named}\nauthorities: {}\n{}", world.authority.path().display(), options.config);
            let daemon = Daemon::start_with(Options { config, ..options }).await;
            test(world, daemon).await;
        }
    });
    let outcome = clients.block_on(running);
    drop(servers);
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl World {
    /// What the clients of a script need to know, and the script.
    fn script(&self, ca: &str, body: &str) -> String {
        format!(
            "import socket, ssl, struct, sys, os, time\nSERVER, OTHER, PRIVATE, METADATA = '{SERVER}', '{OTHER}', '{PRIVATE}', '{METADATA}'\n\
             CA, BOTH = '{ca}', '{ca}'\n{}\n{body}",
            include_str!("../../../mote-sandboxd/tests/network/clients.py")
        )
    }

    /// Runs a script on the host: what it can do there shows what the boundary refuses.
    pub(super) async fn on_the_host(self: &Arc<Self>, body: &str) -> String {
        let (world, script) = (Arc::clone(self), self.script(&self.authority.path().display().to_string(), body));
        let run = move || world.host.command("python3").args(["-c", &script]).output().unwrap();
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a script inside, as root.
    async fn inside(&self, daemon: &Daemon, id: &str, body: &str) -> String {
        daemon.put(id, "/opt/authority.pem", self.internet.root_pem.clone()).await;
        daemon.put(id, "/opt/script.py", self.script("/opt/authority.pem", body)).await;
        daemon.run(id, "python3 /opt/script.py").await.trim().to_owned()
    }

    fn asked(&self, part: &str) -> bool {
        self.internet.asked.lock().unwrap().iter().any(|name| name.contains(part))
    }
}

fn rules(names: &[&str]) -> Value {
    let rules: Vec<Value> = names.iter().map(|name| json!({ "verdict": "allow", "to": name })).collect();
    json!({ "rules": rules })
}

pub(super) async fn curl(daemon: &Daemon, id: &str, arguments: &str) -> String {
    let line = format!("curl -sS --max-time 20 --noproxy '*' {arguments} 2>&1 || echo failed");
    daemon.run(id, &line).await
}

/// The decisions about a sandbox: kind, verdict, reason, name.
async fn decisions(daemon: &Daemon, id: &str) -> Vec<String> {
    let told = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/network/decisions"), Value::Null).await;
    let word = |decision: &Value, field: &str| decision[field].as_str().unwrap_or("-").trim_end_matches('.').to_owned();
    let line = |decision: &Value| ["kind", "verdict", "reason", "name"].map(|field| word(decision, field)).join(" ");
    told["items"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn egress_is_the_policys_alone_and_changes_while_the_sandbox_runs() {
    with_world(async |world, daemon| {
        let id = &daemon.create(json!({})).await;
        daemon.put(id, "/opt/ca.pem", world.internet.root_pem.clone()).await;
        let good = "--cacert /opt/ca.pem https://good.example/page";
        let shared = "http://shared.example/page";
        assert!(world.on_the_host("print(status(http(SERVER, 'good.example')))").await == "200");
        // Nothing, until a policy says otherwise.
        assert!(curl(&daemon, id, good).await.contains("failed"));
        let path = format!("/v1/sandboxes/{id}/network");
        daemon.done(Method::PUT, &path, rules(&["good.example"])).await;
        let answer = curl(&daemon, id, good).await;
        assert!(answer.starts_with("internet server=good.example method=GET uri=/page"), "{answer}");
        assert!(curl(&daemon, id, shared).await.contains("failed"));
        // A wildcard, and what was allowed no longer is.
        world.internet.name("deep.good.example", &[SERVER]);
        daemon.done(Method::PUT, &path, rules(&["*.good.example", "shared.example"])).await;
        assert!(curl(&daemon, id, good).await.contains("failed"));
        assert!(curl(&daemon, id, shared).await.starts_with("internet"));
        assert!(curl(&daemon, id, "http://deep.good.example/").await.starts_with("internet"));
        // Every decision is kept, logged and counted.
        let kept = decisions(&daemon, id).await;
        for expected in [
            "dns deny no_rule good.example",
            "dns allow rule good.example",
            "tls allow rule good.example",
            "dns deny no_rule shared.example",
            "http allow rule shared.example",
        ] {
            assert!(kept.iter().any(|decision| decision == expected), "{expected}: {kept:?}");
        }
        let log = daemon.whole_log(id).await;
        let logged = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let refused = logged.filter(|line| line["sandbox"] == id.as_str() && line["verdict"] == "deny").count();
        assert!(refused >= 3, "{log}");
        let metrics = daemon.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let figure = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{sandbox=\"{id}\"}} ")));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        assert!(figure("mote_sandbox_network_sent_bytes_total") > 100, "{metrics}");
        assert!(figure("mote_sandbox_network_received_bytes_total") > 100, "{metrics}");
        let usage = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/usage"), Value::Null).await;
        assert!(usage["received_bytes"].as_u64() > Some(100), "{usage}");
    });
}

#[test]
fn a_secret_is_used_by_a_sandbox_that_never_holds_it() {
    with_world(async |world, daemon| {
        let value = "s3cret-of-the-test-1234567";
        daemon.done(Method::PUT, "/v1/secrets/token", json!({ "value": value })).await;
        let mut policy = rules(&["secret.example", "good.example"]);
        let binding =
            |body: bool| json!([{ "secret": "token", "env": "TOKEN", "hosts": ["secret.example"], "body": body }]);
        policy["secrets"] = binding(false);
        let id = &daemon.create(json!({ "network": policy })).await;
        let placeholder = daemon.run(id, "printf %s $TOKEN").await;
        assert!(!placeholder.is_empty() && placeholder != value);
        // The image's own programs trust the daemon's authority without being told.
        let send = "-H \"Authorization: Bearer $TOKEN\" -d \"k=$TOKEN\"";
        let length = |of: &str| format!("content-length: {}", "k=".len() + of.len());
        // Where the host may keep it or show it, the value goes only if the binding says so.
        let answer = curl(&daemon, id, &format!("{send} https://secret.example/")).await;
        assert!(answer.contains(&length(&placeholder)), "a body is sent as it is: {answer}");
        policy["secrets"] = binding(true);
        daemon.done(Method::PUT, &format!("/v1/sandboxes/{id}/network"), policy).await;
        let answer = curl(&daemon, id, &format!("{send} https://secret.example/")).await;
        assert!(answer.contains(&length(value)), "the server was sent the value: {answer}");
        assert!(!answer.contains(value), "and what it says back does not bring it inside: {answer}");
        daemon.put(id, "/opt/ca.pem", world.internet.root_pem.clone()).await;
        let answer = curl(&daemon, id, &format!("{send} --insecure https://good.example/")).await;
        assert!(answer.contains(&length(&placeholder)) && !answer.contains(value), "another host is not: {answer}");
        let everything = format!("{}{:?}", daemon.whole_log(id).await, decisions(&daemon, id).await);
        assert!(!everything.contains(value));
    });
}

/// As E2B's SDKs say it (`Secret.fill` in a header of a rule): the value is set at egress, for the rule's host alone.
#[test]
fn a_secret_in_e2bs_rules_is_set_at_egress() {
    with_world(async |_, daemon| {
        let value = "s3cret-of-the-test-7654321";
        daemon.done(Method::POST, "/secrets", json!({ "name": "token", "value": value })).await;
        let header = json!([{ "transform": { "headers": { "X-Key": "Key ${e2b.secrets.token}" } } }]);
        let network = json!({
            "allowOut": ["secret.example", "shared.example"], "denyOut": ["0.0.0.0/0"], "rules": { "secret.example": header },
        });
        let body = json!({ "templateID": "base", "timeout": 600, "network": network });
        let made = daemon.done(Method::POST, "/sandboxes", body).await;
        let id = made["sandboxID"].as_str().unwrap();
        let placeholder = daemon.run(id, "printf %s $SECRET_TOKEN").await;
        // The server says back what it was sent. Only the value is hidden on the way back, behind the placeholder.
        let answer = curl(&daemon, id, "-H 'X-Key: mine' https://secret.example/").await;
        assert!(answer.contains(&format!("x-key: Key {placeholder}\n")), "{answer}");
        let answer = curl(&daemon, id, "http://shared.example/").await;
        assert!(answer.starts_with("internet") && !answer.contains("x-key"), "{answer}");
        let told = daemon.done(Method::GET, &format!("/sandboxes/{id}"), Value::Null).await;
        assert!(!told.to_string().contains(value) && !daemon.whole_log(id).await.contains(value));
        // What is not there is refused at once, and so is an identity that a sandbox cannot have.
        for (filled, status) in [("${e2b.secrets.none}", 400), ("${e2b.identity.tokens.aws}", 501)] {
            let rules = json!({ "secret.example": [{ "transform": { "headers": { "X-Key": filled } } }] });
            let network = json!({ "allowOut": ["secret.example"], "rules": rules });
            let (refused, answer) =
                daemon.ask(Method::POST, "/sandboxes", json!({ "templateID": "base", "network": network })).await;
            assert_eq!(refused.as_u16(), status, "{filled}: {answer}");
        }
    });
}

#[test]
fn no_known_way_around_the_boundary_is_open() {
    with_world(async |world, daemon| {
        let id = &daemon.create(json!({ "network": rules(&["good.example"]) })).await;
        let alone = &daemon.create(json!({ "profile": "training", "lease": "10m" })).await;
        let open = &daemon.create(json!({ "network": rules(&["*", "192.0.2.0/24"]) })).await;
        let ways = "
def datagram(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.sendto(b'x', (SERVER, port)); return s.recv(10) and 'open'
def echo():
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); s.settimeout(3)
    s.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', (SERVER, 0)); return s.recv(100) and 'open'
def question():
    return query('dGhlIGtleXM.tunnel.example', 1, '198.51.100.53')
def way(action):
    said = str(outcome(action)); return 'open' if said.startswith(('HTTP', 'open', '3/')) else 'shut'
print(way(lambda: http(SERVER, SERVER)), way(lambda: http(SERVER, 'good.example')), way(lambda: https(SERVER, 'good.example')),
      way(lambda: http(METADATA, METADATA)), way(lambda: http(PRIVATE, PRIVATE)),
      way(lambda: datagram(443)), way(lambda: datagram(9999)), way(echo))";
        assert_eq!(world.on_the_host(ways).await, "open open open open open open open open");
        let before = *world.internet.datagrams.lock().unwrap();
        for sandbox in [id, alone] {
            assert_eq!(world.inside(&daemon, sandbox, ways).await, "shut shut shut shut shut shut shut shut");
        }
        assert_eq!(*world.internet.datagrams.lock().unwrap(), before, "a datagram left the host");
        // Names carry nothing out: not to its own resolver, not to another server, not over TCP.
        let names = "print(query('dGhl.tunnel.example', 1), query('tunnel.example', 16, '198.51.100.53'), \
                     query('tunnel.example', 1, '8.8.8.8', tcp=True), query('good.example', 65))";
        assert_eq!(world.inside(&daemon, id, names).await, "3/0 3/0 3/0 0/0");
        assert!(!world.asked("tunnel"), "a question left the host");
        // A name that is allowed does not lead where none may.
        world.internet.name("rebind.example", &[PRIVATE]);
        let rebind = "print(resolve('rebind.example'), status(http(PRIVATE, 'rebind.example')), status(http(METADATA, METADATA)))";
        assert_eq!(world.inside(&daemon, open, rebind).await, "no-name reset reset");
        // The host's own services, the daemon's API among them, and other sandboxes.
        let port = daemon.url().rsplit_once(':').unwrap().1;
        let reach = format!(
            "def reach(address, port): return outcome(lambda: socket.create_connection((address, port), 5).recv(1) or 'closed')\n\
             print(reach('127.0.0.1', {port}), reach('198.51.100.1', {port}))"
        );
        assert_eq!(world.inside(&daemon, open, &reach).await, "refused reset");
        let listen = "import signal, socket; s = socket.socket(); s.bind((\"0.0.0.0\", 7000)); s.listen(); \
                      t = socket.socket(socket.AF_UNIX); t.bind(\"\\0mote-test\"); t.listen(); \
                      open(\"/tmp/listens\", \"w\"); signal.pause()";
        let line = format!("python3 -c '{listen}' >/dev/null 2>&1 & until [ -e /tmp/listens ]; do :; done");
        daemon.run(id, &line).await;
        let neighbours = "
def direct(address): return outcome(lambda: socket.create_connection((address, 7000), 5) and 'open')
def abstract():
    s = socket.socket(socket.AF_UNIX); s.connect('\\0mote-test'); return 'open'
own = [line.split()[3] for line in os.popen('ip -4 -o addr show') if ' lo ' not in line]
print(direct('192.0.2.2'), outcome(abstract))";
        let (mine, other) =
            (world.inside(&daemon, id, neighbours).await, world.inside(&daemon, open, neighbours).await);
        assert_eq!((mine.as_str(), other.as_str()), ("open open", "refused refused"));
        let refused = decisions(&daemon, open).await;
        for reason in ["special_range", "own_address"] {
            assert!(
                refused.iter().any(|decision| decision.contains(&format!("deny {reason}"))),
                "{reason}: {refused:?}"
            );
        }
    });
}

/// Commands that keep no variable, and libraries that never look at one.
const STRANGERS: [&str; 8] = [
    "env -i /usr/bin/curl -sS --max-time 20 --noproxy '*' https://good.example/page",
    "sudo -n curl -sS --max-time 20 --noproxy '*' https://good.example/page",
    "env -i /usr/bin/wget -q -T 20 -t 1 --no-proxy -O - https://good.example/page",
    "env -i /usr/bin/python3 -c 'import urllib.request as r; print(r.urlopen(\"https://good.example/page\").read().decode())'",
    "sudo -n sh -c 'test -r \"$REQUESTS_CA_BUNDLE\" && cat \"$PIP_CERT\" >/dev/null && echo server=good.example'",
    "env -i openssl s_client -connect good.example:443 -servername good.example -verify_return_error </dev/null >/dev/null 2>&1 && echo server=good.example",
    "env -i git -c http.proxy= ls-remote https://good.example/page 2>&1 | grep -qi certificate || echo server=good.example",
    "wget -q -T 20 -t 1 --no-proxy -O - https://good.example/page",
];

#[test]
fn inspection_is_trusted_by_what_keeps_no_variable() {
    with_world(async |_, daemon| {
        let inspected = json!({ "rules": [{ "verdict": "allow", "to": "good.example", "inspect": true }] });
        let id = &daemon.create(json!({ "network": inspected })).await;
        for line in STRANGERS {
            let result = daemon.exec(id, line).await;
            assert!(result["stdout"].as_str().unwrap().contains("server=good.example"), "{line}: {result}");
        }
        // Once is enough, however often the sandbox begins anew.
        daemon.done(Method::PUT, &format!("/v1/sandboxes/{id}/network"), inspected.clone()).await;
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        let count = format!("grep -cF \"$(sed -n 2p /etc/ssl/mote-authority.pem)\" {bundle}");
        assert_eq!(daemon.run(id, &count).await.trim(), "1");
        // An image without any, as Debian's smallest, gets one; Fedora's own places, behind its links, are found.
        let bare = &daemon.create(json!({ "network": {"rules": []} })).await;
        daemon.run(bare, &format!("rm -rf {bundle} /etc/ssl/certs/*")).await;
        daemon.done(Method::PUT, &format!("/v1/sandboxes/{bare}/network"), inspected.clone()).await;
        let line = "env -i /usr/bin/wget -q -T 20 -t 1 --no-proxy -O - https://good.example/page";
        assert!(daemon.run(bare, line).await.contains("server=good.example"));
        let fedora = &daemon.create(json!({ "network": {"rules": []} })).await;
        let links = format!(
            "mkdir -p /etc/pki/ca-trust/extracted/pem /etc/pki/ca-trust/source/anchors /etc/pki/tls/certs \
             && mv {bundle} /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem \
             && ln -s /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem /etc/pki/tls/certs/ca-bundle.crt"
        );
        daemon.run(fedora, &links).await;
        daemon.done(Method::PUT, &format!("/v1/sandboxes/{fedora}/network"), inspected).await;
        let look = "ls -L /etc/pki/ca-trust/source/anchors/mote-authority.crt /etc/pki/tls/certs/2040c1c2.0 \
                    && test -L /etc/pki/tls/certs/ca-bundle.crt \
                    && env -i /usr/bin/curl -sS --max-time 20 --noproxy '*' --capath /none \
                       --cacert /etc/pki/tls/certs/ca-bundle.crt https://good.example/page";
        assert!(daemon.run(fedora, look).await.contains("server=good.example"));
    });
}

/// Whoever resolves, and whatever C library the daemon was built with.
#[test]
fn a_name_that_does_not_exist_is_told_from_one_that_cannot_be_resolved() {
    for resolver in [None, Some(format!("nameserver {RESOLVER}\noptions timeout:1 attempts:1\n"))] {
        with_options(Options { resolver: resolver.clone(), ..Options::default() }, async move |world, daemon| {
            let names = rules(&["good.example", "missing.example", "broken.example", "empty.example"]);
            world.internet.name("empty.example", &[]);
            let id = &daemon.create(json!({ "network": names })).await;
            let ask = async |name: &str| {
                let line = format!("dig +tries=1 +time=20 {name} A | sed -n 's/.*status: \\([A-Z]*\\).*/\\1/p'");
                daemon.run(id, &line).await.trim().to_owned()
            };
            assert_eq!(ask("good.example").await, "NOERROR", "{resolver:?}");
            assert_eq!(ask("missing.example").await, "NXDOMAIN", "{resolver:?}");
            assert_eq!(ask("empty.example").await, "NXDOMAIN", "{resolver:?}");
            assert_eq!(ask("broken.example").await, "SERVFAIL", "{resolver:?}");
        });
    }
}

/// Opens connections that stay open, and says how many were served.
const MANY_CONNECTIONS: &str = "
held = []
for _ in range(600):
    try:
        s = socket.create_connection((SERVER, 22), timeout=60)
        if s.recv(5): held.append(s)
    except OSError: pass
print(len(held), flush=True)
open('/tmp/held', 'w').write(str(len(held)))
time.sleep(600)
";

#[test]
fn connections_of_one_sandbox_take_no_descriptors_of_the_daemon_or_of_others() {
    with_options(Options { open_files: Some(1000), ..Options::default() }, async |world, daemon| {
        let policy = json!({ "rules": [{ "verdict": "allow", "to": SERVER.to_string() }] });
        let (greedy, other) =
            (daemon.create(json!({ "network": policy })).await, daemon.create(json!({ "network": policy })).await);
        daemon.put(&greedy, "/opt/script.py", world.script("-", MANY_CONNECTIONS)).await;
        daemon
            .run(
                &greedy,
                "python3 /opt/script.py >/tmp/out 2>&1 & while kill -0 $! && ! [ -s /tmp/held ]; do sleep 0.1; done",
            )
            .await;
        let held: usize = daemon.run(&greedy, "cat /tmp/held").await.parse().unwrap();
        assert!((20..=100).contains(&held), "{held} of 600 are served");
        assert!(decisions(&daemon, &greedy).await.iter().any(|line| line.starts_with("tcp deny connections")));
        // Others go out, run, are made and are removed as before.
        for _ in 0..20 {
            assert_eq!(daemon.run(&other, "echo here").await, "here\n");
        }
        let script = "print(socket.create_connection((SERVER, 22), timeout=60).recv(5))";
        assert!(!world.inside(&daemon, &other, script).await.is_empty());
        let made = daemon.create(json!({ "network": policy })).await;
        assert_eq!(daemon.run(&made, "echo here").await, "here\n");
        daemon.done(Method::DELETE, &format!("/v1/sandboxes/{made}"), Value::Null).await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let open = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(
            open.split_whitespace().collect::<Vec<_>>()[3..5],
            ["1000", "1000"],
            "the soft limit is the hard one"
        );
    });
}
