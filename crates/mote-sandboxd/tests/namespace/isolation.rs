//! What a sandbox sees and is: its ids, its processes, its mounts, its files.

use std::os::unix::fs::MetadataExt as _;

use mote_sandbox_api::error::Code;
use mote_sandboxd::keeper::settings::UID_BASE;

use crate::stage::{eventually, plan, run, with_settings, with_stage};

#[test]
fn root_inside_is_nobody_outside() {
    with_stage(|stage| async move {
        let (started, guest) = stage.launch("a", |_| {}).await;
        assert_eq!(
            run(&guest, "id -u; cat /proc/self/uid_map").await.text.split_whitespace().collect::<Vec<_>>()[..2],
            ["0", "0"]
        );
        let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
        let ids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        let id: u32 = ids.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((UID_BASE..UID_BASE + (1 << 28)).contains(&id), "{ids}");
        // What root inside writes is on disk with the image's ids, and a set-user-id bit there is nobody's.
        assert!(run(&guest, "touch /made && chmod 4755 /made && chown 33:33 /made").await.succeeded());
        let upper = stage.folder.path().join("state/pool/roots/a/upper/made");
        let found = std::fs::metadata(&upper).unwrap();
        assert_eq!((found.uid(), found.gid()), (33, 33));
    });
}

/// Capabilities that the document lists, by their numbers (`linux/capability.h`).
const LISTED: [(&str, u32); 18] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("IPC_LOCK", 14),
    ("IPC_OWNER", 15),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", 19),
    ("SYS_NICE", 23),
    ("AUDIT_WRITE", 29),
    ("SETFCAP", 31),
];

#[test]
fn root_inside_has_the_capabilities_that_the_document_lists_and_no_way_to_others() {
    with_stage(|stage| async move {
        let document = include_str!("../../../../docs/sandbox-seccomp.md");
        let table = document.split("## 3.").next().unwrap();
        assert!(LISTED.iter().all(|(name, _)| table.contains(&format!("`{name}`"))));
        let set = LISTED.iter().fold(0_u64, |set, (_, number)| set | 1 << number);
        let (_, guest) = stage.launch("a", |_| {}).await;
        let caps = async |before: &str| {
            let told = run(&guest, &format!("{before} grep -e CapBnd -e CapEff /proc/self/status | cut -f2")).await;
            told.text.lines().map(|line| u64::from_str_radix(line.trim(), 16).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(caps("").await, [set, set]);
        // A set-user-id program of a user has the same and no more: SYS_ADMIN (21), MKNOD (27) and the rest are nobody's.
        let script = "cp /usr/bin/grep /opt/grep && chmod 4755 /opt/grep";
        assert!(run(&guest, script).await.succeeded());
        let by_user = "setpriv --reuid 65534 --clear-groups /opt/grep -e CapBnd -e CapEff /proc/self/status | cut -f2";
        let told = run(&guest, by_user).await;
        let told: Vec<_> = told.text.lines().map(|line| u64::from_str_radix(line.trim(), 16).unwrap()).collect();
        assert_eq!(told, [set, set]);
    });
}

#[test]
fn set_user_id_programs_work_inside() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let script =
            "cp /usr/bin/id /opt/id0 && chmod 4755 /opt/id0 && setpriv --reuid 65534 --clear-groups /opt/id0 -u";
        assert_eq!(run(&guest, script).await.text.trim(), "0");
        assert!(run(&guest, "grep -q 'NoNewPrivs:.0' /proc/self/status").await.succeeded());
    });
}

#[test]
fn a_sandbox_sees_its_own_processes_and_nothing_of_the_hosts() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let seen = run(&guest, "ls /proc | grep -c '^[0-9]'").await;
        assert!(seen.text.trim().parse::<u32>().unwrap() <= 5, "{seen:?}");
        assert_eq!(run(&guest, "hostname; cat /etc/hostname").await.text, "box\nbox\n");
        assert_eq!(run(&guest, "cut -d: -f3 /proc/self/cgroup | sort -u").await.text, "/\n");
        assert_eq!(
            run(&guest, "ls /sys /sys/devices/system").await.text,
            "/sys:\ndevices\nfs\n\n/sys/devices/system:\ncpu\nnode\n"
        );
        assert_eq!(run(&guest, "ls -A /root /home /tmp").await.text, "/home:\nuser\n\n/root:\n\n/tmp:\n");
        assert_eq!(run(&guest, "cut -d: -f2 /etc/shadow | sort -u").await.text, "*\n");
        let state = stage.folder.path().display().to_string();
        assert!(!run(&guest, &format!("ls {state}")).await.succeeded());
    });
}

