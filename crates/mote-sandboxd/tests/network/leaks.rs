//! The ways around a network boundary that are known, each tried from inside and shown to fail; and, where there is a way
//! at all, tried from the host, where nothing holds it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use mote_sandbox_api::network::Policy;
use mote_sandboxd::network::decision::Reason;

use super::internet::{OTHER, PRIVATE, SERVER};
use super::world::{Sandbox, allow, deny, inspect, policy, text, world};

/// A sandbox that may reach `good.example` and nothing else.
fn sandbox() -> Sandbox {
    world().sandbox(&policy(vec![allow("good.example")]))
}

/// A server of the test, ended when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server, and waits for its first line.
fn started(command: &mut Command) -> (Server, String) {
    let mut server = Server(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line)
}

#[test]
fn a_raw_address_is_not_reached() {
    let sandbox = sandbox();
    let script =
        "print(status(http(SERVER, SERVER)), status(http(SERVER, 'good.example')), https(SERVER, 'good.example')[:5])";
    assert_eq!(world().python(script), "200 200 HTTP/");
    // The name is allowed, but this address was not told for it.
    assert_eq!(sandbox.python(script), "reset reset reset");
    assert!(sandbox.denied(Reason::NoRule));
    let ruled = world().sandbox(&policy(vec![allow("198.51.100.10/32")]));
    assert_eq!(ruled.python("print(status(http(SERVER, SERVER)), status(http(OTHER, OTHER)))"), "200 reset");
}

#[test]
fn names_carry_nothing_out() {
    let sandbox = sandbox();
    let asked = |name: &str| world().internet.asked.lock().unwrap().iter().any(|asked| asked.contains(name));
    // To its own resolver, to another server, over TCP, as text records, and below a name that is allowed.
    let script = "print(query('dGhlIGtleXM.tunnel.example', 1), query('tunnel.example', 16, '198.51.100.53'), \
                  query('tunnel.example', 1, '8.8.8.8', tcp=True), query('dGhlIGtleXM.good.example', 1), \
                  query('good.example', 16), query('good.example', 10))";
    assert_eq!(sandbox.python(script), "3/0 3/0 3/0 3/0 0/0 0/0");
    assert!(!asked("tunnel") && !asked("dGhl"), "a question left the host");
    assert!(sandbox.denied(Reason::NoRule) && sandbox.denied(Reason::RecordType));
    assert_eq!(sandbox.python("print(query('good.example', 1), query('GOOD.example', 1, tcp=True))"), "0/1 0/1");
    assert!(asked("good.example"));
}

#[test]
fn a_flood_of_questions_is_refused() {
    let sandbox = sandbox();
    let script = "print(sum(query('n%d.example' % n, 1) == '5/0' for n in range(2000)) > 0)";
    assert_eq!(sandbox.python(script), "True");
    assert!(sandbox.denied(Reason::Rate));
}

#[test]
fn questions_that_nobody_answers_take_no_more_than_their_sandboxs_place() {
    let slow = world().sandbox(&policy(vec![allow("*.silent.example")]));
    let other = sandbox();
    // More at once than the resolver is asked for one sandbox. Those beyond are answered (SERVFAIL) before any that waits.
    let script = "import struct\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60); s.connect(('198.51.100.53', 53))\n\
                  name = lambda n: b''.join(bytes([len(p)]) + p for p in (b'silent%d' % n, b'silent', b'example')) + b'\\0'\n\
                  for n in range(40):\n    s.send(struct.pack('>6H', n, 0x100, 1, 0, 0, 0) + name(n) + struct.pack('>2H', 1, 1))\n\
                  print({s.recv(512)[3] & 15 for _ in range(8)})";
    assert_eq!(slow.python(script), "{2}");
    assert!(slow.denied(Reason::Lookups));
    assert_eq!(other.python("print(query('good.example', 1))"), "0/1", "nobody else waits");
}

