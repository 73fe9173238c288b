//! Tapes: exchanges of HTTP written to a file, and answered from it again, for worlds that stand still.
//!
//! It speaks no HTTP: `proxy` does. A tape is JSON lines: a first line with the version, then one exchange a line, in the
//! order in which they ended. Secrets stand in it by name. On replay an exchange is found by method, URL and the digest of
//! the request's body; where the same was recorded more than once, the answers come in their order and the last stays.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::network::Tape as Mode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::limits::{TAPE_BODY_BYTES_MAX, TAPE_BYTES_MAX, TAPE_EXCHANGES_MAX, TAPE_NAME_BYTES_MAX};

/// Version of the format.
const VERSION: u32 = 1;
/// Longest line: a body in base64, and what stands beside it.
const LINE_BYTES_MAX: u64 = (TAPE_BODY_BYTES_MAX as u64) * 2 + 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    mote_tape: u32,
}

/// What an exchange is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) method: String,
    /// Scheme, host, port where it is not the scheme's own, path and query.
    pub(super) url: String,
    /// SHA-256 of the request's body, in hex.
    pub(super) body_sha256: String,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    #[serde(with = "body")]
    pub(super) body: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    answer: Answer,
}

/// Whether a text can be a tape's name.
///
/// # Errors
/// Says what can.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.len() <= TAPE_NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        return Ok(());
    }
    Err(format!("{name:?}: a tape's name has letters, digits, `-`, `_` and `.`, {TAPE_NAME_BYTES_MAX} bytes at most"))
}

/// A tape, being written or being played.
#[derive(Debug)]
pub(super) enum Tape {
    /// What happens is written.
    Recorder(Recorder),
    /// What is on it is answered.
    Player(Player),
}

/// The directory of tapes. What is played is read once for all who play it at a time, and again where the file is another.
#[derive(Debug)]
pub(super) struct Tapes {
    directory: PathBuf,
    /// By name; whoever reads one holds its lock meanwhile.
    played: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Loaded>>>>,
}

/// What was read last, for as long as somebody plays it, and of which file.
type Loaded = Option<(Stamp, Weak<Recording>)>;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<Self> {
        let told = file.metadata()?;
        let changed = (told.ctime(), told.ctime_nsec());
        Ok(Self { device: told.dev(), inode: told.ino(), bytes: told.len(), changed })
    }
}

impl Tapes {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, played: Mutex::default() }
    }

    /// Opens the tape that a policy names. Files are read on threads that may wait.
    ///
    /// # Errors
    /// `not_found` where the tape to be played is not there; `invalid` where it is no tape, naming the line; `internal`
    /// where the file cannot be read or written.
    pub(super) async fn open(&self, mode: &Mode) -> Result<Tape, Failure> {
        match mode {
            Mode::Record(name) => {
                let path = path_of(&self.directory, name);
                aside(move || Recorder::open(&path)).await.map(Tape::Recorder)
            }
            Mode::Replay(name) => {
                let recording = self.recording(name).await?;
                Ok(Tape::Player(Player { recording, played: Mutex::default() }))
            }
        }
    }

    async fn recording(&self, name: &str) -> Result<Arc<Recording>, Failure> {
        let slot = {
            let mut played = self.played.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody plays or waits for are forgotten.
            played.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| is_played(&slot)));
            Arc::clone(played.entry(name.to_owned()).or_default())
        };
        let mut loaded = slot.lock().await;
        let known = loaded.as_ref().and_then(|(stamp, recording)| Some((*stamp, recording.upgrade()?)));
        let (name, path) = (name.to_owned(), path_of(&self.directory, name));
        let (stamp, recording) = aside(move || Recording::open(&name, &path, known)).await?;
        *loaded = Some((stamp, Arc::downgrade(&recording)));
        Ok(recording)
    }
}

fn is_played(loaded: &Loaded) -> bool {
    loaded.as_ref().is_some_and(|(_, recording)| recording.strong_count() > 0)
}

/// Runs what reads or writes files where it may wait for them.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let broken = |error| Failure::new(Code::Internal, format!("failed to open a tape: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}

impl Tape {
    /// Whether an exchange with a host is on a tape that is played.
    pub(super) fn has_host(&self, host: &str) -> bool {
        match self {
            Self::Recorder(_) => false,
            Self::Player(player) => player.recording.hosts.contains(host),
        }
    }
}

fn path_of(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.jsonl"))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::Internal, format!("failed to {what} the tape {}: {error}", path.display()))
}

