//! Secrets: sealed at rest, told to the network boundary alone, listed by name.
//!
//! A value is sealed with AES-256-GCM under a key in a file of its own (mode 0600), so that a copy of the database alone
//! gives nothing away. Tokens of sandboxes are derived from the same file and stored nowhere; what is kept beside secrets and
//! may hold one (headers that policies set) is sealed as well. It does not decide who may use a secret.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use data_encoding::BASE64;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::network::Header;
use rusqlite::params;
use subtle::ConstantTimeEq as _;

use super::{Error, State, signed, unsigned};
use crate::clock::{UnixMs, hex, random};
use crate::lifecycle::record::Record;

/// Name of the file with the daemon's own key.
const KEY_FILE: &str = "vault.key";
const KEY_BYTES: usize = 64;
/// What a text that is sealed where texts are kept begins with.
const SEALED: &str = "sealed:";

/// What seals secrets and derives tokens.
pub struct Vault {
    seal: LessSafeKey,
    derive: hmac::Key,
    /// Sealed values by name, as they are in the database: the boundary asks without waiting.
    sealed: RwLock<HashMap<String, Vec<u8>>>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

impl Vault {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(KEY_FILE);
        let failed = |source| Error::Files { path: path.clone(), source };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes = random::<KEY_BYTES>().map_err(|error| failed(std::io::Error::other(error.message)))?;
                let mut file =
                    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
                file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
                bytes.to_vec()
            }
            Err(error) => return Err(failed(error)),
        };
        let wrong = || failed(std::io::Error::other(format!("it must hold {KEY_BYTES} bytes")));
        let (seal, derive) = bytes.split_at_checked(32).filter(|_| bytes.len() == KEY_BYTES).ok_or_else(wrong)?;
        let seal = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, seal).map_err(|_| wrong())?);
        Ok(Self { seal, derive: hmac::Key::new(hmac::HMAC_SHA256, derive), sealed: RwLock::default() })
    }

    /// The token of one purpose for one sandbox: the same each time, underivable without this file.
    #[must_use]
    pub fn token(&self, purpose: &str, id: &str) -> String {
        hex(hmac::sign(&self.derive, format!("{purpose}:{id}").as_bytes()).as_ref())
    }

    /// Whether a presented token is the one, in constant time.
    #[must_use]
    pub fn is_token(&self, purpose: &str, id: &str, presented: &str) -> bool {
        bool::from(self.token(purpose, id).as_bytes().ct_eq(presented.as_bytes()))
    }

    /// Takes what the database holds.
    pub(super) fn fill(&self, connection: &rusqlite::Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("SELECT name, sealed FROM secrets")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let sealed = rows.collect::<rusqlite::Result<HashMap<String, Vec<u8>>>>()?;
        *self.sealed.write().unwrap_or_else(PoisonError::into_inner) = sealed;
        Ok(())
    }

    /// A text, sealed as a text. `of` says what it is of: it opens as nothing else.
    pub(super) fn seal_text(&self, of: &str, text: &str) -> Result<String, Failure> {
        // No secret's name has a zero byte.
        Ok(format!("{SEALED}{}", BASE64.encode(&self.seal(&format!("\0{of}"), text)?)))
    }

    /// The text that was sealed; one that was kept before texts were sealed is as it is.
    pub(super) fn open_text(&self, of: &str, kept: &str) -> Result<String, Failure> {
        let Some(sealed) = kept.strip_prefix(SEALED) else { return Ok(kept.to_owned()) };
        let sealed = BASE64.decode(sealed.as_bytes()).unwrap_or_default();
        self.open_sealed(&format!("\0{of}"), &sealed)
    }

    /// A record as it is kept: the values of headers that its policy sets, sealed.
    pub(super) fn sealed_record(&self, record: &Record) -> Result<Record, Failure> {
        let mut record = record.clone();
        let of = record.id.clone();
        for header in headers(&mut record) {
            header.value = self.seal_text(&of, &header.value)?;
        }
        Ok(record)
    }

    /// The record as it was. A value that cannot be opened is emptied: the sandbox is not lost for it.
    pub(super) fn open_record(&self, record: &mut Record) {
        let of = record.id.clone();
        for header in headers(record) {
            header.value = self.open_text(&of, &header.value).unwrap_or_else(|error| {
                tracing::error!(sandbox = of, header = header.name, %error, "failed to open a header of a policy");
                String::new()
            });
        }
    }

    fn seal(&self, name: &str, value: &str) -> Result<Vec<u8>, Failure> {
        let nonce = random::<NONCE_LEN>()?;
        let mut bytes = value.as_bytes().to_vec();
        self.seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()), &mut bytes)
            .map_err(|_| Failure::new(Code::Internal, "failed to seal a secret"))?;
        Ok([&nonce[..], &bytes].concat())
    }

    fn open_sealed(&self, name: &str, sealed: &[u8]) -> Result<String, Failure> {
        let broken = || Failure::new(Code::Internal, format!("failed to open the secret {name:?}: it was changed"));
        let (nonce, bytes) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
        let mut bytes = bytes.to_vec();
        let plain = self
            .seal
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name.as_bytes()), &mut bytes)
            .map_err(|_| broken())?;
        String::from_utf8(plain.to_vec()).map_err(|_| broken())
    }
}

