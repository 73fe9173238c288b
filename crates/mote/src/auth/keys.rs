//! The file of keys: one line a key, read again when it changes.
//!
//! ```text
//! # <sha256 of the key, hex> <name> <scopes, comma-separated> [tenant] [expires=<RFC 3339>]
//! 9f86d081…0a08 ci run,read acme expires=2027-01-31T00:00:00Z
//! ```
//!
//! It does not write the file; [`super::append`], a person or a deployment tool does.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use data_encoding::HEXLOWER_PERMISSIVE;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{EXPIRES, Principal, Scope, digest};
use crate::clock::{SharedClock, UnixMs};
use crate::{limits, timestamp};

/// Why the keys could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read the keys file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a key.
    #[error("failed to read the keys file {path}: line {line}: {message}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong; never quotes the hash.
        message: String,
    },
    /// The file is larger than any set of keys.
    #[error("failed to read the keys file {path}: it is larger than {max} bytes or {keys_max} keys")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Limit in bytes.
        max: usize,
        /// Limit in keys.
        keys_max: usize,
    },
    /// A name cannot stand in the file.
    #[error("failed to make a key: {field} {text:?} must be 1 to 128 characters without blanks or a leading #")]
    Name {
        /// Which.
        field: &'static str,
        /// What was given.
        text: String,
    },
    /// No randomness.
    #[error("failed to make a key: the operating system gave no randomness")]
    Entropy,
}

struct Entry {
    hash: [u8; 32],
    principal: Principal,
    expires_at: Option<UnixMs>,
}

/// Why a key does not let anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No line has it.
    Unknown,
    /// Its time is over.
    Expired {
        /// Since when.
        at: UnixMs,
    },
}

/// What tells one version of the file from another. Mounted secrets change by a link, so that length and inode help
/// where the time of change is coarse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

struct Current {
    entries: Arc<[Entry]>,
    stamp: Option<Stamp>,
    looked_at: UnixMs,
    problem: Option<String>,
}

/// The keys of the service.
pub struct Keys {
    path: PathBuf,
    clock: SharedClock,
    current: Mutex<Current>,
    failures: AtomicU64,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read or a line is not a key.
    pub fn open(path: &Path, clock: SharedClock) -> Result<Self, Error> {
        let stamp = stamp(path);
        let entries = read(path)?;
        let looked_at = clock.now_ms();
        let current = Current { entries, stamp, looked_at, problem: None };
        Ok(Self { path: path.to_owned(), clock, current: Mutex::new(current), failures: AtomicU64::new(0) })
    }

    /// The holder of a key.
    ///
    /// Every stored hash is compared in constant time and none is skipped, so that the answer's time tells nothing.
    ///
    /// # Errors
    /// [`Refused`]: no line has the key, or its time is over.
    pub fn check(&self, key: &str) -> Result<Principal, Refused> {
        let entries = self.entries();
        let presented = digest(key);
        let mut found = Choice::from(0);
        let mut position = 0u32;
        for (index, entry) in (0u32..).zip(entries.iter()) {
            let equal = entry.hash.ct_eq(&presented);
            position.conditional_assign(&index, equal);
            found |= equal;
        }
        let entry = bool::from(found).then(|| entries.get(position as usize)).flatten().ok_or(Refused::Unknown)?;
        self.in_force(entry)
    }

    /// The holder of the key of that name, which is not told: for what was issued to that holder earlier.
    #[must_use]
    pub fn holder(&self, name: &str) -> Option<Principal> {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| &*entry.principal.name == name)?;
        self.in_force(entry).ok()
    }

    fn in_force(&self, entry: &Entry) -> Result<Principal, Refused> {
        match entry.expires_at {
            Some(at) if at <= self.clock.now_ms() => Err(Refused::Expired { at }),
            _ => Ok(entry.principal.clone()),
        }
    }

    /// Times that a changed file could not be read since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Why the newest version of the file is not in use, if it is not: the keys read before it still hold.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let _ = self.entries();
        self.current.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// The entries, read again if the file changed. The file is looked at once in [`limits::KEYS_CHECK_MS`] at most; it is
    /// small and local, so this blocks for microseconds.
    fn entries(&self) -> Arc<[Entry]> {
        let now = self.clock.now_ms();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(current.looked_at) < limits::KEYS_CHECK_MS {
            return Arc::clone(&current.entries);
        }
        current.looked_at = now;
        let stamp = stamp(&self.path);
        if stamp != current.stamp || current.problem.is_some() {
            match read(&self.path) {
                Ok(entries) => {
                    tracing::info!(path = %self.path.display(), keys = entries.len(), "the keys file was read again");
                    current.entries = entries;
                    current.problem = None;
                }
                Err(error) => {
                    let text = error.to_string();
                    if current.problem.as_ref() != Some(&text) || stamp != current.stamp {
                        self.failures.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(%error, "the keys read before stay in force");
                    }
                    current.problem = Some(text);
                }
            }
            current.stamp = stamp;
        }
        Arc::clone(&current.entries)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
}

