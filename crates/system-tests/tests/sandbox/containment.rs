//! What holds the daemon itself, and the bounds that only a whole daemon shows.

use std::path::PathBuf;
use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Daemon;

/// Fields of `/proc/PID/status`, or of one of its threads.
struct Status(String);

impl Status {
    fn of(path: &std::path::Path) -> Option<Self> {
        std::fs::read_to_string(path.join("status")).ok().map(Self)
    }

    fn words(&self, field: &str) -> Vec<String> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    fn number(&self, field: &str) -> u32 {
        self.words(field)[0].parse().unwrap()
    }
}

/// Every process of the host.
fn processes() -> Vec<(u32, Status)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, Status::of(&entry.path())?))).collect()
}

#[tokio::test]
async fn the_daemon_has_no_privilege_and_the_keeper_alone_is_root() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    daemon.run(&id, "true").await;
    let threads: Vec<PathBuf> =
        std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(threads.len() > 1);
    for status in threads.iter().filter_map(|thread| Status::of(thread)) {
        for ids in ["Uid", "Gid"] {
            let ids = status.words(ids);
            assert!(ids.iter().all(|id| *id != "0" && *id == ids[0]), "{ids:?}");
        }
        assert!(status.words("Groups").is_empty());
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status.words(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(status.words("NoNewPrivs"), ["1"]);
    }
    // Root is the keeper, and what it keeps ready for sandboxes to come: each has one thread and no socket of the network.
    let all = processes();
    let parent = |pid: u32| all.iter().find(|(other, _)| *other == pid).map(|(_, status)| status.number("PPid"));
    let descends = |pid: u32, from: u32| std::iter::successors(Some(pid), |pid| parent(*pid)).any(|pid| pid == from);
    let is_root = |status: &Status| status.words("Uid").contains(&"0".to_owned());
    let root: Vec<&(u32, Status)> =
        all.iter().filter(|(pid, status)| descends(*pid, daemon.pid()) && is_root(status)).collect();
    let children: Vec<u32> =
        root.iter().map(|(pid, _)| *pid).filter(|pid| parent(*pid) == Some(daemon.pid())).collect();
    let [keeper] = children[..] else { panic!("not one keeper: {children:?}") };
    let tables =
        ["tcp", "tcp6", "udp", "udp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap());
    for (pid, status) in root {
        assert!(descends(*pid, keeper), "{pid} is root beside the keeper");
        assert_eq!(status.number("Threads"), 1, "{pid}");
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
        for link in links.filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
            let socket = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            let is_of_network = |inode: &str| tables.iter().any(|table| table.contains(&format!(" {inode} ")));
            assert!(!socket.is_some_and(is_of_network), "{pid} has a socket of the network: {link:?}");
        }
    }
    // No process of a sandbox is anybody on the host.
    let inside = daemon.processes();
    assert!(!inside.is_empty());
    for (_, status) in all.iter().filter(|(pid, _)| inside.contains(pid)) {
        assert!(!is_root(status));
    }
}

/// Landlock binds to what a path was when the daemon started: what stands there later is another thing, and is not there for
/// the daemon, whatever its permissions say.
#[tokio::test]
async fn landlock_hides_from_the_daemon_what_it_was_not_given() {
    let folder = tempfile::Builder::new().prefix("mote-sandbox-imports-").tempdir().unwrap();
    let open = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open()).unwrap();
    let given = folder.path().join("given");
    let archive = |name: &str| {
        std::fs::create_dir_all(&given).unwrap();
        std::fs::set_permissions(&given, open()).unwrap();
        let path = given.join(name);
        let made = Command::new("tar").args(["-C", "/etc", "-cf"]).arg(&path).arg("hostname").status().unwrap();
        assert!(made.success());
        path.display().to_string()
    };
    let first = archive("first.tar");
    let daemon = Daemon::configured(&format!("directories: [{}]", given.display())).await;
    let import =
        async |path: &str| daemon.ask(Method::POST, "/v1/images", json!({ "source": { "tarball": path } })).await;
    let (status, answer) = import(&first).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    std::fs::rename(&given, folder.path().join("moved")).unwrap();
    let second = archive("second.tar");
    let status = Status::of(std::path::Path::new(&format!("/proc/{}", daemon.pid()))).unwrap();
    let (uid, gid) = (status.number("Uid"), status.number("Gid"));
    let same_user = Command::new("setpriv")
        .args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned(), "cat".to_owned()])
        .arg(&second)
        .output()
        .unwrap();
    assert!(same_user.status.success(), "without landlock the daemon's user reads it: {same_user:?}");
    let (status, answer) = import(&second).await;
    assert!(!status.is_success(), "landlock does not hold: {answer}");
    assert!(answer["message"].as_str().unwrap().contains("Permission denied"), "{answer}");
}

/// Bounded, writing past the page cache takes as long as the bound says; not bounded, nothing says that it must.
#[tokio::test]
async fn input_and_output_are_bounded_where_the_host_can_and_else_it_says_so() {
    let daemon = Daemon::start().await;
    let told = daemon.done(Method::GET, "/v1/capabilities", Value::Null).await;
    let spec = json!({ "resources": { "io": "1MiB" } });
    if told["enforcement"]["cgroup.io"]["available"] == false {
        let (status, answer) = daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": spec })).await;
        assert_eq!((status, answer["context"]["feature"].as_str()), (StatusCode::NOT_IMPLEMENTED, Some("cgroup.io")));
        return;
    }
    let write = "dd if=/dev/zero of=/opt/x bs=64k count=32 oflag=direct 2>&1 | tail -1; \
                 dd if=/opt/x of=/dev/null bs=64k iflag=direct 2>&1 | tail -1";
    let seconds = |text: String| -> Vec<f64> {
        let of = |line: &str| line.rsplit(", ").nth(1).unwrap().trim_end_matches(" s").parse().unwrap();
        text.lines().map(of).collect()
    };
    let bounded = daemon.create(spec).await;
    let bounded = seconds(daemon.run(&bounded, write).await);
    // 2 MiB at 1 MiB a second, less what the kernel lets through at first.
    assert!(bounded.iter().all(|seconds| *seconds >= 1.0), "{bounded:?}");
    let free = daemon.create(json!({})).await;
    let free = seconds(daemon.run(&free, write).await);
    assert!(free.iter().sum::<f64>() < bounded.iter().sum(), "{free:?} {bounded:?}");
}
