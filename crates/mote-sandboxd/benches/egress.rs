//! What the network boundary costs: a request and a stream, direct from the host and out of a sandbox, each way that the
//! proxy treats them. Needs root. `cargo bench -p mote-sandboxd --bench egress`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    dead_code,
    missing_docs,
    unreachable_pub
)]

#[path = "../tests/network/internet.rs"]
mod internet;
#[path = "../tests/network/namespaces.rs"]
mod namespaces;
#[path = "../tests/network/world.rs"]
mod world;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use self::internet::SERVER;
use self::world::{allow, inspect, policy, world};

const CONNECTIONS: usize = 200;
const REQUESTS: usize = 2000;
const STREAM_BYTES: usize = 256 * 1024 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("the network boundary is measured as root: it needs namespaces");
        return;
    }
    let spliced = world().sandbox(&policy(vec![allow("good.example")]));
    let inspected = world().sandbox(&policy(vec![inspect("good.example")]));
    let clients = [
        ("direct", world().host.runtime()),
        ("spliced", spliced.namespace.runtime()),
        ("inspected", inspected.namespace.runtime()),
    ];
    println!("{:<22} {:>14} {:>14} {:>14} {:>12}", "", "connect+get p50", "p99", "get p50", "MiB/s");
    for (way, runtime) in &clients {
        for tls in [false, true] {
            let title = format!("{way}, {}", if tls { "https" } else { "http" });
            measure(&title, runtime, tls);
        }
    }
}

fn measure(title: &str, runtime: &Runtime, tls: bool) {
    let row = runtime.block_on(async move {
        tokio::spawn(async move {
            told().await;
            let connector = connector();
            let mut fresh = Vec::new();
            for _ in 0..CONNECTIONS {
                let start = Instant::now();
                get(&mut open(&connector, tls).await, "/", &mut Vec::new()).await;
                fresh.push(start.elapsed());
            }
            let mut stream = open(&connector, tls).await;
            let (mut kept, mut buffer) = (Vec::new(), Vec::new());
            for _ in 0..REQUESTS {
                let start = Instant::now();
                get(&mut stream, "/", &mut buffer).await;
                kept.push(start.elapsed());
            }
            let start = Instant::now();
            get(&mut stream, &format!("/large?{STREAM_BYTES}"), &mut buffer).await;
            let rate = STREAM_BYTES as f64 / 1024.0 / 1024.0 / start.elapsed().as_secs_f64();
            (at(&mut fresh, 50), at(&mut fresh, 99), at(&mut kept, 50), rate)
        })
        .await
        .unwrap()
    });
    println!("{title:<22} {:>14.1?} {:>14.1?} {:>14.1?} {:>12.0}", row.0, row.1, row.2, row.3);
}

fn at(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort();
    samples[(samples.len() - 1) * percent / 100]
}

/// Asks for the name, as a client would: without it, no connection is allowed. From the host nobody answers.
async fn told() {
    let ask = || -> std::io::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("good.example.").unwrap(), RecordType::A));
        socket.send_to(&message.to_vec().unwrap(), "192.0.2.53:53")?;
        socket.recv(&mut [0; 512]).map(|_| ())
    };
    let _ = tokio::task::block_in_place(ask);
}

fn connector() -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(world().path("both.pem")).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config).into()
}

async fn open(connector: &tokio_rustls::TlsConnector, tls: bool) -> Box<dyn Stream> {
    let stream = TcpStream::connect(SocketAddr::from((SERVER, if tls { 443 } else { 80 }))).await.unwrap();
    stream.set_nodelay(true).unwrap();
    if !tls {
        return Box::new(stream);
    }
    Box::new(connector.connect(ServerName::try_from("good.example").unwrap(), stream).await.unwrap())
}

async fn get(stream: &mut Box<dyn Stream>, path: &str, buffer: &mut Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: good.example\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    buffer.clear();
    let mut left = None;
    let mut piece = vec![0; 64 * 1024];
    while left != Some(0) {
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "the connection ended");
        match &mut left {
            Some(left) => *left -= count,
            None => {
                buffer.extend(&piece[..count]);
                if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    left = Some(length.parse::<usize>().unwrap() + end + 4 - buffer.len());
                }
            }
        }
    }
}
