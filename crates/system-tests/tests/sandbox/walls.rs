//! Attacks on the whole daemon that once went through: one sandbox against its neighbours, the daemon's start, and the pool.
//!
//! Those on the boundary stand in `boundary`, those on the kernel alone in `mote-sandboxd`'s `tests/namespace/walls.rs`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::exhaustion::{DAEMON_GROWTH_MAX, peak};
use crate::fixture::Daemon;

/// Contexts that flood at once.
const CONTEXTS: usize = 8;
/// Bytes that each of them prints behind a mark, without a newline.
const FLOOD: usize = 32 << 20;

#[tokio::test]
async fn code_that_knows_the_mark_of_its_shell_takes_neither_memory_nor_time_of_others() {
    let daemon = Daemon::start().await;
    let (loud, other) = (daemon.create(json!({})).await, daemon.create(json!({})).await);
    let url = format!("/v1/sandboxes/{loud}/code");
    let mut contexts = Vec::new();
    for _ in 0..CONTEXTS {
        let made = daemon.done(Method::POST, &format!("{url}/contexts"), json!({ "language": "bash" })).await;
        contexts.push(made["id"].as_str().unwrap().to_owned());
    }
    daemon.run(&other, "true").await;
    let before = peak(daemon.pid());
    let cells = contexts.iter().map(|context| {
        // What a trace of the shell shows, and what the context's id tells.
        let code = format!(
            "exec 9>/tmp/trace.$$; BASH_XTRACEFD=9; set -x; :; set +x; mark=$(grep -o 'mote-[0-9A-Za-z_-]*' /tmp/trace.$$ | head -1); \
             for m in \"${{mark:-none}}\" 'mote-{context}'; do printf '\\n%s ' \"$m\"; head -c {} /dev/zero | tr '\\0' x; \
             printf '\\n%s ' \"$m\" >&2; head -c 65536 /dev/zero | tr '\\0' x >&2; done",
            FLOOD / 2
        );
        let request = daemon.request(Method::POST, &format!("{url}/execute"));
        let request = request.json(&json!({ "code": code, "context_id": context }));
        async move {
            let mut response = request.send().await.unwrap();
            let mut bytes = 0;
            while let Some(part) = response.chunk().await.unwrap() {
                bytes += part.len();
            }
            bytes
        }
    });
    let flood = futures_util::future::join_all(cells);
    tokio::pin!(flood);
    let mut answered = 0;
    let printed = loop {
        tokio::select! {
            printed = &mut flood => break printed,
            said = daemon.run(&other, "echo here") => {
                assert_eq!(said, "here\n");
                answered += 1;
            }
        }
    };
    assert!(answered > 0, "another sandbox answers meanwhile");
    assert!(printed.iter().all(|bytes| *bytes >= FLOOD), "what was printed is told as text: {printed:?}");
    let grown = peak(daemon.pid()) - before;
    assert!(grown < DAEMON_GROWTH_MAX, "the daemon grew by {grown} bytes");
    // The context goes on.
    let body = json!({ "code": "echo again", "context_id": contexts[0] });
    let told = daemon.request(Method::POST, &format!("{url}/execute")).json(&body).send().await.unwrap();
    assert!(told.text().await.unwrap().contains("again"));
}

/// Tries to make subvolumes, by either request, and says what became of each.
const SUBVOLUMES: &str = "perl -e 'for my $r (0x5000940e, 0x50009418) { opendir(my $d, \"/mnt/v\") or die; \
    my $at = $r == 0x5000940e ? 8 : 56; my $b = \"\\0\" x 4096; substr($b, $at, 6) = \"nested\"; \
    print syscall(16, fileno($d), $r, $b) < 0 ? 0 + $! : \"made\", \" \" }'";

#[tokio::test]
async fn a_volume_holds_no_subvolumes_beside_its_bound_and_can_be_removed() {
    let daemon = Daemon::configured("volume_disk: 64MiB").await;
    daemon.done(Method::POST, "/v1/volumes", json!({ "name": "bounded" })).await;
    let id = daemon.create(json!({ "volumes": [{ "name": "bounded", "path": "/mnt/v" }] })).await;
    let kind = daemon.run(&id, "stat -f -c %t /mnt/v").await;
    let live = daemon.done(Method::GET, "/v1/capabilities", Value::Null).await["features"]["snapshot.live"].clone();
    // Where the pool is btrfs the volume is: the attempt is made where it would succeed.
    assert_eq!(kind.trim() == "9123683e", live["available"] == true, "{kind} {live}");
    assert_eq!(daemon.run(&id, SUBVOLUMES).await, "1 1 ", "as root");
    let as_user = json!({ "command": SUBVOLUMES, "user": "user" });
    let told = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/exec"), as_user).await;
    assert_eq!(told["stdout"], "1 1 ", "as a user: {told}");
    assert_eq!(daemon.run(&id, "ls /mnt/v | wc -l").await, "0\n");
    daemon.run(&id, "echo x > /mnt/v/one && cp --reflink=always /mnt/v/one /mnt/v/two").await;
    daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    daemon.done(Method::DELETE, "/v1/volumes/bounded", Value::Null).await;
}

