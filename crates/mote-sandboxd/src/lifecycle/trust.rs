//! Where a sandbox's programs look for the authorities that they trust, with the daemon's own put there.
//!
//! Variables reach only who keeps them: `sudo`, `env -i` and what is linked against GnuTLS look at the system's own places, so
//! the authority stands there, too, and where the tools of each distribution look when they write those places anew. It does
//! not reach stores that are a program's own (Java's, Mozilla's databases).

use std::collections::BTreeMap;

use bytes::Bytes;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::FileTarget;

use crate::guest::Guest;
use crate::limits::BUNDLE_BYTES_MAX;

/// Where systems keep all authorities in one file; the first that is there is the image's own.
const SYSTEM_BUNDLES: [&str; 5] = [
    // Debian, Alpine, Arch, Gentoo; Fedora has a link there.
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and its relatives: what the next two lead to.
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    // SUSE.
    "/etc/ssl/ca-bundle.pem",
    // Alpine's OpenSSL and LibreSSL.
    "/etc/ssl/cert.pem",
];
/// Made where a system has no bundle.
const BUNDLE_NEW: &str = SYSTEM_BUNDLES[0];
/// Directories in which OpenSSL looks for an authority by the hash of its name, and whether they are made where they are missing.
const HASHED: [(&str, bool); 2] = [("/etc/ssl/certs", true), ("/etc/pki/tls/certs", false)];
/// What `openssl x509 -subject_hash` says of the daemon's authority, whose name does not change.
const NAME_HASH: &str = "2040c1c2";
/// Where the tools that write a bundle anew look for authorities of one's own: `update-ca-certificates` of Debian and Alpine,
/// `update-ca-trust` of Fedora, SUSE and Arch. The first is made where it is missing: the tool may be installed later.
const ANCHORS: [(&str, bool); 4] = [
    ("/usr/local/share/ca-certificates", true),
    ("/etc/pki/ca-trust/source/anchors", false),
    ("/etc/pki/trust/anchors", false),
    ("/etc/ca-certificates/trust-source/anchors", false),
];
/// Lets `sudo` keep the variables.
const SUDOERS: &str = "/etc/sudoers.d";
/// The system's authorities with the daemon's added: what the variables name.
const BUNDLE: &str = "/etc/ssl/mote-bundle.pem";
/// The daemon's authority alone.
const AUTHORITY: &str = "/etc/ssl/mote-authority.pem";
/// Variables that name a bundle.
const OF_BUNDLE: [&str; 5] = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT"];
/// The variable that names what is trusted beside Node's own bundle.
const OF_AUTHORITY: &str = "NODE_EXTRA_CA_CERTS";

/// Writes the authority wherever programs look; the variables by which the others find it.
///
/// # Errors
/// Where what the variables name cannot be written. A place of the system's that cannot be is left as it is.
pub(super) async fn establish(guest: &Guest, own: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut system = None;
    for path in SYSTEM_BUNDLES {
        let Some(bundle) = read(guest, path).await? else { continue };
        let whole = with(&bundle, own);
        if whole != bundle {
            attempt(path, guest.write_whole(root(path), None, whole.clone()).await);
        }
        system.get_or_insert(whole);
    }
    if system.is_none() {
        attempt(BUNDLE_NEW, guest.write_whole(root(BUNDLE_NEW), Some(0o644), with(&Bytes::new(), own)).await);
    }
    let whole = system.unwrap_or_else(|| with(&Bytes::new(), own));
    guest.write_whole(root(BUNDLE), Some(0o644), whole).await?;
    let certificate = Bytes::from(own.to_owned());
    guest.write_whole(root(AUTHORITY), Some(0o644), certificate.clone()).await?;
    let hashed = HASHED.map(|(folder, make)| (folder, make, format!("{NAME_HASH}.0")));
    let anchors = ANCHORS.map(|(folder, make)| (folder, make, "mote-authority.crt".to_owned()));
    for (folder, make, name) in hashed.into_iter().chain(anchors) {
        if make || is_there(guest, folder).await {
            let path = format!("{folder}/{name}");
            attempt(&path, guest.write_whole(root(&path), Some(0o644), certificate.clone()).await);
        }
    }
    if is_there(guest, SUDOERS).await {
        let path = format!("{SUDOERS}/mote-authority");
        let keep = format!("Defaults env_keep += \"{} {OF_AUTHORITY}\"\n", OF_BUNDLE.join(" "));
        attempt(&path, guest.write_whole(root(&path), Some(0o440), keep.into()).await);
    }
    let mut env: BTreeMap<_, _> = OF_BUNDLE.into_iter().map(|name| (name.to_owned(), BUNDLE.to_owned())).collect();
    env.insert(OF_AUTHORITY.to_owned(), AUTHORITY.to_owned());
    Ok(env)
}

fn root(path: &str) -> FileTarget {
    FileTarget::new(path, Some("0".to_owned()))
}

async fn is_there(guest: &Guest, path: &str) -> bool {
    guest.stat(root(path)).await.is_ok()
}

async fn read(guest: &Guest, path: &str) -> Result<Option<Bytes>, Failure> {
    match guest.read_whole(root(path), BUNDLE_BYTES_MAX).await {
        Ok(bundle) => Ok(Some(bundle)),
        // Whatever else stands under such a name inside (a directory, a loop of links) is no bundle.
        Err(failure) if matches!(failure.code, Code::NotFound | Code::Invalid | Code::TooLarge | Code::Forbidden) => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// A bundle with an authority added, once.
fn with(bundle: &Bytes, own: &str) -> Bytes {
    let own = own.trim().as_bytes();
    if bundle.windows(own.len()).any(|window| window == own) {
        return bundle.clone();
    }
    let separator: &[u8] = if bundle.is_empty() || bundle.ends_with(b"\n") { b"" } else { b"\n" };
    [bundle, separator, own, b"\n"].concat().into()
}

fn attempt<T>(path: &str, result: Result<T, Failure>) {
    if let Err(failure) = result {
        tracing::warn!(path, code = ?failure.code, "an authority was not added to a system's own: {}", failure.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_authority_is_added_once_on_lines_of_its_own() {
        let once = with(&Bytes::from_static(b"first"), "own\n");
        assert_eq!(&once[..], b"first\nown\n");
        assert_eq!(with(&once, "own\n"), once);
        assert_eq!(&with(&Bytes::new(), "own\n")[..], b"own\n");
    }

    #[test]
    fn the_name_of_the_authoritys_file_is_what_openssl_looks_for() {
        let folder = tempfile::tempdir().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        crate::network::authority::Authority::open(folder.path(), provider).unwrap();
        let mut openssl = std::process::Command::new("openssl");
        let said = openssl.args(["x509", "-noout", "-subject_hash", "-in"]).arg(folder.path().join("authority.pem"));
        let said = said.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), NAME_HASH);
    }
}
