//! What all threads of the first process share: the configuration, the processes that were started, leftover pipes.
//!
//! It performs nothing: threads do, and look here for what others did.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Configuration;
use rustix::event::{EventfdFlags, eventfd};

use crate::failure::{Result, failed};
use crate::limits::{OOM_SCORE_MAX, OOM_SCORE_MORE, OPERATIONS_MAX};
use crate::process::Table;
use crate::view::View;

/// Shared by all threads.
#[derive(Debug)]
pub(crate) struct Sandbox {
    configuration: Mutex<Arc<Configuration>>,
    table: Mutex<Table>,
    operations: AtomicUsize,
    drains: Mutex<Vec<Arc<OwnedFd>>>,
    wake: OwnedFd,
    /// Soft and hard limit of open files that programs get.
    pub(crate) open_files: Option<(u64, u64)>,
    /// What the kernel ends before this process, where memory is short: `/proc/PID/oom_score_adj` of every other.
    pub(crate) oom_score: Option<CString>,
    /// This is the first process of its namespace, so that what is orphaned is its own.
    pub(crate) is_first: bool,
    /// Directory of the files that show the sandbox's bounds, where it has them.
    view_folder: Option<OwnedFd>,
    view: OnceLock<Option<View>>,
}

impl Sandbox {
    pub(crate) fn new(open_files: Option<(u64, u64)>, is_first: bool, view: Option<OwnedFd>) -> Result<Self> {
        Ok(Self {
            configuration: Mutex::default(),
            table: Mutex::default(),
            operations: AtomicUsize::new(0),
            drains: Mutex::default(),
            wake: bell()?,
            open_files,
            oom_score: oom_score(),
            is_first,
            view_folder: view,
            view: OnceLock::new(),
        })
    }

    /// The configuration as it is now.
    pub(crate) fn configuration(&self) -> Arc<Configuration> {
        held(&self.configuration).clone()
    }

    pub(crate) fn configure(&self, configuration: Configuration) {
        *held(&self.configuration) = Arc::new(configuration);
    }

    /// The processes that were started here and live.
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        held(&self.table)
    }

    /// Counts an operation in, until the permit is dropped.
    pub(crate) fn permit(self: &Arc<Self>) -> Option<Permit> {
        let before = self.operations.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        (before < OPERATIONS_MAX).then_some(permit)
    }

    /// Hands a pipe over whose writer was left behind by a process that ended; the first thread reads it empty.
    pub(crate) fn leave(&self, pipe: Arc<OwnedFd>) {
        held(&self.drains).push(pipe);
        ring(&self.wake);
    }

    /// The pipes handed over since the last call.
    pub(crate) fn take_left(&self) -> Vec<Arc<OwnedFd>> {
        silence(&self.wake);
        std::mem::take(&mut *held(&self.drains))
    }

    /// Brings the files that show the sandbox's bounds up to date, before something is done that may look at them. The first call
    /// takes them over, and whoever calls meanwhile waits for that. Without them the sandbox works: they then show the host.
    pub(crate) fn refresh_view(&self) {
        let open = || View::open(self.view_folder.as_ref()?).ok();
        if self.view.get_or_init(open).as_ref().is_some_and(View::wake) {
            ring(&self.wake);
        }
    }

    /// The files, once they are taken over.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.get()?.as_ref()
    }

    /// Readable when a pipe was handed over, or the first thread is to look at the view more often.
    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.wake
    }
}

/// One operation under way.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Sandbox>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.operations.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer where [`Sandbox::permit`] gives none.
pub(crate) fn too_many_operations() -> Failure {
    Failure::new(Code::Exhausted, "too many operations are under way in this sandbox").with("limit", OPERATIONS_MAX)
}

/// Locks; a thread that failed while it held the lock leaves nothing half done here.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The score of processes to come, from this process's own. None where it cannot be read, or there is no room above.
fn oom_score() -> Option<CString> {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    CString::new(own.saturating_add(OOM_SCORE_MORE).min(OOM_SCORE_MAX).to_string()).ok()
}

/// A descriptor by which one thread wakes another.
pub(crate) fn bell() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| failed("make an event descriptor", errno))
}

/// Makes a bell readable.
pub(crate) fn ring(bell: &OwnedFd) {
    // It fails only when it is readable already, many times over.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// Makes it unreadable again.
pub(crate) fn silence(bell: &OwnedFd) {
    let _ = rustix::io::read(bell, &mut [0_u8; 8]);
}
