#![allow(clippy::unwrap_used)]

use rusqlite::Connection;

use super::*;
use crate::store::{Batch, Owner, Status, StatusChange, Totals};

fn new_task(id: &str) -> NewTask {
    NewTask {
        id: id.to_owned(),
        owner: Owner::default(),
        request: r#"{"input":"hello"}"#.to_owned(),
        now: 1_000,
        expires_at: None,
        idempotency: None,
        claim: None,
        first: None,
    }
}

fn lease(until: u64) -> Lease {
    Lease { worker: "w".to_owned(), until }
}

fn batch(status: StatusChange) -> Batch {
    Batch {
        entries: Vec::new(),
        effects: Vec::new(),
        budget: Vec::new(),
        mail_consumed: Vec::new(),
        outbox: Vec::new(),
        session: None,
        status,
        totals: Totals::default(),
    }
}

fn open(dir: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(&dir.path().join("store.db"), Options::default()).unwrap()
}

fn options() -> Options {
    Options { lock_wait: Duration::from_millis(20) }
}

#[tokio::test]
async fn what_was_submitted_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.submit(new_task("a")).await.unwrap();
    drop(store);
    assert!(!dir.path().join("store.db-wal").exists(), "closing folds the log into the file");
    let store = open(&dir);
    assert_eq!(store.task(None, "a").await.unwrap().unwrap().status, Status::Queued);
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_whole_commits_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.submit(new_task("before")).await.unwrap();
    let pages = |max: u32| {
        store.writer.run::<(), Error, _>("set the size", WhenFull::Wait, move |tx| {
            Ok(tx.connection.query_row(&format!("PRAGMA max_page_count = {max}"), [], |_| Ok(()))?)
        })
    };
    pages(1).await.unwrap();
    let mut big = new_task("big");
    big.request = "x".repeat(1 << 20);
    big.owner.session = Some("s".to_owned());
    assert_eq!(store.submit(big.clone()).await.unwrap_err(), Error::DiskFull);
    assert_eq!(store.task(None, "big").await.unwrap(), None);
    assert_eq!(store.session("", "s").await.unwrap(), None, "nothing is half applied");
    assert_eq!(store.counts().await.unwrap().queued, 1);
    pages(1_000_000).await.unwrap();
    store.submit(big).await.unwrap();
    assert_eq!(store.counts().await.unwrap().queued, 2);
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_another_holds_is_waited_for_and_then_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = SqliteStore::open(&path, options()).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(store.submit(new_task("a")).await.unwrap_err(), Error::Locked { waited_ms: 20 });
    assert_eq!(store.ping(Duration::from_secs(5)).await.unwrap_err(), Error::Locked { waited_ms: 20 });
    assert_eq!(store.task(None, "a").await.unwrap(), None, "readers go on");
    other.execute_batch("COMMIT").unwrap();
    store.submit(new_task("a")).await.unwrap();
    store.ping(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn two_processes_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(&dir), open(&dir));
    one.submit(new_task("a")).await.unwrap();
    let first = one.claim(lease(2_000), 1_000, 8).await.unwrap();
    assert_eq!(first.len(), 1);
    assert!(two.claim(lease(2_000), 1_500, 8).await.unwrap().is_empty());
    let second = two.claim(lease(4_000), 2_000, 8).await.unwrap();
    assert_eq!(second[0].epoch, 2);
    let commit =
        Commit { task: "a".to_owned(), epoch: 1, expected_seq: 0, now: 1_900, batch: batch(StatusChange::Running) };
    let fenced = one.commit(commit.clone()).await.unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced { epoch: 1, current: 2, .. }), "{fenced}");
    two.commit(Commit { epoch: 2, now: 2_100, ..commit }).await.unwrap();
}

#[test]
fn a_file_that_is_no_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, make: &dyn Fn(&Path)| {
        let path = dir.path().join(name);
        make(&path);
        let before = std::fs::read(&path).unwrap();
        let error = SqliteStore::open(&path, options()).err().unwrap();
        assert!(
            matches!(&error, Error::Corrupt { path: named, .. } if *named == path.display().to_string()),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
    };
    check("text", &|path| std::fs::write(path, "not a database, but a text of some length ".repeat(40)).unwrap());
    check("other", &|path| Connection::open(path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap());
    check("another", &|path| Connection::open(path).unwrap().execute_batch("PRAGMA application_id = 7").unwrap());
}

#[tokio::test]
async fn damage_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&dir);
    for n in 0..200 {
        let mut task = new_task(&format!("task-{n}"));
        task.request = "x".repeat(2_000);
        store.submit(task).await.unwrap();
    }
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..half + 20_000].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let store = open(&dir);
    let error = store.check().await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path: named, .. } if *named == path.display().to_string()), "{error}");
}

