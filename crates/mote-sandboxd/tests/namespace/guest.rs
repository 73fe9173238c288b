//! The same tests on another kernel: Debian's own, where control groups are of version 2, in an emulated machine.
//!
//! It tests nothing else: what the machine runs is this very program, without this module and without `disk`, for which it has no
//! tools of btrfs.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::stage;

/// Emulated, and perhaps beside other work.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What the machine does: a system's usual mounts, state on a filesystem that can be idmapped, then the tests.
fn script(init: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bind = |path: &Path| format!("mkdir -p {0} && mount --bind /host{0} {0}", path.display());
    let target = stage_folder();
    format!(
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C MOTE_SANDBOX_INIT_BIN={init}\n\
         mount -o remount,rw / && mkdir -p /dev/pts /dev/shm && mount -t devpts devpts /dev/pts\n\
         mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /run && mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         ip link set lo up && modprobe loop && truncate -s 512M /run/state && mke2fs -q -t ext4 /run/state\n\
         mount -o loop /run/state /dev/shm\n\
         {} && {} && {} && cd {}\n\
         {} --skip guest:: --skip disk:: --test-threads 2 --color never 2>&1\n\
         echo \"guest: exit $?\"\n\
         echo o > /proc/sysrq-trigger; sleep 60\n",
        bind(folder),
        bind(&target),
        bind(Path::new(init).parent().unwrap()),
        folder.display(),
        program.display(),
    )
}

/// The folder that holds this program and the daemon's.
fn stage_folder() -> std::path::PathBuf {
    stage::daemon_program().parent().unwrap().to_owned()
}

#[test]
fn the_same_holds_on_debians_kernel_with_control_groups_of_version_2() {
    let [machine, init] = ["MOTE_GUEST", "MOTE_SANDBOX_INIT_BIN"]
        .map(|name| stage::variable(name).unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test`")));
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.sh");
    std::fs::write(&run, script(&init)).unwrap();
    let shared = |tag: &str, path: &str| {
        format!("local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap")
    };
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"])
        .args(["-kernel", &format!("{machine}/vmlinuz"), "-initrd", &format!("{machine}/initrd")])
        // The emulated clock is late where the host is busy: the kernel need not find its timer wanting.
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 no_timer_check mote.run={}", run.display())])
        .args(["-drive", &format!("file={machine}/disk,format=raw,if=virtio,snapshot=on")])
        .args(["-virtfs", &shared("host", "/"), "-virtfs", &shared("modules", &format!("{machine}/modules"))])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = qemu.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let (ended, waiting) = std::sync::mpsc::channel();
    let pid = rustix::process::Pid::from_child(&qemu);
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE).is_err() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let said = reading.join().unwrap();
    ended.send(()).unwrap();
    watch.join().unwrap();
    let status = qemu.wait().unwrap();
    assert!(status.success() && said.contains("guest: exit 0"), "{status}\n{said}");
    // Not one of them left out.
    assert!(said.contains("test result: ok") && !said.contains(" 0 passed"), "{said}");
}
