//! What is SQLite's own: a full disk, a locked or damaged file, other schemas, durability settings.
#![allow(clippy::unwrap_used)]

mod dead;
mod held;

use rusqlite::Connection;

use super::*;
use crate::limits::{CLAIMS_TOGETHER_MAX, MAIL_MAX, STORE_GROUP, TRIALS_MAX};
use crate::store::*;
use crate::store::{Batch, End, Ended, Mail, NewEntry, Owner, Status, StatusChange, Totals};

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
        turn_within: None,
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
    Options { lock_wait: Duration::from_millis(20), ..Options::default() }
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

fn announcer() -> Arc<dyn Announcer> {
    Arc::new(crate::cloudevent::Publisher { agent: Arc::from("triage") })
}

#[tokio::test]
async fn ends_that_no_worker_drives_to_are_published_where_there_is_a_sink() {
    let dir = tempfile::tempdir().unwrap();
    for announcer in [None, Some(announcer())] {
        let path = dir.path().join(if announcer.is_some() { "with.db" } else { "without.db" });
        let published = usize::from(announcer.is_some()) * 2;
        let store = SqliteStore::open(&path, Options { announcer, ..options() }).unwrap();
        store.submit(new_task("cancelled")).await.unwrap();
        store.post("cancelled", Mail::Cancel, 2, MAIL_MAX).await.unwrap();
        store.submit(new_task("dead")).await.unwrap();
        for now in (2_000..).step_by(10).take(1 + (CLAIMS_TOGETHER_MAX + TRIALS_MAX) as usize) {
            for claim in store.claim(lease(now), now, 1).await.unwrap() {
                store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
            }
        }
        assert_eq!(store.counts().await.unwrap().dead, 1);
        let told = store.outbox(u64::MAX, 9).await.unwrap();
        assert_eq!(told.len(), published, "{told:?}");
        let bodies: String = told.iter().map(|(_, message)| message.body.as_str()).collect();
        assert_eq!(bodies.contains("dev.mote.task.cancelled") && bodies.contains("dead_letter"), published > 0);
    }
}

