//! A daemon of its own for a test, with everything that it made gone afterwards, also where the test fails.
//!
//! `Daemon::start().await` is all that most tests need. The state directory is a temporary one, the port a free one, ids are
//! random: tests run side by side. It makes no assertion but that the daemon starts and ends.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use system_tests::limits::IDLE_CONNECTION;
use system_tests::process::binary;
use tokio::time::Instant;

/// How long the daemon may take to start or to end; for a machine that builds other things meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How often a file or a state is looked at that nothing tells of.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Configuration, as YAML, beside the paths that the fixture sets.
    pub(crate) config: String,
    /// Variables of its environment.
    pub(crate) variables: Vec<(String, String)>,
    /// The daemon's own `/etc/resolv.conf`, in a mount namespace of its own.
    pub(crate) resolver: Option<String>,
    /// Where the state directory is made; with the system's temporary files where absent.
    pub(crate) folder: Option<&'static str>,
    /// Its hard limit of open files, where it is another than the test's.
    pub(crate) open_files: Option<u64>,
}

/// A running daemon. Dropping it ends every sandbox and removes the state.
pub(crate) struct Daemon {
    child: Option<Child>,
    folder: tempfile::TempDir,
    options: Options,
    http: reqwest::Client,
    url: String,
    key: String,
    starts: usize,
    uid_base: u32,
    /// Processes of its range that were there before it: an earlier run that was cut off left them, and they are no leak of this one.
    strangers: HashSet<u32>,
    /// Holds the range that begins there.
    _uids: std::fs::File,
}

impl Daemon {
    /// A daemon with every default.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// A daemon with a configuration, in YAML.
    pub(crate) async fn configured(config: &str) -> Self {
        Self::start_with(Options { config: config.to_owned(), ..Options::default() }).await
    }

