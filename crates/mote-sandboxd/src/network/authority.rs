//! The daemon's own authority: the certificate that images trust, and the leaves that TLS is terminated with.
//!
//! It decides nothing about when to terminate. Its key never leaves the state directory, readable by the daemon alone.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::hmac;
use mote_sandbox_api::error::{Code, Failure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

use crate::limits::{AUTHORITY_LEAVES_MAX, AUTHORITY_SESSIONS_MAX};

/// Name under which the authority is listed in a trust store.
const COMMON_NAME: &str = "Mote sandbox authority";

/// An authority with the leaves it has signed lately.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    placeholders: hmac::Key,
    provider: Arc<CryptoProvider>,
    /// One key for every leaf: making keys is what would cost time.
    leaf_key: KeyPair,
    leaves: Mutex<HashMap<String, Arc<ServerConfig>>>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Authority {
    /// Opens the authority in a directory, and makes it where there is none: `authority.key` (mode 0600) and
    /// `authority.pem`.
    ///
    /// # Errors
    /// `internal`, naming the file.
    pub fn open(directory: &Path, provider: Arc<CryptoProvider>) -> Result<Self, Failure> {
        let (key_path, certificate_path) = (directory.join("authority.key"), directory.join("authority.pem"));
        let failed = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::new(Code::Internal, format!("failed to open the authority's {}: {error}", path.display()))
        };
        let known = match fs::read_to_string(&key_path) {
            Ok(pem) => Some(KeyPair::from_pem(&pem).map_err(|error| failed(&key_path, &error))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&key_path, &error)),
        };
        let key = match known {
            Some(key) => key,
            None => {
                fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
                let key = KeyPair::generate().map_err(|error| failed(&key_path, &error))?;
                put(&key_path, key.serialize_pem().as_bytes(), 0o600).map_err(|error| failed(&key_path, &error))?;
                key
            }
        };
        let certificate = match fs::read_to_string(&certificate_path) {
            Ok(pem) => pem,
            Err(_) => {
                let certificate = parameters().self_signed(&key).map_err(|error| failed(&certificate_path, &error))?;
                put(&certificate_path, certificate.pem().as_bytes(), 0o644)
                    .map_err(|error| failed(&certificate_path, &error))?;
                certificate.pem()
            }
        };
        // Placeholders are derived from the key that is kept anyway, under a label of their own.
        let root = hmac::Key::new(hmac::HMAC_SHA256, key.serialized_der());
        let derived = hmac::sign(&root, b"mote sandbox placeholders");
        Ok(Self {
            placeholders: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
            issuer: Issuer::new(parameters(), key),
            certificate,
            provider,
            leaf_key: KeyPair::generate().map_err(|error| failed(&key_path, &error))?,
            leaves: Mutex::default(),
            sessions: ServerSessionMemoryCache::new(AUTHORITY_SESSIONS_MAX),
        })
    }

    /// The certificate to trust, as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The key that placeholders are derived with.
    pub(super) fn placeholders(&self) -> &hmac::Key {
        &self.placeholders
    }

    /// What TLS is terminated with for a host: a name, or an address as text. HTTP/1.1 alone is offered.
    ///
    /// # Errors
    /// Where no leaf can be made for the host.
    pub(super) fn server(&self, host: &str) -> Result<Arc<ServerConfig>, Error> {
        if let Some(known) = self.leaves.lock().unwrap_or_else(PoisonError::into_inner).get(host) {
            return Ok(known.clone());
        }
        let config = Arc::new(self.make(host)?);
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if leaves.len() >= AUTHORITY_LEAVES_MAX {
            // Any one: making it again costs less than keeping an order.
            let one = leaves.keys().next().cloned();
            one.map(|host| leaves.remove(&host));
        }
        leaves.insert(host.to_owned(), config.clone());
        Ok(config)
    }

    fn make(&self, host: &str) -> Result<ServerConfig, Error> {
        let mut parameters = CertificateParams::new(vec![host.to_owned()])?;
        span(&mut parameters);
        // The name stands among the alternative names, where clients look; a common name may not be longer than 64 bytes.
        parameters.distinguished_name.push(DnType::CommonName, "Mote sandbox egress");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let leaf = parameters.signed_by(&self.leaf_key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(self.leaf_key.serialize_der()).map_err(|_| Error::Key)?;
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = self.sessions.clone();
        Ok(config)
    }
}

/// Why no leaf could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate could not be made.
    #[error("failed to make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be set up with it.
    #[error("failed to set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The key is not in a form that TLS takes.
    #[error("failed to read the key of the leaves")]
    Key,
}

fn parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    span(&mut parameters);
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    parameters
}

/// Long enough for a sandbox whose clock was set to another year.
fn span(parameters: &mut CertificateParams) {
    parameters.not_before = date_time_ymd(2000, 1, 1);
    parameters.not_after = date_time_ymd(2099, 12, 31);
}

/// Writes a file whole or not at all.
fn put(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(directory: &Path) -> Authority {
        Authority::open(directory, Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap()
    }

    #[test]
    fn an_authority_stays_the_same_and_its_key_is_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (open(directory.path()), open(directory.path()));
        assert_eq!(first.certificate(), second.certificate());
        let mode = fs::metadata(directory.path().join("authority.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let placeholder =
            |authority: &Authority| super::super::secret::placeholder(authority.placeholders(), "sb", "key");
        assert_eq!(placeholder(&first), placeholder(&second));
    }

    #[test]
    fn leaves_are_made_for_names_and_addresses_and_kept_in_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path());
        let first = authority.server("a.example").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.server("a.example").unwrap()));
        authority.server("198.51.100.7").unwrap();
        assert_eq!(authority.leaves.lock().unwrap().len(), 2);
    }
}
