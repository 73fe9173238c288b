//! Watching a directory, with those below it where asked, by inotify (`inotify(7)`).
//!
//! It keeps no history: what happens before the watch stands is not told, and what is lost is told as an overflow.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{EventKind, Kind, Reply};
use mote_sandbox_api::limits::WATCHES_MAX;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Place;
use crate::connection::{Connection, unexpected};
use crate::failure::{Result, failed};
use crate::limits::{WATCH_CHUNK_BYTES, WATCH_ROUNDS_MAX};

/// Sends what happens in a directory until the connection closes or the directory is gone.
pub(crate) fn watch(place: &Place, recursive: bool, connection: &mut Connection) -> Result<()> {
    let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
    let queue = inotify::init(flags).map_err(|errno| failed("watch anything", errno))?;
    let (told, root, is_reached) = (place.path().to_owned(), place.access(), !place.flags().is_empty());
    let mut watcher = Watcher { queue, told, root, is_reached, recursive, folders: HashMap::new(), ours_moved: None };
    watcher.add("").map_err(|refusal| watcher.failure(refusal))?;
    if recursive {
        watcher.add_below("", &mut Vec::new()).map_err(|refusal| watcher.failure(refusal))?;
    }
    connection.reply(&Reply::Done)?;
    loop {
        match wait(&watcher.queue, connection)? {
            Wake::Happened => {
                if !watcher.tell(connection)?.goes_on {
                    return Ok(());
                }
            }
            Wake::Spoken => {
                let mut payload = Vec::new();
                match connection.receive(&mut payload)? {
                    None => return Ok(()),
                    Some(Kind::Data) if payload.is_empty() => {}
                    Some(kind) => return Err(unexpected(kind)),
                }
                // The kernel has queued what happened before the other side asked; a busy directory does not hold it up.
                for _ in 0..WATCH_ROUNDS_MAX {
                    let round = watcher.tell(connection)?;
                    if !round.goes_on {
                        return Ok(());
                    }
                    if round.is_empty {
                        break;
                    }
                }
                connection.reply(&Reply::Done)?;
            }
        }
    }
}

/// What ended a wait.
enum Wake {
    /// There are events.
    Happened,
    /// The other side has closed, or asks for what has happened.
    Spoken,
}

/// One reading of the queue.
struct Round {
    goes_on: bool,
    is_empty: bool,
}

fn wait(queue: &OwnedFd, connection: &Connection) -> Result<Wake> {
    loop {
        let mut polled = [
            PollFd::new(queue, PollFlags::IN),
            PollFd::from_borrowed_fd(connection.stream().as_fd(), PollFlags::IN | PollFlags::RDHUP),
        ];
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for events", errno)),
            Ok(_) if !polled[1].revents().is_empty() => return Ok(Wake::Spoken),
            Ok(_) => return Ok(Wake::Happened),
        }
    }
}

/// Why a directory cannot be watched.
enum Refusal {
    /// The kernel's.
    Kernel(Errno),
    /// More directories than may be watched.
    TooMany,
}

struct Watcher {
    queue: OwnedFd,
    /// The directory as the caller knows it.
    told: PathBuf,
    root: PathBuf,
    /// It was reached with root's rights, and is no link.
    is_reached: bool,
    recursive: bool,
    /// Path below the root, by the number of the watch.
    folders: HashMap<i32, String>,
    /// A file of this side that has just lost its temporary name, by the number that the kernel gives to both halves of a move.
    ours_moved: Option<u32>,
}

/// An event as the kernel tells it.
struct Raw {
    number: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<String>,
}

type Found = Vec<(String, EventKind)>;