#[test]
fn dns_over_https_and_over_tls_are_held_like_any_connection() {
    let sandbox = sandbox();
    let script = "resolve('good.example'); print(https(OTHER, 'wrong.example', path='/dns-query?dns=AAAB'), \
                  first_answer('1.1.1.1', 853, [hello('one.one.one.one')]), \
                  https(SERVER, 'good.example', host='doh.example', path='/dns-query?dns=AAAB')[:4])";
    // The last is a host that is allowed, whose HTTP only inspection could see: it goes to that host.
    assert_eq!(sandbox.python(script), "reset reset HTTP");
}

#[test]
fn there_is_no_way_over_ipv6() {
    let script = "
def six():
    s = socket.socket(socket.AF_INET6); s.settimeout(5); s.connect(('2001:db8::1', 80)); return 'connected'
def inside():
    l = socket.socket(socket.AF_INET6); l.bind(('::1', 0)); l.listen(); socket.create_connection(l.getsockname()[:2], 5); return 'inside'
print(outcome(six), query('good.example', 28), outcome(inside))";
    assert_eq!(sandbox().python(script), "error:101 0/0 inside");
}

#[test]
fn echo_requests_and_raw_packets_do_not_leave() {
    let script = "
def echo():
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); s.settimeout(3)
    s.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', (SERVER, 0)); return len(s.recv(100)) > 0
def raw():
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253); s.sendto(b'x', (SERVER, 0)); return 'sent'
print(outcome(echo), outcome(raw))";
    assert_eq!(world().python(script), "True sent");
    assert_eq!(sandbox().python(script), "not-permitted not-permitted");
}

#[test]
fn datagrams_and_quic_do_not_leave() {
    let script = "
def datagram(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.sendto(b'x', (SERVER, port)); return s.recv(10)
print(outcome(lambda: datagram(443)), outcome(lambda: datagram(9999)))";
    assert_eq!(world().python(script), "b'x' b'x'");
    let before = *world().internet.datagrams.lock().unwrap();
    let open = world().sandbox(&policy(vec![allow("*")]));
    assert_eq!(open.python(script), "not-permitted not-permitted");
    assert_eq!(*world().internet.datagrams.lock().unwrap(), before);
}

#[test]
fn a_name_in_pieces_or_late_is_still_read() {
    let sandbox = world().sandbox(&policy(vec![allow("good.example"), deny("fronted.example")]));
    let script = |name: &str| {
        format!(
            "resolve('good.example'); h = hello('{name}')
print(first_answer(SERVER, 443, [in_records(h, 20)]), first_answer(SERVER, 443, [h[n:n+1] for n in range(len(h))]), \
             first_answer(SERVER, 443, [h[:60], h[60:]], pause=0.4))"
        )
    };
    assert_eq!(sandbox.python(&script("good.example")), "handshake handshake handshake");
    assert_eq!(sandbox.python(&script("fronted.example")), "alert alert alert");
    assert!(sandbox.denied(Reason::Rule));
    // A client that says nothing at first, on a port where servers may be the first to speak.
    let late = "resolve('good.example'); h = hello('%s')
def late(port):
    s = socket.create_connection((SERVER, port), 10); time.sleep(0.6); s.sendall(b'GET / HTTP/1.1\\r\\nHost: fronted.example\\r\\n\\r\\n'); return s.recv(100).decode().split(' ')[1]
def greeted():
    s = socket.create_connection((SERVER, 22), 10); g = s.recv(100); s.sendall(h); return s.recv(100) or b'closed'
print(outcome(lambda: late(9000)), outcome(greeted))";
    let answer = sandbox.python(late);
    assert!(answer == "403 b'closed'" || answer == "403 reset", "{answer}");
}

#[test]
fn one_name_outside_and_another_inside_is_refused() {
    let sandbox = world().sandbox(&policy(vec![allow("good.example"), inspect("shared.example")]));
    let script = "resolve('good.example'); resolve('shared.example'); print(
        https(SERVER, 'fronted.example'), https(SERVER, 'good.example', sni=False),
        status(http(SERVER, 'fronted.example')), status(http(SERVER, 'good.example')),
        status(http(SERVER, 'good.example', path='http://fronted.example/')),
        status(http(SERVER, 'good.example', extra='Host: fronted.example\\r\\n')),
        status(https(SERVER, 'shared.example', host='fronted.example')), status(https(SERVER, 'shared.example')),
        status(https(SERVER, 'shared.example', host='good.example')))";
    let refused = "tls:tlsv1_alert_access_denied";
    let answer = sandbox.python(script).replace("tls:tlsv13_alert_access_denied", refused);
    assert_eq!(answer, format!("{refused} {refused} 403 200 421 421 421 200 421"));
    // The first name is not allowed at all, and counts as such.
    for reason in [Reason::NoRule, Reason::NoName, Reason::Mismatch] {
        assert!(sandbox.denied(reason), "{reason}");
    }
}

