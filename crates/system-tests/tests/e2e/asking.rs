//! Approvals and questions at the command line: asked of the person on a terminal; elsewhere it is said how to answer.

use serde_json::json;
use system_tests::fake_model::{Behaviour, Plan};
use system_tests::process::Process;
use system_tests::process::binary;
use system_tests::process::service::{clean, run_mote};
use system_tests::process::terminal::Terminal;
use tokio::process::Command;

use crate::stage::{MODEL_KEY, Stage, TOOL_KEY};

fn mote(stage: &Stage, arguments: &[&str]) -> Command {
    stage.write_agent();
    let mut command = Command::new(binary::mote().unwrap());
    command.args(arguments).current_dir(stage.path(""));
    clean(&mut command);
    command.env("MODEL_KEY", MODEL_KEY).env("TOOL_KEY", TOOL_KEY);
    command
}

/// An agent whose writing tool needs approval, and whose model writes.
async fn approving() -> Stage {
    let call = Behaviour::call("send_note", json!({"name": "note", "note": "ordered"}));
    let stage = Stage::new(Plan::turns([call, Behaviour::text("It said: {{results}}")])).await;
    stage.with(|agent| agent["tools"][2]["approval"] = json!(true))
}

async fn asking(arguments: serde_json::Value) -> Stage {
    let call = Behaviour::call("ask_person", arguments);
    let stage = Stage::new(Plan::turns([call, Behaviour::text("It said: {{results}}")])).await;
    stage.with(|agent| agent["tools"].as_array_mut().unwrap().push(json!({"builtin": "ask_person"})))
}

