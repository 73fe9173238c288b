//! A database inside that writes throughout survives a live snapshot, a fork and a rollback as it survives a power cut.
//!
//! Each program under `databases/` writes transfers without end and tells on a tmpfs, which is no part of a snapshot, what
//! was acknowledged. The test reads that before it asks for a snapshot: whatever was acknowledged by then has to be in it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Daemon, Options};

/// Rounds of a snapshot, a fork and a rollback.
const ROUNDS: usize = 2;
/// Transactions that are acknowledged before a round begins, so that it meets a database at work.
const AT_WORK: u64 = 25;

/// A database: its program, how it is run, and where each of its writers tells what was acknowledged.
struct Database {
    script: &'static str,
    /// The command, up to the verb.
    command: &'static str,
    user: &'static str,
    /// Run before the writers, in a root that has the database.
    start: Option<&'static str>,
    /// Arguments of `write` and of `check`, and the files of what was acknowledged; one for each process that writes.
    writers: Vec<(&'static str, Vec<&'static str>)>,
}

fn sqlite() -> Database {
    Database {
        script: include_str!("databases/sqlite.py"),
        command: "python3 /opt/database.py",
        user: "root",
        start: None,
        writers: vec![
            ("/opt/wal.db WAL", vec!["/dev/shm/wal"]),
            ("/opt/rollback.db DELETE", vec!["/dev/shm/rollback"]),
        ],
    }
}

fn postgresql() -> Database {
    Database {
        script: include_str!("databases/postgresql.py"),
        command: "python3 /opt/database.py",
        user: "postgres",
        start: Some("start"),
        writers: vec![("", vec!["/dev/shm/postgresql-0", "/dev/shm/postgresql-1"])],
    }
}

impl Database {
    /// Puts the program inside.
    async fn install(&self, daemon: &Daemon, id: &str) {
        daemon.put(id, "/opt/database.py", self.script).await;
    }

    async fn run(&self, daemon: &Daemon, id: &str, line: &str) -> String {
        let body = json!({ "command": line, "user": self.user, "cwd": "/" });
        let result = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await;
        assert_eq!(result["exit"], json!({"code": 0}), "{line}: {result}");
        result["stdout"].as_str().unwrap().trim().to_owned()
    }

    /// Starts what writes, and waits until it is at work.
    async fn write(&self, daemon: &Daemon, id: &str) {
        if let Some(verb) = self.start {
            self.run(daemon, id, &format!("{} {verb}", self.command)).await;
        }
        for (arguments, told) in &self.writers {
            let names = if arguments.is_empty() { String::new() } else { told.join(" ") };
            let line = format!(
                "rm -f {}; {} write {arguments} {names} </dev/null >/tmp/said 2>&1 &",
                told.join(" "),
                self.command
            );
            self.run(daemon, id, &line).await;
        }
        self.at_work(daemon, id).await;
    }

