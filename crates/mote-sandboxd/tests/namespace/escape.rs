//! Known ways out of containers, each tried by root inside, and what comes of it. `docs/sandbox-security.md` lists them.
//!
//! Every attempt is made with the whole of what a sandbox's root has; the host is looked at afterwards.

use std::path::Path;

use mote_sandbox_api::guest::Exit;
use mote_sandboxd::guest::Guest;

use crate::stage::{run, with_stage};

/// A raw system call from inside, by number: 0 or more where it succeeded, else the error's number, negative.
async fn call(guest: &Guest, arguments: &str) -> i64 {
    let script = format!("perl -e 'my $b=\"\\0\"x4096; my $r=syscall({arguments}); print $r < 0 ? 0-(0+$!) : $r'");
    let output = run(guest, &script).await;
    output
        .text
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or_else(|| panic!("{arguments}: {output:?}"))
}

const EPERM: i64 = -1;
const ESRCH: i64 = -3;
const ENOSYS: i64 = -38;

/// What the kernel's refusals read as, in the messages of shells, util-linux, coreutils and perl.
const REFUSALS: [&str; 6] = [
    "Operation not permitted",
    "ermission denied",
    "must be superuser",
    "Read-only file system",
    "Text file busy",
    "No such process",
];

/// The attempt was made, and the kernel refused it. A program that is not there, or that took its arguments for wrong ones, is no
/// refusal.
async fn refused(guest: &Guest, script: &str) {
    let output = run(guest, script).await;
    assert!(!output.succeeded(), "{script}: it went through: {output:?}");
    let missing = [Exit::Code(126), Exit::Code(127)].contains(&output.exit) || output.text.contains("not found");
    assert!(!missing && REFUSALS.iter().any(|refusal| output.text.contains(refusal)), "{script}: {output:?}");
}

/// Writes a line to a file, by a program that says why it cannot.
async fn write_refused(guest: &Guest, line: &str, file: &str) {
    refused(guest, &format!("echo '{line}' | tee {file} >/dev/null")).await;
}

/// There is nothing of that name inside.
async fn absent(guest: &Guest, path: &str) {
    let output = run(guest, &format!("LC_ALL=C ls -d {path}")).await;
    assert!(!output.succeeded() && output.text.contains("No such file or directory"), "{path}: {output:?}");
}

/// The same without the walls: on the host, in namespaces of the attempt's own, where what it does hurts nobody.
fn works_on_the_host(script: &str) {
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{script} is no attempt: {output:?}");
}

#[test]
fn release_agent_and_cgroup_files_are_out_of_reach() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for kind in ["-t cgroup -o memory cgroup", "-t cgroup2 none"] {
            refused(&guest, &format!("mkdir -p /tmp/cg && mount {kind} /tmp/cg")).await;
        }
        works_on_the_host("mount -t cgroup2 none /mnt || mount -t cgroup -o memory none /mnt");
        // Its own groups alone are there, and nothing of them can be written.
        let found = |what: &str| format!("find /sys/fs/cgroup -mindepth 1 {what}");
        assert_ne!(run(&guest, &found("-type f")).await.text, "");
        assert_eq!(run(&guest, &found("-type d -name 'mote-*'")).await.text, "");
        let write = "for file in $(find /sys/fs/cgroup -type f); do (echo 1 >$file) 2>/dev/null && echo $file; done; \
                     find /sys/fs/cgroup -type d -exec mkdir {}/new \\; 2>/dev/null; find /sys/fs/cgroup -name new";
        assert_eq!(run(&guest, write).await.text, "");
        let remount = "for at in $(find /sys/fs/cgroup -maxdepth 1); do mount -o remount,bind,rw $at 2>/dev/null && echo $at; done";
        assert_eq!(run(&guest, remount).await.text, "");
        // Wherever it could be mounted: the search does not stop at mounts.
        assert_eq!(run(&guest, "find /sys /run /tmp /mnt /dev -name release_agent").await.text, "");
    });
}