/// Stops the first process as a debugger does (`PTRACE_ATTACH`), for as long as this one lives.
const STOP_FIRST: &str = "perl -e 'syscall(101, 16, 1, 0, 0) == 0 or exit 1; print \"stopped\\n\"; close STDOUT; close STDERR; sleep 1000' &";

#[tokio::test]
async fn a_first_process_that_is_stopped_from_inside_keeps_no_start_of_the_daemon_waiting() {
    let mut daemon = Daemon::start().await;
    let good = daemon.create(json!({})).await;
    let mut stopped = Vec::new();
    for _ in 0..4 {
        let id = daemon.create(json!({})).await;
        let request = daemon.request(Method::POST, &format!("/v1/sandboxes/{id}/exec"));
        let body = json!({ "command": STOP_FIRST, "user": "root" });
        // The answer may never come: whoever gives it is stopped.
        let asked = tokio::spawn(request.json(&body).send());
        let first = format!("/proc/{}/stat", first_of(&daemon, &id));
        while !std::fs::read_to_string(&first).unwrap().contains(") t ") {
            tokio::time::sleep(crate::fixture::POLL).await;
        }
        asked.abort();
        stopped.push(id);
    }
    daemon.restart().await;
    assert_eq!(daemon.run(&good, "echo here").await, "here\n");
    let made = daemon.create(json!({})).await;
    assert_eq!(daemon.run(&made, "echo here").await, "here\n");
    for id in &stopped {
        daemon.until(id, "failed").await;
        daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    }
    // It served, and none of the four was waited for: what was said of them came later.
    daemon.logged("failed to recover a sandbox").await;
    let log = daemon.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(
        at("\"listening\"") < at("failed to recover a sandbox"),
        "it serves before it has heard from everybody: {log}"
    );
}

/// The first process of a sandbox, by the name of its host.
fn first_of(daemon: &Daemon, id: &str) -> u32 {
    let is_its = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let is_first =
            status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().last() == Some("1"));
        let name = std::fs::read_to_string(format!("/proc/{pid}/root/etc/hostname")).unwrap_or_default();
        is_first && name.trim() == id
    };
    daemon.processes().into_iter().find(is_its).unwrap_or_else(|| panic!("{id} has no first process"))
}

#[tokio::test]
async fn a_form_of_many_mebibytes_is_taken_and_a_signature_that_is_none_is_refused() {
    let daemon = Daemon::start().await;
    let made = daemon.done(Method::POST, "/v1/sandboxes", json!({ "spec": {} })).await;
    let (id, token) = (made["id"].as_str().unwrap(), made["access_token"].as_str().unwrap());
    let http = reqwest::Client::new();
    for bytes in [2 << 20, (2 << 20) + 1, 24 << 20] {
        let head = "--limit\r\ncontent-disposition: form-data; name=\"file\"; filename=\"large\"\r\n\r\n";
        let form = [head.as_bytes(), &vec![b'x'; bytes], b"\r\n--limit--\r\n"].concat();
        let request = http.post(format!("{}/files?path=/tmp/large&username=user", daemon.url()));
        let request = request.header("e2b-sandbox-id", id).header("x-access-token", token);
        let request = request.header("content-type", "multipart/form-data; boundary=limit");
        let answer = request.body(form).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{bytes}: {status} {}", answer.text().await.unwrap());
        assert_eq!(daemon.run(id, "stat -c %s /tmp/large").await, format!("{bytes}\n"));
    }
    for query in
        ["signature=x", "signature=v1_", "path=/tmp/large&signature=v1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
    {
        let answer = http.get(format!("{}/files?{query}", daemon.url())).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{query}: {}", answer.status());
        let named =
            http.get(format!("{}/files?{query}", daemon.url())).header("e2b-sandbox-id", id).send().await.unwrap();
        assert_eq!(named.status(), StatusCode::UNAUTHORIZED, "{query}");
    }
}

#[tokio::test]
async fn owners_that_do_not_exist_inside_are_told_and_a_registrys_name_is_no_template() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let tarball = folder.path().join("root.tar");
    let made = std::process::Command::new("tar")
        .args(["--owner=70000", "--group=70000", "--numeric-owner", "-C", "/etc", "-cf"])
        .arg(&tarball)
        .args(["hostname", "passwd"])
        .status();
    assert!(made.unwrap().success());
    let daemon = Daemon::configured(&format!("directories: [{}]", folder.path().display())).await;
    let source = json!({ "source": { "tarball": tarball } });
    let told = daemon.done(Method::POST, "/v1/images", source).await;
    assert_eq!(told["unmapped_owners"], 4, "a user and a group of each of two files: {told}");
    // A template, and a reference of a registry that reads as its name: nothing is pulled here, and the template is not given.
    let id = daemon.create(json!({})).await;
    daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/commit"), json!({ "name": "base" })).await;
    daemon.create(json!({ "image": { "name": "base" } })).await;
    let registry = json!({ "spec": { "image": { "registry": "localhost:1/base" } } });
    let (status, refused) = daemon.ask(Method::POST, "/v1/sandboxes", registry).await;
    assert!(!status.is_success(), "{refused}");
    let listed = daemon.done(Method::GET, "/v1/images", Value::Null).await;
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().filter_map(|item| item["name"].as_str()).collect();
    assert!(names.contains(&"base") && !names.iter().any(|name| name.starts_with("localhost")), "{names:?}");
}
