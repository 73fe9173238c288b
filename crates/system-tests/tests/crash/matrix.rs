//! The crash matrix: killed at each named crash point in turn, at each passage, and restarted on the same state.

use std::os::unix::process::ExitStatusExt;

use futures_util::StreamExt;
use serde_json::{Value, json};
use system_tests::limits::{PATIENCE, POLL};
use system_tests::process::Process;
use system_tests::process::service::Service;
use tokio::time::Instant;

use super::{assert_effects, assert_sound, effects, journal};
use crate::stage::Stage;

/// Passages of one point that are tried; the scenario passes none more often without ending.
const PASSAGES_MAX: u64 = 40;
/// Scenarios that run side by side: they mostly wait for leases.
const SIDE_BY_SIDE: usize = 6;
/// Number of SIGABRT.
const ABORTED: i32 = 6;

/// How the task is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Tasks,
    Run,
}

/// What became of one scenario.
struct Passage {
    /// Whether the process died at the point; otherwise the task finished before that passage.
    crashed: bool,
    /// Whether the write's outcome was reported as unknown, and whether it happened.
    unknown: Option<bool>,
}

async fn ask(service: &Service, entry: Entry) -> reqwest::Result<Value> {
    let path = if entry == Entry::Tasks { "/tasks" } else { "/run" };
    let request = service.post(path, &json!({"input": "Order a lamp"})).header("idempotency-key", "\"only-once\"");
    request.send().await?.json().await
}

/// Gives the task until it is accepted, as a client with an idempotency key does; returns its id.
async fn insist(service: &Service, entry: Entry) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(service, entry).await.unwrap();
        if let Some(id) = answer["id"].as_str() {
            return id.to_owned();
        }
        assert_eq!(answer["code"], "idempotency_in_progress", "{answer}");
        assert!(Instant::now() < deadline, "{answer}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the process dies or its only task is finished.
async fn dies_or_finishes(service: &mut Service, context: &str) {
    let deadline = Instant::now() + PATIENCE;
    while service.process.alive() {
        if let Ok(answer) = service.get("/tasks").send().await
            && let Ok(page) = answer.json::<Value>().await
            && page["tasks"][0]["times"]["finished"].is_string()
        {
            return;
        }
        assert!(Instant::now() < deadline, "{context}: neither; it wrote:\n{}", service.process.output());
        tokio::time::sleep(POLL).await;
    }
}

async fn aborted(process: &mut Process, context: &str) -> bool {
    let status = process.wait().await.unwrap();
    let aborted = status.signal() == Some(ABORTED);
    assert!(aborted || status.success(), "{context}: {status}; it wrote:\n{}", process.output());
    aborted
}

async fn killed_at(entry: Entry, point: &'static str, passage: u64) -> Passage {
    let context = format!("{entry:?} {point}:{passage}");
    let stage = Stage::new(effects()).await;
    let mut first = stage.launch().crashing_at(&format!("{point}:{passage}")).unwrap().listen().await.ok();
    let crashed = match &mut first {
        // It died before it listened.
        None => true,
        Some(service) => {
            let _ = service.ready().await;
            let _ = ask(service, entry).await;
            dies_or_finishes(service, &context).await;
            if service.process.alive() {
                service.process.signal(rustix::process::Signal::TERM).unwrap();
            }
            aborted(&mut service.process, &context).await
        }
    };
    let service = stage.launch().with_crash_points().unwrap().start().await.unwrap();
    let id = insist(&service, entry).await;
    let task = service.finished(&id).await.unwrap();
    let unknown = assert_effects(&stage, &task, &context);
    assert_sound(&journal(&service, &id).await, &task, &context);
    let page: Value = service.get("/tasks").send().await.unwrap().json().await.unwrap();
    assert_eq!(page["tasks"].as_array().unwrap().len(), 1, "{context}: one task, however often it was asked for");
    let wrote = stage.backend.count("write/note").effects == 1;
    Passage { crashed, unknown: unknown.then_some(wrote) }
}

/// Kills at every passage of a point until a run gets through; returns what was seen.
async fn every_passage(entry: Entry, point: &'static str) -> Vec<Passage> {
    let mut seen = Vec::new();
    for passage in 1..=PASSAGES_MAX {
        let outcome = killed_at(entry, point, passage).await;
        if !outcome.crashed {
            assert!(outcome.unknown.is_none(), "{point}:{passage}: nothing died, yet an outcome is unknown");
            break;
        }
        seen.push(outcome);
    }
    assert!(!seen.is_empty(), "{entry:?} never passes {point}: the matrix tests nothing there");
    seen
}

async fn matrix(entry: Entry, points: impl Iterator<Item = &'static str>) -> Vec<Passage> {
    let passages = points.map(|point| every_passage(entry, point));
    let all: Vec<_> = futures_util::stream::iter(passages).buffer_unordered(SIDE_BY_SIDE).collect().await;
    all.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_crash_point_in_turn_a_task_ends_once_and_no_effect_is_lost_or_doubled() {
    let seen = matrix(Entry::Tasks, mote::crash::POINTS.iter().copied()).await;
    let unknown: Vec<bool> = seen.iter().filter_map(|passage| passage.unknown).collect();
    assert!(unknown.contains(&false), "killed before the write went out: unknown is reported");
    assert!(unknown.contains(&true), "killed after the write went out: unknown is reported, and it is not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_crash_point_in_turn_a_run_ends_once_and_no_effect_is_lost_or_doubled() {
    // A run is claimed as it is submitted: nothing is left for the claim loop.
    matrix(Entry::Run, mote::crash::POINTS.iter().copied().filter(|point| !point.starts_with("claim"))).await;
}

#[tokio::test]
async fn killed_again_and_again_at_any_place_a_task_still_ends_once() {
    let stage = Stage::new(effects()).await;
    let mut id = None;
    for kill in ["submit.after", "model.before_call", "tool.after_call:2", "run.after_commit:2", "finish.before_commit"]
    {
        let Ok(mut service) = stage.launch().crashing_at(kill).unwrap().listen().await else { continue };
        let _ = service.ready().await;
        let asked = ask(&service, Entry::Tasks).await;
        id = asked.ok().and_then(|task| task["id"].as_str().map(str::to_owned)).or(id);
        dies_or_finishes(&mut service, kill).await;
        service.process.kill().await.unwrap();
    }
    let service = stage.launch().with_crash_points().unwrap().start().await.unwrap();
    let again = insist(&service, Entry::Tasks).await;
    assert!(id.is_none_or(|id| id == again), "the same task all along");
    let task = service.finished(&again).await.unwrap();
    assert_effects(&stage, &task, "killed repeatedly");
    assert_sound(&journal(&service, &again).await, &task, "killed repeatedly");
}
