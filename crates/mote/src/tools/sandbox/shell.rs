//! `shell`: one command from start to end.
//!
//! The daemon gathers its output within a bound and ends it, with all its children, when its time is over.

use mote_sandbox_api::guest::Exit;
use mote_sandbox_api::request::{Command, Exec, ExecResult};
use reqwest::Method;
use serde_json::{Value, json};

use super::bound::middle;
use super::{Answer, Work, Worked};
use crate::limits::{SANDBOX_ANSWER_BYTES_MAX, SANDBOX_GRACE};

/// Bash where the image has it: models write for it.
const START: &str = r#"command -v bash >/dev/null 2>&1 && exec bash -c "$1"; exec sh -c "$1""#;
/// Longest that JSON makes a byte of output: a control character is six.
const ESCAPED: usize = 6;

pub(super) async fn run(work: &Work<'_>) -> Worked {
    let words = ["/bin/sh", "-c", START, "sh", work.argument("command")];
    let output_max = work.output_max();
    let exec = Exec {
        command: Command::Arguments(words.map(str::to_owned).to_vec()),
        cwd: work.invocation.arguments["cwd"].as_str().map(str::to_owned),
        timeout: Some(work.timeout()),
        output_max: Some(output_max as u64),
        ..Exec::default()
    };
    let request = work.request(Method::POST, "exec")?.json(&exec).timeout(work.timeout() + SANDBOX_GRACE);
    let daemon = &work.sandboxes.daemon;
    let response = work.send(request).await?;
    let most = 2 * ESCAPED * output_max + SANDBOX_ANSWER_BYTES_MAX;
    let result: ExecResult = daemon.json(response, most).await?;
    Ok(told(&result, output_max))
}

fn told(result: &ExecResult, output_max: usize) -> Answer {
    let mut each = output_max;
    loop {
        let fields = fields(result, each);
        if each <= 1 || fields.to_string().len() <= output_max {
            let is_error = result.exit != Exit::Code(0) || result.timed_out;
            return Answer { is_error, ..Answer::fields(fields) };
        }
        each /= 2;
    }
}

fn fields(result: &ExecResult, each: usize) -> Value {
    let (stdout, stderr) = (middle(&result.stdout, each), middle(&result.stderr, each));
    let cut = result.truncated_bytes > 0 || stdout.len() < result.stdout.len() || stderr.len() < result.stderr.len();
    let mut fields = json!({"stdout": stdout, "stderr": stderr});
    match result.exit {
        Exit::Code(code) => fields["exit_code"] = code.into(),
        Exit::Signal(signal) => fields["signal"] = signal.into(),
    }
    if result.timed_out {
        fields["timed_out"] = true.into();
    }
    if cut {
        fields["truncated"] = true.into();
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(stdout: &str, exit: Exit) -> ExecResult {
        ExecResult {
            stdout: stdout.to_owned(),
            stderr: String::new(),
            truncated_bytes: 0,
            exit,
            timed_out: false,
            duration_ms: 1,
        }
    }

    #[test]
    fn a_failed_command_is_an_error_and_says_how_it_ended() {
        let good = told(&result("hi\n", Exit::Code(0)), 1000).output(None);
        assert_eq!((good.content.as_str(), good.is_error), (r#"{"exit_code":0,"stderr":"","stdout":"hi\n"}"#, false));
        let killed = told(&result("", Exit::Signal(9)), 1000).output(Some("Mind.".to_owned()));
        assert_eq!(killed.content, r#"{"note":"Mind.","signal":9,"stderr":"","stdout":""}"#);
        assert!(killed.is_error);
    }

    #[test]
    fn output_that_json_makes_longer_stays_within_the_bound() {
        let output = told(&result(&"\u{1}".repeat(5000), Exit::Code(0)), 4096).output(None);
        assert!(output.content.len() <= 4096, "{}", output.content.len());
        assert!(output.content.contains("bytes left out") && output.content.contains("\"truncated\":true"));
    }
}
