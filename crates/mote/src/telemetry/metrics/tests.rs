//! The exposition: names, values, and what `promtool` thinks of it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::store::Status;

/// Every metric with at least one sample.
fn filled() -> Metrics {
    let metrics = Metrics::new("1.2.3", 1_795_262_691_500);
    let second = Duration::from_secs(1);
    metrics.task_submitted();
    metrics.task_ended(&Ended { status: Status::Completed, dead: false, lived: second });
    metrics.set_counts(&Counts { queued: 3, running: 2, waiting: 1, dead: 0, outbox: 4 });
    metrics.lease_lost();
    metrics.task_ended(&Ended { status: Status::Failed, dead: true, lived: second });
    metrics.budget_refused("tenant");
    metrics.overloaded("QUEUED_TASKS_MAX");
    metrics.model_call("openai", "m", Ok(()), second);
    metrics.model_call("openai", "m", Err(ErrorKind::RateLimited), second);
    metrics.model_first_token("openai", "m", second);
    metrics.tokens("openai", "m", &Usage { input: 100, cache_read: 40, cache_write: 0, output: 20, reasoning: 5 });
    metrics.cost(1_500_000_000);
    metrics.cost(1);
    metrics.retried(Retried::Model);
    metrics.retried(Retried::Tool);
    metrics.circuit("openai", "m", Circuit::Open);
    let failure =
        Failure { kind: FailureKind::Unknown, tool: "pay".to_owned(), message: String::new(), retry_after: None };
    metrics.tool_call("pay", &Err(failure), second);
    metrics.tool_call("pay", &Ok(crate::tools::Output::free("", true).into()), second);
    metrics.tool_timed_out("pay", second);
    metrics.tool_arguments_invalid("pay");
    metrics.effect_unknown("pay");
    metrics.http_request(&http::Method::GET, "/tasks/{id}", 200, second);
    metrics.http_request(&http::Method::from_bytes(b"BREW").unwrap(), "", 404, second);
    metrics.store_commit(second);
    metrics.store_group(17, second);
    metrics.store_queue(9);
    metrics.log_line_dropped();
    metrics.spans("exported", 6);
    metrics
}

#[test]
fn the_exposition_tells_what_happened() {
    let metrics = filled();
    let run = metrics.run_active();
    let text = metrics.render();
    for line in [
        "mote_build_info{version=\"1.2.3\"} 1",
        "mote_tasks_submitted_total 1",
        "mote_tasks_finished_total{status=\"completed\"} 1",
        "mote_tasks{state=\"queued\"} 3",
        "mote_runs_active 1",
        "mote_model_call_duration_seconds_count{provider=\"openai\",model=\"m\",outcome=\"rate_limited\"} 1",
        "mote_model_call_duration_seconds_bucket{le=\"81.92\",provider=\"openai\",model=\"m\",outcome=\"ok\"} 1",
        "mote_model_tokens_total{provider=\"openai\",model=\"m\",type=\"cache_read\"} 40",
        "mote_cost_usd_total 1.500000001",
        "mote_model_circuit_state{provider=\"openai\",model=\"m\"} 2",
        "mote_tool_calls_total{tool=\"pay\",outcome=\"timeout\"} 1",
        "mote_effects_outcome_unknown_total{tool=\"pay\"} 1",
        "mote_http_requests_total{method=\"GET\",route=\"/tasks/{id}\",status=\"2xx\"} 1",
        "mote_http_requests_total{method=\"OTHER\",route=\"none\",status=\"4xx\"} 1",
        "mote_store_group_size_sum 17.0",
        "process_start_time_seconds 1795262691.5",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    for process in ["resident_memory_bytes", "open_fds", "cpu_seconds_total", "max_fds"] {
        assert!(text.contains(&format!("\nprocess_{process} ")), "{process}");
    }
    drop(run);
    assert!(metrics.render().contains("\nmote_runs_active 0\n"));
    assert!(metrics.render_open_metrics().ends_with("# EOF\n"));
}

#[test]
fn promtool_finds_nothing_to_say() {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    // `cargo xtask test` installs it; elsewhere the test above has to do.
    let Ok(mut promtool) = spawned else { return };
    promtool.stdin.take().unwrap().write_all(filled().render().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
