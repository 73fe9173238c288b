//! Snapshots that move between hosts: two daemons, one on btrfs and one on plain directories, know nothing of each other.
//!
//! What is left of an import that was refused is looked for in the pool of the second one, whose trees are plain directories.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::command::{output, printed};
use crate::fixture::{Daemon, Options, PATIENCE, POLL};

/// What is kept on plain directories, where a test can see it.
const PLAIN: &str = "filesystem: overlay";

/// Everything in the daemon's pool, unfinished trees included, and every image's record.
fn kept(daemon: &Daemon) -> BTreeSet<String> {
    let pool = daemon.state().join("pool");
    let names = |folder: &str| {
        let entries = std::fs::read_dir(pool.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let folders = ["layers", "snapshots", "images", "roots", "trash"];
    folders.iter().flat_map(|folder| names(folder).into_iter().map(move |name| format!("{folder}/{name}"))).collect()
}

/// Waits until the pool holds nothing that it did not hold: what was abandoned is removed in the background, and so may be
/// what was there and had lost its use.
async fn nothing_left(daemon: &Daemon, before: &BTreeSet<String>, why: &str) {
    let since = Instant::now();
    loop {
        let left: Vec<_> = kept(daemon).difference(before).cloned().collect();
        if left.is_empty() {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "{why}: {left:?}\n{}", daemon.log());
        tokio::time::sleep(POLL).await;
    }
    let snapshots = daemon.done(Method::GET, "/v1/snapshots", Value::Null).await;
    assert_eq!(snapshots["items"], json!([]), "{why}");
}

async fn snapshot_of(daemon: &Daemon, id: &str) -> String {
    let snapshot =
        daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/snapshots"), json!({ "name": "start" })).await;
    snapshot["id"].as_str().unwrap().to_owned()
}

/// A snapshot of a new sandbox in which a line was run; as a file.
async fn exported(daemon: &Daemon, line: &str) -> Vec<u8> {
    let id = daemon.create(json!({})).await;
    daemon.run(&id, line).await;
    let snapshot = snapshot_of(daemon, &id).await;
    let response = daemon.request(Method::GET, &format!("/v1/snapshots/{snapshot}/export")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/vnd.mote.snapshot");
    response.bytes().await.unwrap().to_vec()
}

async fn imported(daemon: &Daemon, file: impl Into<reqwest::Body>) -> (StatusCode, Value) {
    let response = daemon.request(Method::POST, "/v1/snapshots").body(file).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// A line that says of everything below a directory what it is: kind, mode, owner, time, target; of files size, number of names,
/// content; of one its extended attribute.
const LIST: &str = "cd /opt && find . -printf '%P %y %m %U:%G %TY-%Tm-%Td %l\\n' | sort && \
                    find . -type f -printf '%P %s %n\\n' | sort && sha256sum $(find . -type f | sort) && \
                    python3 -c 'import os; print(os.getxattr(\"tree/named\", \"user.note\"))'";

#[tokio::test]
async fn a_snapshot_moves_to_another_host_and_back_with_all_that_it_holds() {
    let (here, there) = (Daemon::start().await, Daemon::configured(PLAIN).await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("start.snapshot").display().to_string();
    let id = &printed(&here, &["create"]).await;
    here.run(
        id,
        "cd /opt && mkdir -p tree/deep && echo content > tree/named && ln tree/named tree/same && \
         ln -s ../named tree/deep/link && chmod 4711 tree/named && chown 1000:1000 tree/deep && mkfifo tree/pipe && \
         head -c 700000 /dev/urandom > tree/random && touch -d 2001-02-03 tree/random tree/deep && rm -rf /srv && \
         python3 -c 'import os; os.setxattr(\"tree/named\", \"user.note\", b\"kept\")'; mkdir -p \
         tree/$(printf 'long%.0s' $(seq 40))/x; echo changed >> /etc/services; true",
    )
    .await;
    let listed = here.run(id, LIST).await;
    let snapshot = &printed(&here, &["snapshot", id, "--name", "start"]).await;
    assert_eq!(printed(&here, &["snapshot", "export", "start", "-o", &file]).await, "");
    assert!(!Path::new(&format!("{file}.part")).exists());

    let moved = &printed(&there, &["snapshot", "import", &file]).await;
    assert!(moved != snapshot && printed(&there, &["snapshot", "list"]).await.contains("start"));
    let copy = &printed(&there, &["create", "--image", &format!("snapshot:{moved}")]).await;
    assert_eq!(there.run(copy, LIST).await, listed);
    assert_eq!(there.run(copy, "tail -n1 /etc/services; test -e /srv || echo gone").await, "changed\ngone\n");
    assert_eq!(printed(&there, &["exec", copy, "--", "id", "-un"]).await, "user");
    printed(&there, &["exec", copy, "--", "sh", "-c", "sudo -n touch /opt/tree/later"]).await;
    assert_eq!(printed(&there, &["diff", copy]).await.lines().last().unwrap(), "A /opt/tree/later");

    // The same content has the same name, wherever it has been and whatever keeps it.
    let told = there.done(Method::GET, "/v1/snapshots", Value::Null).await["items"][0].clone();
    let back = format!("{file}.back");
    printed(&there, &["snapshot", "export", moved, "--output", &back]).await;
    let again = printed(&here, &["snapshot", "import", &back, "--name", "again", "--json"]).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["digest"], again["name"].as_str()), (&told["digest"], Some("again")));
    assert_eq!(again["sandbox"], id.as_str());
    let here_again = here.create(json!({ "image": { "snapshot": "again" } })).await;
    assert_eq!(here.run(&here_again, LIST).await, listed);
    // Through pipes, as from one host to another.
    let mut export = crate::command::command(&here, &["snapshot", "export", snapshot]);
    let export = export.stdin(Stdio::null()).output().await.unwrap();
    assert!(export.status.success());
    let mut import = crate::command::command(&there, &["snapshot", "import", "-", "--name", "piped"]);
    let mut import = import.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(&export.stdout).await.unwrap();
    assert!(import.wait_with_output().await.unwrap().status.success());
    assert!(printed(&there, &["snapshot", "list"]).await.contains("piped"));
}

#[tokio::test]
async fn what_was_changed_cut_short_or_is_foreign_is_refused_and_leaves_nothing() {
    let daemon = Daemon::configured(PLAIN).await;
    let other = Daemon::start().await;
    let file = exported(&other, "head -c 3000000 /dev/urandom > /opt/random").await;
    let before = kept(&daemon);
    let with = |at: usize| {
        let mut changed = file.clone();
        changed[at] ^= 0x40;
        changed
    };
    let (middle, last) = (file.len() / 2, file.len() - 1);
    let longer = [file.as_slice(), b"more"].concat();
    for (bytes, said, offset) in [
        (with(3), "no exported snapshot", 0..1),
        (with(30), "header was changed", 20..21),
        (with(middle), "files were changed", middle - 300_000..middle + 1),
        (with(last), "do not belong together", last - 36..last),
        (file[..middle].to_vec(), "cut short", middle..middle + 1),
        (file[..10].to_vec(), "cut short", 10..11),
        (longer, "follows its end", file.len()..file.len() + 1),
        (b"\x1f\x8b\x08 compressed".to_vec(), "gzip", 0..1),
        (b"#!/bin/sh\necho foreign\n".to_vec(), "no exported snapshot", 0..1),
        (Vec::new(), "empty", 0..1),
    ] {
        let (status, failure) = imported(&daemon, bytes).await;
        assert_eq!((status, failure["code"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid")), "{said}: {failure}");
        assert!(failure["message"].as_str().unwrap().contains(said), "{said}: {failure}");
        let found: usize = failure["context"]["offset"].as_str().unwrap().parse().unwrap();
        assert!(offset.contains(&found), "{said}: {found} is not in {offset:?}");
        nothing_left(&daemon, &before, said).await;
    }
    // The command says the same.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    std::fs::write(&path, with(middle)).unwrap();
    let refused = output(&daemon, &["snapshot", "import", &path.display().to_string()]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(4) && said.contains("damaged") && said.contains("at byte"), "{said}");
    nothing_left(&daemon, &before, "the command").await;
    // And the file as it was is taken.
    let (status, snapshot) = imported(&daemon, file).await;
    assert_eq!(status, StatusCode::CREATED, "{snapshot}");
}

#[tokio::test]
async fn the_same_content_is_kept_once_and_goes_with_the_last_that_uses_it() {
    let mut daemon = Daemon::configured(PLAIN).await;
    let file = exported(&Daemon::start().await, "echo content > /opt/file").await;
    let before = kept(&daemon);
    let ((_, one), (_, two)) = tokio::join!(imported(&daemon, file.clone()), imported(&daemon, file));
    assert!(one["digest"] == two["digest"] && one["id"] != two["id"], "{one} {two}");
    let layers = |daemon: &Daemon| kept(daemon).iter().filter(|name| name.starts_with("layers/snapshot.")).count();
    let since = Instant::now();
    while kept(&daemon).iter().any(|name| name.ends_with(".new")) {
        assert!(since.elapsed() < PATIENCE, "{:?}", kept(&daemon));
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(layers(&daemon), 1, "{:?}", kept(&daemon));
    let images = daemon.done(Method::GET, "/v1/images", Value::Null).await;
    assert_eq!(images["items"], json!([]), "nobody named it: it is the snapshots' own");
    let remove = async |snapshot: &Value| {
        daemon.done(Method::DELETE, &format!("/v1/snapshots/{}", snapshot["id"].as_str().unwrap()), Value::Null).await;
    };
    remove(&one).await;
    let id = daemon.create(json!({ "image": { "snapshot": two["id"] } })).await;
    remove(&two).await;
    assert_eq!(layers(&daemon), 1, "a sandbox uses it");
    daemon.restart().await;
    assert_eq!(daemon.run(&id, "cat /opt/file").await, "content\n");
    daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    nothing_left(&daemon, &before, "the last user is gone").await;
}

#[tokio::test]
async fn whoever_goes_away_half_way_leaves_nothing_and_holds_nothing() {
    let daemon = Daemon::configured(PLAIN).await;
    let before = kept(&daemon);
    let file = exported(&Daemon::start().await, "head -c 2000000 /dev/urandom > /opt/random").await;
    // An import: the connection ends in the middle of a frame, with and without a promise of how much would come.
    let address = daemon.url().strip_prefix("http://").unwrap();
    for framing in [format!("content-length: {}", file.len()), "transfer-encoding: chunked".to_owned()] {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        let key = daemon.key();
        let head = format!("POST /v1/snapshots HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n{framing}\r\n\r\n");
        connection.write_all(head.as_bytes()).await.unwrap();
        let half = &file[..file.len() / 2];
        if framing.contains("chunked") {
            connection.write_all(format!("{:x}\r\n", file.len()).as_bytes()).await.unwrap();
        }
        connection.write_all(half).await.unwrap();
        let since = Instant::now();
        while kept(&daemon) == before {
            assert!(since.elapsed() < PATIENCE, "the import does not begin\n{}", daemon.log());
            tokio::time::sleep(POLL).await;
        }
        drop(connection);
        nothing_left(&daemon, &before, &framing).await;
    }

    // An export: nobody reads on. The snapshot cannot be removed before the caller is gone.
    let id = daemon.create(json!({})).await;
    daemon.run(&id, "truncate -s 64M /opt/zeros").await;
    let snapshot = snapshot_of(&daemon, &id).await;
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let head =
        format!("GET /v1/snapshots/{snapshot}/export HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", daemon.key());
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut beginning = [0; 12];
    connection.read_exact(&mut beginning).await.unwrap();
    assert_eq!(&beginning, b"HTTP/1.1 200");
    let path = format!("/v1/snapshots/{snapshot}");
    let (status, failure) = daemon.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!((status, failure["code"].as_str()), (StatusCode::CONFLICT, Some("busy")), "{failure}");
    drop(connection);
    let since = Instant::now();
    while daemon.ask(Method::DELETE, &path, Value::Null).await.0 == StatusCode::CONFLICT {
        assert!(since.elapsed() < PATIENCE, "the export holds the snapshot\n{}", daemon.log());
        tokio::time::sleep(POLL).await;
    }
    let (status, _) = daemon.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

/// A disk of its own, gone with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(bytes: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("mote-small-").tempdir().unwrap().keep();
        let options = format!("size={bytes},mode=755");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder).status();
        assert!(mount.unwrap().success());
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_an_import_and_gets_its_space_back() {
    let disk = SmallDisk::new("48m");
    let folder: &'static str = disk.0.display().to_string().leak();
    let options = Options { config: PLAIN.to_owned(), folder: Some(folder), ..Options::default() };
    let daemon = Daemon::start_with(options).await;
    let before = kept(&daemon);
    let file = exported(&Daemon::start().await, "head -c 64M /dev/zero > /opt/zeros").await;
    let (status, failure) = imported(&daemon, file).await;
    assert_eq!((status, failure["code"].as_str()), (StatusCode::INSUFFICIENT_STORAGE, Some("no_space")), "{failure}");
    assert!(failure["message"].as_str().unwrap().contains("/opt/zeros"), "{failure}");
    nothing_left(&daemon, &before, "the disk is full").await;
    let small = exported(&Daemon::start().await, "head -c 20M /dev/zero > /opt/zeros").await;
    let (status, snapshot) = imported(&daemon, small).await;
    assert_eq!(status, StatusCode::CREATED, "{snapshot}\n{}", daemon.log());
    drop(daemon);
    drop(disk);
}

#[tokio::test]
async fn only_who_holds_a_key_moves_snapshots_and_no_more_than_the_operator_allows() {
    let daemon = Daemon::configured(&format!("{PLAIN}\nimport_max: 1MiB")).await;
    let id = daemon.create(json!({})).await;
    let connected = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/connect"), Value::Null).await;
    let token = connected["access_token"].as_str().unwrap();
    let snapshot = snapshot_of(&daemon, &id).await;
    let http = reqwest::Client::new();
    for (method, path) in
        [(Method::GET, format!("/v1/snapshots/{snapshot}/export")), (Method::POST, "/v1/snapshots".to_owned())]
    {
        let url = format!("{}{path}", daemon.url());
        for (name, value) in [("x-access-token", token), ("x-api-key", "wrong"), ("x-nothing", "")] {
            let refused = http.request(method.clone(), &url).header(name, value).send().await.unwrap();
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{method} {name}");
        }
    }
    let nowhere = daemon.ask(Method::GET, "/v1/snapshots/sn0/export", Value::Null).await;
    assert_eq!((nowhere.0, nowhere.1["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    daemon.done(Method::DELETE, &format!("/v1/snapshots/{snapshot}"), Value::Null).await;
    daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    // The trash is emptied in the background.
    let before = kept(&daemon).into_iter().filter(|name| !name.starts_with("trash/")).collect();
    let file = exported(&Daemon::start().await, "head -c 2M /dev/urandom > /opt/random").await;
    let pieces: Vec<_> =
        file.chunks(100_000).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
    // What is promised to be too long is not read; what turns out to be is not read on.
    for body in [reqwest::Body::from(file), reqwest::Body::wrap_stream(stream::iter(pieces))] {
        let (status, failure) = imported(&daemon, body).await;
        assert_eq!((status, failure["code"].as_str()), (StatusCode::PAYLOAD_TOO_LARGE, Some("too_large")), "{failure}");
        assert_eq!(failure["context"]["limit"], "1048576");
        nothing_left(&daemon, &before, "too long").await;
    }
}

#[tokio::test]
async fn a_snapshot_that_needs_the_hosts_programs_is_refused_where_they_may_not_be_used() {
    let file = exported(&Daemon::start().await, "true").await;
    let daemon = Daemon::configured(&format!("{PLAIN}\nhost_root: false")).await;
    let before = kept(&daemon);
    let (status, failure) = imported(&daemon, file).await;
    assert_eq!((status, failure["code"].as_str()), (StatusCode::FORBIDDEN, Some("forbidden")), "{failure}");
    assert!(failure["remediation"].as_str().unwrap().contains("host_root"), "{failure}");
    nothing_left(&daemon, &before, "no host").await;
}

#[tokio::test]
async fn a_daemon_that_is_killed_amid_an_import_leaves_nothing_of_it() {
    let file = exported(&Daemon::start().await, "head -c 1M /dev/urandom > /opt/random").await;
    for point in
        ["import.after_intent", "import.amid", "import.after_layer", "import.after_image", "import.after_snapshot"]
    {
        let mut daemon = Daemon::configured(PLAIN).await;
        let before = kept(&daemon);
        daemon.crash_at(point).await;
        let request = daemon.request(Method::POST, "/v1/snapshots").body(file.clone()).send().await;
        assert!(request.is_err(), "{point}: the daemon answered: {request:?}");
        daemon.ended().await;
        daemon.restart().await;
        nothing_left(&daemon, &before, point).await;
        let (status, snapshot) = imported(&daemon, file.clone()).await;
        assert_eq!(status, StatusCode::CREATED, "{point}: {snapshot}");
        let id = daemon.create(json!({ "image": { "snapshot": snapshot["id"] } })).await;
        assert_eq!(daemon.run(&id, "stat -c %s /opt/random").await, "1048576\n", "{point}");
        assert_eq!(daemon.stop(), Vec::<String>::new(), "{point}");
    }
}

#[tokio::test]
async fn holes_of_files_stay_holes() {
    let (here, there) = (Daemon::start().await, Daemon::configured(PLAIN).await);
    let line = "cd /opt && truncate -s 3G sparse && printf middle | dd of=sparse bs=1 seek=1500000000 conv=notrunc status=none && \
                truncate -s 5M empty && head -c 100000 /dev/urandom >full && truncate -s 1M full && setfattr -n user.n -v x sparse; true";
    let id = here.create(json!({})).await;
    here.run(&id, line).await;
    // Of a digest of its data: reading all of it would take its time.
    let list = "cd /opt && stat -c '%n %s' * && dd if=sparse bs=1 skip=1499999998 count=10 status=none | od -c && sha256sum full empty";
    let before = here.run(&id, list).await;
    let snapshot = snapshot_of(&here, &id).await;
    let response = here.request(Method::GET, &format!("/v1/snapshots/{snapshot}/export")).send().await.unwrap();
    let file = response.bytes().await.unwrap().to_vec();
    assert!(file.len() < 64 << 20, "{} bytes", file.len());
    let (status, taken) = imported(&there, file).await;
    assert!(status.is_success(), "{taken}");
    let copy = there.create(json!({ "image": { "snapshot": taken["id"] } })).await;
    assert_eq!(there.run(&copy, list).await, before);
    let held: u64 = there.run(&copy, "stat -c %b /opt/sparse").await.trim().parse().unwrap();
    assert!(held * 512 < 16 << 20, "{held} blocks");
}