#[test]
fn a_newer_schema_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    drop(open(&dir));
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let known = u32::try_from(schema::MIGRATIONS.len()).unwrap();
    let path_text = path.display().to_string();
    let error = SqliteStore::open(&path, options()).err().unwrap();
    assert_eq!(error, Error::SchemaTooNew { path: path_text, found: 99, known });
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&dir);
    store.submit(new_task("a")).await.unwrap();
    drop(store);
    let mut connection = Connection::open(&path).unwrap();
    let with = |step: &'static str| [schema::MIGRATIONS, &[step]].concat();
    // A step that fails half-way leaves the old schema as it was.
    let broken = with("CREATE TABLE later (x) STRICT; CREATE TABLE tasks (x);");
    schema::migrate(&mut connection, &path, &broken).unwrap_err();
    let tables = |connection: &Connection| {
        let sql = "SELECT count(*) FROM sqlite_master WHERE name = 'later'";
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(tables(&connection), 0);
    let good = with("CREATE TABLE later (x ANY) STRICT;");
    schema::migrate(&mut connection, &path, &good).unwrap();
    assert_eq!(tables(&connection), 1);
    assert_eq!(schema::found(&connection, &path, &good).unwrap(), good.len());
    let kept = connection.query_row("SELECT id FROM tasks", [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(kept, "a");
}

#[tokio::test]
async fn erased_text_is_not_left_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "an-unmistakable-phrase";
    let store = open(&dir);
    let mut task = new_task("a");
    task.owner.user = Some("ada".to_owned());
    task.request = secret.repeat(300);
    store.submit(task).await.unwrap();
    let erased = store.erase(Erase::User { tenant: String::new(), user: "ada".to_owned() }).await.unwrap();
    assert_eq!(erased, 1);
    drop(store);
    let bytes = std::fs::read(dir.path().join("store.db")).unwrap();
    assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
}

#[tokio::test]
async fn watchers_are_forgotten_with_their_last_listener() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let receiver = store.subscribe("a");
    let mut again = store.subscribe("a");
    store.submit(new_task("a")).await.unwrap();
    assert!(again.has_changed().unwrap());
    again.mark_unchanged();
    drop((receiver, again));
    store.post("a", Mail::Cancel, 2_000).await.unwrap();
    assert_eq!(store.watchers.len(), 0);
    for n in 0..10_000 {
        drop(store.subscribe(&n.to_string()));
    }
    assert!(store.watchers.len() < 1_000, "{}", store.watchers.len());
}

#[cfg(unix)]
#[test]
fn only_its_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let _store = open(&dir);
    for name in ["store.db", "store.db-wal"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
}

#[tokio::test]
async fn looking_for_work_reads_only_what_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let plan = |sql: &'static str| {
        store.readers.run("explain", move |connection| {
            let mut query = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let rows = query.query_map([], |row| row.get::<_, String>(3))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?.join("; "))
        })
    };
    // A scan or a sort here would cost every worker the whole backlog each time it asks.
    let due = plan("SELECT n FROM tasks WHERE due_at <= 5 ORDER BY due_at, n LIMIT 8").await.unwrap();
    assert_eq!(due, "SEARCH tasks USING COVERING INDEX tasks_due (due_at<?)");
    let session = plan("SELECT 1 FROM tasks WHERE tenant = '' AND session = 's' AND finished_at IS NULL LIMIT 1");
    assert!(session.await.unwrap().contains("tasks_session (tenant=? AND session=? AND finished_at=?)"));
    let old = plan("SELECT n FROM tasks WHERE finished_at < 5 ORDER BY finished_at LIMIT 8").await.unwrap();
    assert!(old.contains("tasks_finished (finished_at<?)"), "{old}");
    let newest = plan("SELECT id FROM tasks WHERE status = 'queued' AND n < 9 ORDER BY n DESC LIMIT 8").await.unwrap();
    assert!(newest.contains("tasks_status (status=?") && !newest.contains("TEMP B-TREE"), "{newest}");
}
