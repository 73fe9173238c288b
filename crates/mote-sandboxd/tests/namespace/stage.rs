//! A keeper of its own for each test, on a state directory in memory, and what asks it and the sandboxes.
//!
//! Whatever a test does, its sandboxes are ended, and what they held must be gone.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use mote_sandbox_api::guest::{Exit, Start};
use mote_sandboxd::filesystem::keeper::{Origin, Verb as Roots};
use mote_sandboxd::filesystem::{Backend, id::Id, recipe::Lower};
use mote_sandboxd::guest::{Event, Guest};
use mote_sandboxd::keeper::{self, Settings, client::Client};
use mote_sandboxd::namespace::{Containers, Launch, Started};

/// Time after which a test that waits for something fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keeper and its client.
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) client: Client,
    pub(crate) containers: Containers,
}

/// What a script left.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) exit: Exit,
}

impl Output {
    pub(crate) fn succeeded(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

pub(crate) fn daemon_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mote-sandboxd"))
}

/// What `cargo xtask test` says of where things are.
#[expect(clippy::disallowed_methods, reason = "the one place of these tests that reads the environment")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The first process's program: the one that is named, or else one that is built now.
fn init_program() -> PathBuf {
    if let Some(named) = variable("MOTE_SANDBOX_INIT_BIN") {
        return named.into();
    }
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        let built =
            std::process::Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "mote-sandbox-init"]).status();
        assert!(built.unwrap().success(), "mote-sandbox-init builds");
    });
    daemon_program().with_file_name("mote-sandbox-init")
}

pub(crate) fn settings(folder: &Path) -> Settings {
    assert!(rustix::process::geteuid().is_root(), "these tests need root: they make namespaces, mounts and cgroups");
    let mut settings = Settings::new(folder.join("state"), folder.join("run"), init_program());
    settings.filesystem.backend = Some(Backend::Plain);
    settings.filesystem.host_root = true;
    settings.ready_cells = 0;
    settings.ready_cells_with_network = 0;
    std::fs::create_dir_all(&settings.filesystem.state).unwrap();
    settings
}

impl Stage {
    pub(crate) fn start(folder: tempfile::TempDir, settings: &Settings) -> Self {
        let client = Client::start(keeper::spawn(daemon_program(), settings).unwrap()).unwrap();
        Self { folder, containers: Containers::new(client.clone()), client }
    }

    pub(crate) async fn root(&self, id: &str) {
        let root = Roots::RootNew {
            sandbox: Id::new("sandbox", id).unwrap(),
            origin: Origin::Image(vec![Lower::Host]),
            quota_bytes: None,
        };
        self.client.call(keeper::Verb::Filesystem(root)).await.unwrap();
    }

    /// Launches a sandbox from the host's root.
    pub(crate) async fn launch(&self, id: &str, change: impl FnOnce(&mut Launch)) -> (Started, Guest) {
        self.root(id).await;
        self.relaunch(id, change).await
    }

    pub(crate) async fn relaunch(&self, id: &str, change: impl FnOnce(&mut Launch)) -> (Started, Guest) {
        let started = self.containers.start(plan(id, change)).await.unwrap();
        let guest = Guest::new(started.guest.clone());
        guest.hello().await.unwrap();
        (started, guest)
    }
}

pub(crate) fn plan(id: &str, change: impl FnOnce(&mut Launch)) -> Launch {
    let mut launch = Launch {
        id: id.to_owned(),
        hostname: "box".to_owned(),
        network: false,
        resources: mote_sandbox_api::spec::Resources::default(),
        mounts: Vec::new(),
    };
    change(&mut launch);
    launch
}

/// Runs a script as root inside, and returns what it wrote to both outputs.
pub(crate) async fn run(guest: &Guest, script: &str) -> Output {
    let start = Start {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        user: Some("root".to_owned()),
        cwd: Some("/".to_owned()),
        ..Start::default()
    };
    let follow = async {
        let mut stream = guest.start(start).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(event) = stream.next_event().await.unwrap() {
            match event {
                Event::Stdout(part) | Event::Stderr(part) | Event::Terminal(part) => bytes.extend_from_slice(&part),
                Event::Exited { exit, .. } => {
                    return Output { text: String::from_utf8_lossy(&bytes).into_owned(), exit };
                }
                Event::Started { .. } => {}
            }
        }
        panic!("the script {script:?} ended without an exit");
    };
    tokio::time::timeout(PATIENCE, follow).await.unwrap_or_else(|_| panic!("the script {script:?} takes too long"))
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}");
}