#[test]
fn every_request_of_a_connection_is_checked() {
    let script = "
resolve('good.example'); s = socket.create_connection((SERVER, 80), 10); f = s.makefile('rb'); codes = []
for host in ['good.example', 'fronted.example', 'good.example']:
    s.sendall(f'GET / HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n'.encode())
    codes.append(f.readline().split()[1].decode()); length = 0
    while (line := f.readline().lower()) != b'\\r\\n':
        length = int(line.split(b':')[1]) if line.startswith(b'content-length') else length
    f.read(length)
print(*codes)";
    assert_eq!(sandbox().python(script), "200 403 200");
}

#[test]
fn a_redirect_into_a_private_range_is_not_followed() {
    let sandbox = sandbox();
    let private = format!("http://{PRIVATE}/");
    let url = format!("http://good.example/redirect?{private}");
    let output = sandbox.curl(&["-L", &url]);
    assert!(!output.status.success() && !text(&output).contains("internet"), "{output:?}");
    assert!(sandbox.denied(Reason::SpecialRange));
    assert!(world().python("print(http(PRIVATE, PRIVATE))").contains("internet"));
}

#[test]
fn a_name_does_not_lead_into_a_private_range() {
    let internet = &world().internet;
    internet.name("rebind.example", &[PRIVATE]);
    internet.name("flip.example", &[SERVER]);
    let sandbox = world().sandbox(&policy(vec![allow("rebind.example"), allow("flip.example"), allow("*")]));
    assert_eq!(
        sandbox.python("print(resolve('rebind.example'), status(http(PRIVATE, 'rebind.example')))"),
        "no-name reset"
    );
    assert!(sandbox.denied(Reason::SpecialRange));
    // Allowed at first, and then another address: what was told holds, and the new address is not told.
    assert_eq!(sandbox.python("print(resolve('flip.example'))"), SERVER.to_string());
    internet.name("flip.example", &[PRIVATE, OTHER]);
    assert_eq!(
        sandbox.python("print(resolve('flip.example'), status(http(PRIVATE, 'flip.example')))"),
        format!("{OTHER} reset")
    );
    // Named, a private range is reached.
    let opened = Policy { private_ranges: vec!["10.9.0.0/16".to_owned()], ..policy(vec![allow("rebind.example")]) };
    let opened = world().sandbox(&opened);
    let script = "resolve('rebind.example'); print(status(http(PRIVATE, 'rebind.example')))";
    assert_eq!(opened.python(script), "200");
}

#[test]
fn the_metadata_service_is_not_reached() {
    let script = "print(status(http(METADATA, METADATA)), status(http(METADATA, 'good.example')))";
    assert_eq!(world().python(script), "200 200");
    for rules in [vec![allow("good.example")], vec![allow("*")], vec![allow("169.254.0.0/16")]] {
        let sandbox = world().sandbox(&policy(rules));
        assert_eq!(sandbox.python(script), "reset reset");
        assert!(sandbox.denied(Reason::SpecialRange));
    }
}

#[test]
fn records_with_keys_for_an_encrypted_hello_are_not_answered() {
    let sandbox = sandbox();
    assert_eq!(
        sandbox.python("print(query('good.example', 65), query('_dns.good.example', 64), query('good.example', 64))"),
        "0/0 3/0 0/0"
    );
    assert!(sandbox.denied(Reason::RecordType));
}

