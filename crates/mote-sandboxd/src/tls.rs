//! TLS for the API: a certificate and its key from two PEM files, put in place anew when they change.
//!
//! Only root reads a key: the keeper opens both files, by the paths of its settings, and hands the descriptors over. No
//! client is asked for a certificate, and HTTP/1.1 is the one protocol that is agreed on.

use std::fmt;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{FileType, Mode, OFlags};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::limits::{TLS_CERTIFICATES_MAX, TLS_FILE_BYTES_MAX};

/// Where TLS is served, and with what; `tls` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// An address and port of its own, beside the plain one; the API's address itself speaks TLS where absent.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// The certificate and those between it and its authority, PEM, the certificate first.
    pub certificate: PathBuf,
    /// Its private key, PEM (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key: PathBuf,
}

impl Tls {
    /// The two files.
    #[must_use]
    pub fn files(&self) -> Files {
        Files { certificate: self.certificate.clone(), key: self.key.clone() }
    }
}

/// The two files, absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Of the certificate.
    pub certificate: PathBuf,
    /// Of its key.
    pub key: PathBuf,
}

fn refused(field: &str, path: &Path, why: impl fmt::Display) -> Failure {
    let field = format!("tls.{field}");
    Failure::new(Code::Invalid, format!("failed to use {field} ({}): {why}", path.display())).with("field", field)
}

/// Opens both files; what the keeper does. They are not read here: a key passes through no message.
///
/// # Errors
/// `invalid`, naming the field and the file.
pub fn open(files: &Files) -> Result<Vec<OwnedFd>, Failure> {
    let open = |field: &str, path: &Path| {
        // A pipe must not hold the keeper up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| refused(field, path, error))?;
        let found = rustix::fs::fstat(&file).map_err(|error| refused(field, path, error))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(refused(field, path, "it is no regular file"));
        }
        Ok(file)
    };
    Ok(vec![open("certificate", &files.certificate)?, open("key", &files.key)?])
}

/// The bytes of both files.
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    fn read(files: &Files, descriptors: Vec<OwnedFd>) -> Result<Self, Failure> {
        let [certificate, key] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|wrong| {
            Failure::new(Code::Internal, format!("{} descriptors came for a certificate, not 2", wrong.len()))
        })?;
        Ok(Self {
            certificate: bytes("certificate", &files.certificate, certificate)?,
            key: bytes("key", &files.key, key)?,
        })
    }

    /// What tells one pair of files from another.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.certificate.len().to_le_bytes());
        digest.update(&self.certificate);
        digest.update(&self.key);
        digest.finalize().into()
    }
}

fn bytes(field: &str, path: &Path, file: OwnedFd) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = TLS_FILE_BYTES_MAX;
    let mut file = std::fs::File::from(file).take(limit + 1);
    file.read_to_end(&mut bytes).map_err(|error| refused(field, path, error))?;
    if bytes.len() as u64 > limit {
        return Err(refused(field, path, format!("it is longer than {limit} bytes")).with("limit", limit));
    }
    Ok(bytes)
}

