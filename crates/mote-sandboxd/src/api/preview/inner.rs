//! The hop of a preview from the daemon to a port inside: in the clear, or over TLS where the policy says that the port
//! speaks it; and whose name it is given as `Host`.
//!
//! The certificate of a port inside is not verified: the connection leaves the host nowhere, and who may change what is behind
//! the port is inside already.

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::network::{PORT_PLACEHOLDER, Policy};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limits::PREVIEW_TLS_TIMEOUT;

/// How a port is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    /// `Host` in place of the caller's.
    host: Option<HeaderValue>,
    /// The port speaks TLS.
    pub(super) tls: bool,
}

impl Hop {
    pub(super) fn new(policy: Option<&Policy>, port: u16) -> Self {
        let Some(policy) = policy else { return Self::default() };
        let host = policy.ingress_host.as_ref().map(|host| host.replace(PORT_PLACEHOLDER, &port.to_string()));
        // One that is no header's value was refused when the policy was set.
        Self {
            host: host.and_then(|host| HeaderValue::try_from(host).ok()),
            tls: policy.ingress_tls_ports.contains(&port),
        }
    }

    /// Puts `Host` in the place of the caller's, which moves to `X-Forwarded-Host`.
    pub(super) fn mask(&self, headers: &mut HeaderMap) {
        let Some(host) = &self.host else { return };
        if let Some(before) = headers.insert(header::HOST, host.clone()) {
            headers.insert(HeaderName::from_static("x-forwarded-host"), before);
        }
    }
}

/// Sets up TLS with a port inside.
///
/// # Errors
/// `not_found` where the port does not speak it, `timeout`.
pub(super) async fn secured<S>(stream: S, port: u16) -> Result<TlsStream<S>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = CONFIG.clone().ok_or_else(|| Failure::new(Code::Internal, "failed to set up TLS for previews"))?;
    let name = ServerName::try_from("localhost")
        .map_err(|error| Failure::new(Code::Internal, format!("failed to set up TLS for previews: {error}")))?;
    let securing = TlsConnector::from(config).connect(name, stream);
    let secured = tokio::time::timeout(PREVIEW_TLS_TIMEOUT, securing).await.map_err(|_| {
        Failure::new(Code::Timeout, format!("port {port} of the sandbox did not set up TLS in time"))
            .with("limit_ms", PREVIEW_TLS_TIMEOUT.as_millis())
    })?;
    secured.map_err(|error| {
        Failure::new(Code::NotFound, format!("port {port} of the sandbox does not speak TLS: {error}"))
            .with("port", port)
    })
}

static CONFIG: LazyLock<Option<Arc<ClientConfig>>> = LazyLock::new(|| {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
});

/// Takes every certificate; signatures are checked, so that what is broken is told as broken.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_the_policys_takes_the_place_of_the_callers_with_the_port_in_it() {
        let policy = Policy {
            ingress_host: Some("${PORT}-app.example:${PORT}".to_owned()),
            ingress_tls_ports: vec![8443],
            ..Policy::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("3000-sb.example"));
        Hop::new(Some(&policy), 3000).mask(&mut headers);
        assert_eq!(headers[header::HOST], "3000-app.example:3000");
        assert_eq!(headers["x-forwarded-host"], "3000-sb.example");
        assert!(Hop::new(Some(&policy), 8443).tls && !Hop::new(Some(&policy), 3000).tls);
    }

    #[test]
    fn without_a_policy_or_a_host_in_it_the_callers_stays() {
        for policy in [None, Some(&Policy::default())] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("a"));
            Hop::new(policy, 1).mask(&mut headers);
            assert_eq!((headers.len(), &headers[header::HOST]), (1, &HeaderValue::from_static("a")));
        }
    }
}
