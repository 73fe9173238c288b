//! Services that a developer's `mote run` starts beside the run: start, wait until ready, stop.
//!
//! Only `mote run` uses it. Their output goes to log files, never to the terminal. It does not restart what dies.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use mote::limits::{SERVICE_LOG_TAIL_BYTES, SERVICE_PROBE_TIMEOUT, SERVICE_READY_POLL, SERVICE_READY_TIMEOUT};
use tokio::process::{Child, Command};

use super::run_file::ServiceSpec;
use super::terminal::shorten;

/// Running services. Dropping it kills them.
#[derive(Debug, Default)]
pub(crate) struct Services {
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Services {
    /// Starts every service in `folder` and waits until each is ready; their output goes to `logs/NAME.log`.
    ///
    /// If one fails, those that were started are stopped.
    pub(crate) async fn start(specs: &[ServiceSpec], folder: &Path, logs: &Path) -> anyhow::Result<Self> {
        let mut services = Self::default();
        if specs.is_empty() {
            return Ok(services);
        }
        let client =
            mote::tls::http_client(None)?.timeout(SERVICE_PROBE_TIMEOUT).build().context("failed to build a client")?;
        std::fs::create_dir_all(logs).with_context(|| format!("failed to make the folder {}", logs.display()))?;
        for spec in specs {
            services.start_one(spec, folder, logs, &client).await?;
        }
        Ok(services)
    }

    async fn start_one(
        &mut self,
        spec: &ServiceSpec,
        folder: &Path,
        logs: &Path,
        client: &reqwest::Client,
    ) -> anyhow::Result<()> {
        let name = &spec.name;
        // Whatever takes the connection, even to break it, holds the port.
        if let Some(url) = &spec.ready
            && client.get(url).send().await.map_or_else(|error| !error.is_connect(), |_| true)
        {
            bail!(
                "failed to start {name}: something answers at {url} already; stop it, or use --no-services to run with it"
            );
        }
        let log = logs.join(format!("{}.log", file_name(name)));
        let output = std::fs::File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("failed to write {}", log.display()))?;
        let (program, arguments) = spec.command.split_first().context("the command is empty")?;
        let child = Command::new(program)
            .args(arguments)
            .envs(&spec.env)
            .current_dir(folder)
            // A service that reads its input to the end learns of our death, however it comes.
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {name} ({program}); is it installed?"))?;
        self.running.push(Running { name: name.clone(), child, log });
        match &spec.ready {
            Some(url) => self.wait_until_ready(url, client).await,
            None => Ok(()),
        }
    }

    async fn wait_until_ready(&mut self, url: &str, client: &reqwest::Client) -> anyhow::Result<()> {
        let Some(service) = self.running.last_mut() else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + SERVICE_READY_TIMEOUT;
        loop {
            if let Some(status) = service.child.try_wait().context("failed to look after a service")? {
                let tail = log_tail(&service.log);
                bail!(
                    "failed to start {}: it ended with {status}; its log {} ends:\n{tail}",
                    service.name,
                    service.log.display()
                );
            }
            if client.get(url).send().await.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let (name, log) = (&service.name, service.log.display());
                bail!(
                    "failed to start {name}: {url} did not answer within {SERVICE_READY_TIMEOUT:?} (SERVICE_READY_TIMEOUT); its log: {log}"
                );
            }
            tokio::time::sleep(SERVICE_READY_POLL).await;
        }
    }

    /// The services' names.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.running.iter().map(|service| service.name.as_str()).collect()
    }

    /// Stops every service and waits until it is gone.
    pub(crate) async fn stop(mut self) {
        for service in &mut self.running {
            // It may have ended by itself, which is as good.
            let _ = service.child.kill().await;
        }
    }
}

/// A service from a shell command (`--with`).
pub(crate) fn from_shell(command: &str, index: usize) -> ServiceSpec {
    // `exec`, so that stopping the shell stops the command.
    let command = vec!["sh".to_owned(), "-c".to_owned(), format!("exec {command}")];
    ServiceSpec { name: format!("with-{}", index + 1), command, ready: None, env: std::collections::BTreeMap::new() }
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

fn log_tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(SERVICE_LOG_TAIL_BYTES)..];
    let lines =
        String::from_utf8_lossy(tail).lines().map(|line| format!("  {}", shorten(line, 200))).collect::<Vec<_>>();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mote-services-{name}-{}", std::process::id()))
    }

    fn spec(command: &[&str], ready: Option<String>) -> ServiceSpec {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        ServiceSpec { name: "backend".to_owned(), command, ready, env: std::collections::BTreeMap::new() }
    }

    #[tokio::test]
    async fn a_service_that_ends_is_reported_with_its_log() {
        mote::tls::install_provider();
        let logs = logs("ends");
        let dead = spec(&["sh", "-c", "echo no such table; exit 3"], Some("http://127.0.0.1:9/".to_owned()));
        let error = Services::start(&[dead], Path::new("."), &logs).await.unwrap_err().to_string();
        assert!(error.contains("failed to start backend: it ended with exit status: 3"), "{error}");
        assert!(error.ends_with("  no such table"), "{error}");
        std::fs::remove_dir_all(logs).unwrap();
    }

    #[tokio::test]
    async fn what_answers_already_is_not_mistaken_for_the_service() {
        mote::tls::install_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        let answering = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        });
        let logs = logs("taken");
        let error = Services::start(&[spec(&["sleep", "100"], Some(url))], Path::new("."), &logs).await.unwrap_err();
        assert!(error.to_string().contains("something answers at"), "{error}");
        answering.await.unwrap();
        std::fs::remove_dir_all(logs).unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        mote::tls::install_provider();
        let logs = logs("missing");
        let error = Services::start(&[spec(&["no-such-program"], None)], Path::new("."), &logs).await.unwrap_err();
        assert!(error.to_string().contains("(no-such-program); is it installed?"), "{error}");
        std::fs::remove_dir_all(logs).unwrap();
    }
}
