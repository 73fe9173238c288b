//! What a sandbox sees of memory and processors: its own, where programs look for the machine's.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fixture::{Daemon, PATIENCE};

/// A field of `/proc/meminfo`, kB.
async fn memory(daemon: &Daemon, id: &str, field: &str) -> u64 {
    let text = daemon.run(id, "cat /proc/meminfo").await;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("no {field}: {text}"))
}

#[tokio::test]
async fn programs_size_themselves_by_the_sandboxs_bounds() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({ "resources": { "memory": "512MiB", "cpu_milli": 700 } })).await;
    let check = async || {
        assert_eq!(memory(&daemon, id, "MemTotal").await, 512 * 1024);
        assert_eq!(memory(&daemon, id, "SwapTotal").await, 0);
        for (line, expected) in [
            ("grep -c ^processor /proc/cpuinfo", "1"),
            ("grep -c '^cpu[0-9]' /proc/stat", "1"),
            ("cat /sys/devices/system/cpu/online", "0"),
            ("free -m | awk '/^Mem:/ {print $2}'", "512"),
            ("python3 -c 'import os; print(os.cpu_count())'", "1"),
            ("node -p 'os.cpus().length'", "1"),
            ("node -p 'os.totalmem()'", "536870912"),
        ] {
            assert_eq!(daemon.run(id, line).await.trim(), expected, "{line}");
        }
    };
    check().await;
    for kind in ["frozen", "stopped"] {
        daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/pause"), json!({ "kind": kind })).await;
        daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/resume"), Value::Null).await;
        check().await;
    }
    let fork = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    let fork = fork["items"][0]["sandbox"]["id"].as_str().unwrap().to_owned();
    assert_eq!(memory(&daemon, &fork, "MemTotal").await, 512 * 1024);
}

#[tokio::test]
async fn without_a_bound_the_host_is_shown() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({ "resources": { "cpu_milli": 10_000_000 } })).await;
    let host = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let inside = daemon.run(id, "cat /sys/devices/system/cpu/online; grep -c ^processor /proc/cpuinfo").await;
    let count =
        std::fs::read_to_string("/proc/cpuinfo").unwrap().lines().filter(|line| line.starts_with("processor")).count();
    assert_eq!(inside, format!("{host}{count}\n"));
}

/// What is free follows what is used: for a program that begins, and for one that looks again and again.
#[tokio::test]
async fn what_is_free_follows_what_is_used() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({ "resources": { "memory": "512MiB" } })).await;
    let before = memory(&daemon, id, "MemAvailable").await;
    assert!(before > 400 * 1024, "{before} kB are available of a sandbox in which nothing runs");
    daemon.run(id, "head -c 134217728 /dev/zero >/dev/shm/used").await;
    let after = memory(&daemon, id, "MemAvailable").await;
    assert!(before - after > 120 * 1024, "{before} kB, then {after} kB with 128 MiB used");
    // One that was there before, and opens the file once.
    let look = "import time\nmem = open('/proc/meminfo')\ndef free():\n    mem.seek(0)\n    return int([l for l in mem if l.startswith('MemFree')][0].split()[1])\n\
                first = free()\nopen('/tmp/looking', 'w').close()\nwhile free() < first + 100 * 1024: time.sleep(0.05)\nprint('seen')";
    let begin = json!({ "command": format!("python3 -c \"{look}\""), "user": "root" });
    let path = format!("/v1/sandboxes/{id}/exec");
    let looking = daemon.done(Method::POST, &path, begin);
    let freeing = async {
        let since = Instant::now();
        while daemon.exec(id, "test -e /tmp/looking").await["exit"] != json!({ "code": 0 }) {
            assert!(since.elapsed() < PATIENCE);
        }
        daemon.run(id, "rm /dev/shm/used").await;
    };
    let (seen, ()) = tokio::join!(tokio::time::timeout(PATIENCE, looking), freeing);
    assert_eq!(seen.unwrap()["stdout"], "seen\n");
}

/// Time that the sandbox used is told as its processors', and what is told cannot be changed inside.
#[tokio::test]
async fn the_view_is_the_runtimes_to_write() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({ "resources": { "memory": "256MiB", "cpu_milli": 1000 } })).await;
    let used = "import os, time\nwhile time.process_time() < 1: pass";
    daemon.run(id, &format!("python3 -c \"{used}\"")).await;
    let text = daemon.run(id, "head -1 /proc/stat").await;
    let ticks: Vec<u64> = text.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect();
    assert!(ticks[0] + ticks[2] >= 90, "a second is 100 ticks, in programs and in the kernel: {text}");
    for line in [
        "echo x >/proc/meminfo",
        "echo x >/proc/stat",
        "echo x >/sys/devices/system/cpu/online",
        "chmod 666 /proc/meminfo",
        "umount /proc/meminfo",
        "mount -o remount,rw /proc/meminfo",
        "touch /proc/1/fd/4/new",
        "cat /proc/1/fd/4/../runtime",
    ] {
        assert_ne!(daemon.exec(id, line).await["exit"], json!({ "code": 0 }), "{line}");
    }
    assert_eq!(memory(&daemon, id, "MemTotal").await, 256 * 1024);
}