fn too_large(path: &Path) -> Error {
    Error::TooLarge { path: path.to_owned(), max: limits::KEYS_FILE_BYTES_MAX, keys_max: limits::KEYS_MAX }
}

/// The text of the file, within its bound.
pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let bound = limits::KEYS_FILE_BYTES_MAX as u64 + 1;
    file.take(bound).read_to_string(&mut text).map_err(failed)?;
    if text.len() > limits::KEYS_FILE_BYTES_MAX {
        return Err(too_large(path));
    }
    Ok(text)
}

/// The keys of a text, each as its line and its name.
pub(super) fn parse_lines(path: &Path, text: &str) -> Result<Vec<(usize, String)>, Error> {
    let entries = entries(path, text)?;
    Ok(entries.into_iter().map(|(line, entry)| (line, entry.principal.name.to_string())).collect())
}

fn read(path: &Path) -> Result<Arc<[Entry]>, Error> {
    let entries = entries(path, &read_text(path)?)?;
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// Every key, and the line that it stands on.
fn entries(path: &Path, text: &str) -> Result<Vec<(usize, Entry)>, Error> {
    if text.len() > limits::KEYS_FILE_BYTES_MAX {
        return Err(too_large(path));
    }
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = parse(line).map_err(|message| Error::Line { path: path.to_owned(), line: index + 1, message })?;
        if entries.iter().any(|(_, known): &(usize, Entry)| known.principal.name == entry.principal.name) {
            let message = format!("the name {:?} stands twice", entry.principal.name);
            return Err(Error::Line { path: path.to_owned(), line: index + 1, message });
        }
        entries.push((index + 1, entry));
        if entries.len() > limits::KEYS_MAX {
            return Err(too_large(path));
        }
    }
    Ok(entries)
}

