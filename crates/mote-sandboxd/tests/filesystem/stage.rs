//! A keeper on a temporary state directory, and roots mounted from its recipes. Everything is gone when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};

use mote_sandbox_api::error::Failure;
use mote_sandboxd::filesystem::Backend;
use mote_sandboxd::filesystem::id::Id;
use mote_sandboxd::filesystem::keeper::{Keeper, Options, Origin, Outcome, Verb};
use mote_sandboxd::filesystem::recipe::Lower;
use rustix::mount::{MountFlags, UnmountFlags};

pub(crate) const BACKENDS: [Backend; 2] = [Backend::Btrfs, Backend::Plain];

pub(crate) struct Stage {
    keeper: Option<Keeper>,
    mounts: Vec<PathBuf>,
    pub(crate) options: Options,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn id(text: &str) -> Id {
    Id::new("test", text).unwrap()
}

impl Stage {
    pub(crate) fn new(backend: Backend) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount: they run as root only");
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::create_dir_all(image.join("etc")).unwrap();
        fs::write(image.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(image.join("kept"), "from the image").unwrap();
        let mut options = Options::new(folder.path().join("state"));
        options.backend = Some(backend);
        options.pool_bytes = Some(4 << 30);
        options.allowed = vec![image];
        options.program = env!("CARGO_BIN_EXE_mote-sandboxd").into();
        let mut stage = Self { keeper: None, mounts: Vec::new(), options, folder };
        stage.start();
        stage
    }

    pub(crate) fn start(&mut self) {
        self.keeper = Some(Keeper::open(self.options.clone()).unwrap());
    }

    pub(crate) fn stop(&mut self) {
        self.unmount_all();
        self.keeper = None;
    }

    /// Ends the keeper and leaves mounts as they are: another one serves the same state meanwhile.
    pub(crate) fn pause(&mut self) {
        self.keeper = None;
    }

    /// After [`Self::pause`]: waits until the other one is gone.
    pub(crate) fn resume(&mut self) {
        let lock = fs::File::open(self.options.state.join("pool.lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        drop(lock);
        self.start();
    }

    pub(crate) fn keeper(&mut self) -> &mut Keeper {
        self.keeper.as_mut().unwrap()
    }

    pub(crate) fn ask(&mut self, verb: Verb) -> Result<Outcome, Failure> {
        self.keeper().carry_out(verb, Vec::new()).map(|(outcome, _)| outcome)
    }

    pub(crate) fn image(&self) -> Vec<Lower> {
        vec![Lower::Directory(self.folder.path().join("image"))]
    }

    pub(crate) fn root_new(&mut self, sandbox: &str, quota_bytes: Option<u64>) -> PathBuf {
        let origin = Origin::Image(self.image());
        self.ask(Verb::RootNew { sandbox: id(sandbox), origin, quota_bytes }).unwrap();
        self.mount(sandbox)
    }

    /// Mounts a root as a sandbox would see it.
    pub(crate) fn mount(&mut self, sandbox: &str) -> PathBuf {
        let recipe = self.keeper().recipe(sandbox).unwrap();
        let at = self.folder.path().join("mounts").join(sandbox);
        fs::create_dir_all(&at).unwrap();
        let lower: Vec<_> = recipe.lower.iter().map(|path| path.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            recipe.upper.display(),
            recipe.work.display()
        );
        let data = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("overlay", &at, c"overlay", MountFlags::empty(), data.as_c_str()).unwrap();
        self.mounts.push(at.clone());
        at
    }

    pub(crate) fn unmount(&mut self, at: &Path) {
        rustix::mount::unmount(at, UnmountFlags::DETACH).unwrap();
        self.mounts.retain(|mount| mount != at);
    }

    pub(crate) fn snapshot(&mut self, sandbox: &str, snapshot: &str) -> bool {
        match self.ask(Verb::Snapshot { sandbox: id(sandbox), snapshot: id(snapshot), quiet: true }).unwrap() {
            Outcome::Taken { remount } => remount,
            other => panic!("{other:?}"),
        }
    }

    /// A snapshot, and the mount that is good afterwards.
    pub(crate) fn snapshot_mounted(&mut self, sandbox: &str, snapshot: &str, at: PathBuf) -> PathBuf {
        if self.snapshot(sandbox, snapshot) {
            self.unmount(&at);
            return self.mount(sandbox);
        }
        at
    }

    pub(crate) fn rollback_mounted(&mut self, sandbox: &str, snapshot: &str, at: &Path) -> PathBuf {
        self.unmount(at);
        self.ask(Verb::RollbackBegin { sandbox: id(sandbox), snapshot: id(snapshot) }).unwrap();
        self.ask(Verb::RollbackEnd(id(sandbox))).unwrap();
        self.mount(sandbox)
    }

    pub(crate) fn pool(&self) -> PathBuf {
        self.options.state.join("pool")
    }

    /// Moves the state to a disk of its own, on which so many files more can be made.
    pub(crate) fn on_disk_with_files_left(&mut self, left: u64) {
        self.stop();
        let state = self.options.state.clone();
        fs::create_dir_all(&state).unwrap();
        rustix::mount::mount("tmpfs", &state, c"tmpfs", MountFlags::empty(), c"nr_inodes=300").unwrap();
        self.mounts.push(state.clone());
        self.keeper = Some(Keeper::open(self.options.clone()).unwrap());
        let origin = Origin::Image(self.image());
        self.ask(Verb::RootNew { sandbox: id("one"), origin, quota_bytes: None }).unwrap();
        self.fill_up(left);
    }

    fn fill_up(&self, left: u64) {
        let free = || rustix::fs::statvfs(&self.options.state).unwrap().f_favail;
        for number in 0.. {
            if free() <= left {
                return;
            }
            fs::write(self.options.state.join(format!("filler{number}")), "").unwrap();
        }
    }

    fn unmount_all(&mut self) {
        for at in self.mounts.drain(..) {
            let _ = rustix::mount::unmount(at, UnmountFlags::DETACH);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.unmount_all();
        self.keeper = None;
    }
}