/// A process, to be waited for.
pub(crate) fn watched(pid: u32) -> OwnedFd {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
}

/// The process that started another one: of a sandbox's first process, the keeper.
pub(crate) fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap()
}

/// Waits until a process has ended.
pub(crate) async fn ended(process: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    eventually("the process ended", || {
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    })
    .await;
}

/// Waits until nothing of a test's own sandboxes is left on the host, and says what is where that does not come true: folders,
/// cgroups, processes (and with each its namespaces), mounts, and descriptors of this process into any of these.
pub(crate) async fn nothing_left(settings: &Settings) {
    for _ in 0..2000 {
        if left_over(settings).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("left behind: {:#?}", left_over(settings));
}

fn left_over(settings: &Settings) -> Vec<String> {
    let entries =
        |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).collect::<Vec<_>>();
    let (run, state) = (settings.run.display().to_string(), settings.filesystem.state.display().to_string());
    let mut left: Vec<String> = entries(&settings.run.join("sandboxes"))
        .iter()
        .map(|entry| format!("folder {}", entry.path().display()))
        .collect();
    left.extend(groups(settings).iter().map(|folder| format!("cgroup {}", folder.display())));
    let group = format!("/mote-{}", instance(&settings.filesystem.state));
    for entry in entries(Path::new("/proc")) {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if pid.bytes().all(|byte| byte.is_ascii_digit()) && read("cgroup").contains(&group) {
            let namespaces = entries(&entry.path().join("ns"));
            let namespaces = namespaces.iter().filter_map(|entry| std::fs::read_link(entry.path()).ok());
            let namespaces = namespaces.map(|to| to.display().to_string()).collect::<Vec<_>>().join(" ");
            left.push(format!("process {pid} ({}) in {namespaces}", read("comm").trim()));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = |text: &str| text.contains(&run) || text.contains(&state);
    left.extend(mounts.lines().filter(|line| ours(line)).map(|line| format!("mount {line}")));
    for entry in entries(Path::new("/proc/self/fd")) {
        let to = std::fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        if to.contains(&group) || to.starts_with(&run) {
            left.push(format!("descriptor {} of {to}", entry.file_name().to_string_lossy()));
        }
    }
    left
}

/// Cgroups of a test's sandboxes, wherever they are.
pub(crate) fn groups(settings: &Settings) -> Vec<PathBuf> {
    let name = format!("mote-{}", instance(&settings.filesystem.state));
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let below = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let folder = Path::new("/sys/fs/cgroup")
            .join(controllers.trim_start_matches("name="))
            .join(path.trim_start_matches('/'));
        Some(folder.join(&name)).filter(|folder| folder.exists())
    };
    own.lines().filter_map(below).collect()
}

fn instance(state: &Path) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(state.as_os_str().as_encoded_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a test with a keeper of its own. Afterwards nothing of its sandboxes may be left.
pub(crate) fn with_stage<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Arc<Stage>) -> F) {
    with_settings(|_| {}, test);
}

/// [`with_stage`] with other settings.
pub(crate) fn with_settings<F: Future<Output = ()> + Send + 'static>(
    change: impl FnOnce(&mut Settings),
    test: impl FnOnce(Arc<Stage>) -> F,
) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut settings = settings(folder.path());
    change(&mut settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = Arc::new(Stage::start(folder, &settings));
        let outcome = tokio::spawn(test(Arc::clone(&stage))).await;
        for living in stage.containers.living().await.unwrap() {
            stage.containers.end(&living.id).await.unwrap();
        }
        // The keeper ends with its last client, and takes what waits with it.
        let folder = Arc::into_inner(stage).map(|stage| stage.folder);
        nothing_left(&settings).await;
        drop(folder);
        outcome.unwrap();
    });
}