/// The certificate of this moment, and where the next one comes from.
pub struct Certificates {
    files: Files,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
    /// Of the files as they were seen last, whether they could be used or not.
    seen: Mutex<[u8; 32]>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Takes the files, as [`open`] handed them over.
    ///
    /// # Errors
    /// `invalid`, naming the field and the file: no certificate, no key, or a key of another certificate.
    pub fn new(files: &Files, descriptors: Vec<OwnedFd>) -> Result<Self, Failure> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pem = Pem::read(files, descriptors)?;
        let current = RwLock::new(Arc::new(certified(files, &pem, &provider)?));
        Ok(Self { files: files.clone(), provider, current, seen: Mutex::new(pem.digest()) })
    }

    /// Takes the files again; whether they changed. New connections get the new certificate, open ones go on.
    ///
    /// # Errors
    /// As [`Self::new`], once for what is in the files; the certificate before stays in place.
    pub fn renew(&self, descriptors: Vec<OwnedFd>) -> Result<bool, Failure> {
        let pem = Pem::read(&self.files, descriptors)?;
        let digest = pem.digest();
        if std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), digest) == digest {
            return Ok(false);
        }
        let key = Arc::new(certified(&self.files, &pem, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(true)
    }

    /// Whether the certificate names a host: what a client of the domain will look for.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let current = self.current();
        let Some(leaf) = current.cert.first() else { return false };
        let (Ok(leaf), Ok(host)) = (ParsedCertificate::try_from(leaf), ServerName::try_from(host)) else {
            return false;
        };
        rustls::client::verify_server_name(&leaf, &host).is_ok()
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn certified(files: &Files, pem: &Pem, provider: &CryptoProvider) -> Result<CertifiedKey, Failure> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem.certificate)
        .take(TLS_CERTIFICATES_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|error| refused("certificate", &files.certificate, error))?;
    if chain.is_empty() || chain.len() > TLS_CERTIFICATES_MAX {
        let why = format!("it holds {} certificates, not 1 to {TLS_CERTIFICATES_MAX}", chain.len());
        return Err(refused("certificate", &files.certificate, why));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| refused("key", &files.key, error))?;
    // Also whether the two belong together.
    CertifiedKey::from_der(chain, key, provider).map_err(|error| refused("key", &files.key, error))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Takes connections with a handshake. How long one may take is the server's limit.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// An acceptor that follows the certificates.
    ///
    /// # Errors
    /// `internal` where TLS cannot be set up.
    pub fn new(certificates: &Arc<Certificates>) -> Result<Self, Failure> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&certificates.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(Code::Internal, format!("failed to set up TLS: {error}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl mote_http::Accept for Acceptor {
    type Stream = TlsStream<TcpStream>;

    async fn accept(&self, stream: TcpStream) -> io::Result<Self::Stream> {
        self.0.accept(stream).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, name: &str) -> Files {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let files = Files { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    fn load(files: &Files) -> Result<Certificates, Failure> {
        Certificates::new(files, open(files)?)
    }

    #[test]
    fn a_changed_pair_is_taken_and_a_broken_one_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let files = written(folder.path(), "*.one.example");
        let certificates = load(&files).unwrap();
        assert!(certificates.names("api.one.example") && !certificates.names("a.b.one.example"));
        assert!(!certificates.renew(open(&files).unwrap()).unwrap(), "nothing changed");
        written(folder.path(), "*.two.example");
        assert!(certificates.renew(open(&files).unwrap()).unwrap());
        assert!(certificates.names("api.two.example") && !certificates.names("api.one.example"));
        std::fs::write(&files.certificate, "nothing").unwrap();
        assert_eq!(certificates.renew(open(&files).unwrap()).unwrap_err().context["field"], "tls.certificate");
        assert!(!certificates.renew(open(&files).unwrap()).unwrap(), "told once");
        assert!(certificates.names("api.two.example"));
    }

    #[test]
    fn what_is_wrong_with_the_files_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let files = written(folder.path(), "a.example");
        let stranger = Files { key: written(other.path(), "a.example").key, ..files.clone() };
        let absent = Files { certificate: folder.path().join("absent"), ..files.clone() };
        let directory = Files { key: folder.path().to_owned(), ..files.clone() };
        let exchanged = Files { certificate: files.key.clone(), key: files.certificate.clone() };
        for (files, field) in
            [(stranger, "tls.key"), (absent, "tls.certificate"), (directory, "tls.key"), (exchanged, "tls.certificate")]
        {
            let failure = load(&files).unwrap_err();
            assert_eq!(failure.context["field"], field, "{failure}");
        }
        std::fs::write(&files.key, vec![b'a'; usize::try_from(TLS_FILE_BYTES_MAX).unwrap() + 1]).unwrap();
        let failure = load(&files).unwrap_err();
        assert_eq!((failure.context["field"].as_str(), failure.context.contains_key("limit")), ("tls.key", true));
    }

    async fn served(certificates: Certificates) -> (SocketAddr, tokio_util::sync::DropGuard) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/", axum::routing::get(async || "here"));
        let limits = mote_http::Limits { head_time: std::time::Duration::from_secs(2), ..crate::api::SERVER };
        let server = mote_http::Server::new(router, limits).accepting(Acceptor::new(&Arc::new(certificates)).unwrap());
        let closing = tokio_util::sync::CancellationToken::new();
        tokio::spawn(server.serve(listener, closing.clone(), std::time::Duration::ZERO));
        (address, closing.drop_guard())
    }

    #[tokio::test]
    async fn http_1_1_is_agreed_on_and_nothing_else() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let folder = tempfile::tempdir().unwrap();
        let files = written(folder.path(), "a.example");
        let (address, _closing) = served(load(&files).unwrap()).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let connect = async |offered: &[&str]| {
            let mut client = client.clone();
            client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("a.example").unwrap();
            tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await
        };
        let mut stream = connect(&["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        assert!(connect(&["h2"]).await.is_err());
    }

    #[tokio::test]
    async fn a_handshake_that_never_ends_is_ended() {
        use tokio::io::AsyncReadExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (address, _closing) = served(load(&written(folder.path(), "a.example")).unwrap()).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