    /// A daemon with these options.
    pub(crate) async fn start_with(options: Options) -> Self {
        assert!(rustix::process::geteuid().is_root(), "tests of the sandbox runtime run as root");
        // Clients that are built before there is a provider panic.
        mote::tls::install_provider();
        let place = options.folder.map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::Builder::new().prefix("mote-sandbox-test-").tempdir_in(place).unwrap();
        // The daemon's own user has to reach its folder.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let (uid_base, uids) = uid_base();
        let mut daemon = Self {
            child: None,
            folder,
            options,
            http: reqwest::Client::builder().pool_idle_timeout(IDLE_CONNECTION).build().unwrap(),
            url: String::new(),
            key: String::new(),
            starts: 0,
            uid_base,
            strangers: HashSet::new(),
            _uids: uids,
        };
        daemon.strangers = daemon.processes().into_iter().collect();
        daemon.serve().await;
        daemon
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The configuration's file.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// The API's address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The API key that the daemon made at its first start.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    fn spawn(&mut self, variables: &[(String, String)]) -> PathBuf {
        self.starts += 1;
        let folder = self.folder.path();
        let config = folder.join("config.yaml");
        let lines = [
            "listen: 127.0.0.1:0".to_owned(),
            format!("state: {}", folder.join("state").display()),
            format!("run: {}", folder.join("run").display()),
            format!("init: {}", binary::mote_sandbox_init().unwrap().display()),
            format!("uid_base: {}", self.uid_base),
            "on_stop: remove".to_owned(),
        ];
        let own = |line: &&String| {
            let field = line.split(':').next().unwrap_or_default();
            !self.options.config.lines().any(|other| other.starts_with(&format!("{field}:")))
        };
        let lines: Vec<&String> = lines.iter().filter(own).collect();
        let lines = lines.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        std::fs::write(&config, format!("{lines}\n{}\n", self.options.config)).unwrap();
        let log = folder.join(format!("log.{}", self.starts));
        let program = binary::mote_sandboxd().unwrap();
        let mut command = match (&self.options.resolver, self.options.open_files) {
            (None, None) => Command::new(program),
            (Some(text), _) => {
                let file = folder.join("resolv.conf");
                std::fs::write(&file, text).unwrap();
                let mut command = Command::new("unshare");
                let script = "mount --bind \"$0\" \"$(realpath /etc/resolv.conf)\" && exec \"$@\"";
                command.args(["--mount", "sh", "-c", script]).arg(file).arg(program);
                command
            }
            (None, Some(limit)) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={limit}:{limit}")).arg(program);
                command
            }
        };
        command
            .args(["serve", "--config"])
            .arg(&config)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.join("output")).unwrap())
            .stderr(std::fs::File::create(&log).unwrap());
        self.child = Some(command.spawn().unwrap());
        log
    }

    /// Starts the daemon and waits until it listens; or says what it logged.
    async fn serve(&mut self) {
        let variables = self.options.variables.clone();
        let log = self.spawn(&variables);
        self.url = match listening(&log, self.child.as_mut().unwrap()) {
            Some(address) => format!("http://{address}"),
            None => panic!("the daemon does not start: {}", std::fs::read_to_string(&log).unwrap()),
        };
        self.key = std::fs::read_to_string(self.state().join("daemon/admin.key")).unwrap().trim().to_owned();
    }

    /// Ends the daemon as `kill -9` does, and waits until it is gone. Sandboxes live on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Tells the daemon to look at its files again.
    pub(crate) fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Waits for the daemon to end by itself, as at a crash point.
    pub(crate) async fn ended(&mut self) {
        let mut child = self.child.take().unwrap();
        let since = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < PATIENCE, "the daemon does not end");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts the daemon again, on the same state, without the variables of before.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.options.variables.clear();
        self.serve().await;
    }

    /// Starts the daemon again, on the same state, so that it ends at a crash point. Sandboxes are adopted meanwhile.
    pub(crate) async fn crash_at(&mut self, point: &str) {
        self.kill();
        self.options.variables = vec![("MOTE_CRASH_AT".to_owned(), point.to_owned())];
        self.serve().await;
    }

    /// Ends every first process from the host, those that wait for a sandbox to come included.
    pub(crate) fn kill_first_processes(&self) {
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// A request with the API key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).header("x-api-key", &self.key)
    }

    /// A request with a JSON body (none where it is null); the status and the answer.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut request = self.request(method, path);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A request that succeeds.
    pub(crate) async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method.clone(), path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}\n{}", self.log());
        answer
    }

    /// Makes a sandbox of a specification; its id.
    pub(crate) async fn create(&self, spec: Value) -> String {
        let sandbox = self.done(Method::POST, "/v1/sandboxes", json!({ "spec": spec })).await;
        sandbox["id"].as_str().unwrap().to_owned()
    }

    /// Writes a file inside, as root.
    pub(crate) async fn put(&self, id: &str, path: &str, content: impl Into<reqwest::Body>) {
        let request = self.request(Method::PUT, &format!("/v1/sandboxes/{id}/files?user=root&path={path}"));
        let response = request.body(content).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
    }

    /// Id of the daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Runs a line in a shell as root; the result.
    pub(crate) async fn exec(&self, id: &str, line: &str) -> Value {
        let body = json!({ "command": line, "user": "root" });
        self.done(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await
    }

    /// Runs a line in a shell as root, which succeeds; what it printed.
    pub(crate) async fn run(&self, id: &str, line: &str) -> String {
        let result = self.exec(id, line).await;
        assert_eq!(result["exit"], json!({"code": 0}), "{line}: {result}");
        result["stdout"].as_str().unwrap().to_owned()
    }

    /// The state of a sandbox.
    pub(crate) async fn state_of(&self, id: &str) -> String {
        let sandbox = self.done(Method::GET, &format!("/v1/sandboxes/{id}"), Value::Null).await;
        sandbox["state"].as_str().unwrap().to_owned()
    }

    /// Waits until a sandbox is in a state.
    pub(crate) async fn until(&self, id: &str, state: &str) {
        let since = Instant::now();
        while self.state_of(id).await != state {
            assert!(since.elapsed() < PATIENCE, "{id} does not become {state}\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the daemon logged since its last start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("log.{}", self.starts))).unwrap_or_default()
    }

    /// Waits until the daemon's log has a text: a thread of its own writes it, after the answer perhaps.
    pub(crate) async fn logged(&self, text: &str) {
        let since = Instant::now();
        while !self.log().contains(text) {
            assert!(since.elapsed() < PATIENCE, "the log does not say {text:?}\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// The daemon's log with everything that was said before this: what it says of a program that is run now comes after it.
    pub(crate) async fn whole_log(&self, id: &str) -> String {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let trace = format!("{:032x}", (0xa5_u128 << 120) + u128::from(NEXT.fetch_add(1, Ordering::Relaxed)));
        let request = self.request(Method::POST, &format!("/v1/sandboxes/{id}/exec"));
        let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
        let response = request.json(&json!({ "command": "true", "user": "root" })).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
        self.logged(&trace).await;
        self.log()
    }

    /// Processes on the host whose ids lie in this daemon's ranges: what its sandboxes are made of.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let range = self.uid_base..self.uid_base + UIDS;
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let own = |pid: &u32| !self.strangers.contains(pid) && uid_of(*pid).is_some_and(|uid| range.contains(&uid));
        pids.filter(own).collect()
    }

    /// Ends the daemon in order, its sandboxes with it, and says what is left of them on the host.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        let leave = self.options.config.lines().any(|line| line.starts_with("on_stop: leave"));
        if leave || self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|ended| ended.is_some())) {
            self.kill();
            self.options.config = String::new();
            let log = self.spawn(&[]);
            listening(&log, self.child.as_mut().unwrap());
        }
        let Some(mut child) = self.child.take() else { return Vec::new() };
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let since = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if since.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                return vec!["the daemon did not end".to_owned()];
            }
            std::thread::sleep(POLL);
        }
        self.leftovers()
    }

    /// What is left on the host, given a moment for what ends by itself.
    fn leftovers(&self) -> Vec<String> {
        let since = Instant::now();
        loop {
            let mut left: Vec<String> = self.processes().iter().map(|pid| format!("process {pid}")).collect();
            let folder = self.folder.path().display().to_string();
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")));
            left.extend(loop_devices(self.folder.path()));
            left.extend(cgroups(&self.state()).iter().map(|folder| format!("cgroup {}", folder.display())));
            left.extend(holders(self.folder.path(), self.uid_base..self.uid_base + UIDS, &self.strangers));
            if left.is_empty() || since.elapsed() > PATIENCE {
                return left;
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.starts == 0 || (self.url.is_empty() && std::thread::panicking()) {
            self.kill();
            return;
        }
        let left = self.stop();
        if !left.is_empty() && !std::thread::panicking() {
            panic!("the daemon left behind: {left:?}\n{}", self.log());
        }
    }
}

/// Ids of one daemon's ranges.
const UIDS: u32 = 65_536 * 64;

/// Ranges of host ids for daemons, from here; systemd leaves these ids unused.
const UIDS_FIRST: u32 = 0x7000_0000;
/// How many such ranges there are.
const UID_RANGES: u32 = 56;

/// A range of host ids that is this daemon's alone: daemons on one host need different ones, those of another run of the tests
/// too. It is free again when the file is closed.
fn uid_base() -> (u32, std::fs::File) {
    let folder = std::env::temp_dir().join("mote-sandbox-test-ids");
    std::fs::create_dir_all(&folder).unwrap();
    let since = Instant::now();
    loop {
        for number in 0..UID_RANGES {
            let file = std::fs::File::create(folder.join(number.to_string())).unwrap();
            if file.try_lock().is_ok() {
                return (UIDS_FIRST + number * UIDS, file);
            }
        }
        assert!(since.elapsed() < PATIENCE, "every range of ids is in use");
        std::thread::sleep(POLL);
    }
}

fn uid_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// Cgroups of a daemon with this state, in every hierarchy.
fn cgroups(state: &Path) -> Vec<PathBuf> {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(state.as_os_str().as_encoded_bytes());
    let instance: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let below = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let hierarchy = Path::new("/sys/fs/cgroup").join(controllers.trim_start_matches("name="));
        let folder = hierarchy.join(path.trim_start_matches('/')).join(format!("mote-{instance}"));
        // The daemon's own folder may stay; what stands in it is of sandboxes.
        Some(
            std::fs::read_dir(folder)
                .ok()?
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| path.is_dir()),
        )
    };
    own.lines().filter_map(below).flatten().collect()
}

