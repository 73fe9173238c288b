//! What programs and clients meet inside: their streams, users, files and bounds, as they know them from other systems.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Daemon;

/// Runs a line in a shell as a user; the result.
async fn as_user(daemon: &Daemon, id: &str, user: &str, line: &str) -> Value {
    let body = json!({ "command": line, "user": user });
    daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await
}

#[tokio::test]
async fn standard_streams_can_be_opened_by_name_by_every_user() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let line = "echo a >/dev/stdout; echo b >/dev/stderr; echo c | tee /dev/stderr >/proc/self/fd/1; cat /dev/stdin";
    for user in ["root", "user", "1234:5678"] {
        let body = json!({ "command": line, "user": user, "stdin": "typed" });
        let result = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await;
        assert_eq!((&result["stdout"], &result["stderr"]), (&json!("a\nc\ntyped"), &json!("b\nc\n")), "{user}");
    }
}

#[tokio::test]
async fn a_user_is_named_as_an_image_names_it() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let ids = async |user: &str| as_user(&daemon, &id, user, "id -u; id -g; id -G").await["stdout"].clone();
    assert_eq!(ids("1234").await, "1234\n0\n0\n", "as Docker: an id without an account has group 0");
    assert_eq!(ids("1234:5678").await, "1234\n5678\n5678\n");
    assert_eq!(ids("user:1000").await, "1000\n1000\n1000\n");
    assert_eq!(ids("user:daemon").await, "1000\n1\n1\n");
    assert_eq!(ids("0:0").await, "0\n0\n0\n");
    for (user, kind) in [("user:no-such-group", "group"), ("nobody-here:user", "user")] {
        let body = json!({ "command": "true", "user": user });
        let (status, refused) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await;
        assert_eq!((status, refused["context"]["kind"].as_str()), (StatusCode::NOT_FOUND, Some(kind)), "{refused}");
    }
    let body = json!({ "command": "true", "user": "4000000000" });
    let (status, refused) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await;
    assert_eq!((status, refused["context"]["field"].as_str()), (StatusCode::BAD_REQUEST, Some("user")), "{refused}");
}

/// Java, Go and Node size themselves by what they find there.
#[tokio::test]
async fn a_sandbox_sees_its_own_bounds_and_cannot_change_them() {
    let daemon = Daemon::start().await;
    let resources = json!({ "memory": "256MiB", "cpu_milli": 500 });
    let id = daemon.create(json!({ "resources": resources })).await;
    let memory = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(daemon.run(&id, memory).await.trim(), (256 << 20).to_string());
    let cpu = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat $(find /sys/fs/cgroup -name cpu.cfs_quota_us)";
    assert_eq!(daemon.run(&id, cpu).await.split_whitespace().next(), Some("50000"));
    assert_eq!(daemon.run(&id, "cut -d: -f3 /proc/self/cgroup | sort -u | head -1").await, "/\n");
    let write = "for file in $(find /sys/fs/cgroup -name 'memory*max' -o -name memory.limit_in_bytes); do \
                 echo 1000000000 >$file && echo written; done 2>&1";
    let said = daemon.exec(&id, write).await["stdout"].as_str().unwrap().to_owned();
    assert!(said.contains("Read-only file system") && !said.contains("written"), "{said}");
    let node = "node -p 'process.constrainedMemory()'";
    let seen = daemon.exec(&id, node).await;
    if seen["exit"] != json!({ "code": 127 }) {
        assert_eq!(seen["stdout"], format!("{}\n", 256 << 20), "{seen}");
    }
}

#[tokio::test]
async fn memory_that_is_used_up_is_told_in_the_result_and_in_the_journal() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({ "resources": { "memory": "128MiB" } })).await;
    let calm = daemon.exec(&id, "kill -9 $$").await;
    assert_eq!((&calm["exit"], &calm["oom_kills"]), (&json!({ "signal": 9 }), &Value::Null), "a bare signal is one");
    let starved = daemon.exec(&id, "python3 -c 'x = bytearray(400 << 20)'; echo $?").await;
    assert_eq!((&starved["stdout"], &starved["oom_kills"]), (&json!("137\n"), &json!(1)), "{starved}");
    let journal = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/logs"), Value::Null).await.to_string();
    assert!(journal.contains("out of memory") && journal.contains("134217728"), "{journal}");
    // Also where nobody waits for the process.
    daemon.exec(&id, "python3 -c 'x = bytearray(400 << 20)' >/dev/null 2>&1 &").await;
    let twice = async || {
        let journal = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/logs"), Value::Null).await;
        journal.to_string().matches("out of memory").count() == 2
    };
    let since = tokio::time::Instant::now();
    while !twice().await {
        assert!(since.elapsed() < crate::fixture::PATIENCE, "the journal does not tell of it");
        tokio::time::sleep(crate::fixture::POLL).await;
    }
}

