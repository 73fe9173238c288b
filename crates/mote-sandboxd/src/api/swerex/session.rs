//! Sessions and commands: what runs, and how its end is told.
//!
//! Nothing here is a terminal: programs that want one are refused by name.

use axum::Json;
use axum::extract::State;
use futures_util::StreamExt as _;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Exit, Start};
use mote_sandbox_api::lifecycle::State as Life;
use mote_sandbox_api::request::{PauseKind, Sandbox};
use serde_json::{Value, json};

use super::body::{Action, BashAction, Body, Check, CloseSession, CreateSession, Execute, Words, seconds};
use super::failure::{ABSENT, EXISTS, NON_ZERO, Raised, SYNTAX, TIMEOUT};
use super::{Caller, SweRex, unsupported};
use crate::api::native::exec::gathered;
use crate::code::{Cell, Dead, Message, NewContext, status};
use crate::guest::Guest;
use crate::limits::EXEC_OUTPUT_BYTES_MAX;

type Told = Result<Json<Value>, Raised>;

fn absent(name: &str) -> Raised {
    Raised::new(ABSENT, format!("session {name:?} does not exist"))
}

/// Whether the processes of a sandbox's sessions live: they do while it is frozen.
fn keeps_sessions(sandbox: &Sandbox) -> bool {
    match sandbox.state {
        Life::Stopping | Life::Gone | Life::Failed => false,
        _ => sandbox.pause != Some(PauseKind::Stopped),
    }
}

pub(super) async fn create(
    State(state): State<SweRex>,
    Caller(sandbox): Caller,
    Body(new): Body<CreateSession>,
) -> Told {
    let guest = state.guest(&sandbox).await?;
    let key = (sandbox.clone(), new.session);
    let exists = |name: &str| Raised::new(EXISTS, format!("session {name:?} already exists"));
    if state.sessions().contains_key(&key) {
        return Err(exists(&key.1));
    }
    let bash = NewContext { language: Some("bash".to_owned()), ..NewContext::default() };
    let context = state.interpreter.create(&sandbox, &guest, bash).await?.id;
    let is_new = {
        let mut sessions = state.sessions();
        // Those whose processes are no more go with them.
        sessions.retain(|(of, _), _| state.api.sandboxes.get(of).is_ok_and(|told| keeps_sessions(&told)));
        // Another request may have made one of the same name meanwhile.
        let is_new = !sessions.contains_key(&key);
        if is_new {
            sessions.insert(key.clone(), context.clone());
        }
        is_new
    };
    if !is_new {
        state.interpreter.remove(&sandbox, &guest, &context).await?;
        return Err(exists(&key.1));
    }
    let mut output = String::new();
    for path in new.startup_source {
        let line = format!("source '{}'", path.replace('\'', "'\\''"));
        output.push_str(&cell(&state, &sandbox, &guest, &context, line, None).await?.output);
    }
    Ok(Json(json!({ "output": output, "session_type": "bash" })))
}

pub(super) async fn close(
    State(state): State<SweRex>,
    Caller(sandbox): Caller,
    Body(which): Body<CloseSession>,
) -> Told {
    let guest = state.guest(&sandbox).await?;
    let removed = state.sessions().remove(&(sandbox.clone(), which.session.clone()));
    let context = removed.ok_or_else(|| absent(&which.session))?;
    state.interpreter.remove(&sandbox, &guest, &context).await?;
    Ok(Json(json!({ "session_type": "bash" })))
}

/// Ends every session. The sandbox is its holder's to remove.
pub(super) async fn close_all(State(state): State<SweRex>, Caller(sandbox): Caller) -> Told {
    let guest = state.guest(&sandbox).await?;
    let closed: Vec<String> =
        state.sessions().extract_if(|(of, _), _| *of == sandbox).map(|(_, context)| context).collect();
    for context in closed {
        match state.interpreter.remove(&sandbox, &guest, &context).await {
            Err(failure) if failure.code != Code::NotFound => return Err(failure.into()),
            _ => {}
        }
    }
    Ok(Json(json!({})))
}

pub(super) async fn run(State(state): State<SweRex>, Caller(sandbox): Caller, Body(action): Body<Action>) -> Told {
    let guest = state.guest(&sandbox).await?;
    let name = match &action {
        Action::Bash(action) => &action.session,
        Action::BashInterrupt(which) => &which.session,
    };
    let context = state.sessions().get(&(sandbox.clone(), name.clone())).cloned().ok_or_else(|| absent(name))?;
    match action {
        Action::Bash(action) => bash(&state, &sandbox, &guest, &context, action).await,
        Action::BashInterrupt(_) => {
            state.interpreter.interrupt(&sandbox, &guest, &context).await?;
            Ok(Json(observed(String::new(), Some(0))))
        }
    }
}

fn observed(output: String, exit_code: Option<i32>) -> Value {
    json!({
        "output": output, "exit_code": exit_code, "failure_reason": "", "expect_string": "", "session_type": "bash",
    })
}

async fn bash(state: &SweRex, sandbox: &str, guest: &Guest, context: &str, action: BashAction) -> Told {
    if action.is_interactive_command || action.is_interactive_quit {
        return Err(unsupported("is_interactive_command", "a session has no terminal").into());
    }
    if !action.expect.is_empty() {
        return Err(unsupported("expect", "a command is over when it has ended").into());
    }
    let timeout = seconds(action.timeout.as_ref())?;
    parsed(guest, &action.command).await?;
    let ran = cell(state, sandbox, guest, context, action.command.clone(), timeout).await?;
    if action.check == Check::Raise && ran.exit != 0 {
        return Err(Raised::new(NON_ZERO, failed(&action.error_msg, &action.command, ran.exit, &ran.output)));
    }
    let exit = (action.check != Check::Ignore).then_some(ran.exit);
    Ok(Json(observed(ran.output, exit)))
}