#[test]
fn the_boundary_is_not_to_be_talked_to_nor_is_the_host() {
    let sandbox = world().sandbox(&policy(vec![allow("*"), allow("198.51.100.0/24")]));
    let listen = "s = socket.socket(); s.bind(('198.51.100.1', 2222)); s.listen(); print('ready', flush=True)
while True: s.accept()[0].sendall(b'host')";
    let mut server = world().host.command("python3");
    let (server, ready) = started(server.args(["-c", &format!("import socket; {listen}")]));
    assert_eq!(ready, "ready\n");
    let reach =
        |address: &str| format!("print(outcome(lambda: socket.create_connection(('{address}', 2222), 5).recv(4)))");
    let script = "
def direct(address, port): return outcome(lambda: socket.create_connection((address, port), 5) and 'connected')
print(direct('127.77.0.1', 1), direct('127.77.0.1', 53), direct('127.0.0.1', 2222), direct(SERVER, 9000))";
    let answers =
        [world().python(&reach("198.51.100.1")), sandbox.python(&reach("198.51.100.1")), sandbox.python(script)];
    drop(server);
    assert_eq!(answers, ["b'host'", "reset", "refused refused refused connected"]);
    assert!(sandbox.denied(Reason::OwnAddress));
}

#[test]
fn abstract_sockets_of_the_host_are_not_seen() {
    let held = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0mote-test-abstract'); s.listen(); print('ready', flush=True); s.accept(); s.accept()";
    let (server, _) = started(world().host.command("python3").args(["-c", held]));
    let script = "
def reach():
    s = socket.socket(socket.AF_UNIX); s.connect('\\0mote-test-abstract'); return 'connected'
print(outcome(reach))";
    let answers = (world().python(script), sandbox().python(script));
    drop(server);
    assert_eq!(answers, ("connected".to_owned(), "refused".to_owned()));
}

#[test]
fn sandboxes_do_not_reach_each_other() {
    let (first, second) = (sandbox(), world().sandbox(&policy(vec![allow("*"), allow("192.0.2.0/24")])));
    let listen = "import socket; s = socket.socket(); s.bind(('0.0.0.0', 7000)); s.listen(); print('ready', flush=True); s.accept(); s.accept()";
    let (server, _) = started(first.namespace.command("python3").args(["-c", listen]));
    let script = "print(outcome(lambda: socket.create_connection(('192.0.2.2', 7000), 5) and 'connected'))";
    // Each has the same address for itself, which leads nowhere else.
    let answers = (first.python(script), second.python(script));
    drop(server);
    assert_eq!(answers, ("connected".to_owned(), "refused".to_owned()));
}

#[test]
fn an_encrypted_hello_is_refused_where_its_name_cannot_be_seen() {
    let script = "
resolve('good.example'); resolve('shared.example')
def hidden(name):
    h = hello(name); e = bytes.fromhex('fe0d000b0000010001070000000109')
    at = 5 + 4 + 2 + 32; at += 1 + h[at]; at += 2 + struct.unpack('>H', h[at:at+2])[0]; at += 1 + h[at]
    size = lambda a, w: (int.from_bytes(h[a:a+w], 'big') + len(e)).to_bytes(w, 'big')
    return h[:3] + size(3, 2) + h[5:6] + size(6, 3) + h[9:at] + size(at, 2) + h[at+2:] + e
print(first_answer(SERVER, 443, [hidden('good.example')]), first_answer(SERVER, 443, [hidden('shared.example')]))";
    let sandbox = world().sandbox(&policy(vec![allow("good.example"), inspect("shared.example")]));
    assert_eq!(sandbox.python(script), "alert handshake");
    assert!(sandbox.denied(Reason::EncryptedHello));
    // Where any name may be reached, hiding it hides nothing; where one may not be, it could be that one.
    let open = world().sandbox(&policy(vec![allow("*")]));
    assert_eq!(open.python(script), "handshake handshake");
    let denying = world().sandbox(&policy(vec![allow("*"), deny("evil.example")]));
    assert_eq!(denying.python(script), "alert alert");
}
