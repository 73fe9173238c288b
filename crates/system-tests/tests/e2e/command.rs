//! The command line: `mote check`, `run`, `task`, `replay`, `schema`, completions.

use rustix::process::Signal;
use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Fault, Plan};
use system_tests::limits::POLL;
use system_tests::process::Process;
use system_tests::process::binary::{self, workspace};
use system_tests::process::service::{Finished, clean, run_mote};
use tokio::process::Command;

use super::run::three_tools;
use crate::stage::{MODEL_KEY, Stage, TOOL_KEY};

async fn mote(stage: &Stage, arguments: &[&str]) -> Finished {
    stage.write_agent();
    let variables = [("MODEL_KEY", MODEL_KEY), ("TOOL_KEY", TOOL_KEY)];
    run_mote(&stage.path(""), arguments, &variables).await.unwrap()
}

#[tokio::test]
async fn check_accepts_a_good_agent() {
    let stage = Stage::new(Plan::default()).await;
    let done = mote(&stage, &["check", "agent.yaml"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
}

#[tokio::test]
async fn check_names_every_mistake_with_line_and_column() {
    let stage = Stage::new(Plan::default()).await;
    let text = "apiVersion: mote/v1\nkind: Agent\nname: Bad Name\nprompt: hello\nmodel:\n  provider: openai\n  name: m\n  \
                timeout: 10\nlimits:\n  stpes: 3\n";
    stage.write("bad.yaml", text);
    let done = mote(&stage, &["check", "bad.yaml"]).await;
    assert_eq!(done.code, Some(2), "{done:?}");
    let said = done.stdout + &done.stderr;
    for place in ["bad.yaml:3:", "bad.yaml:8:", "bad.yaml:10:"] {
        assert!(said.contains(place), "{place} is not named: {said}");
    }
    assert!(said.contains("stpes"), "{said}");
}

#[tokio::test]
async fn check_says_what_the_provider_refuses_in_a_tools_schema() {
    let text = "apiVersion: mote/v1\nkind: Agent\nname: picky\nprompt: hello\nmodel: {provider: openai, name: m, key: {env: \
                K}}\ntools:\n  - name: find\n    description: Finds.\n    effect: read\n    http: {url: \"https://h.example/x\"}\n    \
                input:\n      type: object\n      properties: {a: {type: string}, b: {type: string}}\n      anyOf:\n        - \
                {required: [a]}\n        - {required: [b]}\n";
    let stage = Stage::new(Plan::default()).await;
    stage.write("sure.yaml", text);
    let sure = mote(&stage, &["check", "sure.yaml"]).await;
    assert_eq!(sure.code, Some(2), "{sure:?}");
    let place = ":15:9: error: tools[0].input.anyOf: OpenAI refuses `anyOf` at the top of a tool's schema";
    assert!((sure.stdout.clone() + &sure.stderr).contains(place), "{sure:?}");
    stage.write("perhaps.yaml", &text.replace("name: m,", "name: m, base_url: \"http://127.0.0.1:1/v1\","));
    let perhaps = mote(&stage, &["check", "perhaps.yaml"]).await;
    assert_eq!(perhaps.code, Some(0), "{perhaps:?}");
    assert!((perhaps.stdout.clone() + &perhaps.stderr).contains(":15:9: warning: tools[0].input.anyOf"), "{perhaps:?}");
}

#[tokio::test]
async fn run_shows_plain_lines_and_the_result_where_there_is_no_terminal() {
    let stage = Stage::new(three_tools()).await;
    let done = mote(&stage, &["run", "agent.yaml", "Order a lamp"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("Done: "), "{done:?}");
    let everything = done.stdout.clone() + &done.stderr;
    assert!(everything.contains("look_up"), "the steps are shown: {done:?}");
    assert!(!everything.contains('\u{1b}'), "no escapes: {done:?}");
    assert_eq!(stage.backend.count("write/note").effects, 1);
}

#[tokio::test]
async fn run_json_is_for_machines() {
    let stage = Stage::new(three_tools()).await;
    let done = mote(&stage, &["run", "--json", "agent.yaml", "Order a lamp"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let lines: Vec<Value> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(lines.last().unwrap().to_string().contains("Done: "), "{done:?}");
}

#[tokio::test]
async fn run_says_which_key_is_missing() {
    let stage = Stage::new(Plan::default()).await.with(|agent| agent["model"]["key"] = json!({"env": "NO_SUCH_KEY"}));
    let done = mote(&stage, &["run", "agent.yaml", "x"]).await;
    assert_ne!(done.code, Some(0));
    assert!(done.stderr.contains("NO_SUCH_KEY"), "{done:?}");
}

/// A copy of the quickstart whose backend has a port of its own.
fn quickstart() -> tempfile::TempDir {
    let folder = tempfile::TempDir::with_prefix("mote-quickstart-").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for entry in std::fs::read_dir(workspace().join("examples/quickstart")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = std::fs::read_to_string(&path).unwrap().replace("4717", &port);
            std::fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
        }
    }
    folder
}

#[tokio::test]
async fn the_quickstart_runs_without_a_key_and_says_that_no_model_is_asked_and_what_to_set() {
    let folder = quickstart();
    let done = run_mote(folder.path(), &["run", "."], &[]).await.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    let said = done.stdout + &done.stderr;
    for shown in ["no model is asked", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "base-url", "get_ticket", "T-1042"] {
        assert!(said.contains(shown), "{shown}: {said}");
    }
}

#[tokio::test]
async fn a_plan_does_not_pretend_to_answer_a_question() {
    let folder = quickstart();
    let done = run_mote(folder.path(), &["run", ".", "What is the capital of France?"], &[]).await.unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    for shown in ["your task is not answered", "plan.yaml", "not by a model"] {
        assert!(done.stderr.contains(shown), "{shown}: {done:?}");
    }
    let own = run_mote(folder.path(), &["run", "."], &[]).await.unwrap();
    assert!(!own.stderr.contains("your task is not answered"), "{own:?}");
    assert!(own.stderr.contains("not by a model"), "{own:?}");
}

#[tokio::test]
async fn a_wrong_argument_is_blamed_and_not_the_file() {
    let stage = Stage::new(Plan::default()).await;
    for (arguments, expected) in [
        (&["serve", "agent.yaml", "--listen", "0.0.0.0:0", "--state", "s"][..], "error: --listen 0.0.0.0:0: "),
        (
            &["run", "agent.yaml", "x", "--model", "openai/planned", "--base-url", "nonsense"],
            "error: --base-url nonsense: ",
        ),
        (&["run", "agent.yaml", "x", "--model", "planned"], "--model: "),
        (&["run", "agent.yaml", "x", "--model", "openai/planned", "--price", "cheap"], "--price"),
        (&["check", "agent.yaml", "--listen", "0.0.0.0:0"], "error: --listen 0.0.0.0:0: "),
        (&["task", "--url", "nonsense", "list"], "--url"),
    ] {
        let done = mote(&stage, arguments).await;
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:?}");
        let is_placed = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        let blames_the_file = done.stderr.split("agent.yaml:").skip(1).any(is_placed);
        assert!(done.stderr.contains(expected) && !blames_the_file, "{arguments:?}: {done:?}");
    }
}

#[tokio::test]
async fn help_begins_with_what_the_command_is_for() {
    let stage = Stage::new(Plan::default()).await;
    for (command, first) in [
        ("task", "Give tasks to a running service"),
        ("sandbox", "Work with sandboxes"),
        ("store", "Look after the store"),
    ] {
        let help = mote(&stage, &[command, "--help"]).await;
        assert!(help.stdout.starts_with(first), "{command}: {}", help.stdout);
    }
}

#[tokio::test]
async fn erasing_what_is_not_there_is_told_with_and_without_yes() {
    let stage = Stage::new(Plan::default()).await;
    drop(stage.serve().await);
    for extra in [&[][..], &["--yes"]] {
        let done =
            mote(&stage, &[&["store", "erase", "--session", "nobody", "--state", "state"], extra].concat()).await;
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains("session nobody of the default tenant has no task in state"), "{done:?}");
    }
}

#[tokio::test]
async fn a_run_says_in_words_what_went_wrong_and_that_a_session_needs_a_state() {
    let stage = Stage::new(Plan::turns([Behaviour::status(400)])).await;
    let done = mote(&stage, &["run", "agent.yaml", "x", "--session", "s"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("--session s without --state"), "{done:?}");
    assert!(done.stderr.contains("model_"), "{done:?}");
    assert!(!done.stderr.lines().any(|line| line.starts_with('{')), "no JSON for a person: {done:?}");
    let time = done.stderr.lines().find_map(|line| line.split_once(' ')).map(|(time, _)| time);
    assert!(
        done.stderr.lines().any(|line| line.get(2..3) == Some(":") && line.get(8..9) == Some("Z")),
        "{time:?}: UTC is marked: {done:?}"
    );
}

#[tokio::test]
async fn a_task_is_driven_and_replayed_from_the_command_line() {
    let stage = Stage::new(three_tools()).await;
    let mut service = stage.serve().await;
    let url = service.url("");
    let submitted = mote(&stage, &["task", "--url", &url, "submit", "Order a lamp"]).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    let page: Value = service.get("/tasks").send().await.unwrap().json().await.unwrap();
    let id = page["tasks"][0]["id"].as_str().unwrap().to_owned();
    assert!(submitted.stdout.contains(&id), "{submitted:?}");
    service.finished(&id).await.unwrap();
    let got = mote(&stage, &["task", "--url", &url, "get", &id]).await;
    assert!(got.stdout.contains("completed"), "{got:?}");
    let watched = mote(&stage, &["task", "--url", &url, "watch", &id]).await;
    assert_eq!(watched.code, Some(0), "{watched:?}");
    service.terminate().await.unwrap();
    let replayed = mote(&stage, &["replay", &id, "--state", "state"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    for shown in ["model.replied", "call.answered", "$0.00", " ms", "Completed"] {
        assert!(replayed.stdout.contains(shown), "{shown}: {replayed:?}");
    }
    // Nothing was asked and nothing was called again.
    assert_eq!((stage.model.stats().requests, stage.backend.count("write/note").requests), (2, 1));
}

#[tokio::test]
async fn a_waiting_task_is_answered_signalled_and_cancelled_from_the_command_line() {
    let asks = Behaviour::call("ask_person", json!({"question": "Which?"}));
    let waits = Behaviour::call("wait_for_signal", json!({"name": "go"}));
    let stage = Stage::new(Plan::turns([asks, waits, Behaviour::text("Then: {{results}}")])).await;
    let stage = stage.with(|agent| {
        let tools = agent["tools"].as_array_mut().unwrap();
        tools.extend(["wait_for_signal", "ask_person"].map(|name| json!({"builtin": name})));
    });
    let service = stage.serve().await;
    let url = service.url("");
    let id = service.submit(&json!({"input": "x"})).await.unwrap();
    let other = service.submit(&json!({"input": "y"})).await.unwrap();
    service.task_in(&id, "waiting").await.unwrap();
    let answered = mote(&stage, &["task", "--url", &url, "input", &id, "--answer", "blue"]).await;
    assert_eq!(answered.code, Some(0), "{answered:?}");
    service.task_when(&id, |task| task["waiting"].to_string().contains("go")).await.unwrap();
    let signalled = mote(&stage, &["task", "--url", &url, "signal", &id, "go", "--payload", "{\"n\": 7}"]).await;
    assert_eq!(signalled.code, Some(0), "{signalled:?}");
    let task = service.finished(&id).await.unwrap();
    assert!(task["result"].to_string().contains("blue"), "{task}");
    let cancelled = mote(&stage, &["task", "--url", &url, "cancel", &other]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    assert_eq!(service.finished(&other).await.unwrap()["status"], "cancelled");
}

#[tokio::test]
async fn a_store_is_copied_while_it_is_in_use_and_the_copy_serves() {
    let mut stage = Stage::new(three_tools()).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    let task = service.finished(&id).await.unwrap();
    std::fs::create_dir(stage.path("copy")).unwrap();
    let files = std::fs::read_dir(stage.path("state")).unwrap().map(|entry| entry.unwrap().path());
    let store = files.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "db")).unwrap();
    let copy = stage.path("copy").join(store.file_name().unwrap()).display().to_string();
    let done = mote(&stage, &["store", "backup", &copy, "--state", "state"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    drop(service);
    stage.agent["description"] = json!("Another.");
    let config = stage.write_agent();
    let launch = system_tests::process::service::Launch::new(config, stage.path("copy"));
    let copied = launch.env("MODEL_KEY", MODEL_KEY).env("TOOL_KEY", TOOL_KEY).start().await.unwrap();
    assert_eq!(copied.task(&id).await.unwrap(), task);
}

#[tokio::test]
async fn a_run_in_a_services_folder_leaves_its_tasks_alone_and_another_agent_is_refused() {
    let mut stage = Stage::new(Plan::answer("Own.").first(1, Behaviour::fault(Fault::Hang))).await;
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "x"})).await.unwrap();
    while stage.model.stats().open == 0 {
        tokio::time::sleep(POLL).await;
    }
    service.process.kill().await.unwrap();
    let done = mote(&stage, &["run", "agent.yaml", "y", "--state", "state"]).await;
    assert_eq!((done.code, done.stdout.contains("Own.")), (Some(0), true), "{done:?}");
    assert_eq!(stage.model.stats().requests, 2, "the service's task is not gone on with");
    let owner = stage.agent["name"].take();
    stage.agent["name"] = json!("another");
    for command in [&["run", "agent.yaml", "y"][..], &["serve", "agent.yaml", "--listen", "127.0.0.1:0"]] {
        let refused = mote(&stage, &[command, &["--state", "state"]].concat()).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        for said in ["belongs to the agent tested, not to another", "--state", "mote store assign another"] {
            assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        }
    }
    stage.agent["name"] = owner;
    let service = stage.serve().await;
    assert_eq!(service.finished(&id).await.unwrap()["status"], "completed");
}

/// SIGTERM and SIGHUP clean up like Ctrl-C; a run that went well leaves nothing either.
#[tokio::test]
async fn a_run_leaves_no_folders_behind_however_it_ends() {
    let stage = Stage::new(Plan::answer("Done.").first(2, Behaviour::fault(Fault::Hang))).await;
    let stage = stage.with(|agent| {
        agent["model"]["idle_timeout"] = json!("60s");
        agent["model"]["timeout"] = json!("60s");
    });
    stage.write_agent();
    std::fs::create_dir(stage.path("tmp")).unwrap();
    let left = || std::fs::read_dir(stage.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    for (hangs, signal) in [(true, Some(Signal::TERM)), (true, Some(Signal::HUP)), (false, None)] {
        let before = stage.model.stats().requests;
        let mut command = Command::new(binary::mote().unwrap());
        command.args(["run", "agent.yaml", "x"]).current_dir(stage.path("")).env("TMPDIR", stage.path("tmp"));
        clean(&mut command);
        command.env("MODEL_KEY", MODEL_KEY).env("TOOL_KEY", TOOL_KEY);
        if !hangs {
            command.args(["--with", "sleep 600"]);
        }
        let mut run = Process::spawn(command).unwrap();
        if let Some(signal) = signal {
            while stage.model.stats().requests == before {
                tokio::time::sleep(POLL).await;
            }
            assert!(!left().is_empty(), "its store is there");
            run.signal(signal).unwrap();
        }
        let status = run.wait().await.unwrap();
        assert_eq!(status.code(), Some(i32::from(hangs)), "{status}: {}", run.output());
        assert_eq!(left(), [] as [std::path::PathBuf; 0], "{}", run.output());
    }
}

#[tokio::test]
async fn schema_is_json_and_knows_the_agent() {
    let stage = Stage::new(Plan::default()).await;
    let done = mote(&stage, &["schema"]).await;
    let schema: Value = serde_json::from_str(&done.stdout).unwrap();
    for field in ["model", "tools", "limits", "budget"] {
        assert!(schema["properties"][field].is_object(), "{field}");
    }
}

#[tokio::test]
async fn help_and_completions_are_there() {
    let stage = Stage::new(Plan::default()).await;
    let help = mote(&stage, &["--help"]).await;
    for command in ["run", "serve", "check", "task", "replay", "schema"] {
        assert!(help.stdout.contains(command), "{command}: {}", help.stdout);
    }
    let done = mote(&stage, &["completions", "bash"]).await;
    assert!(done.stdout.contains("complete"), "{done:?}");
}

#[tokio::test]
async fn serve_refuses_a_bad_agent_and_names_the_place() {
    let stage = Stage::new(Plan::default()).await.with(|agent| agent["limits"] = json!({"steps": 0}));
    let done = mote(&stage, &["serve", "agent.yaml", "--state", "state"]).await;
    assert_ne!(done.code, Some(0));
    assert!(done.stderr.contains("agent.yaml:") || done.stdout.contains("agent.yaml:"), "{done:?}");
}