fn failed(error_msg: &str, command: &str, exit: i32, output: &str) -> String {
    let front = if error_msg.is_empty() { String::new() } else { format!("{error_msg}: ") };
    format!("{front}Command {command:?} failed with exit code {exit}. Here is the output:\n{output:?}")
}

/// What came of a command in a session.
struct Ran {
    output: String,
    exit: i32,
}

/// Runs a command in a session's context. A caller that goes away interrupts it.
async fn cell(
    state: &SweRex,
    sandbox: &str,
    guest: &Guest,
    context: &str,
    code: String,
    timeout: Option<std::time::Duration>,
) -> Result<Ran, Raised> {
    let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
    // One stream, so that what was printed first stands first. A group keeps what the command changes.
    let code = format!("{{ :\n{code}\n}} 2>&1");
    let cell = Cell { code, context_id: Some(context.to_owned()), timeout_ms, ..Cell::default() };
    let mut messages = state.interpreter.execute(sandbox, guest, cell, Dead::Fail).await?;
    let mut ran = Ran { output: String::new(), exit: 0 };
    while let Some(message) = messages.next().await {
        match message? {
            Message::Stdout(printed) | Message::Stderr(printed) => {
                let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(ran.output.len());
                let cut = printed.text.floor_char_boundary(room.min(printed.text.len()));
                ran.output.push_str(&printed.text[..cut]);
            }
            Message::Error { name, value, .. } => match (status(&name, &value), name.as_str()) {
                (Some(exit), _) => ran.exit = exit,
                (None, "TimeoutError") => return Err(Raised::new(TIMEOUT, value)),
                (None, _) => return Err(Failure::new(Code::Gone, value).into()),
            },
            Message::NumberOfExecutions { .. } | Message::Result(_) | Message::EndOfExecution => {}
        }
    }
    Ok(ran)
}

/// Refuses what bash cannot parse, before any of it runs.
async fn parsed(guest: &Guest, command: &str) -> Result<(), Raised> {
    let argv = ["bash", "-n"].map(str::to_owned).to_vec();
    let checked =
        gathered(guest, Start { argv, stdin: true, ..Start::default() }, Some(command.to_owned()), None).await?;
    if checked.exit == Exit::Code(0) {
        return Ok(());
    }
    let message = format!("bash cannot parse {command:?}:\n{}", checked.stderr);
    let extra = json!({ "bash_stdout": checked.stdout, "bash_stderr": checked.stderr });
    Err(Raised::new(SYNTAX, message).with(extra))
}

/// A command of its own, as Python's `subprocess.run` takes it.
pub(super) async fn execute(
    State(state): State<SweRex>,
    Caller(sandbox): Caller,
    Body(request): Body<Execute>,
) -> Told {
    let Execute { command, timeout, shell, check, error_msg, env, cwd, merge_output_streams } = request;
    let said = match &command {
        Words::Line(line) => line.clone(),
        Words::Words(words) => words.join(" "),
    };
    let mut argv = match (command, shell) {
        (Words::Line(line), true) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        (Words::Line(program), false) => vec![program],
        (Words::Words(words), true) => [vec!["/bin/sh".to_owned(), "-c".to_owned()], words].concat(),
        (Words::Words(words), false) => words,
    };
    if merge_output_streams {
        let merging = ["/bin/sh", "-c", "exec \"$@\" 2>&1", "sh"].map(str::to_owned);
        argv = [merging.to_vec(), argv].concat();
    }
    crate::api::native::exec::words("command", &argv)?;
    let timeout_ms =
        seconds(timeout.as_ref())?.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
    let start = Start { argv, env: env.unwrap_or_default(), cwd, timeout_ms, ..Start::default() };
    let result = gathered(&state.guest(&sandbox).await?, start, None, None).await?;
    if result.timed_out {
        return Err(Raised::new(TIMEOUT, format!("the time of {said:?} was over")));
    }
    // Python tells a signal as its negative number.
    let exit = match result.exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => -signal,
    };
    if check && exit != 0 {
        let output = format!("{}{}", result.stdout, result.stderr);
        return Err(Raised::new(NON_ZERO, failed(&error_msg, &said, exit, &output)));
    }
    Ok(Json(json!({ "stdout": result.stdout, "stderr": result.stderr, "exit_code": exit })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::e2b::tests::Stage;

    #[tokio::test]
    async fn sessions_outlive_a_pause_and_nothing_that_ends_their_processes() {
        let stage = Stage::new().await;
        let sandboxes = &stage.api.sandboxes;
        let keeps = |id: &str| keeps_sessions(&sandboxes.get(id).unwrap());
        let id = sandboxes.create(mote_sandbox_api::spec::Spec::default()).await.unwrap().id;
        assert!(keeps(&id));
        sandboxes.pause(&id, PauseKind::Frozen).await.unwrap();
        assert!(keeps(&id), "they are frozen with it");
        sandboxes.resume(&id).await.unwrap();
        sandboxes.pause(&id, PauseKind::Stopped).await.unwrap();
        assert!(!keeps(&id), "their processes were ended");
        sandboxes.remove(&id).await.unwrap();
        assert!(!keeps(&id));
    }
}
