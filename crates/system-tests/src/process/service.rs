//! `mote serve` as a child process, and a client for it.
//!
//! It does not know what an agent is; the test writes `agent.yaml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::process::Command;

use super::{Process, binary};
use crate::limits::{IDLE_CONNECTION, PATIENCE, POLL};

/// How to start `mote serve`.
#[derive(Debug, Clone)]
pub struct Launch {
    binary: Option<PathBuf>,
    config: PathBuf,
    state: PathBuf,
    variables: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Launch {
    /// Serves an `agent.yaml` with a state folder.
    #[must_use]
    pub fn new(config: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { binary: None, config: config.into(), state: state.into(), variables: Vec::new(), arguments: Vec::new() }
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another argument.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Aborts at a crash point (`name` or `name:nth`), in the build that has them.
    ///
    /// # Errors
    /// When that build fails.
    pub fn crashing_at(self, point: &str) -> anyhow::Result<Self> {
        Ok(self.with_crash_points()?.env("MOTE_CRASH_AT", point))
    }

    /// Stops itself (SIGSTOP) at a crash point (`name` or `name:nth`), in the build that has them.
    ///
    /// # Errors
    /// When that build fails.
    pub fn stopping_at(self, point: &str) -> anyhow::Result<Self> {
        Ok(self.with_crash_points()?.env("MOTE_STOP_AT", point))
    }

    /// In the build with crash points, crashing nowhere.
    ///
    /// # Errors
    /// When that build fails.
    pub fn with_crash_points(mut self) -> anyhow::Result<Self> {
        self.binary = Some(binary::mote_with_crash_points()?.to_path_buf());
        Ok(self)
    }

    /// Starts it without waiting for anything.
    ///
    /// # Errors
    /// When it does not build or start.
    pub fn spawn(&self) -> anyhow::Result<Process> {
        let program = match &self.binary {
            Some(path) => path.as_path(),
            None => binary::mote()?,
        };
        let mut command = Command::new(program);
        command.arg("serve").arg(&self.config);
        command.args(["--listen", "127.0.0.1:0", "--state"]).arg(&self.state).args(&self.arguments);
        clean(&mut command);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Process::spawn(command)
    }

    /// Starts it and waits until `/ready` says yes.
    ///
    /// # Errors
    /// When it does not become ready; the message has its output.
    pub async fn start(&self) -> anyhow::Result<Service> {
        let mut service = self.listen().await?;
        service.ready().await?;
        Ok(service)
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it does not; the message has its output.
    pub async fn listen(&self) -> anyhow::Result<Service> {
        let mut process = self.spawn()?;
        let address = process.line(address_of).await?;
        Ok(Service { process, address, client: client() })
    }
}

/// The caller's environment must not change what a test sees.
pub fn clean(command: &mut Command) {
    for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "RUST_LOG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.env("NO_COLOR", "1");
}

/// Finds the address in the line that says where the service listens.
fn address_of(line: &str) -> Option<SocketAddr> {
    if !line.to_ascii_lowercase().contains("listen") {
        return None;
    }
    let at = line.find("127.0.0.1:")?;
    let text: String = line[at..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
    text.trim_end_matches(['.', ':']).parse().ok()
}

/// A plain HTTP client. Does not follow redirects and keeps no proxy.
#[must_use]
pub fn client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // A client that is built before a provider is installed panics.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.timeout(PATIENCE * 2).pool_idle_timeout(IDLE_CONNECTION).build().unwrap_or_default()
}

/// A running `mote serve`. Dropping it kills it.
pub struct Service {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// A client for it.
    pub client: reqwest::Client,
}

impl Service {
    /// Scheme, host, port and path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request to it.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// A GET.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    /// A POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    /// Waits until `/ready` says yes.
    ///
    /// # Errors
    /// When it ends or does not say so in time; the message has the last answer and the output.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let mut last = String::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.process.alive() && tokio::time::Instant::now() < deadline {
            match self.get("/ready").send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = answer.text().await.unwrap_or_default(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("it never became ready: {last}; it wrote:\n{}", self.process.output());
    }

    /// Submits a task and returns its id.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn submit(&self, body: &Value) -> anyhow::Result<String> {
        let answer = self.post("/tasks", body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if status != 202 {
            bail!("POST /tasks answered {status}: {text}");
        }
        let task: Value = serde_json::from_str(&text)?;
        Ok(task["id"].as_str().context("the task has no id")?.to_owned())
    }

    /// A task as it stands.
    ///
    /// # Errors
    /// When it is not answered with 200.
    pub async fn task(&self, id: &str) -> anyhow::Result<Value> {
        Ok(self.get(&format!("/tasks/{id}")).send().await?.error_for_status()?.json().await?)
    }

    /// Waits until a task fits.
    ///
    /// # Errors
    /// When it never does; the message has the task and the output.
    pub async fn task_when(&self, id: &str, fits: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let found = async {
            loop {
                // A busy or restarting service may refuse once: the next look decides.
                if let Ok(task) = self.task(id).await {
                    if fits(&task) {
                        return task;
                    }
                    last = task;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(task) => Ok(task),
            Err(_) => bail!("the task never fits, it is {last}; the service wrote:\n{}", self.process.output()),
        }
    }

    /// Waits until a task is in a state.
    ///
    /// # Errors
    /// When it never is.
    pub async fn task_in(&self, id: &str, status: &str) -> anyhow::Result<Value> {
        self.task_when(id, |task| task["status"] == status).await
    }

    /// Waits until a task is finished, well or not.
    ///
    /// # Errors
    /// When it never is.
    pub async fn finished(&self, id: &str) -> anyhow::Result<Value> {
        let terminal = ["completed", "failed", "cancelled"];
        self.task_when(id, |task| task["status"].as_str().is_some_and(|status| terminal.contains(&status))).await
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        self.process.signal(rustix::process::Signal::TERM)?;
        self.process.wait().await
    }
}

/// Runs `mote` with arguments to its end.
///
/// # Errors
/// When it does not build, start or end.
pub async fn run_mote(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Finished> {
    let mut command = Command::new(binary::mote()?);
    command.args(arguments).current_dir(folder);
    clean(&mut command);
    command.envs(variables.iter().copied());
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.with_context(|| format!("mote {arguments:?} did not end in time"))??;
    Ok(Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A finished process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// How long a test watches for something that must not happen. Short: the absence is also asserted otherwise.
pub const QUIET: Duration = Duration::from_millis(300);