/// A tape being written.
#[derive(Debug)]
pub(super) struct Recorder(Mutex<Writing>);

#[derive(Debug)]
struct Writing {
    file: File,
    bytes: u64,
}

impl Recorder {
    fn open(path: &Path) -> Result<Self, Failure> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed("make a directory for", path, &error))?;
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).map_err(|error| failed("open", path, &error))?;
        let mut bytes = file.metadata().map_err(|error| failed("open", path, &error))?.len();
        if bytes == 0 {
            let mut head = serde_json::to_vec(&Head { mote_tape: VERSION }).unwrap_or_default();
            head.push(b'\n');
            file.write_all(&head).map_err(|error| failed("write", path, &error))?;
            bytes = head.len() as u64;
        }
        Ok(Self(Mutex::new(Writing { file, bytes })))
    }

    /// Writes one exchange. Lines of several sandboxes on one tape do not mix: each is one write, appended.
    ///
    /// # Errors
    /// Where the tape is full or cannot be written.
    pub(super) fn write(&self, key: Key, answer: Answer) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(&Line { key, answer })?;
        line.push(b'\n');
        let mut writing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.bytes + line.len() as u64 > TAPE_BYTES_MAX {
            return Err(std::io::Error::other(format!("the tape is full: it has {TAPE_BYTES_MAX} bytes")));
        }
        writing.file.write_all(&line)?;
        writing.bytes += line.len() as u64;
        Ok(())
    }
}

/// What stands on a tape.
#[derive(Debug, Default)]
struct Recording {
    answers: HashMap<Key, Vec<Answer>>,
    hosts: HashSet<String>,
}

/// A tape being played, by one sandbox: where it is on it is its own.
#[derive(Debug)]
pub(super) struct Player {
    recording: Arc<Recording>,
    played: Mutex<HashMap<Key, usize>>,
}

impl Recording {
    /// Reads a tape, unless it is the one that is known.
    fn open(name: &str, path: &Path, known: Option<(Stamp, Arc<Self>)>) -> Result<(Stamp, Arc<Self>), Failure> {
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::not_found("tape", name),
            _ => failed("open", path, &error),
        })?;
        let stamp = Stamp::of(&file).map_err(|error| failed("open", path, &error))?;
        match known {
            Some((of, recording)) if of == stamp => Ok((of, recording)),
            _ => Self::read(name, &mut BufReader::new(file)).map(|recording| (stamp, Arc::new(recording))),
        }
    }

    fn read(name: &str, reader: &mut dyn BufRead) -> Result<Self, Failure> {
        let bad = |line: usize, why: String| {
            Failure::invalid("network.tape", format!("tape {name:?}, line {line}: {why}")).with("line", line)
        };
        let mut recording = Self::default();
        let (mut number, mut text, mut total) = (0, Vec::new(), 0);
        loop {
            text.clear();
            number += 1;
            let mut bounded = Read::take(&mut *reader, LINE_BYTES_MAX);
            let length = bounded.read_until(b'\n', &mut text).map_err(|error| bad(number, error.to_string()))?;
            total += length as u64;
            if length == 0 {
                break;
            }
            if total > TAPE_BYTES_MAX || number > TAPE_EXCHANGES_MAX || length as u64 == LINE_BYTES_MAX {
                return Err(bad(number, "it is longer than a tape may be".to_owned()));
            }
            if number == 1 {
                let head: Head = serde_json::from_slice(&text).map_err(|_| bad(1, "this is no tape".to_owned()))?;
                if head.mote_tape != VERSION {
                    return Err(bad(1, format!("version {} is not known", head.mote_tape)));
                }
                continue;
            }
            let line: Line = serde_json::from_slice(&text).map_err(|error| bad(number, error.to_string()))?;
            if let Some(host) = host_of(&line.key.url) {
                recording.hosts.insert(host.to_owned());
            }
            recording.answers.entry(line.key).or_default().push(line.answer);
        }
        Ok(recording)
    }
}

impl Player {
    /// The answer that is next for a request; `None` where none was recorded.
    pub(super) fn next(&self, key: &Key) -> Option<&Answer> {
        let answers = self.recording.answers.get(key)?;
        let mut played = self.played.lock().unwrap_or_else(PoisonError::into_inner);
        let at = played.entry(key.clone()).or_default();
        let answer = answers.get((*at).min(answers.len().checked_sub(1)?));
        *at += 1;
        answer
    }
}

fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
    Some(authority.rsplit_once(':').map_or(authority, |(host, _)| host))
}

