//! What is lent to a sandbox rather than copied: directories of the host, read-only, and volumes that outlive it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Daemon;

/// Bytes of a file that a copy would have to be made of; it has holes, so that it takes no room.
const LARGE: u64 = 8 << 30;

#[tokio::test]
async fn large_data_is_bound_read_only_and_costs_nothing() {
    let folder = tempfile::Builder::new().prefix("mote-sandbox-data-").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let (set, private) = (folder.path().join("given/set"), folder.path().join("private"));
    std::fs::create_dir_all(&set).unwrap();
    std::fs::create_dir_all(&private).unwrap();
    std::fs::write(private.join("key"), "private").unwrap();
    let large = std::fs::File::create(set.join("large")).unwrap();
    large.set_len(LARGE).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, b"the end", LARGE - 7).unwrap();
    std::os::unix::fs::symlink("../../private", folder.path().join("given/link")).unwrap();
    let given = folder.path().join("given").display().to_string();
    let daemon = Daemon::configured(&format!("directories: [{given}]")).await;
    let data =
        |source: String| json!({ "data": [{ "source": source, "path": "/data" }], "resources": { "disk": "64MiB" } });
    let (one, other) =
        (daemon.create(data(format!("{given}/set"))).await, daemon.create(data(format!("{given}/set"))).await);
    for id in [&one, &other] {
        assert_eq!(daemon.run(id, "tail -c 7 /data/large; stat -c %s /data/large").await, format!("the end{LARGE}\n"));
    }
    for line in
        ["echo x > /data/large", "touch /data/new", "rm /data/large", "chmod 777 /data", "mount -o remount,rw /data"]
    {
        assert_ne!(daemon.exec(&one, line).await["exit"], json!({"code": 0}), "{line}");
    }
    // What the host changes is seen at once: there is one copy.
    std::fs::write(set.join("new"), "new").unwrap();
    assert_eq!(daemon.run(&one, "cat /data/new").await, "new");
    // It is no part of the sandbox: neither of its use, nor of what differs, nor of its forks' roots.
    let usage = daemon.done(Method::GET, &format!("/v1/sandboxes/{one}/usage"), Value::Null).await;
    assert!(usage["disk_bytes"].as_u64() < Some(64 << 20), "{usage}");
    let diff = daemon.done(Method::GET, &format!("/v1/sandboxes/{one}/diff"), Value::Null).await;
    assert!(!diff.to_string().contains("large"), "{diff}");
    let fork = daemon.done(Method::POST, &format!("/v1/sandboxes/{one}/fork"), json!({})).await;
    let fork = fork["items"][0]["sandbox"]["id"].as_str().unwrap_or_else(|| panic!("{fork}")).to_owned();
    assert_eq!(daemon.run(&fork, "tail -c 7 /data/large").await, "the end");
    // Nothing but what the operator gave, whichever way it is named.
    for source in [
        private.display().to_string(),
        format!("{given}/../private"),
        format!("{given}/link"),
        "/etc".to_owned(),
        format!("{given}/none"),
    ] {
        let (status, answer) = daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": data(source.clone()) })).await;
        assert!(status.is_client_error(), "{source}: {status} {answer}");
        assert!(!answer.to_string().contains("private/key"));
    }
    let listed = daemon.done(Method::GET, "/v1/sandboxes?limit=10", Value::Null).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3, "nothing half made is left: {listed}");
}

#[tokio::test]
async fn a_volume_outlives_its_sandboxes_and_is_shared_by_them() {
    let daemon = Daemon::start().await;
    daemon.done(Method::POST, "/v1/volumes", json!({ "name": "memory" })).await;
    let mounts =
        |read_only: bool| json!({ "volumes": [{ "name": "memory", "path": "/mnt/v", "read_only": read_only }] });
    let writer = daemon.create(mounts(false)).await;
    daemon.run(&writer, "echo one > /mnt/v/f").await;
    let reader = daemon.create(mounts(true)).await;
    assert_eq!(daemon.run(&reader, "cat /mnt/v/f").await, "one\n");
    assert_ne!(daemon.exec(&reader, "echo two > /mnt/v/f").await["exit"], json!({"code": 0}));
    // A rollback takes back the root and not the volume.
    let start = daemon.done(Method::POST, &format!("/v1/sandboxes/{writer}/snapshots"), json!({})).await;
    daemon.run(&writer, "echo root > /opt/f; echo two > /mnt/v/f").await;
    daemon.done(Method::POST, &format!("/v1/sandboxes/{writer}/rollback"), json!({ "snapshot": start["id"] })).await;
    assert_eq!(daemon.run(&writer, "ls /opt/f 2>/dev/null; cat /mnt/v/f").await, "two\n");
    let (status, answer) = daemon.ask(Method::DELETE, "/v1/volumes/memory", Value::Null).await;
    assert_eq!((status, answer["code"].as_str()), (StatusCode::CONFLICT, Some("busy")), "{answer}");
    for id in [writer, reader] {
        daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    }
    let mut daemon = daemon;
    daemon.restart().await;
    let later = daemon.create(mounts(false)).await;
    assert_eq!(daemon.run(&later, "cat /mnt/v/f").await, "two\n");
    daemon.done(Method::DELETE, &format!("/v1/sandboxes/{later}"), Value::Null).await;
    daemon.done(Method::DELETE, "/v1/volumes/memory", Value::Null).await;
    let (status, _) = daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": mounts(false) })).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