    /// What each writer was told to be committed.
    async fn acknowledged(&self, daemon: &Daemon, id: &str) -> Vec<u64> {
        let files: Vec<&str> = self.writers.iter().flat_map(|(_, told)| told.iter().copied()).collect();
        let line = format!("for f in {}; do echo 0$(cat $f 2>/dev/null); done", files.join(" "));
        let text = daemon.run(id, &line).await;
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    /// Waits until each writer has done more.
    async fn at_work(&self, daemon: &Daemon, id: &str) {
        let from = self.acknowledged(daemon, id).await;
        let line = "cat /tmp/said; ps ax";
        for attempt in 0.. {
            let now = self.acknowledged(daemon, id).await;
            if now.iter().zip(&from).all(|(now, from)| *now >= from + AT_WORK) {
                return;
            }
            assert!(attempt < 2000, "it does not write: {from:?}, {now:?}: {}", daemon.exec(id, line).await);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// The database of a sandbox recovers and is whole.
    async fn check(&self, daemon: &Daemon, id: &str, least: &[u64]) {
        let mut least = least.iter();
        for (arguments, told) in &self.writers {
            let bounds: Vec<String> = least.by_ref().take(told.len()).map(u64::to_string).collect();
            self.run(daemon, id, &format!("{} check {arguments} {}", self.command, bounds.join(" "))).await;
        }
    }
}

async fn snapshot(daemon: &Daemon, id: &str) -> String {
    let taken = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/snapshots"), json!({})).await;
    taken["id"].as_str().unwrap().to_owned()
}

async fn removed(daemon: &Daemon, id: &str) {
    daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
}

/// Snapshots, forks and rolls back while it writes, on a pool that can.
async fn survives(daemon: &Daemon, id: &str, database: &Database) {
    for _ in 0..ROUNDS {
        database.write(daemon, id).await;
        let by_snapshot = database.acknowledged(daemon, id).await;
        let taken = snapshot(daemon, id).await;
        let by_fork = database.acknowledged(daemon, id).await;
        let fork = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/fork"), json!({})).await;
        let fork = fork["items"][0]["sandbox"]["id"].as_str().unwrap().to_owned();
        // Neither stopped it.
        database.at_work(daemon, id).await;
        database.check(daemon, &fork, &by_fork).await;
        removed(daemon, &fork).await;
        let restored = daemon.create(json!({ "image": { "snapshot": taken } })).await;
        database.check(daemon, &restored, &by_snapshot).await;
        removed(daemon, &restored).await;
        // Under way still, and then brought back: what wrote has ended.
        daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/rollback"), json!({ "snapshot": taken })).await;
        database.check(daemon, id, &by_snapshot).await;
    }
}

#[tokio::test]
async fn sqlite_survives_live_snapshots_forks_and_rollbacks() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let database = sqlite();
    database.install(&daemon, &id).await;
    survives(&daemon, &id, &database).await;
}

#[tokio::test]
async fn postgresql_survives_live_snapshots_forks_and_rollbacks() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let database = postgresql();
    database.install(&daemon, &id).await;
    daemon
        .run(&id, "useradd --system postgres && mkdir -p /var/lib/mote-test && chown postgres: /var/lib/mote-test")
        .await;
    database.run(&daemon, &id, "python3 /opt/database.py make").await;
    // `survives` starts the server of each round.
    database
        .run(&daemon, &id, "/usr/lib/postgresql/15/bin/pg_ctl --pgdata /var/lib/mote-test/data --mode fast stop")
        .await;
    survives(&daemon, &id, &database).await;
}

/// Where trees are plain directories a snapshot needs a sandbox in which nothing runs: it is refused while a database writes,
/// and what a crash of the database left is snapshot, forked and rolled back whole.
#[tokio::test]
async fn on_plain_directories_a_snapshot_waits_for_the_database_to_end() {
    let options = Options {
        config: "filesystem: plain".to_owned(),
        // The host's root cannot lie below directories of the same filesystem.
        folder: Some("/dev/shm"),
        ..Options::default()
    };
    let daemon = Daemon::start_with(options).await;
    let id = daemon.create(json!({})).await;
    let database = sqlite();
    database.install(&daemon, &id).await;
    database.write(&daemon, &id).await;
    for verb in ["snapshots", "fork"] {
        let (status, answer) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/{verb}"), json!({})).await;
        assert_eq!((status, answer["code"].as_str()), (StatusCode::CONFLICT, Some("busy")), "{verb}: {answer}");
    }
    database.at_work(&daemon, &id).await;
    let least = database.acknowledged(&daemon, &id).await;
    // In the middle of whatever they do.
    daemon.run(&id, "pkill -9 -x python3; while pgrep -x python3; do :; done").await;
    let taken = snapshot(&daemon, &id).await;
    let fork = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    database.check(&daemon, fork["items"][0]["sandbox"]["id"].as_str().unwrap(), &least).await;
    database.write(&daemon, &id).await;
    daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/rollback"), json!({ "snapshot": taken })).await;
    database.check(&daemon, &id, &least).await;
}