/// What other processes hold of this daemon's: descriptors and directories below its folder, and namespaces over its ids.
fn holders(folder: &Path, ids: std::ops::Range<u32>, strangers: &HashSet<u32>) -> Vec<String> {
    let mut held = Vec::new();
    let own = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let pid = process.file_name().to_string_lossy().into_owned();
        let Ok(number) = pid.parse() else { continue };
        if pid == own || strangers.contains(&number) {
            continue;
        }
        let links = ["cwd", "root", "exe"].map(|name| process.path().join(name)).into_iter();
        let open = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().filter_map(Result::ok);
        for link in links.chain(open.map(|entry| entry.path())) {
            let to = std::fs::read_link(&link).unwrap_or_default();
            if to.starts_with(folder) {
                held.push(format!("{} of {}", link.display(), to.display()));
            }
        }
        let map = std::fs::read_to_string(process.path().join("uid_map")).unwrap_or_default();
        let first = map.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
        if first.into_iter().any(|first| ids.contains(&first)) {
            held.push(format!("process {pid} in a user namespace of its sandboxes"));
        }
    }
    held
}

fn loop_devices(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            Path::new(backing.trim()).starts_with(folder).then(|| format!("loop device of {}", backing.trim()))
        })
        .collect()
}

/// Waits for the line that says where the daemon listens; nothing where it ended first.
fn listening(log: &Path, child: &mut Child) -> Option<String> {
    let since = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(line) = lines.into_iter().find(|line| line["message"] == "listening") {
            return line["address"].as_str().map(str::to_owned);
        }
        if since.elapsed() > PATIENCE || matches!(child.try_wait(), Ok(Some(_))) {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
