//! The servers of the test's internet: names, TLS with an authority of its own, HTTP, a server that speaks first, and the
//! places where nothing from a sandbox may arrive.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// Where allowed names live; `shared.example` and `fronted.example` live on one address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// Another server.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// A service on a private network behind the host.
pub const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// A metadata service.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Everything that stands on the internet of the test.
pub struct Internet {
    /// The authority of its servers.
    pub root: CertificateDer<'static>,
    pub root_pem: String,
    /// Names asked of its resolver.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// Datagrams that arrived.
    pub datagrams: Arc<Mutex<usize>>,
    /// Connections that came to port 8443.
    pub accepted: Arc<Mutex<usize>>,
    names: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
}

impl Internet {
    /// Starts every server; called inside the namespace.
    pub async fn start() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "authority of the test's internet");
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let names = ["good.example", "*.good.example", "shared.example", "fronted.example", "secret.example"];
        let mut subjects: Vec<String> = names.map(str::to_owned).to_vec();
        subjects.push(SERVER.to_string());
        let tls = server_config(subjects, &issuer);
        // A server whose certificate is for another name.
        let wrong = server_config(vec!["elsewhere.example".to_owned()], &issuer);
        let internet = Self {
            root: issuer.der().clone(),
            root_pem: issuer.pem(),
            asked: Arc::default(),
            datagrams: Arc::default(),
            accepted: Arc::default(),
            names: Arc::default(),
        };
        tokio::spawn(serve_tls(listen(SERVER, 8443).await, tls.clone(), internet.accepted.clone()));
        for (address, config) in [(SERVER, tls), (OTHER, wrong)] {
            tokio::spawn(serve_tls(listen(address, 443).await, config, Arc::default()));
            tokio::spawn(serve_http(listen(address, 80).await));
            tokio::spawn(serve_http(listen(address, 9000).await));
        }
        tokio::spawn(greet(listen(SERVER, 22).await));
        tokio::spawn(serve_http(listen(PRIVATE, 80).await));
        tokio::spawn(serve_http(listen(METADATA, 80).await));
        for port in [443, 9999] {
            let socket = UdpSocket::bind((SERVER, port)).await.unwrap();
            tokio::spawn(echo(socket, internet.datagrams.clone()));
        }
        let socket = UdpSocket::bind((RESOLVER, 53)).await.unwrap();
        tokio::spawn(resolve(socket, internet.names.clone(), internet.asked.clone()));
        for name in names.into_iter().filter(|name| !name.starts_with('*')) {
            internet.name(name, &[SERVER]);
        }
        internet.name("wrong.example", &[OTHER]);
        internet
    }

    /// Gives a name its addresses.
    pub fn name(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.names.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }
}

async fn listen(address: Ipv4Addr, port: u16) -> TcpListener {
    TcpListener::bind(SocketAddr::from((address, port))).await.unwrap()
}

fn server_config(subjects: Vec<String>, issuer: &CertifiedIssuer<'static, KeyPair>) -> Arc<rustls::ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(subjects).unwrap().signed_by(&key, issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    Arc::new(config)
}

async fn serve_tls(listener: TcpListener, config: Arc<rustls::ServerConfig>, accepted: Arc<Mutex<usize>>) {
    while let Ok((stream, _)) = listener.accept().await {
        *accepted.lock().unwrap() += 1;
        stream.set_nodelay(true).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let server = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
                speak(stream, server).await;
            }
        });
    }
}

async fn serve_http(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(speak(stream, "-".to_owned()));
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, server: String) {
    let service = hyper::service::service_fn(|request| answer(request, &server));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Answers with what was asked, as text; `/redirect?URL` and `/large?BYTES` do as they say, `/as?NAME=VALUE` sets a header of the
/// answer, or its `status`.
async fn answer(request: Request<Incoming>, server: &str) -> Result<Response<Full<Bytes>>, Infallible> {
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    match path.as_str() {
        "/redirect" => {
            let response = Response::builder().status(302).header("location", query).body(Full::default()).unwrap();
            return Ok(response);
        }
        "/large" => return Ok(Response::new(Full::new(Bytes::from(vec![b'x'; query.parse().unwrap()])))),
        _ => {}
    }
    let mut response = Response::builder();
    for (name, value) in query.split('&').filter(|_| path == "/as").filter_map(|pair| pair.split_once('=')) {
        response = match name {
            "status" => response.status(value.parse::<u16>().unwrap()),
            name => response.header(name, value),
        };
    }
    let mut text = format!("internet server={server} method={} uri={}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    text.push_str(&format!("body: {}\n", String::from_utf8_lossy(&body)));
    Ok(response.body(Full::new(text.into())).unwrap())
}

/// A server that speaks first, and then says back what it hears.
async fn greet(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let _ = stream.write_all(b"SSH-2.0-test\r\n").await;
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let _ = stream.write_all(&buffer[..count]).await;
            }
        });
    }
}

async fn echo(socket: UdpSocket, count: Arc<Mutex<usize>>) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        *count.lock().unwrap() += 1;
        let _ = socket.send_to(&buffer[..length], from).await;
    }
}

async fn resolve(socket: UdpSocket, names: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let question = query.queries[0].clone();
        let name = question.name().to_ascii().trim_end_matches('.').to_owned();
        asked.lock().unwrap().push(name.clone());
        let mut answer = query.into_response();
        match names.lock().unwrap().get(&name) {
            Some(addresses) if question.query_type() == RecordType::A => {
                for address in addresses {
                    // No time to live: each question reaches this server.
                    answer.add_answer(Record::from_rdata(question.name().clone(), 0, RData::A(A(*address))));
                }
            }
            Some(_) => {}
            None if name.starts_with("silent") => continue,
            None if name.starts_with("broken.") => answer.metadata.response_code = ResponseCode::ServFail,
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
    }
}
