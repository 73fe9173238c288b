//! Watching a directory, with those below it where asked, by inotify (`inotify(7)`).
//!
//! It keeps no history: what happens before the watch stands is not told, and what is lost is told as an overflow.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{EventKind, Reply};
use mote_sandbox_api::limits::WATCHES_MAX;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Place;
use crate::connection::Connection;
use crate::failure::{Result, failed};
use crate::limits::WATCH_CHUNK_BYTES;

/// Sends what happens in a directory until the connection closes or the directory is gone.
pub(crate) fn watch(place: &Place, recursive: bool, connection: &mut Connection) -> Result<()> {
    let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
    let queue = inotify::init(flags).map_err(|errno| failed("watch anything", errno))?;
    let mut watcher = Watcher { queue, root: place.path().to_owned(), recursive, folders: HashMap::new() };
    watcher.add("").map_err(|refusal| watcher.failure(refusal))?;
    if recursive {
        watcher.add_below("", &mut Vec::new()).map_err(|refusal| watcher.failure(refusal))?;
    }
    connection.reply(&Reply::Done)?;
    while wait(&watcher.queue, connection)? {
        let mut found = Vec::new();
        let goes_on = watcher.read(&mut found)?;
        for (name, kind) in found {
            connection.reply(&Reply::Event { name, kind })?;
        }
        if !goes_on {
            return Ok(());
        }
    }
    Ok(())
}

/// Waits for events; false where the connection has closed. The other side has nothing to say but that.
fn wait(queue: &OwnedFd, connection: &Connection) -> Result<bool> {
    loop {
        let mut polled = [
            PollFd::new(queue, PollFlags::IN),
            PollFd::from_borrowed_fd(connection.stream().as_fd(), PollFlags::IN | PollFlags::RDHUP),
        ];
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for events", errno)),
            Ok(_) if !polled[1].revents().is_empty() => return Ok(false),
            Ok(_) => return Ok(true),
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
    root: PathBuf,
    recursive: bool,
    /// Path below the root, by the number of the watch.
    folders: HashMap<i32, String>,
}

type Found = Vec<(String, EventKind)>;

impl Watcher {
    fn failure(&self, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Kernel(Errno::NOSPC) | Refusal::TooMany => {
                let message = format!("failed to watch {:?}: too many directories", self.root);
                Failure::new(Code::Exhausted, message).with("limit", WATCHES_MAX).with("path", self.root.display())
            }
            Refusal::Kernel(errno) => {
                failed(format_args!("watch {:?}", self.root), errno).with("path", self.root.display())
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
        } else {
            flags |= WatchFlags::DONT_FOLLOW;
        }
        let number = inotify::add_watch(&self.queue, self.full(below), flags).map_err(Refusal::Kernel)?;
        self.folders.insert(number, below.to_owned());
        Ok(())
    }

    /// Watches the directories below one, and notes what stands in them as `found`: it may have come before the watch did.
    fn add_below(&mut self, top: &str, found: &mut Vec<String>) -> std::result::Result<(), Refusal> {
        let mut waiting = vec![top.to_owned()];
        while let Some(folder) = waiting.pop() {
            // One that may not be read, or is gone again, has nothing below that could be watched.
            let Ok(entries) = std::fs::read_dir(self.full(&folder)) else { continue };
            for entry in entries.filter_map(std::result::Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let below = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                found.push(below.clone());
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

    /// Reads the events that are there; false where the directory itself is gone.
    fn read(&mut self, found: &mut Found) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); WATCH_CHUNK_BYTES];
        let mut raw = Vec::new();
        let mut reader = Reader::new(&self.queue, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    raw.push((event.wd(), event.events(), name));
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
        let mut goes_on = true;
        for (number, flags, name) in raw {
            goes_on &= self.translate(number, flags, name, found);
        }
        Ok(goes_on)
    }

    fn translate(&mut self, number: i32, flags: ReadFlags, name: Option<String>, found: &mut Found) -> bool {
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
        let is_folder = flags.contains(ReadFlags::ISDIR);
        let kinds = [
            (ReadFlags::CREATE, EventKind::Create),
            (ReadFlags::MOVED_TO, EventKind::Create),
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

    /// Watches a directory that is new here. What already stands in a fresh one was made before the watch stood.
    fn adopt(&mut self, name: &str, is_fresh: bool, found: &mut Found) {
        let mut below = Vec::new();
        let added = self.add(name).and_then(|()| self.add_below(name, &mut below));
        if is_fresh {
            found.extend(below.into_iter().map(|name| (name, EventKind::Create)));
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