#[test]
fn the_hosts_kernel_settings_cannot_be_written() {
    with_stage(|stage| async move {
        let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let (_, guest) = stage.launch("a", |_| {}).await;
        let mut tried = 0;
        for file in [
            "sys/kernel/core_pattern",
            "sys/kernel/modprobe",
            "sys/kernel/hostname",
            "sys/vm/panic_on_oom",
            "sys/fs/suid_dumpable",
            "sys/kernel/ns_last_pid",
            "sysrq-trigger",
        ] {
            // What this kernel does not have cannot be tried.
            if Path::new("/proc").join(file).exists() {
                write_refused(&guest, "|/tmp/x", &format!("/proc/{file}")).await;
                tried += 1;
            }
        }
        assert!(tried >= 4, "{tried}");
        absent(&guest, "/proc/sys/fs/binfmt_misc/register").await;
        for script in [
            "mount -t binfmt_misc none /mnt",
            "umount /proc/sys",
            "mount -o remount,rw /proc/sys",
            "mount -o remount,bind,rw /proc/sys",
        ] {
            refused(&guest, script).await;
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    });
}

#[test]
fn nothing_can_be_mounted_or_unmounted() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for script in ["mount -t proc proc /mnt", "mount -t tmpfs none /mnt", "mount --bind / /mnt"] {
            refused(&guest, script).await;
            works_on_the_host(script);
        }
        for script in [
            "umount -l /proc/kcore",
            "umount -l /etc/hosts",
            "mount -t overlay none -o lowerdir=/,upperdir=/tmp,workdir=/var/tmp /mnt",
        ] {
            refused(&guest, script).await;
        }
        // open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, pivot_root.
        for number in [428, 429, 430, 431, 432, 433, 442, 155] {
            assert_eq!(call(&guest, &format!("{number}, $b, $b, 0, 0, 0")).await, EPERM, "{number}");
        }
        // The same through the x32 numbers, which a careless filter forgets.
        assert_eq!(call(&guest, "0x40000000 + 165, $b, $b, $b, 0, 0").await, ENOSYS);
    });
}

#[test]
fn namespaces_cannot_be_made_or_entered() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for flag in ["-U", "-Ur", "-m", "-n", "-p", "-u", "-i", "-C", "-T"] {
            refused(&guest, &format!("unshare {flag} true")).await;
            works_on_the_host(&format!("unshare {flag} true"));
        }
        assert_eq!(call(&guest, "56, 0x10000000 | 17, 0, 0, 0, 0").await, EPERM, "clone");
        assert_eq!(call(&guest, "435, $b, 88").await, ENOSYS, "clone3");
        // Even into those where it is already.
        refused(&guest, "nsenter -t $$ -m true").await;
        works_on_the_host("nsenter -t $$ -m true");
        write_refused(&guest, "0 0 1", "/proc/self/uid_map").await;
    });
}

#[test]
fn the_hosts_files_cannot_be_opened_by_handle_or_by_leaving_the_root() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        assert_eq!(call(&guest, "304, -100, $b, 0").await, EPERM, "open_by_handle_at");
        // The classic way out of a chroot ends in the sandbox's own root.
        let climb = "perl -e 'mkdir \"/tmp/j\"; open my $d, \"<\", \"/\"; chroot \"/tmp/j\" or die; chdir \"..\" for 1..64; chroot \".\" or die; exit(-e \"/run/mote\" ? 0 : 1)'";
        assert!(run(&guest, climb).await.succeeded());
        // The first process's root can be looked into, and is the sandbox's.
        assert!(run(&guest, "ls -d /proc/1/root/run/mote").await.succeeded());
        let state = stage.folder.path();
        assert!(state.exists());
        absent(&guest, &format!("/proc/1/root{}", state.display())).await;
    });
}

/// What a process has open, as `/proc` names it.
fn open_files(pid: u32) -> std::collections::BTreeSet<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.map(|to| to.display().to_string()).collect()
}

