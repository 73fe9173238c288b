//! The keeper itself: what it refuses, and what becomes of sandboxes when it ends and another begins.

use std::sync::Arc;

use mote_sandbox_api::error::Code;
use mote_sandboxd::guest::Guest;
use mote_sandboxd::keeper::{self, client::Client, wire};
use mote_sandboxd::namespace::Containers;

use crate::stage::{self, Stage, plan, run, with_stage};

#[test]
fn a_verb_that_is_none_is_answered_and_changes_nothing() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let settings = stage::settings(folder.path());
    let socket = keeper::spawn(stage::daemon_program(), &settings).unwrap();
    wire::send(&socket, &serde_json::json!({ "number": 7, "verb": { "format_disk": "/dev/sda" } }), &[]).unwrap();
    let (answer, _) = wire::receive::<wire::Answer>(&socket).unwrap();
    assert_eq!((answer.number, answer.result.unwrap_err().code), (7, Code::Invalid));
    wire::send(&socket, &wire::Call { number: 8, verb: keeper::Verb::Ping }, &[]).unwrap();
    assert_eq!(wire::receive::<wire::Answer>(&socket).unwrap().0.number, 8);
}

#[test]
fn names_and_paths_that_lead_elsewhere_are_refused_by_the_keeper() {
    with_stage(|stage| async move {
        for id in ["../../etc", "a/b", "", "."] {
            let failure = stage.containers.start(plan(id, |_| {})).await.unwrap_err();
            assert_eq!(failure.code, Code::Invalid, "{id:?}");
            assert_eq!(stage.containers.end(id).await.unwrap_err().code, Code::Invalid, "{id:?}");
        }
        let none = stage.containers.start(plan("nobody", |_| {})).await.unwrap_err();
        assert_eq!(none.code, Code::NotFound);
        stage.root("a").await;
        for (source, path, code) in [("/etc", "/mnt/x", Code::Forbidden), ("/etc", "/proc/x", Code::Invalid)] {
            let data = mote_sandboxd::namespace::Mount {
                source: mote_sandboxd::namespace::Source::Data(source.into()),
                path: path.to_owned(),
                read_only: true,
            };
            let failure = stage.containers.start(plan("a", |launch| launch.mounts.push(data))).await.unwrap_err();
            assert_eq!(failure.code, code, "{source} at {path}");
        }
        assert!(stage.launch("b", |_| {}).await.1.hello().await.is_ok(), "the keeper goes on");
    });
}

#[test]
fn sandboxes_live_on_when_daemon_and_keeper_end_and_the_next_adopts_them() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut settings = stage::settings(folder.path());
    settings.ready_cells = 1;
    let pid = in_runtime({
        let settings = settings.clone();
        async move {
            let stage = Stage::start(tempfile::tempdir_in("/dev/shm").unwrap(), &settings);
            let (started, guest) = stage.launch("a", |launch| launch.network = true).await;
            assert!(run(&guest, "sleep 1000 >/dev/null 2>&1 &").await.succeeded());
            let (gone, _) = stage.launch("b", |_| {}).await;
            // Dies with no keeper to see it.
            let (dead, keeper) = (stage::watched(gone.pid), stage::watched(stage::parent(gone.pid)));
            drop(stage);
            // The one before has ended, and what waited for it: nobody is left to see the other's end.
            stage::ended(&keeper).await;
            rustix::process::pidfd_send_signal(&dead, rustix::process::Signal::KILL).unwrap();
            // A kill is a request: its end is what the next keeper is to find.
            stage::ended(&dead).await;
            started.pid
        }
    });
    in_runtime(async move {
        let client = Client::start(keeper::spawn(stage::daemon_program(), &settings).unwrap()).unwrap();
        let containers = Containers::new(client);
        let living = containers.living().await.unwrap();
        assert_eq!(
            living.iter().map(|each| (each.id.as_str(), each.pid, each.network)).collect::<Vec<_>>(),
            [("a", pid, true)]
        );
        let adopted = containers.adopt("a").await.unwrap();
        assert!(adopted.network.is_some(), "the daemon's sockets are made again");
        let guest = Guest::new(adopted.guest);
        assert!(run(&guest, "pgrep sleep").await.succeeded(), "its processes went on");
        assert!(containers.usage("a").pids >= 2);
        containers.end("a").await.unwrap();
        assert_eq!(containers.living().await.unwrap(), []);
        drop((containers, guest));
        stage::nothing_left(&settings).await;
    });
    drop(folder);
}

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
}

#[test]
fn many_at_once_all_come_up_and_all_go() {
    with_stage(|stage| async move {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let stage: Arc<Stage> = Arc::clone(&stage);
            tasks.spawn(async move {
                let id = format!("m{number}");
                let (_, guest) = stage.launch(&id, |_| {}).await;
                let answer = run(&guest, "echo up").await.text;
                stage.containers.end(&id).await.unwrap();
                answer
            });
        }
        assert!(tasks.join_all().await.iter().all(|answer| answer == "up\n"));
    });
}