/// The digest of a request's body, in hex.
pub(super) fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A body: as text where it is text, so that a person can read a tape; in base64 otherwise.
mod body {
    use serde::{Deserializer, Serializer, de};

    use super::{Deserialize, Engine, STANDARD, Serialize};

    #[derive(Serialize, Deserialize)]
    enum Body {
        #[serde(rename = "text")]
        Text(String),
        #[serde(rename = "base64")]
        Base64(String),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let body = match std::str::from_utf8(bytes) {
            Ok(text) => Body::Text(text.to_owned()),
            Err(_) => Body::Base64(STANDARD.encode(bytes)),
        };
        body.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        match Body::deserialize(deserializer)? {
            Body::Text(text) => Ok(text.into_bytes()),
            Body::Base64(text) => STANDARD.decode(text).map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(url: &str) -> Key {
        Key { method: "GET".to_owned(), url: url.to_owned(), body_sha256: digest(b"") }
    }

    fn answer(body: &[u8]) -> Answer {
        Answer { status: 200, headers: vec![("x".to_owned(), "y".to_owned())], body: body.to_vec() }
    }

    async fn player(tapes: &Tapes) -> Player {
        let Tape::Player(player) = tapes.open(&Mode::Replay("t1".to_owned())).await.unwrap() else {
            panic!("a player")
        };
        player
    }

    #[tokio::test]
    async fn a_tape_is_held_once_for_all_who_play_it_and_read_again_when_it_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let tapes = Tapes::new(directory.path().to_owned());
        let Tape::Recorder(recorder) = tapes.open(&Mode::Record("t1".to_owned())).await.unwrap() else { panic!() };
        for body in [&b"first"[..], b"second"] {
            recorder.write(key("https://a.example/x"), answer(body)).unwrap();
        }
        let (one, other) = tokio::join!(player(&tapes), player(&tapes));
        assert!(Arc::ptr_eq(&one.recording, &other.recording), "it is held once");
        let next = |player: &Player| player.next(&key("https://a.example/x")).map(|answer| answer.body.clone());
        assert_eq!(next(&one).as_deref(), Some(&b"first"[..]));
        assert_eq!(next(&one).as_deref(), Some(&b"second"[..]));
        assert_eq!(next(&other).as_deref(), Some(&b"first"[..]), "each is where it is on it");
        recorder.write(key("https://a.example/y"), answer(b"later")).unwrap();
        let later = player(&tapes).await;
        assert!(later.next(&key("https://a.example/y")).is_some() && one.next(&key("https://a.example/y")).is_none());
        let held = Arc::downgrade(&later.recording);
        drop((one, other, later));
        assert!(held.upgrade().is_none(), "nobody plays it, nothing holds it");
    }

    #[tokio::test]
    async fn what_was_recorded_is_played_in_its_order_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let tapes = Tapes::new(directory.path().to_owned());
        let record = Mode::Record("t1".to_owned());
        for body in [&b"first"[..], b"second \xff"] {
            // Opened again each time: a tape is added to.
            let Tape::Recorder(recorder) = tapes.open(&record).await.unwrap() else { panic!("a recorder") };
            recorder.write(key("https://a.example/x"), answer(body)).unwrap();
        }
        let tape = tapes.open(&Mode::Replay("t1".to_owned())).await.unwrap();
        assert!(tape.has_host("a.example") && !tape.has_host("b.example"));
        let Tape::Player(player) = tape else { panic!("a player") };
        let next = || player.next(&key("https://a.example/x")).map(|answer| answer.body.clone());
        assert_eq!(next().as_deref(), Some(&b"first"[..]));
        assert_eq!(next().as_deref(), Some(&b"second \xff"[..]));
        assert_eq!(next().as_deref(), Some(&b"second \xff"[..]));
        assert_eq!(player.next(&key("https://a.example/y")), None);
    }

    #[tokio::test]
    async fn a_tape_that_is_none_is_refused_with_its_line() {
        let read = |text: &str| Recording::read("t", &mut text.as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(read("hello\n").context["line"], "1");
        assert_eq!(read("{\"mote_tape\":9}\n").message, "network.tape: tape \"t\", line 1: version 9 is not known");
        assert_eq!(read("{\"mote_tape\":1}\n{}\n").context["line"], "2");
        let tapes = Tapes::new("/nonexistent".into());
        let missing = tapes.open(&Mode::Replay("t".to_owned())).await.unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
    }

    #[test]
    fn a_name_is_no_path() {
        for name in ["", "..", ".x", "a/b", "a b", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("world-1.2_b").is_ok());
    }
}