/// More at once than wait in the first process's queue.
#[tokio::test]
async fn a_burst_of_programs_is_served_or_told_of_a_limit() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({ "resources": { "pids": 4096 } })).await;
    let asks = (0..300).map(|number| {
        let body = json!({ "command": ["echo", number.to_string()], "user": "root" });
        let request = daemon.request(Method::POST, &format!("/v1/sandboxes/{id}/exec")).json(&body);
        async move {
            let response = request.send().await.unwrap();
            let status = response.status();
            (number, status, response.json::<Value>().await.unwrap())
        }
    });
    let mut served = 0;
    for (number, status, answer) in futures_util::future::join_all(asks).await {
        match status {
            StatusCode::OK => {
                assert_eq!(answer["stdout"], format!("{number}\n"), "{answer}");
                served += 1;
            }
            StatusCode::TOO_MANY_REQUESTS => assert_eq!(answer["code"], "exhausted", "{answer}"),
            _ => panic!("{number}: {status} {answer}"),
        }
    }
    assert!(served >= 250, "{served}");
    assert_eq!(daemon.run(&id, "echo after").await, "after\n");
}

#[tokio::test]
async fn a_file_that_is_a_mount_or_alone_is_writable_is_written_in_place() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let hosts = daemon.run(&id, "cat /etc/hosts").await;
    daemon.put(&id, "/etc/hosts", format!("{hosts}198.51.100.9 added.test\n")).await;
    assert!(daemon.run(&id, "getent hosts added.test").await.contains("198.51.100.9"));
    daemon.put(&id, "/etc/resolv.conf", "nameserver 198.51.100.9\n").await;
    assert_eq!(daemon.run(&id, "cat /etc/resolv.conf").await, "nameserver 198.51.100.9\n");
    daemon.run(&id, "mkdir /opt/closed && echo old >/opt/closed/open && chmod 666 /opt/closed/open").await;
    let write = |path: &str| {
        let request = daemon.request(Method::PUT, &format!("/v1/sandboxes/{id}/files?user=user&path={path}"));
        request.body("new").send()
    };
    assert_eq!(write("/opt/closed/open").await.unwrap().status(), StatusCode::OK);
    assert_eq!(write("/opt/closed/other").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(daemon.run(&id, "cat /opt/closed/open; stat -c %U /opt/closed/open").await, "newroot\n");
}

#[tokio::test]
async fn paths_may_be_bytes_and_may_begin_at_home() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let files = |rest: &str| format!("/v1/sandboxes/{id}/files{rest}");
    daemon.run(&id, "mkdir /tmp/names && touch $(printf '/tmp/names/caf\\351') /tmp/names/plain").await;
    let listed = daemon.done(Method::GET, &files("/list?path=/tmp/names"), Value::Null).await;
    let entry = &listed["items"][0];
    assert_eq!((listed["items"].as_array().unwrap().len(), &entry["name"]), (2, &json!("caf\u{fffd}")), "{listed}");
    let path = entry["path_base64"].as_str().unwrap();
    let asked = files(&format!("?path_base64={}&user=root", mote::tools::sandbox::client::segment(path)));
    let written = daemon.request(Method::PUT, &asked).body("latin").send().await.unwrap();
    assert_eq!(written.status(), StatusCode::OK);
    assert_eq!(daemon.run(&id, "cat /tmp/names/caf*").await, "latin");
    let read = daemon.request(Method::GET, &asked).send().await.unwrap();
    assert_eq!(read.text().await.unwrap(), "latin");
    let body = json!({ "path": "/tmp/names/link", "to_base64": path, "user": "root" });
    daemon.done(Method::POST, &files("/link"), body).await;
    assert_eq!(daemon.run(&id, "cat /tmp/names/link").await, "latin");
    let (status, refused) = daemon.ask(Method::GET, &files("/stat?path_base64=%3F"), Value::Null).await;
    assert_eq!((status, &refused["context"]["field"]), (StatusCode::BAD_REQUEST, &json!("path_base64")), "{refused}");
    let (status, _) = daemon.ask(Method::GET, &files("/stat?path=/tmp&path_base64=L3RtcA=="), Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let home = daemon.done(Method::GET, &files("/stat?path=~"), Value::Null).await;
    assert_eq!(home["path"], "/home/user");
    let (status, _) = daemon.ask(Method::GET, &files("/stat?path=~root/x"), Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let body = json!({ "command": "pwd", "cwd": "~/../user" });
    let result = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/exec"), body).await;
    assert_eq!(result["stdout"], "/home/user\n");
}
