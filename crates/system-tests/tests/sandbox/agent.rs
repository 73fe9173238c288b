//! `tools: [{sandbox: …}]` of agent.yaml: the real service, the real daemon, a model that says what it is told to.
//!
//! What a tool answered is seen as the model sees it: the fake model repeats the results of its calls as the answer.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, FakeModel, Plan, When};
use system_tests::limits::{PATIENCE, POLL};
use system_tests::otlp::Receiver;
use system_tests::process::service::{Launch, Service};
use tokio::time::Instant;

use crate::fixture::Daemon;

/// A daemon, a model and a folder with an agent.yaml.
struct Stage {
    folder: tempfile::TempDir,
    model: FakeModel,
    daemon: Daemon,
    agent: Value,
}

/// A model that makes these calls where the input is this, and then repeats their results.
fn plan(inputs: &[(&str, Behaviour)]) -> Plan {
    let begin = Plan::answer("{{results}}");
    inputs.iter().fold(begin, |plan, (input, calls)| {
        let when = When { input: Some((*input).to_owned()), turn: Some(0), ..When::default() };
        plan.rule(when, None, calls.clone())
    })
}

fn shell(command: &str) -> Behaviour {
    Behaviour::call("shell", json!({ "command": command }))
}

impl Stage {
    /// The sandbox's fields beside where the daemon is.
    async fn new(inputs: &[(&str, Behaviour)], sandbox: Value) -> Self {
        Self::on(Daemon::start().await, inputs, sandbox).await
    }

    async fn on(daemon: Daemon, inputs: &[(&str, Behaviour)], sandbox: Value) -> Self {
        let model = FakeModel::start(plan(inputs)).await.unwrap();
        let mut sandbox = sandbox;
        sandbox["url"] = daemon.url().into();
        sandbox["key"] = json!({"env": "SANDBOX_KEY"});
        let agent = json!({
            "apiVersion": "mote/v1", "kind": "Agent", "name": "worker",
            "prompt": "You are under test.",
            "model": {"provider": "openai", "name": "planned", "base_url": model.openai_url()},
            "tools": [{"sandbox": sandbox}],
            "limits": {"backoff": "10ms", "backoff_max": "50ms"},
            "server": {"lease": "1s", "drain": "20s"},
        });
        Self { folder: tempfile::tempdir().unwrap(), model, daemon, agent }
    }

    fn write_agent(&self) -> PathBuf {
        let path = self.folder.path().join("agent.yaml");
        std::fs::write(&path, self.agent.to_string()).unwrap();
        path
    }

    fn launch(&self) -> Launch {
        Launch::new(self.write_agent(), self.folder.path().join("state")).env("SANDBOX_KEY", self.daemon.key())
    }

    async fn serve(&self) -> Service {
        self.launch().start().await.unwrap()
    }

    /// The sandboxes that are there.
    async fn sandboxes(&self, query: &str) -> Vec<Value> {
        let page = self.daemon.done(Method::GET, &format!("/v1/sandboxes{query}"), Value::Null).await;
        page["items"].as_array().unwrap().clone()
    }

