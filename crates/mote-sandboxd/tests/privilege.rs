//! The daemon's own process: what is left of its privilege. Without the test harness, which starts threads: privilege is
//! given up before there are any.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use mote_sandboxd::keeper::settings::DAEMON_ID;
use mote_sandboxd::privilege::{self, Kept};

/// The directory that the child may keep; only the child has it.
const KEPT: &str = "MOTE_TEST_KEPT";

#[expect(clippy::disallowed_methods, reason = "the variable says which of two processes this is")]
fn main() {
    if let Some(kept) = std::env::var_os(KEPT) {
        return give_up(&PathBuf::from(kept));
    }
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    std::fs::write(folder.path().join("other"), "x").unwrap();
    let kept = folder.path().join("kept");
    privilege::own_folder(&kept, DAEMON_ID, DAEMON_ID).unwrap();
    let output = Command::new(std::env::current_exe().unwrap()).env(KEPT, &kept).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn give_up(kept: &Path) {
    let other = kept.with_file_name("other");
    assert!(std::fs::read(&other).is_ok(), "it can be read before");
    let settings = Kept { uid: DAEMON_ID, gid: DAEMON_ID, read: Vec::new(), write: vec![kept.to_owned()] };
    let report = privilege::drop(&settings).unwrap();
    assert!(report.values().all(|support| support.available), "{report:?}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let id = DAEMON_ID.to_string();
    assert_eq!(field("Uid:"), [id.as_str(); 4]);
    assert_eq!(field("Gid:"), [id.as_str(); 4]);
    assert!(field("Groups:").is_empty());
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert!(std::fs::write(kept.join("own"), "x").is_ok());
    // Anyone may read it, but landlock does not show it.
    assert!(std::fs::read(&other).is_err());
    assert!(std::fs::read("/etc/shadow").is_err());
    assert!(std::fs::read("/etc/resolv.conf").is_ok());
    assert!(rustix::thread::set_thread_uid(rustix::process::Uid::ROOT).is_err());
    assert!(Command::new("/bin/true").status().is_err(), "it can execute nothing");
}