fn parse(line: &str) -> Result<Entry, String> {
    let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
    let expires_at = match words.last().and_then(|word| word.strip_prefix(EXPIRES)) {
        Some(text) => {
            let at = timestamp::parse_rfc3339(text)
                .ok_or_else(|| format!("{EXPIRES}{text} is not an RFC 3339 time such as 2027-01-31T00:00:00Z"))?;
            words.pop();
            Some(at)
        }
        None => None,
    };
    let (hash, name, scopes, tenant) = match words.as_slice() {
        [hash, name, scopes] => (*hash, *name, *scopes, None),
        [hash, name, scopes, tenant] => (*hash, *name, *scopes, Some(*tenant)),
        _ => return Err("expected `<sha256-hex> <name> <scopes> [tenant] [expires=<time>]`".to_owned()),
    };
    let hash = HEXLOWER_PERMISSIVE.decode(hash.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let hash = hash.ok_or("the hash must be 64 hexadecimal digits (the SHA-256 of the key, not the key)")?;
    if !is_word(name) || tenant.is_some_and(|tenant| !is_word(tenant)) {
        return Err(format!("a name must be 1 to {} characters", limits::NAME_BYTES_MAX));
    }
    let parse_scope =
        |text| Scope::parse(text).ok_or_else(|| format!("unknown scope {text:?}: expected run, read or admin"));
    let scopes = scopes.split(',').map(parse_scope).collect::<Result<Vec<_>, _>>()?;
    let principal = Principal { name: name.into(), scopes: scopes.into(), tenant: tenant.map(Into::into) };
    Ok(Entry { hash, principal, expires_at })
}

/// Whether a text can stand as one word of a line.
pub(super) fn is_word(text: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    let sized = !text.is_empty() && text.len() <= limits::NAME_BYTES_MAX;
    sized && !text.starts_with('#') && !text.starts_with(EXPIRES) && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use data_encoding::HEXLOWER;

    use crate::auth::generate;
    use crate::clock::Clock;

    #[derive(Default)]
    struct Fixed(AtomicU64);

    impl Clock for Fixed {
        fn boot_ms(&self) -> u64 {
            self.now_ms()
        }
        fn now_ms(&self) -> UnixMs {
            self.0.load(Ordering::Relaxed)
        }
        fn random(&self) -> u64 {
            0
        }
    }

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mote-keys-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, text: &str) -> PathBuf {
            let path = self.0.join("keys");
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_key_of_the_file_is_known_and_another_is_not() {
        let folder = Folder::new("known");
        let first = generate("ci", &[Scope::Run], Some("acme"), None).unwrap();
        let second = generate("ops", &[Scope::Admin], None, None).unwrap();
        let path = folder.write(&format!("# keys\n\n{}\n  {}\n", first.line, second.line));
        let keys = Keys::open(&path, Arc::new(Fixed::default())).unwrap();
        let found = keys.check(&first.key).unwrap();
        assert_eq!((found.name.as_ref(), found.tenant.as_deref()), ("ci", Some("acme")));
        assert_eq!(keys.check(&second.key).unwrap().name.as_ref(), "ops");
        assert_eq!(keys.check(&format!("{}x", first.key)), Err(Refused::Unknown));
        assert_eq!(keys.check(""), Err(Refused::Unknown));
        assert_eq!(
            keys.check(&HEXLOWER.encode(&digest(&first.key))),
            Err(Refused::Unknown),
            "the stored hash is not a key"
        );
        assert_eq!(keys.holder("ci").unwrap(), found);
        assert_eq!(keys.holder("nobody"), None);
    }

    #[test]
    fn the_file_is_read_again_when_it_changed_and_a_broken_one_keeps_the_old_keys() {
        let folder = Folder::new("reload");
        let (old, new) =
            (generate("old", &[Scope::Run], None, None).unwrap(), generate("new", &[Scope::Run], None, None).unwrap());
        let path = folder.write(&old.line);
        let clock = Arc::new(Fixed::default());
        let keys = Keys::open(&path, clock.clone()).unwrap();

        folder.write(&format!("{}\n", new.line));
        assert!(keys.check(&old.key).is_ok(), "not looked at again before the interval is over");
        clock.0.fetch_add(limits::KEYS_CHECK_MS, Ordering::Relaxed);
        assert!(keys.check(&old.key).is_err() && keys.check(&new.key).is_ok());

        folder.write("not a key");
        clock.0.fetch_add(limits::KEYS_CHECK_MS, Ordering::Relaxed);
        assert!(keys.check(&new.key).is_ok());
        assert!(keys.problem().unwrap().contains("line 1"));
        assert_eq!(keys.failures(), 1, "one version of the file is one failure, however often it is looked at");

        folder.write(&format!("# fixed\n{}\n", old.line));
        clock.0.fetch_add(limits::KEYS_CHECK_MS, Ordering::Relaxed);
        assert!(keys.check(&old.key).is_ok() && keys.problem().is_none());
    }

    #[test]
    fn a_key_holds_until_its_time_is_over() {
        let folder = Folder::new("expires");
        let bound = generate("bound", &[Scope::Run], Some("acme"), Some(5_000)).unwrap();
        let free = generate("free", &[Scope::Run], None, Some(9_000)).unwrap();
        assert!(bound.line.ends_with(" acme expires=1970-01-01T00:00:05.000Z"), "{}", bound.line);
        let path = folder.write(&format!("{}\n{}\n", bound.line, free.line));
        let clock = Arc::new(Fixed::default());
        let keys = Keys::open(&path, clock.clone()).unwrap();
        clock.0.store(4_999, Ordering::Relaxed);
        assert_eq!(keys.check(&bound.key).unwrap().tenant.as_deref(), Some("acme"));
        clock.0.store(5_000, Ordering::Relaxed);
        assert_eq!(keys.check(&bound.key), Err(Refused::Expired { at: 5_000 }));
        assert_eq!(keys.holder("bound"), None);
        assert_eq!(keys.check(&free.key).unwrap().tenant, None);
    }

    #[test]
    fn a_bad_line_is_named_and_its_hash_is_not_quoted() {
        let folder = Folder::new("bad");
        let hash = "ab".repeat(32);
        for (line, expected) in [
            ("short ci run".to_owned(), "64 hexadecimal digits"),
            (format!("{hash} ci fly"), "unknown scope \"fly\""),
            (format!("{hash} ci"), "expected `<sha256-hex>"),
            (format!("{hash} ci run acme more"), "expected `<sha256-hex>"),
            (format!("{hash} ci run expires=tomorrow"), "expires=tomorrow is not an RFC 3339 time"),
            (format!("{hash} ci run expires=2027-01-31T00:00:00Z acme"), "expected `<sha256-hex>"),
            (format!("{hash} a run\n{hash} a run"), "stands twice"),
        ] {
            let path = folder.write(&format!("# first line\n{line}\n"));
            let error = Keys::open(&path, Arc::new(Fixed::default())).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("line "), "{error}");
            assert!(!error.contains(&hash), "{error}");
        }
        let missing = Keys::open(&folder.0.join("none"), Arc::new(Fixed::default())).unwrap_err();
        assert!(missing.to_string().starts_with("failed to read the keys file"), "{missing}");
    }
}
