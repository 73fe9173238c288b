//! Known ways out of containers, each tried by root inside, and what comes of it. `docs/sandbox-security.md` lists them.
//!
//! Every attempt is made with the whole of what a sandbox's root has; the host is looked at afterwards.

use std::path::Path;

use mote_sandboxd::guest::Guest;

use crate::stage::{Output, run, with_stage};

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
const ENOSYS: i64 = -38;

fn fails(output: &Output) {
    assert!(!output.succeeded(), "it went through: {output:?}");
}

#[test]
fn release_agent_and_cgroup_files_are_out_of_reach() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        fails(&run(&guest, "mkdir -p /tmp/cg && mount -t cgroup -o memory cgroup /tmp/cg").await);
        fails(&run(&guest, "mkdir -p /tmp/cg && mount -t cgroup2 none /tmp/cg").await);
        // Its own groups alone are there, and nothing of them can be written.
        fails(&run(&guest, "find /sys/fs/cgroup -mindepth 1 -type d -name 'mote-*' | grep .").await);
        let write = "for file in $(find /sys/fs/cgroup -type f); do (echo 1 >$file) 2>/dev/null && echo $file; done; \
                     find /sys/fs/cgroup -type d -exec mkdir {}/new \\; 2>/dev/null; find /sys/fs/cgroup -name new";
        assert_eq!(run(&guest, write).await.text, "");
        let remount = "for at in $(find /sys/fs/cgroup -maxdepth 1); do mount -o remount,bind,rw $at 2>/dev/null && echo $at; done";
        assert_eq!(run(&guest, remount).await.text, "");
        fails(&run(&guest, "find / -xdev -name release_agent 2>/dev/null | grep .").await);
    });
}

#[test]
fn the_hosts_kernel_settings_cannot_be_written() {
    with_stage(|stage| async move {
        let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let (_, guest) = stage.launch("a", |_| {}).await;
        for file in [
            "kernel/core_pattern",
            "kernel/modprobe",
            "kernel/hostname",
            "vm/panic_on_oom",
            "fs/suid_dumpable",
            "fs/binfmt_misc/register",
            "kernel/ns_last_pid",
        ] {
            fails(&run(&guest, &format!("echo '|/tmp/x' > /proc/sys/{file}")).await);
        }
        fails(&run(&guest, "echo b > /proc/sysrq-trigger").await);
        fails(
            &run(&guest, "umount /proc/sys; mount -o remount,rw /proc/sys || mount -o remount,bind,rw /proc/sys").await,
        );
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    });
}

#[test]
fn nothing_can_be_mounted_or_unmounted() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for script in [
            "mount -t proc proc /mnt",
            "mount -t tmpfs none /mnt",
            "mount --bind / /mnt",
            "umount -l /proc/kcore",
            "umount -l /etc/hosts",
            "mount -t overlay none -o lowerdir=/,upperdir=/tmp,workdir=/var/tmp /mnt",
        ] {
            fails(&run(&guest, script).await);
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
            fails(&run(&guest, &format!("unshare {flag} true")).await);
        }
        assert_eq!(call(&guest, "56, 0x10000000 | 17, 0, 0, 0, 0").await, EPERM, "clone");
        assert_eq!(call(&guest, "435, $b, 88").await, ENOSYS, "clone3");
        fails(&run(&guest, "nsenter -t 1 -m true").await);
        fails(&run(&guest, "echo '0 0 1' > /proc/self/uid_map").await);
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
        let state = stage.folder.path().display().to_string();
        fails(&run(&guest, &format!("ls /proc/1/root{state}; test -e /proc/1/root{state}")).await);
    });
}

#[test]
fn no_descriptor_of_the_host_leaks_in() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let leaks = run(&guest, "for d in /proc/[0-9]*/fd/*; do readlink $d; done | grep -v -e '^/dev/null' -e '^pipe:' -e '^socket:' -e '^anon_inode:' -e '^/proc' -e '^/memfd:mote-sandbox-init' -e '^/dev/pts' -e '^/sys/fs/cgroup/' | sort | tr '\\n' ' '").await;
        // The directory of the files that show the sandbox its bounds, from which nothing above it is reached, and the files.
        assert_eq!(leaks.text, "/ / /cpuinfo /meminfo /online /stat ");
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
        fails(&run(&guest, "echo '#!/bin/sh' > /proc/1/exe").await);
        fails(
            &run(&guest, "perl -e 'open(my $f, \"+<\", \"/proc/1/exe\") or exit 1; truncate($f, 0) or exit 2'").await,
        );
        fails(&run(&guest, "touch /run/mote/x").await);
        assert_eq!(std::fs::read(&program).unwrap(), before);
        assert!(run(&guest, "true").await.succeeded());
    });
}

#[test]
fn processes_of_the_host_can_be_neither_seen_signalled_nor_traced() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let host = std::process::id();
        fails(&run(&guest, &format!("kill -0 {host}")).await);
        assert_ne!(call(&guest, &format!("101, 16, {host}, 0, 0")).await, 0, "ptrace attach");
        assert!(call(&guest, &format!("434, {host}, 0")).await < 0, "pidfd_open");
        // Every process that can be signalled is its own.
        fails(&run(&guest, "kill -0 2147480000").await);
        assert!(Path::new(&format!("/proc/{host}")).exists());
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
        fails(&run(&guest, "mknod /tmp/kmsg c 1 11").await);
        fails(&run(&guest, "mknod /dev/shm/mem c 1 1").await);
        fails(&run(&guest, "cat /dev/kmsg /dev/mem /dev/vda /dev/sda").await);
        fails(&run(&guest, "chmod 777 /dev/null && chown 0 /dev/null").await);
        // A node that an image brings is no device either: overlay is mounted without.
        let upper = stage.folder.path().join("state/pool/roots/a/upper/kmsg");
        let device = rustix::fs::makedev(1, 11);
        rustix::fs::mknodat(rustix::fs::CWD, &upper, rustix::fs::FileType::CharacterDevice, 0o666.into(), device)
            .unwrap();
        fails(&run(&guest, "head -c1 /kmsg").await);
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
        if let Ok(started) =
            stage.containers.start(crate::stage::plan("a", |launch| launch.mounts.push(data("/srv/x/deep")))).await
        {
            let guest = Guest::new(started.guest);
            assert!(run(&guest, "touch /etc/deep/here").await.succeeded());
        }
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
        fails(&run(&guest, "chrt -f 50 true").await);
        fails(&run(&guest, "nice -n -10 true 2>&1 | grep .; test $(nice -n -10 nice) -lt 0").await);
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", started.pid)).unwrap();
        assert_eq!(score.trim(), "500");
        fails(&run(&guest, "echo -1000 > /proc/self/oom_score_adj").await);
    });
}
