//! `mote sandbox`, as a person uses it: against a real daemon, the shell on a real terminal.

use std::process::{Output, Stdio};

use system_tests::process::binary;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::fixture::{Daemon, PATIENCE};

pub(crate) fn command(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::mote().unwrap());
    command.arg("sandbox").args(arguments).env("MOTE_SANDBOX_URL", daemon.url()).env("MOTE_SANDBOX_KEY", daemon.key());
    command
}

pub(crate) async fn output(daemon: &Daemon, arguments: &[&str]) -> Output {
    command(daemon, arguments).stdin(Stdio::null()).output().await.unwrap()
}

/// A command that succeeds; what it printed, without the last line's end.
pub(crate) async fn printed(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = output(daemon, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}\n{}", daemon.log());
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn from_creation_to_removal() {
    let daemon = Daemon::start().await;
    let id = &printed(&daemon, &["create", "--metadata", "team=a", "--env", "NAME=x"]).await;
    assert!(printed(&daemon, &["list", "--metadata", "team=a"]).await.contains(id));
    assert_eq!(printed(&daemon, &["exec", id, "--", "sh", "-c", "echo $NAME"]).await, "x");
    let failed = output(&daemon, &["exec", id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!((failed.status.code(), &*failed.stdout, &*failed.stderr), (Some(7), &b"out\n"[..], &b"err\n"[..]));
    let snapshot = &printed(&daemon, &["snapshot", id, "--name", "start"]).await;
    printed(&daemon, &["exec", id, "--", "touch", "/tmp/later"]).await;
    assert_eq!(&printed(&daemon, &["rollback", id, snapshot]).await, id);
    assert!(!output(&daemon, &["exec", id, "--", "ls", "/tmp/later"]).await.status.success());
    let forks = printed(&daemon, &["fork", id, "--count", "2"]).await;
    let forks: Vec<&str> = forks.lines().collect();
    assert_eq!(forks.len(), 2);
    printed(&daemon, &["pause", id, "--stop"]).await;
    printed(&daemon, &["resume", id]).await;
    assert!(printed(&daemon, &["logs", id]).await.contains("rolled back"));
    assert!(printed(&daemon, &["top", "--once"]).await.contains(id));
    assert!(printed(&daemon, &["capabilities"]).await.contains("snapshot.live"));
    printed(&daemon, &["rm", id, forks[0], forks[1]]).await;
    assert_eq!(printed(&daemon, &["list"]).await, "");
    let gone = output(&daemon, &["exec", id, "--", "true"]).await;
    assert_eq!(gone.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("gone:"));
}

#[tokio::test]
async fn files_and_directories_are_copied_both_ways() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir_all(folder.path().join("tree/deep")).unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(folder.path().join("tree/deep/big"), &big).unwrap();
    std::fs::write(folder.path().join("tree/run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path().join("tree/run.sh"), executable).unwrap();
    let id = &printed(&daemon, &["create"]).await;
    printed(&daemon, &["cp", &here("tree"), &format!("{id}:/tmp/")]).await;
    assert_eq!(printed(&daemon, &["exec", id, "--", "/tmp/tree/run.sh"]).await, "ran");
    printed(&daemon, &["cp", &format!("{id}:/tmp/tree"), &here("back")]).await;
    assert_eq!(std::fs::read(folder.path().join("back/deep/big")).unwrap(), big);
    printed(&daemon, &["cp", &format!("{id}:/tmp/tree/run.sh"), &here("one")]).await;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.path().join("one")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);
    let nowhere = output(&daemon, &["cp", &format!("{id}:/tmp/none"), &here("none")]).await;
    assert_eq!(nowhere.status.code(), Some(4));
}

#[tokio::test]
async fn what_was_changed_is_shown_and_becomes_an_image() {
    let daemon = Daemon::start().await;
    let id = &printed(&daemon, &["create"]).await;
    printed(&daemon, &["exec", id, "--", "sh", "-c", "echo one > /tmp/made"]).await;
    let changes = printed(&daemon, &["diff", id]).await;
    assert!(changes.lines().any(|line| line.contains("/tmp/made")), "{changes}");
    let image = printed(&daemon, &["commit", id, "made"]).await;
    assert!(image.starts_with("sha256:"), "{image}");
    let other = &printed(&daemon, &["create", "--image", "made"]).await;
    assert_eq!(printed(&daemon, &["exec", other, "--", "cat", "/tmp/made"]).await, "one");
    let changes = printed(&daemon, &["diff", other]).await;
    assert!(!changes.contains("/tmp/made"), "what is of the image is no change: {changes}");
}

/// More than all the buffers between the two ends hold together.
#[tokio::test]
async fn a_program_that_answers_while_it_is_fed_is_fed_to_the_end() {
    let daemon = Daemon::start().await;
    let id = &printed(&daemon, &["create"]).await;
    let sent: Vec<u8> = (0..16_000_000u32).map(|at| (at % 251) as u8).collect();
    let mut child = command(&daemon, &["exec", "-i", id, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeding = async {
        input.write_all(&sent).await.unwrap();
        drop(input);
    };
    let both = async { tokio::join!(feeding, child.wait_with_output()) };
    let ((), output) = tokio::time::timeout(PATIENCE, both).await.expect("neither end waits for the other");
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == sent, "{} of {} bytes came back", output.stdout.len(), sent.len());
}

#[tokio::test]
async fn input_is_passed_on() {
    let daemon = Daemon::start().await;
    let id = &printed(&daemon, &["create"]).await;
    let mut child = command(&daemon, &["exec", "-i", id, "--", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"loud\n").await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"LOUD\n"[..]));
}

/// `script` of util-linux gives the command a terminal of its own.
#[tokio::test]
async fn a_shell_has_a_real_terminal() {
    let daemon = Daemon::start().await;
    let id = &printed(&daemon, &["create"]).await;
    let line = format!("stty rows 33 cols 101; exec {} sandbox shell {id} -- sh", binary::mote().unwrap().display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("MOTE_SANDBOX_URL", daemon.url())
        .env("MOTE_SANDBOX_KEY", daemon.key())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"test -t 0 && echo 'a''terminal'; stty size; sh -c 'kill -INT $$'\nexit 5\n").await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    drop(input);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("aterminal") && text.contains("33 101"), "{text}");
    assert_eq!(output.status.code(), Some(5), "{text}");
}

#[tokio::test]
async fn a_daemon_with_a_certificate_of_ones_own_is_trusted_where_its_authority_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (config, url) = crate::agent::certified(folder.path());
    let daemon = Daemon::configured(&config).await;
    let ca = folder.path().join("ca.pem").display().to_string();
    let mut refused = command(&daemon, &["list", "--url", &url]);
    let refused = refused.output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(3) && said.contains("certificate") && said.contains("--ca"), "{said}");
    let id = printed(&daemon, &["create", "--url", &url, "--ca", &ca]).await;
    let by_variable = |ca: &str| {
        let mut command = command(&daemon, &["exec", "--interactive", &id, "--url", &url, "--", "cat"]);
        command.env("MOTE_SANDBOX_CA", ca).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    // A WebSocket goes over the same connection.
    assert!(by_variable(&ca).output().await.unwrap().status.success());
    let wrong = folder.path().join("absent.pem").display().to_string();
    let unread = by_variable(&wrong).output().await.unwrap();
    let said = String::from_utf8_lossy(&unread.stderr).into_owned();
    assert!(unread.status.code() == Some(2) && said.contains(&wrong) && said.contains("MOTE_SANDBOX_CA"), "{said}");
}

#[tokio::test]
async fn the_key_is_looked_for_where_a_daemon_leaves_it() {
    let daemon = Daemon::start().await;
    let below = std::path::Path::new(mote::tools::sandbox::config::SANDBOX_KEY_FILE)
        .strip_prefix("/var/lib/mote-sandbox")
        .unwrap();
    assert_eq!(std::fs::read_to_string(daemon.state().join(below)).unwrap().trim(), daemon.key());
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_told_apart() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(binary::mote().unwrap());
    let url = format!("http://127.0.0.1:{port}");
    let output = command.args(["sandbox", "list", "--url", &url, "--key", "k"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mote-sandboxd serve"));
}

/// Without `-i` as with it: bytes as they are, as they come, however many.
#[tokio::test]
async fn output_is_streamed_to_the_byte() {
    let daemon = Daemon::start().await;
    let id = &printed(&daemon, &["create"]).await;
    let bytes = output(&daemon, &["exec", id, "--", "sh", "-c", r"printf '\377\000\376'; printf '\200' >&2"]).await;
    assert_eq!((&*bytes.stdout, &*bytes.stderr), (&b"\xff\0\xfe"[..], &b"\x80"[..]));
    let long = output(&daemon, &["exec", id, "--", "head", "-c", "9000000", "/dev/zero"]).await;
    assert!(long.stdout.len() == 9_000_000 && long.stdout.iter().all(|byte| *byte == 0), "{}", long.stdout.len());
    // The program goes on only when what it said has been seen here.
    let line = "echo first; until [ -e /tmp/seen ]; do :; done; echo last";
    let mut child =
        command(&daemon, &["exec", id, "--", line]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("output comes as it is written");
    assert_eq!(first.unwrap().as_deref(), Some("first"));
    printed(&daemon, &["exec", id, "--", "touch", "/tmp/seen"]).await;
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("last"));
    assert!(child.wait().await.unwrap().success());
    let late = output(&daemon, &["exec", id, "--timeout", "300ms", "--", "sh", "-c", "echo said; sleep 60"]).await;
    let note = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(late.stdout == b"said\n" && note.contains("its time was over") && !late.status.success(), "{late:?}");
}

/// Input that nobody asked to be passed on is left for whoever reads it next.
#[tokio::test]
async fn without_interactive_no_input_is_taken() {
    let daemon = Daemon::start().await;
    let id = &printed(&daemon, &["create"]).await;
    let mote = binary::mote().unwrap().display();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{mote} sandbox exec {id} -- cat; cat")]);
    shell.env("MOTE_SANDBOX_URL", daemon.url()).env("MOTE_SANDBOX_KEY", daemon.key());
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"kept").await.unwrap();
    assert_eq!(child.wait_with_output().await.unwrap().stdout, b"kept");
}

#[tokio::test]
async fn a_tree_is_copied_with_its_links_and_whatever_its_names_are_and_what_cannot_be_is_named() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("private")).unwrap();
    std::fs::write(tree.join(OsStr::from_bytes(b"caf\xe9")), "latin").unwrap();
    std::fs::write(tree.join("private/key"), "k").unwrap();
    std::os::unix::fs::symlink("private/key", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", tree.join("dangling")).unwrap();
    std::os::unix::fs::symlink("private", tree.join("folder-link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let id = &printed(&daemon, &["create"]).await;
    for _ in 0..2 {
        let sent = output(&daemon, &["cp", tree.to_str().unwrap(), &format!("{id}:/tmp/")]).await;
        let said = String::from_utf8_lossy(&sent.stderr).into_owned();
        assert!(sent.status.success() && said.contains("tree/socket is a device, a pipe or a socket"), "{said}");
        assert!(said.contains("2 files and 3 links copied"), "{said}");
    }
    let seen = "cd /tmp/tree && readlink link dangling folder-link && ls private && cat $(printf 'caf\\351')";
    assert_eq!(printed(&daemon, &["exec", id, "--", seen]).await, "private/key\n/nowhere/at/all\nprivate\nkey\nlatin");
    printed(&daemon, &["exec", id, "--", "cd /tmp/tree && mkfifo pipe && chmod 700 private"]).await;
    let back = folder.path().join("back");
    let got = output(&daemon, &["cp", &format!("{id}:/tmp/tree"), back.to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(got.status.success() && said.contains("/tmp/tree/pipe is a device, a pipe or a socket"), "{said}");
    assert_eq!(std::fs::read(back.join(OsStr::from_bytes(b"caf\xe9"))).unwrap(), b"latin");
    assert_eq!(std::fs::read_link(back.join("dangling")).unwrap().to_str(), Some("/nowhere/at/all"));
    assert_eq!(std::fs::read_link(back.join("link")).unwrap().to_str(), Some("private/key"));
    assert_eq!(std::fs::metadata(back.join("private")).unwrap().permissions().mode() & 0o777, 0o700);
    // What may not be read is an error, and no empty directory.
    printed(&daemon, &["exec", "--user", "root", id, "--", "chmod 0 /tmp/tree/private; chown root /tmp/tree/private"])
        .await;
    let refused =
        output(&daemon, &["cp", &format!("{id}:/tmp/tree"), &folder.path().join("no").display().to_string()]).await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("private"), "{refused:?}");
}

/// A sandbox that leaves a link in one copy, to lead the next one out.
#[tokio::test]
async fn no_copy_is_led_out_of_its_destination_by_a_link_of_an_earlier_one() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (victim, to) = (folder.path().join("victim"), folder.path().join("to"));
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("file"), "mine").unwrap();
    let id = &printed(&daemon, &["create"]).await;
    let links = format!("mkdir /tmp/t && ln -s {0} /tmp/t/a && ln -s {0}/file /tmp/t/b", victim.display());
    printed(&daemon, &["exec", id, "--", &links]).await;
    printed(&daemon, &["cp", &format!("{id}:/tmp/t"), to.to_str().unwrap()]).await;
    assert!(to.join("a").is_symlink(), "the trap is laid");
    let files = "cd /tmp/t && rm a b && mkdir a && echo theirs >a/file && echo theirs >b";
    printed(&daemon, &["exec", id, "--", files]).await;
    // The next copy goes into the directory that is there now: this one's place is taken by the first.
    let first = folder.path().join("first");
    std::fs::rename(&to, &first).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::fs::rename(&first, to.join("t")).unwrap();
    printed(&daemon, &["cp", &format!("{id}:/tmp/t"), to.to_str().unwrap()]).await;
    assert_eq!(std::fs::read_to_string(to.join("t/a/file")).unwrap(), "theirs\n");
    assert_eq!(std::fs::read_to_string(victim.join("file")).unwrap(), "mine");
}