#[test]
fn no_descriptor_of_the_host_leaks_in() {
    with_stage(|stage| async move {
        let (started, guest) = stage.launch("a", |_| {}).await;
        // A program has its three streams, and the shell's own look at them.
        let own = run(&guest, "for d in /proc/self/fd/*; do readlink $d; done; true").await;
        let foreign: Vec<_> = own
            .text
            .lines()
            .filter(|to| !["/dev/null", "pipe:", "/proc/"].iter().any(|known| to.starts_with(known)))
            .collect();
        assert_eq!(foreign, [""; 0]);
        // The first process has no file of the host, and shares neither a pipe nor a socket with the keeper or with this process.
        let first = open_files(started.pid);
        let known = ["/dev/null", "pipe:", "socket:", "anon_inode:", "/memfd:mote-sandbox-init", "/sys/fs/cgroup/"];
        // The directory of the files that show the sandbox its bounds, from which nothing above it is reached, and the files.
        let view = ["/", "/cpuinfo", "/meminfo", "/online", "/stat"];
        let is_known = |to: &str| view.contains(&to) || known.iter().any(|known| to.starts_with(known));
        let foreign: Vec<_> = first.iter().filter(|to| !is_known(to)).collect();
        assert_eq!(foreign, [""; 0]);
        for outside in [crate::stage::parent(started.pid), std::process::id()] {
            let held = open_files(outside);
            let shared: Vec<_> = first.iter().filter(|to| to.contains(":[") && !to.starts_with("anon")).collect();
            assert!(!shared.is_empty() && shared.iter().all(|to| !held.contains(*to)), "{shared:?} {held:?}");
        }
        let above =
            run(&guest, "for d in /proc/1/fd/4/.. /proc/1/fd/4/../../..; do ls -A $d; done | sort -u | tr '\\n' ' '")
                .await;
        assert_eq!(above.text, "cpuinfo meminfo online stat ");
        let written = run(&guest, "for d in /proc/1/fd/*; do case $(readlink $d) in /sys/fs/cgroup/*) echo 1 >$d && echo written;; esac; done").await;
        assert!(!written.text.contains("written"), "{}", written.text);
        let environment = run(&guest, "tr '\\0' '\\n' < /proc/1/environ | cut -d= -f1 | sort | tr '\\n' ' '").await;
        assert_eq!(environment.text, "PATH ");
    });
}

#[test]
fn the_runtimes_program_cannot_be_overwritten() {
    with_stage(|stage| async move {
        let program = crate::stage::settings(stage.folder.path()).init;
        let before = std::fs::read(&program).unwrap();
        let (_, guest) = stage.launch("a", |_| {}).await;
        write_refused(&guest, "#!/bin/sh", "/proc/1/exe").await;
        refused(&guest, "perl -e 'open(my $f, \"+<\", \"/proc/1/exe\") or die $!; truncate($f, 0) or die $!'").await;
        refused(&guest, "touch /run/mote/x").await;
        assert_eq!(std::fs::read(&program).unwrap(), before);
        assert!(run(&guest, "true").await.succeeded());
    });
}

#[test]
fn processes_of_the_host_can_be_neither_seen_signalled_nor_traced() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        // A process of the host's root, whose number is beyond those inside.
        let mut host = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let number = host.id();
        let seen = run(&guest, "ls /proc | grep '^[0-9]*$' | sort -n | tail -1").await;
        assert!(seen.text.trim().parse::<u32>().unwrap() < number, "{seen:?}");
        refused(&guest, &format!("kill -0 {number}")).await;
        refused(&guest, &format!("kill -9 {number}")).await;
        assert_eq!(call(&guest, &format!("101, 16, {number}, 0, 0")).await, ESRCH, "ptrace attach");
        assert_eq!(call(&guest, &format!("434, {number}, 0")).await, ESRCH, "pidfd_open");
        assert!(host.try_wait().unwrap().is_none(), "it lives");
        host.kill().unwrap();
        host.wait().unwrap();
    });
}