    /// The id of the one sandbox that is there.
    async fn only(&self) -> String {
        let sandboxes = self.sandboxes("").await;
        assert_eq!(sandboxes.len(), 1, "{sandboxes:?}");
        sandboxes[0]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until no sandbox is left.
    async fn vacated(&self) {
        let since = Instant::now();
        while !self.sandboxes("").await.is_empty() {
            assert!(since.elapsed() < PATIENCE, "a sandbox is not given back: {:?}", self.sandboxes("").await);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a file in the one sandbox is there.
    async fn shows(&self, path: &str) -> String {
        let since = Instant::now();
        loop {
            if let [sandbox] = self.sandboxes("?state=running").await.as_slice() {
                let id = sandbox["id"].as_str().unwrap();
                let result = self.daemon.exec(id, &format!("cat {path}")).await;
                if result["exit"] == json!({"code": 0}) {
                    return result["stdout"].as_str().unwrap().to_owned();
                }
            }
            assert!(since.elapsed() < PATIENCE, "{path} never appears");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Has a task done; its result.
async fn done(service: &Service, input: &str, session: Option<&str>) -> String {
    let id = service.submit(&json!({"input": input, "session": session})).await.unwrap();
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "completed", "{task}\n{}", service.process.output());
    task["result"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_works_in_one_sandbox_across_turns_and_restarts_until_it_is_erased() {
    let first = shell("echo kept > /tmp/note.txt")
        .and_call("python", json!({"code": "x = 41\nprint('set')"}))
        .and_call("file_write", json!({"path": "/tmp/more/list", "content": "one\ntwo\n"}));
    let second = Behaviour::call("file_read", json!({"path": "/tmp/note.txt"}))
        .and_call("python", json!({"code": "x + 1"}))
        .and_call("file_edit", json!({"path": "/tmp/more/list", "old": "two", "new": "three"}));
    let third = Behaviour::call("file_list", json!({"path": "/tmp/more"}))
        .and_call("shell", json!({"command": "tail -1 list", "cwd": "/tmp/more"}));
    let inputs = [("remember", first), ("recall", second), ("look", third)];
    let stage = Stage::new(&inputs, json!({"allow": ["shell", "python", "files"]})).await;
    let mut service = stage.serve().await;
    let result = done(&service, "remember", Some("s1")).await;
    assert!(result.contains("\"exit_code\":0") && result.contains("set\\n"), "{result}");
    let id = stage.only().await;
    assert_eq!(stage.sandboxes("?metadata.agent=worker&metadata.session=s1").await.len(), 1);
    assert!(service.terminate().await.unwrap().success());

    let service = stage.serve().await;
    let result = done(&service, "recall", Some("s1")).await;
    assert!(result.contains("kept") && result.contains("42") && result.contains("\"replaced\":1"), "{result}");
    assert!(!result.contains("fresh one") && !result.contains("new one"), "{result}");
    let paused = format!("/v1/sandboxes/{id}/pause");
    stage.daemon.done(Method::POST, &paused, json!({})).await;
    let result = done(&service, "look", Some("s1")).await;
    assert!(result.contains("/tmp/more/list") && result.contains("three\\n"), "{result}");
    assert_eq!(stage.only().await, id, "the same sandbox all along");

    // Another session has a sandbox of its own.
    done(&service, "remember", Some("s2")).await;
    assert_eq!(stage.sandboxes("").await.len(), 2);
    let other = stage.sandboxes("?metadata.session=s2").await;
    for session in ["s1", "s2"] {
        let erased = service.request(Method::DELETE, &format!("/sessions/{session}")).send().await.unwrap();
        assert!(erased.status().is_success());
    }
    assert_ne!(other[0]["id"], id.as_str());
    stage.vacated().await;
}

#[tokio::test]
async fn a_sandbox_is_given_back_when_its_task_ends_however_it_ends() {
    let inputs = [("work", shell("true")), ("wait", shell("touch /tmp/began; sleep 600"))];
    let mut stage = Stage::new(&inputs, json!({"allow": ["shell"], "timeout": "20m", "release": "turn"})).await;
    let service = stage.serve().await;
    done(&service, "work", None).await;
    stage.vacated().await;
    done(&service, "work", Some("s1")).await;
    stage.vacated().await;
    // A cancelled task: its command is ended, its sandbox removed.
    let id = service.submit(&json!({"input": "wait"})).await.unwrap();
    stage.shows("/tmp/began").await;
    service.post(&format!("/tasks/{id}/cancel"), &json!({})).send().await.unwrap();
    assert_eq!(service.finished(&id).await.unwrap()["status"], "cancelled");
    stage.vacated().await;
    drop(service);
    // What a process that was killed leaves the next one gives back; so it does what was erased meanwhile.
    stage.agent["tools"][0]["sandbox"]["release"] = "session".into();
    let mut service = stage.serve().await;
    done(&service, "work", Some("s2")).await;
    let _ = stage.only().await;
    service.process.kill().await.unwrap();
    let state = stage.folder.path().join("state").display().to_string();
    let erase = ["store", "erase", "--session", "s2", "--state", &state, "--yes"];
    let erased = system_tests::process::service::run_mote(stage.folder.path(), &erase, &[]).await.unwrap();
    assert_eq!(erased.code, Some(0), "{erased:?}");
    let _service = stage.serve().await;
    stage.vacated().await;
}

#[tokio::test]
async fn a_command_that_was_cut_off_by_a_crash_ran_once_and_its_outcome_is_unknown() {
    let inputs =
        [("count", shell("echo ran >> /tmp/count; touch /tmp/began; sleep 600")), ("again", shell("cat /tmp/count"))];
    let stage = Stage::new(&inputs, json!({"allow": ["shell"], "timeout": "20m"})).await;
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "count", "session": "s1"})).await.unwrap();
    stage.shows("/tmp/began").await;
    service.process.kill().await.unwrap();
    let service = stage.serve().await;
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["status"], "completed", "{task}");
    assert!(task["result"].as_str().unwrap().contains("outcome unknown"), "{task}");
    // The next turn works in the same sandbox, where the command ran once.
    let result = done(&service, "again", Some("s1")).await;
    assert!(result.contains("\"stdout\":\"ran\\n\""), "{result}");
    let _ = stage.only().await;
}

#[tokio::test]
async fn a_crash_around_the_creation_makes_one_sandbox_only() {
    for point in ["sandbox.before_create", "sandbox.after_create"] {
        let stage = Stage::new(&[("work", shell("echo worked"))], json!({"allow": ["shell"]})).await;
        let mut service = stage.launch().crashing_at(point).unwrap().start().await.unwrap();
        let body = json!({"input": "work", "session": "s1"});
        let id = service.submit(&body).await.unwrap();
        service.process.wait().await.unwrap();
        let service = stage.serve().await;
        let task = service.finished(&id).await.unwrap();
        // The call had been begun: whether it was performed is not known, and it is not repeated.
        assert!(task["result"].as_str().unwrap().contains("outcome unknown"), "{point}: {task}");
        assert!(done(&service, "work", Some("s1")).await.contains("worked"), "{point}");
        let _ = stage.only().await;
    }
}

#[tokio::test]
async fn a_sandbox_that_is_gone_is_told_and_another_takes_its_place() {
    let look = shell("cat note.txt || echo nothing");
    let stage =
        Stage::new(&[("work", shell("echo kept > note.txt")), ("look", look)], json!({"allow": ["shell"]})).await;
    let service = stage.serve().await;
    done(&service, "work", Some("s1")).await;
    let lost = stage.only().await;
    stage.daemon.done(Method::DELETE, &format!("/v1/sandboxes/{lost}"), Value::Null).await;
    let result = done(&service, "look", Some("s1")).await;
    assert!(result.contains("fresh one") && result.contains("is gone") && result.contains("nothing"), "{result}");
    assert_ne!(stage.only().await, lost);
    let result = done(&service, "look", Some("s1")).await;
    assert!(result.contains("nothing") && !result.contains("fresh one"), "told once: {result}");
}

#[tokio::test]
async fn what_is_not_allowed_is_not_offered_and_refused() {
    let inputs = [("shell", shell("id")), ("files", Behaviour::call("file_read", json!({"path": "/etc/hostname"})))];
    let stage = Stage::new(&inputs, json!({"allow": ["files"]})).await;
    let service = stage.serve().await;
    let result = done(&service, "shell", None).await;
    assert!(result.contains("there is no tool shell") && result.contains("file_read"), "{result}");
    assert!(stage.sandboxes("").await.is_empty(), "nothing was made for it");
    let offered = stage.model.requests()[0].body["tools"].to_string();
    assert!(offered.contains("file_write") && !offered.contains("\"shell\"") && !offered.contains("\"python\""));
    let listed: Value = service.get("/v1/tools").send().await.unwrap().json().await.unwrap();
    let kinds: Vec<_> = listed["tools"].as_array().unwrap().iter().map(|tool| tool["kind"].clone()).collect();
    assert_eq!(kinds, ["sandbox"; 4], "{listed}");
    let key = stage.daemon.key();
    assert!(!service.process.output().contains(key) && !listed.to_string().contains(key));
}

#[tokio::test]
async fn a_command_is_bounded_in_time_and_in_output_and_joins_the_trace() {
    let long = Behaviour::call("shell", json!({"command": "echo began; sleep 600", "timeout": 1}))
        .and_call("shell", json!({"command": "seq 1 300000; echo $TRACEPARENT >&2; exit 3"}));
    let stage = Stage::new(&[("long", long)], json!({"allow": ["shell"], "output_max": "4KiB"})).await;
    let collector = Receiver::start().await.unwrap();
    let mut stage = stage;
    stage.agent["telemetry"] = json!({"otlp": collector.url()});
    let service = stage.serve().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = service.post("/run", &json!({"input": "long"}));
    let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let task: Value = request.send().await.unwrap().json().await.unwrap();
    let result = task["result"].as_str().unwrap();
    assert!(result.contains("began\\n") && result.contains("\"timed_out\":true"), "{result}");
    for part in ["\"stdout\":\"1\\n2\\n", "bytes left out", "300000\\n\"", "\"truncated\":true", "\"exit_code\":3"] {
        assert!(result.contains(part), "{part}: {result}");
    }
    assert!(result.len() < 2 * 4096 + 100 && result.contains(trace), "{result}");
    stage.daemon.logged(trace).await;
    stage.vacated().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_and_the_run_goes_on() {
    let mut stage = Stage::new(&[("work", shell("true"))], json!({"allow": ["shell"]})).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    stage.agent["tools"][0]["sandbox"]["url"] = url.clone().into();
    let service = stage.serve().await;
    let result = done(&service, "work", None).await;
    assert!(result.contains(&url), "{result}");
    drop(service);
    // A key that the daemon does not know.
    stage.agent["tools"][0]["sandbox"]["url"] = stage.daemon.url().into();
    let service = stage.launch().env("SANDBOX_KEY", "not-the-key").start().await.unwrap();
    let result = done(&service, "work", None).await;
    assert!(result.contains("unauthenticated") && !result.contains("not-the-key"), "{result}");
}

#[tokio::test]
async fn a_daemon_that_is_full_is_asked_again_and_named() {
    let daemon = Daemon::configured("sandboxes_max: 1").await;
    let stage = Stage::on(daemon, &[("work", shell("echo worked"))], json!({"allow": ["shell"]})).await;
    let service = stage.serve().await;
    assert!(done(&service, "work", Some("s1")).await.contains("worked"));
    let refused = done(&service, "work", Some("s2")).await;
    assert!(refused.contains(stage.daemon.url()) && refused.contains("exhausted"), "{refused}");
    let _ = stage.only().await;
    let metrics = service.get("/metrics").send().await.unwrap().text().await.unwrap();
    let retried = metrics.lines().any(|line| line.starts_with("mote_retries_total") && !line.ends_with(" 0"));
    assert!(retried, "{metrics}");
    service.request(Method::DELETE, "/sessions/s1").send().await.unwrap();
    stage.vacated().await;
    assert!(done(&service, "work", Some("s2")).await.contains("worked"), "nothing is held against it");
}

#[tokio::test]
async fn the_example_runs_and_leaves_no_sandbox() {
    let daemon = Daemon::start().await;
    let example = system_tests::process::binary::workspace().join("examples/sandbox-agent");
    let variables = [("MOTE_SANDBOX_URL", daemon.url()), ("MOTE_SANDBOX_KEY", daemon.key())];
    for arguments in [&["run", "."][..], &["run", ".", "--session", "passing"]] {
        let run = system_tests::process::service::run_mote(&example, arguments, &variables).await.unwrap();
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stdout.contains("/export,1970") && run.stdout.contains("median 57 ms"), "{run:?}");
        let page = daemon.done(Method::GET, "/v1/sandboxes", Value::Null).await;
        assert_eq!(page["items"], json!([]), "given back before the command ends");
    }
}

/// A certificate for 127.0.0.1 that vouches for itself; the lines of the daemon's configuration, and where it then listens.
pub(crate) fn certified(folder: &std::path::Path) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (pem, private) = (folder.join("ca.pem"), folder.join("tls.key"));
    std::fs::write(&pem, certificate.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&private, only_owner).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (pem, private) = (pem.display(), private.display());
    let config = format!("tls: {{listen: '127.0.0.1:{port}', certificate: {pem}, key: {private}}}");
    (config, format!("https://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_daemon_with_a_certificate_of_ones_own_is_trusted_where_the_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (config, url) = certified(folder.path());
    let daemon = Daemon::configured(&config).await;
    let mut stage = Stage::on(daemon, &[("work", shell("echo worked"))], json!({"allow": ["shell"]})).await;
    stage.agent["tools"][0]["sandbox"]["url"] = url.clone().into();
    let service = stage.serve().await;
    let refused = done(&service, "work", None).await;
    assert!(refused.contains(&url) && refused.contains("certificate"), "{refused}");
    drop(service);
    stage.agent["tools"][0]["sandbox"]["ca"] = json!({"file": folder.path().join("ca.pem")});
    let service = stage.serve().await;
    assert!(done(&service, "work", None).await.contains("worked"));
}
