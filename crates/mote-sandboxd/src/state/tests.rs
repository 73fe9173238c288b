//! What is kept, over real files.
//!
//! It does not test what the lifecycle does with it.

use super::*;

fn state() -> (tempfile::TempDir, State) {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    (directory, state)
}

#[tokio::test]
async fn a_key_is_known_by_its_hash_alone() {
    let (directory, state) = state();
    let made = state.new_key("ci", &Scopes::all(), 7).await.unwrap();
    assert_eq!(state.key(&made.key).await.unwrap().unwrap().name, "ci");
    assert!(state.key("mote_sk_00").await.unwrap().is_none());
    assert!(state.new_key("ci", &Scopes::all(), 8).await.unwrap_err().message.contains("there is a key named"));
    assert!(state.revoke_key("ci").await.unwrap());
    assert!(state.key(&made.key).await.unwrap().is_none());
    // While it is open: its end, on a thread of its own, takes files away.
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(made.key.len()).any(|window| window == made.key.as_bytes()));
    }
}

#[tokio::test]
async fn a_key_keeps_its_scopes_and_one_of_an_older_daemon_keeps_all() {
    let (directory, state) = state();
    let scopes: Scopes = [Scope::Sandbox, Scope::Template].into_iter().collect();
    let made = state.new_key("ci", &scopes, 7).await.unwrap();
    assert_eq!(state.key(&made.key).await.unwrap().unwrap().scopes, scopes);
    assert_eq!(state.keys().await.unwrap()[0].scopes, scopes);
    drop(state);
    let older = directory.path().join("older");
    std::fs::create_dir(&older).unwrap();
    let before = schema::open_at(&older.join(FILE), 2).unwrap();
    before.execute("INSERT INTO keys (hash, name, created_ms) VALUES (x'00', 'old', 1)", []).unwrap();
    drop(before);
    let known = State::open(&older).unwrap().keys().await.unwrap();
    assert_eq!((known[0].name.as_str(), &known[0].scopes), ("old", &Scopes::all()));
}

#[tokio::test]
async fn a_secret_is_sealed_at_rest_and_opens_again() {
    let (directory, state) = state();
    state.put_secret("token", "hunter2-hunter2", None, 1).await.unwrap();
    assert_eq!(state.secret("token").unwrap().as_deref(), Some("hunter2-hunter2"));
    let told = state.secrets().await.unwrap();
    assert_eq!((told.len(), told[0].name.as_str(), told[0].changed_ms, told[0].version), (1, "token", 1, 1));
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(15).any(|window| window == b"hunter2-hunter2"));
    }
    drop(state);
    let state = State::open(directory.path()).unwrap();
    assert_eq!(state.secret("token").unwrap().as_deref(), Some("hunter2-hunter2"));
}

#[tokio::test]
async fn what_is_told_of_a_secret_survives_its_next_value_and_a_restart() {
    let (directory, state) = state();
    let metadata = std::collections::BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    state.put_secret("token", "first", Some(&metadata), 1).await.unwrap();
    state.put_secret("token", "second", None, 2).await.unwrap();
    drop(state);
    let state = State::open(directory.path()).unwrap();
    let told = state.secrets().await.unwrap().remove(0);
    assert_eq!((told.created_ms, told.changed_ms, told.version, told.metadata), (1, 2, 2, metadata));
    state.put_secret("token", "third", Some(&std::collections::BTreeMap::new()), 3).await.unwrap();
    assert!(
        state.secrets().await.unwrap()[0].metadata.is_empty(),
        "metadata that is given takes the place of what was"
    );
    state.remove_secret("token").await.unwrap();
    state.put_secret("token", "anew", None, 4).await.unwrap();
    assert_eq!(state.secrets().await.unwrap()[0].version, 1);
}

#[tokio::test]
async fn keys_have_a_form_that_every_client_sends_and_those_of_before_are_as_good() {
    let (_directory, state) = state();
    let key = state.new_key("ci", &Scopes::all(), 0).await.unwrap().key;
    let digits = key.strip_prefix("e2b_").unwrap();
    assert!(
        digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
        "{key}"
    );
    assert!(State::is_key(&key) && State::is_key(&format!("mote_sk_{digits}")));
    assert!(!State::is_key(&format!("sk_{digits}")) && !State::is_key(&format!("e2b_{digits}0")));
}

#[tokio::test]
async fn tokens_survive_a_restart_and_differ_by_sandbox_and_purpose() {
    let (directory, state) = state();
    let token = state.vault().token("access", "sb1");
    assert_ne!(token, state.vault().token("access", "sb2"));
    assert_ne!(token, state.vault().token("traffic", "sb1"));
    drop(state);
    assert!(State::open(directory.path()).unwrap().vault().is_token("access", "sb1", &token));
}

#[test]
fn a_file_of_a_newer_daemon_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(State::open(directory.path()).unwrap());
    let connection = rusqlite::Connection::open(directory.path().join(FILE)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let error = State::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("it has version 99"), "{error}");
}

#[tokio::test]
async fn templates_and_builds_survive_a_restart_with_their_logs_and_go_together() {
    use crate::template::log::{Entry, Level};
    use crate::template::record::{Build, Status, Template};

    let (directory, state) = state();
    let template = Template {
        id: "tp1".to_owned(),
        name: "app".to_owned(),
        public: false,
        created_ms: 1,
        updated_ms: 1,
        tags: std::collections::BTreeMap::new(),
    };
    let build = Build {
        id: "b1".to_owned(),
        template: "tp1".to_owned(),
        status: Status::Ready,
        tags: vec!["default".to_owned()],
        cpus: Some(1),
        memory_mib: None,
        start: None,
        ready: None,
        created_ms: 2,
        updated_ms: 2,
        finished_ms: None,
        reason: None,
    };
    let entry = Entry { at_ms: 3, level: Level::Info, message: "built".to_owned(), step: None };
    state.put_template(&template).await.unwrap();
    state.put_build(&build).await.unwrap();
    state.put_build_log("b1", std::slice::from_ref(&entry)).await.unwrap();
    // A later write of the record leaves the log as it is.
    state.put_build(&Build { updated_ms: 4, ..build.clone() }).await.unwrap();
    drop(state);
    let state = State::open(directory.path()).unwrap();
    assert_eq!(state.templates().await.unwrap(), (vec![template], vec![Build { updated_ms: 4, ..build }]));
    assert_eq!(state.build_log("b1").await.unwrap(), [entry]);
    state.remove_template("tp1").await.unwrap();
    assert_eq!(state.templates().await.unwrap(), (Vec::new(), Vec::new()));
    assert_eq!(state.build_log("b1").await.unwrap(), []);
}