#[test]
fn keyrings_code_for_the_kernel_and_measuring_it_are_refused() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for (name, number) in [
            ("add_key", 248),
            ("request_key", 249),
            ("keyctl", 250),
            ("bpf", 321),
            ("perf_event_open", 298),
            ("userfaultfd", 323),
            ("init_module", 175),
            ("finit_module", 313),
            ("kexec_load", 246),
            ("reboot", 169),
            ("syslog", 103),
            ("settimeofday", 164),
            ("acct", 163),
            ("swapon", 167),
            ("sethostname", 170),
            ("iopl", 172),
        ] {
            assert_eq!(call(&guest, &format!("{number}, 0, 0, 0, 0, 0")).await, EPERM, "{name}");
        }
        for number in [425, 426, 427] {
            assert_eq!(call(&guest, &format!("{number}, 0, 0, 0, 0, 0")).await, ENOSYS, "io_uring");
        }
    });
}

#[test]
fn rare_sockets_and_words_in_anothers_mouth_are_refused() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        // alg, packet, vsock, xdp, bluetooth; netlink of netfilter and of xfrm.
        for arguments in [
            "41, 38, 5, 0",
            "41, 17, 3, 0",
            "41, 40, 1, 0",
            "41, 44, 3, 0",
            "41, 31, 3, 0",
            "41, 16, 3, 12",
            "41, 16, 3, 6",
        ] {
            assert_eq!(call(&guest, arguments).await, EPERM, "{arguments}");
        }
        assert!(call(&guest, "41, 2, 3, 1").await < 0, "raw sockets");
        assert!(call(&guest, "41, 16, 3, 0").await > 0, "routes may be read");
        assert_eq!(call(&guest, "16, 0, 0x5412, $b").await, EPERM, "TIOCSTI");
        assert_eq!(call(&guest, "135, 0x0400000").await, EPERM, "READ_IMPLIES_EXEC");
    });
}

#[test]
fn devices_cannot_be_made_or_opened() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for node in ["/tmp/kmsg c 1 11", "/dev/shm/mem c 1 1", "/tmp/disk b 8 0"] {
            refused(&guest, &format!("mknod {node}")).await;
        }
        works_on_the_host("mount -t tmpfs none /mnt && mknod /mnt/kmsg c 1 11");
        for node in ["/dev/kmsg", "/dev/mem", "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/kvm", "/dev/net/tun"] {
            absent(&guest, node).await;
        }
        refused(&guest, "chmod 777 /dev/null").await;
        refused(&guest, "chown 0 /dev/null").await;
        // A node that an image brings is no device either: overlay is mounted without.
        let upper = stage.folder.path().join("state/pool/roots/a/upper/kmsg");
        let device = rustix::fs::makedev(1, 11);
        rustix::fs::mknodat(rustix::fs::CWD, &upper, rustix::fs::FileType::CharacterDevice, 0o666.into(), device)
            .unwrap();
        assert!(run(&guest, "test -c /kmsg").await.succeeded(), "the node is seen");
        refused(&guest, "head -c1 /kmsg").await;
    });
}