#[tokio::test]
async fn a_run_asks_for_approval_on_the_terminal_and_shows_the_call() {
    let stage = approving().await;
    let mut run = Terminal::spawn(mote(&stage, &["run", "agent.yaml", "Send it"])).unwrap();
    let shown = run.shows("> ").await.unwrap();
    for part in ["approval needed", "send_note", "\"note\": \"ordered\"", "y: yes, n: no"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(stage.backend.count("write/note").requests, 0);
    // What is neither is asked again.
    run.types("perhaps").unwrap();
    run.shows("neither y nor n").await.unwrap();
    run.shows("> ").await.unwrap();
    run.types("y").unwrap();
    run.shows("completed").await.unwrap();
    assert!(run.wait().await.unwrap().success(), "{}", run.text());
    assert_eq!(stage.backend.count("write/note").effects, 1);
}

#[tokio::test]
async fn a_refusal_on_the_terminal_tells_the_model_why() {
    let stage = approving().await;
    let mut run = Terminal::spawn(mote(&stage, &["run", "agent.yaml", "Send it"])).unwrap();
    run.shows("> ").await.unwrap();
    run.types("n too expensive today").unwrap();
    let shown = run.shows("completed").await.unwrap();
    // What was typed stands there too; this is what the model was told.
    assert!(shown.contains("a person refused this call (\"too expensive today\")"), "{shown}");
    assert!(run.wait().await.unwrap().success());
    assert_eq!(stage.backend.count("write/note").requests, 0);
}

#[tokio::test]
async fn a_question_shows_its_choices_and_takes_a_number() {
    let stage = asking(json!({"question": "Which colour?", "schema": {"enum": ["red", "blue"]}})).await;
    let mut run = Terminal::spawn(mote(&stage, &["run", "agent.yaml", "Paint"])).unwrap();
    let shown = run.shows("> ").await.unwrap();
    for part in ["Which colour?", "1) red", "2) blue"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    run.types("2").unwrap();
    let shown = run.shows("completed").await.unwrap();
    assert!(shown.contains("blue"), "{shown}");
    assert!(run.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_run_that_nobody_can_answer_says_so_and_ends() {
    let stage = approving().await;
    stage.write_agent();
    let variables = [("MODEL_KEY", MODEL_KEY), ("TOOL_KEY", TOOL_KEY)];
    let done = run_mote(&stage.path(""), &["run", "agent.yaml", "Send it"], &variables).await.unwrap();
    assert_eq!(done.code, Some(1), "{done:?}");
    for part in ["approval needed", "send_note", "nobody can answer", "terminal", "--state", "mote task input"] {
        assert!(done.stderr.contains(part), "{part}: {done:?}");
    }
    assert_eq!(stage.backend.count("write/note").requests, 0);
}

#[tokio::test]
async fn a_run_on_a_terminal_that_waits_for_a_signal_says_so_and_ends() {
    let call = Behaviour::call("wait_for_signal", json!({"name": "go"}));
    let stage = Stage::new(Plan::turns([call, Behaviour::text("It said: {{results}}")])).await;
    let stage = stage.with(|agent| agent["tools"].as_array_mut().unwrap().push(json!({"builtin": "wait_for_signal"})));
    let mut run = Terminal::spawn(mote(&stage, &["run", "agent.yaml", "Wait"])).unwrap();
    let shown = run.shows("cancelling").await.unwrap();
    for part in ["waits for the signal go", "a signal cannot be given here without --state"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("no terminal"), "{shown}");
    assert_eq!(run.wait().await.unwrap().code(), Some(1), "{}", run.text());
}

#[tokio::test]
async fn a_run_whose_input_ends_at_a_question_says_so_and_ends() {
    let stage = approving().await;
    let mut run = Terminal::spawn(mote(&stage, &["run", "agent.yaml", "Send it"])).unwrap();
    run.shows("> ").await.unwrap();
    // Ctrl-D.
    run.types("\u{4}").unwrap();
    let shown = run.shows("cancelling").await.unwrap();
    assert!(shown.contains("standard input has ended") && !shown.contains("no terminal"), "{shown}");
    assert_eq!(run.wait().await.unwrap().code(), Some(1), "{}", run.text());
    assert_eq!(stage.backend.count("write/note").requests, 0);
}

#[tokio::test]
async fn a_run_in_a_state_folder_is_answered_through_a_service_on_it() {
    let stage = approving().await;
    let run = mote(&stage, &["run", "agent.yaml", "Send it", "--state", "state"]);
    let mut run = Process::spawn(run).unwrap();
    let command = run.line(|line| line.contains("mote task input").then(|| line.to_owned())).await.unwrap();
    assert!(command.contains("mote serve agent.yaml --state state"), "{command}");
    let id = command.split_whitespace().find(|word| word.starts_with("task_")).unwrap().to_owned();
    let service = stage.serve().await;
    let answer = service.post(&format!("/tasks/{id}/input"), &json!({"approve": true})).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    assert!(run.wait().await.unwrap().success(), "{}", run.output());
    assert_eq!(stage.backend.count("write/note").effects, 1);
}

#[tokio::test]
async fn a_task_that_is_watched_on_a_terminal_asks_there() {
    let stage = approving().await;
    let service = stage.serve().await;
    let url = service.url("");
    let arguments = ["task", "--url", &url, "submit", "Send it", "--watch"];
    let mut watch = Terminal::spawn(mote(&stage, &arguments)).unwrap();
    let shown = watch.shows("> ").await.unwrap();
    assert!(shown.contains("approval needed") && shown.contains("send_note"), "{shown}");
    watch.types("yes").unwrap();
    watch.shows("completed").await.unwrap();
    assert!(watch.wait().await.unwrap().success(), "{}", watch.text());
    assert_eq!(stage.backend.count("write/note").effects, 1);
}

#[tokio::test]
async fn a_question_that_is_answered_elsewhere_is_withdrawn() {
    let stage = asking(json!({"question": "Which colour?"})).await;
    let service = stage.serve().await;
    let url = service.url("");
    let mut watch = Terminal::spawn(mote(&stage, &["task", "--url", &url, "submit", "Paint", "--watch"])).unwrap();
    let shown = watch.shows("Which colour?").await.unwrap();
    let id = shown.split_whitespace().find(|word| word.starts_with("task_")).unwrap().to_owned();
    watch.shows("> ").await.unwrap();
    let answer = service.post(&format!("/tasks/{id}/input"), &json!({"content": "green"})).send().await.unwrap();
    assert!(answer.status().is_success());
    let shown = watch.shows("completed").await.unwrap();
    assert!(shown.contains("green"), "{shown}");
    assert!(watch.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_watch_without_a_terminal_says_how_to_answer_and_goes_on() {
    let stage = approving().await;
    let service = stage.serve().await;
    let url = service.url("");
    let mut watch = Process::spawn(mote(&stage, &["task", "--url", &url, "submit", "Send it", "--watch"])).unwrap();
    let command = watch.line(|line| line.contains("mote task --url").then(|| line.to_owned())).await.unwrap();
    // The command that it prints is the one that answers.
    let words: Vec<&str> = command.split('`').nth(1).unwrap().split_whitespace().collect();
    let words: Vec<&str> = words.into_iter().skip(1).take_while(|word| !word.starts_with('(')).collect();
    assert!(words.contains(&"--approve"), "{command}");
    let answered = run_mote(&stage.path(""), &words, &[]).await.unwrap();
    assert_eq!(answered.code, Some(0), "{answered:?}");
    assert!(watch.wait().await.unwrap().success(), "{}", watch.output());
    assert_eq!(stage.backend.count("write/note").effects, 1);
}
