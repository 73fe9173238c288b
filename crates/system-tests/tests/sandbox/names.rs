//! Sandboxes addressed by name over TLS, as E2B's SDKs do where they are given a domain and nothing else.
//!
//! The names resolve in the clients' mount namespace alone: a resolver on a loopback address of its own answers for the whole
//! domain. The authority is made for the test, and clients are told of it as users tell them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::e2b::{packages, python, run};
use super::fixture::{Daemon, Options};

const DOMAIN: &str = "box.example";

/// A certificate for the domain by an authority of its own, in a folder.
struct Pair {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn write(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // OpenSSL takes a certificate whose issuer has its own name for self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![format!("*.{DOMAIN}")]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
        let pair =
            Self { authority: folder.join("ca.pem"), certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
        std::fs::write(&pair.authority, authority.pem()).unwrap();
        std::fs::write(&pair.certificate, leaf.pem()).unwrap();
        std::fs::write(&pair.key, leaf_key.serialize_pem()).unwrap();
        // Only root reads it, which the daemon no longer is when it serves.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&pair.key, private).unwrap();
        pair
    }

    fn config(&self, address: Ipv4Addr) -> String {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        format!("domain: {DOMAIN}\ntls: {{listen: '{address}:443', certificate: {certificate}, key: {key}}}")
    }

    /// Asks over TLS, trusting this authority alone.
    async fn ask(&self, address: Ipv4Addr) -> reqwest::Result<String> {
        let authority = reqwest::Certificate::from_pem(&std::fs::read(&self.authority).unwrap()).unwrap();
        let host = format!("api.{DOMAIN}");
        let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy();
        let client = client.resolve(&host, SocketAddr::from((address, 443))).build().unwrap();
        client.get(format!("https://{host}/health")).send().await?.text().await
    }
}

/// A loopback address that no other test listens on.
fn address() -> Ipv4Addr {
    use std::sync::atomic::AtomicU8;
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 | (high & 0x7f), low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Answers every question for an A record with one address, until it is dropped.
struct Resolver {
    address: Ipv4Addr,
    stop: Arc<AtomicBool>,
}

impl Resolver {
    fn start(address: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((address, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut question) else { continue };
                if let Some(answer) = answer(&question[..length], address) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Self { address, stop }
    }

    /// A command whose names are resolved here.
    fn command(&self, folder: &Path, program: &Path) -> Command {
        let file = folder.join("resolv.conf");
        std::fs::write(&file, format!("nameserver {}\n", self.address)).unwrap();
        let script = "mount --bind \"$1\" \"$(readlink -f /etc/resolv.conf)\" && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(file).arg(program);
        command
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The answer to a question (RFC 1035, section 4): one A record, or none for another type.
fn answer(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(question[end]);
    }
    let kind = question.get(end + 1..end + 3)?;
    let is_a = kind == [0, 1];
    let mut answer = question[..2].to_vec();
    // A response with recursion: one question, as many answers as there are.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question.get(12..end + 5)?);
    if is_a {
        // The name of the question; A, IN, 60 seconds, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// Runs a client that knows a key, a domain and an authority, and nothing else.
async fn client(make: impl FnOnce(&Resolver, &Path) -> Command + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let (pair, address) = (Pair::write(folder.path()), address());
    let resolver = Resolver::start(address);
    let daemon = Daemon::start_with(Options { config: pair.config(address), ..Options::default() }).await;
    let mut command = make(&resolver, folder.path());
    command.env("E2B_API_KEY", daemon.key()).env("E2B_VALIDATE_API_KEY", "false").env("E2B_DOMAIN", DOMAIN);
    command.env("SSL_CERT_FILE", &pair.authority).env("NODE_EXTRA_CA_CERTS", &pair.authority);
    command.env("NO_PROXY", "*");
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    let output = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    assert_eq!(output, "ok", "{}", daemon.log());
}

#[tokio::test]
async fn the_sdk_for_python_finds_sandboxes_by_name_over_tls() {
    client(|resolver, folder| {
        let mut command = resolver.command(folder, &python());
        command.args(["-c", include_str!("names.py")]);
        command
    })
    .await;
}

#[tokio::test]
async fn the_sdk_for_javascript_finds_sandboxes_by_name_over_tls() {
    client(|resolver, folder| {
        let modules = packages();
        let script = modules.join("names.mjs");
        std::fs::write(&script, include_str!("names.mjs")).unwrap();
        let mut command = resolver.command(folder, Path::new("node"));
        command.arg(script).current_dir(modules);
        command
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart_and_a_broken_one_is_not() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (pair, later) = (Pair::write(folders[0].path()), Pair::write(folders[1].path()));
    let address = address();
    let daemon = Daemon::start_with(Options { config: pair.config(address), ..Options::default() }).await;
    assert_eq!(pair.ask(address).await.unwrap(), "{\"status\":\"ok\"}");
    assert!(later.ask(address).await.is_err());
    let before = std::fs::read(&pair.key).unwrap();
    std::fs::write(&pair.key, "no key").unwrap();
    daemon.hang_up();
    daemon.logged("the certificate stays as it was").await;
    assert!(!daemon.log().contains("no key\n"));
    assert!(pair.ask(address).await.is_ok(), "the one before stays");
    std::fs::write(&pair.key, before).unwrap();
    std::fs::copy(&later.certificate, &pair.certificate).unwrap();
    std::fs::copy(&later.key, &pair.key).unwrap();
    daemon.hang_up();
    daemon.logged("the certificate was renewed").await;
    assert!(later.ask(address).await.is_ok() && pair.ask(address).await.is_err());
}