#[test]
fn the_hosts_programs_run_and_nothing_else_of_the_host_is_seen() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        // Wherever the host keeps something, also what is made only now.
        let folders = ["/tmp", "/var/tmp", "/var/lib", "/opt", "/srv", "/home", "/root", "/run", "/etc", "/mnt"];
        let kept: Vec<_> = folders
            .into_iter()
            .filter_map(|folder| tempfile::Builder::new().prefix("mote-test-").tempfile_in(folder).ok())
            .collect();
        assert!(!kept.is_empty());
        for file in &kept {
            let seen = run(&guest, &format!("ls -d {}", file.path().display())).await;
            assert!(!seen.succeeded(), "{seen:?}");
        }
        let script = "bash -c 'echo $((6 * 7))'; git --version; python3 -c 'import ssl, sqlite3; print(ssl.create_default_context().cert_store_stats()[\"x509_ca\"] > 0)'";
        let said = run(&guest, script).await;
        assert!(said.succeeded() && said.text.starts_with("42\ngit version "), "{said:?}");
        assert!(said.text.ends_with("True\n"), "{said:?}");
        for refused in ["touch /usr/made", "rm /usr/bin/id", "chmod 777 /usr/bin/id", "umount /usr"] {
            assert!(!run(&guest, refused).await.succeeded(), "{refused}");
        }
        let written = run(&guest, "touch /usr/made").await;
        assert!(written.text.contains("Read-only file system"), "{written:?}");
        assert_eq!(run(&guest, "stat -c %u:%g /usr/bin/id").await.text, "0:0\n", "programs are root's inside, too");
    });
}

#[test]
fn the_user_of_the_hosts_image_becomes_root_by_sudo() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let become_root = run(&guest, "su user -s /bin/sh -c 'id -u; sudo -n id -u; sudo -n whoami; cd && pwd'").await;
        assert_eq!(become_root.text, "1000\n0\nroot\n/home/user\n");
    });
}

#[test]
fn devices_are_the_harmless_ones_and_no_others_can_be_made() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let nodes = run(
            &guest,
            "for f in /dev/* /dev/pts/*; do test -L $f && continue; { test -c $f || test -b $f; } && echo -n \"$f \"; done",
        )
        .await
        .text;
        assert_eq!(nodes, "/dev/full /dev/null /dev/random /dev/tty /dev/urandom /dev/zero /dev/pts/ptmx ");
        assert!(run(&guest, "echo x > /dev/null && head -c1 /dev/zero | wc -c | grep -q 1").await.succeeded());
        let made = run(&guest, "mknod /tmp/mem c 1 1 || mknod /tmp/disk b 8 0").await;
        assert!(!made.succeeded() && made.text.contains("not permitted"), "{made:?}");
        // A terminal can be had.
        let terminal = run(&guest, "script -qec 'test -t 0 && echo terminal' /dev/null").await;
        assert!(terminal.text.contains("terminal"), "{terminal:?}");
    });
}

#[test]
fn what_proc_shows_of_the_host_is_hidden_or_read_only() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for file in ["kcore", "keys", "kmsg", "kallsyms", "timer_list", "interrupts"] {
            let read = run(&guest, &format!("test ! -e /proc/{file} || head -c1 /proc/{file} | wc -c")).await;
            assert!(["", "0"].contains(&read.text.trim()), "{file}: {read:?}");
        }
        for file in ["sys/kernel/core_pattern", "sys/vm/overcommit_memory", "sys/net/ipv4/ip_forward", "sysrq-trigger"]
        {
            let written = run(&guest, &format!("test ! -e /proc/{file} || echo 1 > /proc/{file}")).await;
            assert!(
                !written.succeeded() || written.text.is_empty() && !std::path::Path::new("/proc").join(file).exists(),
                "{file}: {written:?}"
            );
        }
    });
}