#[tokio::test]
async fn every_end_is_told_once_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let ends: EndObserver = Arc::new(move |ended: Ended| heard.lock().unwrap().push((ended.status, ended.dead)));
    let store = SqliteStore::open(&dir.path().join("store.db"), Options { ends: Some(ends), ..options() }).unwrap();
    store.submit(new_task("cancelled")).await.unwrap();
    store.post("cancelled", Mail::Cancel, 2, MAIL_MAX).await.unwrap();
    store.submit(new_task("dead")).await.unwrap();
    for now in (2_000..).step_by(10).take(1 + (CLAIMS_TOGETHER_MAX + TRIALS_MAX) as usize) {
        for claim in store.claim(lease(now), now, 1).await.unwrap() {
            store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
        }
    }
    let done = StatusChange::Finished(End { status: Status::Completed, result: None, error: None, dead: false });
    let lease = Lease { until: 99_000, ..lease(0) };
    store.submit(NewTask { claim: Some(lease), first: Some(batch(done)), ..new_task("done") }).await.unwrap();
    drop(store);
    let expected = [(Status::Cancelled, false), (Status::Failed, true), (Status::Completed, false)];
    assert_eq!(*told.lock().unwrap(), expected);
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
    drop(SqliteStore::open(&path, options()).unwrap());
    // Opened again: one that was just made shows by that that it can be written.
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
async fn a_store_that_was_just_made_is_ready_before_its_first_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = SqliteStore::open(&path, options()).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.ping(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.write_once().await.unwrap_err(), Error::Locked { waited_ms: 20 }, "that needs the lock");
    other.execute_batch("COMMIT").unwrap();
    store.write_once().await.unwrap();
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
async fn a_store_is_the_agents_that_opened_it_first() {
    let dir = tempfile::tempdir().unwrap();
    let open = |file: &str, agent: Option<&str>| {
        SqliteStore::open(&dir.path().join(file), Options { agent: agent.map(Arc::from), ..options() })
    };
    drop(open("new.db", Some("triage")).unwrap());
    // A store from before stores knew; whoever looks after the files takes nothing.
    let older = Connection::open(dir.path().join("older.db")).unwrap();
    older.execute_batch(&schema::MIGRATIONS[..2].concat()).unwrap();
    older.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
    older.pragma_update(None, "user_version", 2).unwrap();
    drop(older);
    drop(open("older.db", None).unwrap());
    for file in ["new.db", "older.db"] {
        drop(open(file, Some("triage")).unwrap());
        let error = open(file, Some("billing")).err().unwrap().to_string();
        for said in ["triage", "billing", "--state", "mote store assign"] {
            assert!(error.contains(said), "{said}: {error}");
        }
        open(file, None).unwrap().assign("billing").await.unwrap();
        drop(open(file, Some("billing")).unwrap());
        assert!(matches!(open(file, Some("triage")), Err(Error::Foreign { .. })));
    }
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
async fn what_a_deleted_task_cost_stays_without_its_owner_for_the_retention() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let first = Batch {
        budget: vec![crate::store::BudgetOp::Settle(crate::store::Spending {
            spender: crate::store::Spender::Model,
            step: 1,
            model: "m".to_owned(),
            usage: crate::usage::Usage::default(),
            nano_usd: 9,
            uncertain: false,
        })],
        ..batch(StatusChange::Finished(End { status: Status::Completed, result: None, error: None, dead: false }))
    };
    let owner = Owner { user: Some("ada".to_owned()), session: Some("s".to_owned()), ..Owner::default() };
    let task = NewTask { owner, claim: Some(lease(9_000)), first: Some(first), ..new_task("a") };
    store.submit(task).await.unwrap();
    let delete = crate::store::Erase::Task { tenant: None, task: "a".to_owned(), now: 5_000 };
    assert_eq!(store.erase(delete).await.unwrap(), 1);
    let rows = || {
        let connection = Connection::open(dir.path().join("store.db")).unwrap();
        let mut query = connection
            .prepare(
                "SELECT task || ' ' || nano_usd || ' ' || ifnull(user, '-') || ' ' || ifnull(session, '-') FROM ledger",
            )
            .unwrap();
        let found = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        found.collect::<Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(rows(), ["a 9 - -"]);
    store.sweep(5_000, 6_000, 9).await.unwrap();
    assert_eq!(rows().len(), 1, "kept for the retention, from its deletion on");
    store.sweep(5_001, 6_000, 9).await.unwrap();
    assert!(rows().is_empty());
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
    store.post("a", Mail::Cancel, 2_000, MAIL_MAX).await.unwrap();
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

#[tokio::test]
async fn every_connection_is_as_durable_as_it_claims() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let read = |tx: &mut writer::Tx<'_>| {
        let number =
            |pragma: &str| tx.connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
        let mode = tx.connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))?;
        Ok((mode, number("synchronous")?, number("wal_autocheckpoint")?))
    };
    let found: Result<_, Error> = store.writer.run("read settings", WhenFull::Wait, read).await;
    // 2 is FULL; checkpoints belong to their own thread.
    assert_eq!(found.unwrap(), ("wal".to_owned(), 2, 0));
    connection::assert_version().unwrap();
}

#[tokio::test]
async fn a_refused_command_takes_nobody_with_it_and_a_failed_group_fails_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store =
        SqliteStore::open(&path, Options { lock_wait: Duration::from_millis(300), ..Options::default() }).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The first one meets the lock; the others queue up behind it and become one group.
    let submit = |id: &str| store.submit(new_task(id));
    let (first, second, third) = tokio::join!(submit("a"), submit("b"), submit("c"));
    for result in [first, second, third] {
        assert_eq!(result.unwrap_err(), Error::Locked { waited_ms: 300 });
    }
    other.execute_batch("COMMIT").unwrap();
    let results = futures_util::future::join_all(["a", "b", "a", "c", "b"].map(submit)).await;
    let refused = results.iter().filter(|result| matches!(result, Err(Error::Conflict { .. }))).count();
    assert_eq!((refused, store.counts().await.unwrap().queued), (2, 3));
}

#[tokio::test]
async fn a_full_queue_is_overload_and_what_was_taken_is_kept() {
    use crate::limits::STORE_QUEUE;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = open(&dir);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let count = STORE_QUEUE + STORE_GROUP + 1;
    let submissions = (0..count).map(|n| store.submit(new_task(&format!("task-{n}")))).collect::<Vec<_>>();
    let unlock = async {
        // Every submission was polled once before this: the queue has seen all of them.
        other.execute_batch("COMMIT").unwrap();
    };
    let (results, ()) = tokio::join!(futures_util::future::join_all(submissions), unlock);
    let overloaded = |result: &&Result<Submitted, Error>| **result == Err(Error::Overloaded { queued: STORE_QUEUE });
    let refused = results.iter().filter(overloaded).count();
    assert!(refused >= 1, "a queue that takes everything is not bounded");
    let taken = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(taken + refused, count);
    assert_eq!(store.counts().await.unwrap().queued, taken as u64);
}

