//! The test's internet, the host beside it, and sandboxes on that host.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::network::{Policy, Rule, Verdict};
use mote_sandboxd::network::decision::{Decision, Reason};
use mote_sandboxd::network::resolve::Upstream;
use mote_sandboxd::network::ruleset::Ruleset;
use mote_sandboxd::network::secret::{Value, Vault};
use mote_sandboxd::network::{Network, Settings, Sockets, keeper};
use tokio::runtime::Runtime;

use super::internet::{Internet, METADATA, OTHER, PRIVATE, RESOLVER, SERVER};
use super::namespaces::Namespace;

/// The value of the one secret of the test's vault.
pub const SECRET: &str = "s3cret-value-of-the-test";

/// The vault: one secret that stays, and one that a test sets and removes.
#[derive(Debug, Default)]
pub struct Secrets {
    pub changing: Mutex<Option<String>>,
}

impl Vault for Secrets {
    fn reveal(&self, secret: &str) -> Result<Option<Value>, Failure> {
        Ok(match secret {
            "token" => Some(Value::new(SECRET.to_owned())),
            "changing" => self.changing.lock().unwrap().clone().map(Value::new),
            _ => None,
        })
    }
}

pub struct World {
    pub internet: Internet,
    pub host: Namespace,
    pub network: Network,
    pub secrets: Arc<Secrets>,
    directory: tempfile::TempDir,
    runtime: Runtime,
    _outside: (Namespace, Runtime),
}

/// The world that the tests share. What holds its namespaces ends with this process.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::new)
}

impl World {
    fn new() -> Self {
        let (outside, host) = (Namespace::new(), Namespace::new());
        host.ip("link set lo up");
        host.ip(&format!("link add out0 type veth peer name in0 netns {}", outside.pid()));
        host.ip("addr add 198.51.100.1/24 dev out0");
        host.ip("link set out0 up");
        outside.ip("link set lo up");
        outside.ip("link set in0 up");
        for address in [SERVER, OTHER, RESOLVER] {
            outside.ip(&format!("addr add {address}/24 dev in0"));
        }
        // What the host itself can reach, and a sandbox must not.
        for address in [PRIVATE, METADATA] {
            outside.ip(&format!("addr add {address}/32 dev in0"));
            host.ip(&format!("route add {address}/32 dev out0"));
        }
        let outside_runtime = outside.runtime();
        let internet = outside_runtime.block_on(async { tokio::spawn(Internet::start()).await.unwrap() });
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("resolv.conf"), keeper::RESOLV_CONF).unwrap();
        let secrets = Arc::new(Secrets::default());
        let network = Network::new(Settings {
            directory: directory.path().join("network"),
            resolver: Upstream::Server(SocketAddr::new(IpAddr::V4(RESOLVER), 53)),
            roots: vec![internet.root.clone()],
            vault: secrets.clone(),
            now_ms: Arc::new(|| 1_000_000),
        })
        .unwrap();
        let both = format!("{}{}", internet.root_pem, network.authority());
        std::fs::write(directory.path().join("internet.pem"), &internet.root_pem).unwrap();
        std::fs::write(directory.path().join("both.pem"), both).unwrap();
        let runtime = host.runtime();
        Self { internet, host, network, secrets, directory, runtime, _outside: (outside, outside_runtime) }
    }

    /// A sandbox's network, with a policy.
    pub fn sandbox(&'static self, policy: &Policy) -> Sandbox {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("sb{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let namespace = Namespace::new();
        let descriptors = namespace
            .call(|| {
                // As the keeper does: the rules are read once, and written to each namespace.
                static RULES: OnceLock<Ruleset> = OnceLock::new();
                let rules = RULES.get_or_init(|| Namespace::new().call(keeper::learn).unwrap());
                keeper::prepare_with(Some(rules))
            })
            .unwrap();
        let sockets = Sockets::try_from(descriptors).unwrap();
        self.runtime.block_on(self.network.attach(&id, sockets, policy)).unwrap();
        Sandbox { world: self, id, namespace }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Runs a Python script on the host: what it can do there shows what the boundary refuses.
    pub fn python(&self, script: &str) -> String {
        self.internet_clients(self.host.command("python3"), script)
    }

    fn internet_clients(&self, mut python: Command, script: &str) -> String {
        let prelude = format!(
            "import socket, ssl, struct, sys, os, time\nSERVER, OTHER, PRIVATE, METADATA = '{SERVER}', '{OTHER}', '{PRIVATE}', '{METADATA}'\n\
             CA, BOTH = '{}', '{}'\n{}\n",
            self.path("internet.pem"),
            self.path("both.pem"),
            include_str!("clients.py")
        );
        let output = python.args(["-c", &format!("{prelude}{script}")]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

pub struct Sandbox {
    pub world: &'static World,
    pub id: String,
    pub namespace: Namespace,
}

impl Sandbox {
    /// A command inside, with the resolver that a sandbox has.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.namespace.command("unshare");
        let resolv = self.world.path("resolv.conf");
        command.args(["--mount", "sh", "-c"]);
        command.arg(format!("mount --bind {resolv} /etc/resolv.conf && exec \"$@\"")).args(["sh", program]);
        command.env_remove("http_proxy").env_remove("https_proxy");
        command
    }

    pub fn python(&self, script: &str) -> String {
        self.world.internet_clients(self.command("python3"), script)
    }

    /// Runs curl, trusting both authorities; answers its status, its output, and what it complained of.
    pub fn curl(&self, arguments: &[&str]) -> Output {
        let mut curl = self.command("curl");
        curl.args(["-sS", "--max-time", "20", "--noproxy", "*", "--cacert", &self.world.path("both.pem")])
            .args(arguments);
        curl.output().unwrap()
    }

    pub fn update(&self, policy: &Policy) {
        self.try_update(policy).unwrap();
    }

    pub fn try_update(&self, policy: &Policy) -> Result<(), Failure> {
        self.world.runtime.block_on(self.world.network.update(&self.id, policy))
    }

    pub fn decisions(&self) -> Vec<Decision> {
        self.world.network.decisions(&self.id, 0).unwrap()
    }

    /// Whether something was denied for a reason.
    pub fn denied(&self, reason: Reason) -> bool {
        self.decisions().iter().any(|decision| decision.verdict == Verdict::Deny && decision.reason == reason)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.world.network.detach(&self.id);
    }
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn allow(to: &str) -> Rule {
    Rule {
        verdict: Verdict::Allow,
        to: to.to_owned(),
        ports: vec![],
        over_deny: false,
        plain_http: false,
        inspect: false,
        headers: vec![],
    }
}

pub fn deny(to: &str) -> Rule {
    Rule { verdict: Verdict::Deny, ..allow(to) }
}

pub fn inspect(to: &str) -> Rule {
    Rule { inspect: true, ..allow(to) }
}

pub fn policy(rules: Vec<Rule>) -> Policy {
    Policy { rules, ..Policy::default() }
}