#[test]
fn sandboxes_do_not_see_each_other() {
    with_stage(|stage| async move {
        let (_, one) = stage.launch("a", |_| {}).await;
        let (_, other) = stage.launch("b", |_| {}).await;
        let inode = "readlink /proc/self/ns/user /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/cgroup";
        let (first, second) = (run(&one, inode).await.text, run(&other, inode).await.text);
        let host = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
            .map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string());
        assert_eq!((first.lines().count(), second.lines().count()), (host.len(), host.len()));
        for ((a, b), host) in first.lines().zip(second.lines()).zip(&host) {
            assert!(a != b && a != host && b != host, "{a} {b} {host}");
        }
        let listen = "perl -MSocket -e '$|=1;socket(S,AF_UNIX,SOCK_STREAM,0);bind(S,pack_sockaddr_un(\"\\0mote\"))&&listen(S,1)&&print \"up\\n\";sleep 60' >/tmp/o 2>&1 & for i in $(seq 100); do grep -q up /tmp/o && exit 0; sleep 0.05; done; exit 1";
        assert!(run(&one, listen).await.succeeded());
        let dial = "perl -MSocket -e '$|=1;socket(S,AF_UNIX,SOCK_STREAM,0);connect(S,pack_sockaddr_un(\"\\0mote\"))||die \"$!\"'";
        assert!(!run(&other, dial).await.succeeded(), "abstract sockets are private");
    });
}

#[test]
fn nothing_leads_out_without_a_network_and_ports_are_free() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        assert_eq!(
            run(&guest, "cat /proc/net/route | tail -n +2; ls /proc/sys/net/ipv4/conf").await.text,
            "all\ndefault\nlo\n"
        );
        let listen = "perl -MIO::Socket::INET -e 'IO::Socket::INET->new(Listen=>1,LocalPort=>80)||die $!;print 1'";
        assert_eq!(run(&guest, listen).await.text, "1");
    });
}

#[test]
fn with_a_network_connections_arrive_at_the_daemons_socket() {
    with_stage(|stage| async move {
        let (started, guest) = stage.launch("a", |launch| launch.network = true).await;
        let sockets = started.network.unwrap();
        let dial = tokio::spawn(async move {
            run(&guest, "perl -MIO::Socket::INET -e 'my $s=IO::Socket::INET->new(PeerAddr=>\"198.51.100.7:443\",Timeout=>20)||die $!;print $s \"hello\"'").await
        });
        let listener = std::net::TcpListener::from(sockets.tcp);
        let heard = tokio::task::spawn_blocking(move || {
            use std::io::Read as _;
            let mut bytes = Vec::new();
            loop {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        stream.read_to_end(&mut bytes).unwrap();
                        return bytes;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        assert!(dial.await.unwrap().succeeded());
        assert_eq!(heard.await.unwrap(), b"hello");
    });
}

#[test]
fn cells_that_wait_are_used_once_and_never_again() {
    with_settings(
        |settings| settings.ready_cells = 2,
        |stage| async move {
            let mut seen = std::collections::BTreeSet::new();
            for round in 0..4 {
                let id = format!("s{round}");
                let (_, guest) = stage.launch(&id, |_| {}).await;
                assert!(seen.insert(run(&guest, "readlink /proc/self/ns/user; cat /proc/self/uid_map").await.text));
                stage.containers.end(&id).await.unwrap();
            }
            assert_eq!(seen.len(), 4);
        },
    );
}

#[test]
fn an_end_leaves_nothing_and_may_be_repeated() {
    with_stage(|stage| async move {
        let (started, guest) = stage.launch("a", |_| {}).await;
        assert!(run(&guest, "sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 >/dev/null 2>&1 &").await.succeeded());
        assert!(stage.containers.usage("a").pids >= 3);
        stage.containers.end("a").await.unwrap();
        stage.containers.end("a").await.unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{}", started.pid)).exists());
        assert!(!started.guest.exists());
        assert_eq!(stage.containers.living().await.unwrap(), []);
        // The same root can be launched again, with what was written.
        let (_, guest) = stage.relaunch("a", |_| {}).await;
        assert!(run(&guest, "touch /again").await.succeeded());
        let twice = stage.containers.start(plan("a", |_| {})).await.unwrap_err();
        assert_eq!(twice.code, Code::Conflict);
    });
}

#[test]
fn when_the_first_process_ends_the_daemon_is_told() {
    with_stage(|stage| async move {
        let (started, guest) = stage.launch("a", |_| {}).await;
        let exit = mote_sandboxd::descriptor::watch(started.exit).unwrap();
        let pid = rustix::process::Pid::from_raw(started.pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        drop(tokio::time::timeout(std::time::Duration::from_secs(20), exit.readable()).await.unwrap().unwrap());
        assert!(guest.hello().await.is_err());
        eventually("it no longer lives", || exit.try_io(tokio::io::Interest::READABLE, |_| Ok(())).is_ok()).await;
        assert_eq!(stage.containers.living().await.unwrap(), []);
        // What it held is given back when the daemon asks for its end.
        stage.containers.end("a").await.unwrap();
    });
}