#[test]
fn links_in_an_image_do_not_lead_the_keepers_mounts_out() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let passwd = std::fs::read("/etc/passwd").unwrap();
        // Where the keeper will mount at the next start, root leaves links to where it should not.
        let script = "mkdir -p /new && mv /etc /etc.was 2>/dev/null || cp -a /etc /etc.was; ln -s ../../../../../../etc/passwd /tmp/l; \
                      rm -rf /run/mote /srv/x; ln -s /etc /srv/x; true";
        assert!(run(&guest, script).await.succeeded());
        stage.containers.end("a").await.unwrap();
        let data = |path: &str| mote_sandboxd::namespace::Mount {
            source: mote_sandboxd::namespace::Source::Volume("v".to_owned()),
            path: path.to_owned(),
            read_only: false,
        };
        stage
            .client
            .call(mote_sandboxd::keeper::Verb::Filesystem(mote_sandboxd::filesystem::keeper::Verb::VolumeNew {
                volume: mote_sandboxd::filesystem::id::Id::new("volume", "v").unwrap(),
                quota_bytes: None,
            }))
            .await
            .unwrap();
        // The volume follows the link inside the root, where it covers the sandbox's own /etc and nothing else.
        let plan = crate::stage::plan("a", |launch| launch.mounts.push(data("/srv/x/deep")));
        let guest = Guest::new(stage.containers.start(plan).await.unwrap().guest);
        assert!(run(&guest, "touch /etc/deep/here").await.succeeded());
        assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd);
        assert!(!Path::new("/etc/deep").exists());
        stage.containers.end("a").await.unwrap();
        // A link in place of /proc is refused by name.
        let proc = stage.folder.path().join("state/pool/roots/a/upper/sys");
        let _ = std::fs::remove_dir_all(&proc);
        std::os::unix::fs::symlink("/etc", &proc).unwrap();
        let failure = stage.containers.start(crate::stage::plan("a", |_| {})).await.unwrap_err();
        assert!(failure.message.contains("/sys"), "{failure:?}");
    });
}

#[test]
fn set_user_id_bits_on_a_volume_mean_nothing() {
    with_stage(|stage| async move {
        stage
            .client
            .call(mote_sandboxd::keeper::Verb::Filesystem(mote_sandboxd::filesystem::keeper::Verb::VolumeNew {
                volume: mote_sandboxd::filesystem::id::Id::new("volume", "v").unwrap(),
                quota_bytes: None,
            }))
            .await
            .unwrap();
        let volume = mote_sandboxd::namespace::Mount {
            source: mote_sandboxd::namespace::Source::Volume("v".to_owned()),
            path: "/mnt/v".to_owned(),
            read_only: false,
        };
        let (_, guest) = stage.launch("a", |launch| launch.mounts.push(volume)).await;
        let script =
            "cp /usr/bin/id /mnt/v/id && chmod 4755 /mnt/v/id && setpriv --reuid 65534 --clear-groups /mnt/v/id -u";
        assert_eq!(run(&guest, script).await.text.trim(), "65534");
    });
}

#[test]
fn a_fork_bomb_and_a_memory_bomb_leave_the_host_responsive() {
    with_stage(|stage| async move {
        let (_, bomb) = stage
            .launch("a", |launch| {
                launch.resources.pids = Some(64);
                launch.resources.memory = Some(128 << 20);
                launch.resources.cpu_milli = Some(500);
            })
            .await;
        let _ = run(&bomb, "perl -e 'fork while 1' >/dev/null 2>&1 & perl -e '$SIG{CHLD}=\"IGNORE\"; while (1) { fork; $x .= \"x\" x 1048576 }' >/dev/null 2>&1 &").await;
        // Another sandbox comes up and works meanwhile, and the bomb can be ended.
        let (_, other) = stage.launch("b", |_| {}).await;
        assert_eq!(run(&other, "echo fine").await.text, "fine\n");
        assert!(stage.containers.usage("a").pids <= 64);
        stage.containers.end("a").await.unwrap();
        assert_eq!(stage.containers.living().await.unwrap().len(), 1);
    });
}

#[test]
fn priorities_and_limits_of_the_host_cannot_be_raised() {
    with_stage(|stage| async move {
        let (started, guest) = stage.launch("a", |_| {}).await;
        refused(&guest, "chrt -f 50 true").await;
        works_on_the_host("chrt -f 50 true");
        let nice = run(&guest, "nice -n -10 nice").await;
        let mut said: Vec<_> = nice.text.lines().collect();
        said.sort_unstable();
        assert_eq!(said, ["0", "nice: cannot set niceness: Permission denied"], "it is what it was");
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", started.pid)).unwrap();
        assert_eq!(score.trim(), "500");
        write_refused(&guest, "-1000", "/proc/self/oom_score_adj").await;
    });
}
