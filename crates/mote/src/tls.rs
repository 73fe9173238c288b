//! The one place that builds a TLS client: rustls on aws-lc-rs, Mozilla's roots, and a private CA where a file names one.
//!
//! Every outgoing connection (models, tools, OTLP, event sinks) shares this configuration. It does not serve TLS: the
//! service stands behind something that does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::limits::TLS_SESSIONS_KEPT;

/// Why no TLS client could be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA file cannot be read or is not PEM.
    #[error("failed to read the CA file {path}: {message}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The cryptographic provider offers no usable protocol version.
    #[error("failed to set up TLS: {0}")]
    Provider(#[from] rustls::Error),
    /// The HTTP client refused the configuration.
    #[error("failed to build an HTTP client: {0}")]
    Client(String),
}

/// Makes aws-lc-rs the process's cryptographic provider, for libraries that look for a default one. Call it once, first
/// thing in `main`; later calls change nothing.
pub fn install_provider() {
    // An error means that one is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A client configuration: TLS 1.2 and 1.3, Mozilla's roots, and the certificates of `extra_ca` (PEM) beside them.
///
/// Without `extra_ca` every caller gets the same configuration, so that roots and sessions are held once.
///
/// # Errors
/// [`Error::CaFile`] if the file is unreadable, is not PEM, or holds no certificate that can be a root.
pub fn client_config(extra_ca: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    static PUBLIC: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    match extra_ca {
        Some(path) => build(public_roots().with_file(path)?),
        None => {
            if let Some(config) = PUBLIC.get() {
                return Ok(config.clone());
            }
            let config = build(public_roots())?;
            Ok(PUBLIC.get_or_init(|| config).clone())
        }
    }
}

/// A `reqwest` builder on [`client_config`]: no proxy from the environment, no redirects, no implicit retries. Timeouts
/// are the caller's.
///
/// # Errors
/// As [`client_config`].
pub fn http_client(extra_ca: Option<&Path>) -> Result<reqwest::ClientBuilder, Error> {
    let config = client_config(extra_ca)?;
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(ClientConfig::clone(&config))
        .no_proxy()
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none()))
}

struct Roots(RootCertStore);

fn public_roots() -> Roots {
    Roots(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
}

impl Roots {
    fn with_file(mut self, path: &Path) -> Result<Self, Error> {
        let fail = |message: String| Error::CaFile { path: path.to_owned(), message };
        let before = self.0.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
            let certificate = certificate.map_err(|error| fail(error.to_string()))?;
            self.0.add(certificate).map_err(|error| fail(error.to_string()))?;
        }
        if self.0.len() == before {
            return Err(fail("it holds no certificate".to_owned()));
        }
        Ok(self)
    }
}

fn build(roots: Roots) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots.0)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::in_memory_sessions(TLS_SESSIONS_KEPT);
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_configuration_is_shared() {
        let (first, second) = (client_config(None).unwrap(), client_config(None).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert!(http_client(None).unwrap().build().is_ok(), "reqwest must accept the configuration");
    }

    #[test]
    fn ca_file_errors_name_the_file() {
        let path = std::env::temp_dir().join(format!("mote-tls-{}.pem", std::process::id()));
        let missing = client_config(Some(&path)).unwrap_err().to_string();
        assert!(missing.contains(path.to_str().unwrap()), "{missing}");
        std::fs::write(&path, "not a certificate").unwrap();
        let empty = client_config(Some(&path)).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(empty.contains("holds no certificate"), "{empty}");
    }
}