/// What is told of a secret: never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_ms: UnixMs,
    /// When it was last set.
    pub changed_ms: UnixMs,
    /// How often it was set.
    pub version: u64,
    /// Free keys and values.
    pub metadata: BTreeMap<String, String>,
}

impl SecretRecord {
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let metadata: String = row.get(4)?;
        Ok(Self {
            name: row.get(0)?,
            created_ms: unsigned(row.get(1)?),
            changed_ms: unsigned(row.get(2)?),
            version: unsigned(row.get(3)?),
            // Written here alone; what cannot be read is told as none.
            metadata: serde_json::from_str(&metadata).unwrap_or_default(),
        })
    }
}

/// The headers that a record's policy sets.
fn headers(record: &mut Record) -> impl Iterator<Item = &mut Header> {
    record.spec.network.iter_mut().flat_map(|policy| &mut policy.rules).flat_map(|rule| &mut rule.headers)
}

impl State {
    /// Keeps a secret, in place of one of the same name; without metadata, with that of the one before.
    ///
    /// # Errors
    /// `internal`, `exhausted`, `no_space`.
    pub async fn put_secret(
        &self,
        name: &str,
        value: &str,
        metadata: Option<&BTreeMap<String, String>>,
        now: UnixMs,
    ) -> Result<(), Failure> {
        let sealed = self.vault.seal(name, value)?;
        let metadata = metadata.map(|metadata| serde_json::json!(metadata).to_string());
        let (known, name) = ((name.to_owned(), sealed.clone()), name.to_owned());
        self.writer
            .submit("keep a secret", move |connection| {
                connection
                    .execute(
                        "INSERT INTO secrets (name, sealed, changed_ms, created_ms, metadata)
                         VALUES (?1, ?2, ?3, ?3, coalesce(?4, '{}'))
                         ON CONFLICT (name) DO UPDATE SET sealed = ?2, changed_ms = ?3, version = version + 1,
                                                          metadata = coalesce(?4, metadata)",
                        params![name, sealed, signed(now), metadata],
                    )
                    .map(drop)
            })
            .await?;
        self.vault.sealed.write().unwrap_or_else(PoisonError::into_inner).insert(known.0, known.1);
        Ok(())
    }

    /// The value of a secret: for the network boundary alone.
    ///
    /// # Errors
    /// `internal` where the file of the vault does not fit.
    pub fn secret(&self, name: &str) -> Result<Option<String>, Failure> {
        let sealed = self.vault.sealed.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        sealed.map(|sealed| self.vault.open_sealed(name, &sealed)).transpose()
    }

    /// What is told of the secrets, by name.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn secrets(&self) -> Result<Vec<SecretRecord>, Failure> {
        self.writer
            .submit("read the names of secrets", |connection| {
                let mut statement = connection
                    .prepare("SELECT name, created_ms, changed_ms, version, metadata FROM secrets ORDER BY name")?;
                statement.query_map([], SecretRecord::of)?.collect()
            })
            .await
    }

    /// Removes a secret; whether there was one.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn remove_secret(&self, name: &str) -> Result<bool, Failure> {
        let wanted = name.to_owned();
        let removed = self
            .writer
            .submit("remove a secret", move |connection| {
                connection.execute("DELETE FROM secrets WHERE name = ?1", [wanted]).map(|changed| changed > 0)
            })
            .await?;
        self.vault.sealed.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(removed)
    }
}

impl crate::network::secret::Vault for State {
    fn reveal(&self, secret: &str) -> Result<Option<crate::network::secret::Value>, Failure> {
        Ok(self.secret(secret)?.map(crate::network::secret::Value::new))
    }
}