#[tokio::test]
async fn a_page_ends_after_so_many_bytes_and_the_next_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let large = format!("\"{}\"", "x".repeat(crate::limits::PAGE_BYTES / 2));
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        store.submit(NewTask { request: large.clone(), ..new_task(id) }).await.unwrap();
    }
    store.claim(lease(u64::MAX / 4), 1_000, 8).await.unwrap();
    for id in ids {
        let status = StatusChange::Finished(End {
            status: Status::Completed,
            result: Some(large.clone()),
            error: None,
            dead: false,
        });
        let entry = || NewEntry { at: 2, kind: "k", record: vec![1], payload: Some(large.clone()) };
        let batch = Batch { entries: (0..5).map(|_| entry()).collect(), ..batch(status) };
        store.commit(Commit { task: id.to_owned(), epoch: 1, expected_seq: 0, now: 1_001, batch }).await.unwrap();
    }
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list(Filter::default(), cursor, 200).await.unwrap();
        assert!(page.tasks.iter().all(|task| task.request.is_empty()), "a listing reads no request");
        pages.push(page.tasks.into_iter().map(|task| task.id).collect::<Vec<_>>());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec!["e", "d"], vec!["c", "b"], vec!["a"]]);
    let mut after = 0;
    for expected in [vec![1, 2], vec![3, 4], vec![5], vec![]] {
        let page: Vec<u64> = store.journal("a", after, 200).await.unwrap().iter().map(|entry| entry.seq).collect();
        assert_eq!(page, expected);
        after = page.last().copied().unwrap_or(after);
    }
}

#[tokio::test]
async fn effects_and_large_payloads_stand_where_a_person_finds_them() {
    use crate::store::{EffectOp, NewEntry};
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let payload = Some("x".repeat(crate::limits::STORE_INLINE_BYTES + 1));
    let entry = |payload| NewEntry { at: 1_000, kind: "tool.finished", record: Vec::new(), payload };
    for id in ["a", "b"] {
        let mut first = batch(StatusChange::Running);
        first.entries = vec![entry(payload.clone()), entry(Some("small".to_owned()))];
        let (key, tool) = ("k".to_owned(), "pay".to_owned());
        first.effects = vec![EffectOp::Reserve {
            key: key.clone(),
            tool,
            class: "write",
            attempt: 2,
            step: 1,
            call: "c".to_owned(),
        }];
        if id == "b" {
            first.effects.push(EffectOp::Finalise { key, outcome: "unknown" });
        }
        store.submit(NewTask { claim: Some(lease(9_000)), first: Some(first), ..new_task(id) }).await.unwrap();
    }
    let reader = Connection::open(dir.path().join("store.db")).unwrap();
    let text = |sql: &str| reader.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    let effects = "SELECT group_concat(task || ' ' || tool || ' ' || class || ' ' || attempt || ' ' || outcome)
                   FROM effects ORDER BY task";
    assert_eq!(text(effects), "a pay write 2 reserved,b pay write 2 unknown");
    assert_eq!(text("SELECT count(*) || ' ' || sum(refs) FROM blobs"), "1 2", "one content, two that hold it");
    assert_eq!(text("SELECT count(*) || ' ' || count(payload) || ' ' || count(blob) FROM journal"), "4 2 2");
    let done = StatusChange::Finished(End { status: Status::Completed, result: None, error: None, dead: false });
    let commit =
        |id: &str| Commit { task: id.to_owned(), epoch: 1, expected_seq: 2, now: 2_000, batch: batch(done.clone()) };
    for (id, left) in [("a", "1 1"), ("b", "0 0")] {
        store.commit(commit(id)).await.unwrap();
        store.sweep(3_000, 3_000, 8).await.unwrap();
        assert_eq!(text("SELECT count(*) || ' ' || ifnull(sum(refs), 0) FROM blobs"), left);
    }
    assert_eq!(text("SELECT count(*) || '' FROM effects"), "0");
}
