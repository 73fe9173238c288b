//! What `/proc/meminfo`, `/proc/cpuinfo`, `/proc/stat` and `/sys/devices/system/cpu/online` show inside: the bounds and the use of
//! the sandbox's own cgroups, so that programs which look there size themselves by what they may use.
//!
//! The keeper has put plain files on these places, read-only for everybody; their directory is inherited as descriptor 4, and
//! this process alone writes them: before a process is started or given input, and then once a second for as long as the sandbox
//! computes or somebody reads; more and more seldom where neither is so, and not at all where no process runs. It does not say how
//! much a processor is used by others, nor how long the host runs.

mod cgroup;
mod text;

use std::fs::File;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::Timespec;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::failure::{Result, failed};
use crate::limits::{VIEW_AGE_MS, VIEW_BUSY_MS, VIEW_FILE_BYTES_MAX, VIEW_IDLE_MS_MAX, WATCH_CHUNK_BYTES};
use cgroup::Cgroups;
use text::Host;

/// Where what changes by itself is read; the number of processors changes with the bounds alone.
const WATCHED: [&str; 2] = ["/proc/meminfo", "/proc/stat"];
/// Where the cgroups of the sandbox are seen.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The files, and what they are made of.
#[derive(Debug)]
pub(crate) struct View {
    memory: File,
    processors: File,
    statistics: File,
    online: File,
    host: Host,
    cgroups: Cgroups,
    /// Tells that somebody reads.
    queue: OwnedFd,
    began_ms: u64,
    /// The first thread looks seldom, or not at all.
    is_resting: AtomicBool,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    at_ms: Option<u64>,
    processors: Option<u32>,
}

impl View {
    /// Takes the files over, with what they say of the host, and writes them for the first time.
    pub(crate) fn open(folder: impl AsFd) -> Result<Self> {
        let open = |name: &str| {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&folder, name, flags, Mode::empty());
            file.map(File::from).map_err(|errno| failed(format_args!("open the file for {name}"), errno))
        };
        let (memory, processors, statistics, online) =
            (open("meminfo")?, open("cpuinfo")?, open("stat")?, open("online")?);
        let host = Host::parse(&content(&memory), &content(&processors), &content(&statistics), &content(&online));
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| failed("watch the files of the view", errno))?;
        for path in WATCHED {
            inotify::add_watch(&queue, path, WatchFlags::ACCESS)
                .map_err(|errno| failed(format_args!("watch {path}"), errno))?;
        }
        let cgroups = Cgroups::find(Path::new(CGROUPS));
        let view = Self {
            memory,
            processors,
            statistics,
            online,
            host,
            cgroups,
            queue,
            began_ms: now_ms(),
            is_resting: AtomicBool::new(true),
            written: Mutex::default(),
        };
        view.write();
        Ok(view)
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to do in the sandbox: writes the files where they are older than [`VIEW_AGE_MS`]. Whether the first
    /// thread is to be woken, so that it looks more often.
    pub(crate) fn wake(&self) -> bool {
        let is_fresh = |at: u64| now_ms().saturating_sub(at) < VIEW_AGE_MS;
        if !self.written().at_ms.is_some_and(is_fresh) {
            self.write();
        }
        self.is_resting.swap(false, Ordering::Relaxed)
    }

    /// Writes the files; the ticks that the sandbox has computed. What cannot be read or written stays as it is: the sandbox works
    /// without.
    fn write(&self) -> u64 {
        let mut written = self.written();
        let now = now_ms();
        let memory = self.cgroups.memory();
        let _ = replace(&self.memory, &text::memory(&self.host, &memory));
        let processors = text::processors(self.host.processors, self.cgroups.cpu_milli());
        let ticks = self.cgroups.cpu_ticks();
        let age_ms = now.saturating_sub(self.began_ms);
        let _ = replace(&self.statistics, &text::statistics(&self.host, processors, ticks, age_ms));
        if written.processors != Some(processors) {
            let is_whole = replace(&self.processors, &text::processor_list(&self.host, processors))
                .and_then(|()| replace(&self.online, &text::online(processors)));
            written.processors = is_whole.is_ok().then_some(processors);
        }
        written.at_ms = Some(now);
        ticks.0 + ticks.1
    }

    /// Whether somebody has read since the last call.
    fn was_read(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); WATCH_CHUNK_BYTES];
        let mut reader = Reader::new(&self.queue, &mut buffer);
        let mut was_read = false;
        loop {
            match reader.next() {
                Ok(_) => was_read = true,
                Err(Errno::INTR) => continue,
                Err(_) => return was_read,
            }
            // What comes meanwhile is the next call's: a busy reader does not hold this thread.
            if reader.is_buffer_empty() {
                return was_read;
            }
        }
    }
}

/// When the first thread writes the files again. While it does so often it does not listen to readers, so that reading costs the
/// reader alone.
#[derive(Debug)]
pub(crate) struct Pace {
    next_ms: Option<u64>,
    interval_ms: u64,
    ticks: u64,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self { next_ms: None, interval_ms: VIEW_BUSY_MS, ticks: 0 }
    }

    const fn is_resting(&self) -> bool {
        self.next_ms.is_none() || self.interval_ms > VIEW_BUSY_MS
    }

    /// What to wait for, where readers are listened to.
    pub(crate) fn queue<'a>(&self, view: Option<&'a View>) -> Option<BorrowedFd<'a>> {
        view.filter(|_| self.is_resting()).map(|view| view.queue.as_fd())
    }

    /// How long to wait at most.
    pub(crate) fn rest(&self) -> Option<Timespec> {
        let left = self.next_ms?.saturating_sub(now_ms());
        let seconds = i64::try_from(left / 1000).unwrap_or(i64::MAX);
        Some(Timespec { tv_sec: seconds, tv_nsec: i64::try_from(left % 1000 * 1_000_000).unwrap_or(0) })
    }

    /// Does what is due. `is_heard`: somebody reads; `is_occupied`: a process runs that was started here.
    pub(crate) fn turn(&mut self, view: &View, is_heard: bool, is_occupied: bool) {
        let now = now_ms();
        let is_woken = self.is_resting() && !view.is_resting.load(Ordering::Relaxed);
        if is_woken {
            // Whoever woke this thread has written them.
            self.interval_ms = VIEW_BUSY_MS;
            self.next_ms = Some(now + VIEW_BUSY_MS);
        } else if is_heard || self.next_ms.is_some_and(|next| next <= now) {
            let was_read = view.was_read();
            let before = std::mem::replace(&mut self.ticks, view.write());
            let is_busy = was_read || self.ticks > before;
            self.interval_ms = if is_busy { VIEW_BUSY_MS } else { (self.interval_ms * 2).min(VIEW_IDLE_MS_MAX) };
            self.next_ms = (was_read || is_occupied).then_some(now + self.interval_ms);
        }
        view.is_resting.store(self.is_resting(), Ordering::Relaxed);
    }
}

fn content(mut file: &File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not known of the host.
    let _ = file.by_ref().take(VIEW_FILE_BYTES_MAX).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a file in place: whoever has it open goes on reading it.
fn replace(file: &File, text: &str) -> std::io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)?;
    let length = text.len() as u64;
    if file.metadata()?.len() == length { Ok(()) } else { file.set_len(length) }
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}