impl Watcher {
    fn failure(&self, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Kernel(Errno::NOSPC) | Refusal::TooMany => {
                let message = format!("failed to watch {:?}: too many directories", self.told);
                Failure::new(Code::Exhausted, message).with("limit", WATCHES_MAX).with("path", self.told.display())
            }
            Refusal::Kernel(errno) => {
                failed(format_args!("watch {:?}", self.told), errno).with("path", self.told.display())
            }
        }
    }

    fn full(&self, below: &str) -> PathBuf {
        if below.is_empty() { self.root.clone() } else { self.root.join(below) }
    }

    fn add(&mut self, below: &str) -> std::result::Result<(), Refusal> {
        if self.folders.len() >= WATCHES_MAX {
            return Err(Refusal::TooMany);
        }
        let mut flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        if below.is_empty() {
            flags |= WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        }
        if self.is_reached || !below.is_empty() {
            flags |= WatchFlags::DONT_FOLLOW;
        }
        let number = inotify::add_watch(&self.queue, self.full(below), flags).map_err(Refusal::Kernel)?;
        self.folders.insert(number, below.to_owned());
        Ok(())
    }

    /// Watches the directories below one, and notes what stands in them as `found`: it may have come, and been written, before
    /// the watch did.
    fn add_below(&mut self, top: &str, found: &mut Found) -> std::result::Result<(), Refusal> {
        let mut waiting = vec![top.to_owned()];
        while let Some(folder) = waiting.pop() {
            // One that may not be read, or is gone again, has nothing below that could be watched.
            let Ok(entries) = std::fs::read_dir(self.full(&folder)) else { continue };
            for entry in entries.filter_map(std::result::Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let below = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                found.push((below.clone(), EventKind::Create));
                if entry.metadata().is_ok_and(|found| found.is_file() && found.len() > 0) {
                    found.push((below.clone(), EventKind::Write));
                }
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                match self.add(&below) {
                    Ok(()) => waiting.push(below),
                    Err(Refusal::Kernel(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS)) => {}
                    Err(refusal) => return Err(refusal),
                }
            }
        }
        Ok(())
    }

    /// Tells the events that are there.
    fn tell(&mut self, connection: &mut Connection) -> Result<Round> {
        let mut found = Vec::new();
        let round = self.read(&mut found)?;
        for (name, kind) in found {
            connection.reply(&Reply::Event { name, kind })?;
        }
        Ok(round)
    }

    /// Reads the events that are there; it does not go on where the directory itself is gone.
    fn read(&mut self, found: &mut Found) -> Result<Round> {
        let mut buffer = [MaybeUninit::uninit(); WATCH_CHUNK_BYTES];
        let mut raw = Vec::new();
        let mut reader = Reader::new(&self.queue, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    raw.push(Raw { number: event.wd(), flags: event.events(), cookie: event.cookie(), name });
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("read events", errno)),
            }
            // What came meanwhile is read in the next round, so that a busy directory cannot fill the memory.
            if reader.is_buffer_empty() {
                break;
            }
        }
        let is_empty = raw.is_empty();
        let mut goes_on = true;
        for event in raw {
            goes_on &= self.translate(event, found);
        }
        Ok(Round { goes_on, is_empty })
    }

    fn translate(&mut self, event: Raw, found: &mut Found) -> bool {
        let Raw { number, flags, cookie, name } = event;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            found.push((String::new(), EventKind::Overflow));
            return true;
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.folders.remove(&number);
            return true;
        }
        let Some(folder) = self.folders.get(&number).cloned() else { return true };
        if flags.contains(ReadFlags::DELETE_SELF) {
            found.push((String::new(), EventKind::Remove));
            return false;
        }
        if flags.contains(ReadFlags::MOVE_SELF) {
            found.push((String::new(), EventKind::Rename));
            return false;
        }
        // Without a name it is the watched directory itself, of which the one above tells.
        let name = match name {
            Some(name) if folder.is_empty() => name,
            Some(name) => format!("{folder}/{name}"),
            None if folder.is_empty() => String::new(),
            None => return true,
        };
        if self.is_ours(&name, flags) {
            if flags.contains(ReadFlags::MOVED_FROM) {
                self.ours_moved = Some(cookie);
            }
            return true;
        }
        // What this side wrote and put in the place of a file is a write to that.
        let is_written = flags.contains(ReadFlags::MOVED_TO) && self.ours_moved.take() == Some(cookie);
        let is_folder = flags.contains(ReadFlags::ISDIR);
        let kinds = [
            (ReadFlags::CREATE, EventKind::Create),
            (ReadFlags::MOVED_TO, if is_written { EventKind::Write } else { EventKind::Create }),
            (ReadFlags::MODIFY, EventKind::Write),
            (ReadFlags::ATTRIB, EventKind::Chmod),
            (ReadFlags::MOVED_FROM, EventKind::Rename),
            (ReadFlags::DELETE, EventKind::Remove),
        ];
        for (_, kind) in kinds.into_iter().filter(|(flag, _)| flags.contains(*flag)) {
            found.push((name.clone(), kind));
        }
        if is_folder && self.recursive {
            if flags.intersects(ReadFlags::MOVED_FROM) {
                self.forget(&name);
            }
            if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                self.adopt(&name, flags.contains(ReadFlags::CREATE), found);
            }
        }
        true
    }

    /// Whether it is a file of this side that has not its name yet: one with a temporary name, or without one, which the
    /// kernel calls `#` and its number.
    fn is_ours(&self, name: &str, flags: ReadFlags) -> bool {
        let last = name.rsplit('/').next().unwrap_or(name);
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        super::write::is_temporary(last)
            || (flags == ReadFlags::ATTRIB
                && last.strip_prefix('#').is_some_and(is_number)
                && std::fs::symlink_metadata(self.full(name)).is_err())
    }

    /// Watches a directory that is new here. What already stands in a fresh one was made before the watch stood.
    fn adopt(&mut self, name: &str, is_fresh: bool, found: &mut Found) {
        let mut below = Vec::new();
        let added = self.add(name).and_then(|()| self.add_below(name, &mut below));
        if is_fresh {
            found.append(&mut below);
        }
        match added {
            Ok(()) | Err(Refusal::Kernel(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS)) => {}
            // From here on, something will be missed.
            Err(_) => found.push((name.to_owned(), EventKind::Overflow)),
        }
    }

    /// Ends the watches of a directory that was moved away, and of those below.
    fn forget(&mut self, name: &str) {
        let prefix = format!("{name}/");
        let gone: Vec<i32> = self
            .folders
            .iter()
            .filter(|(_, folder)| *folder == name || folder.starts_with(&prefix))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.folders.remove(&number);
            let _ = inotify::remove_watch(&self.queue, number);
        }
    }
}
