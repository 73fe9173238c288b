//! Attacks that once went through: on what the kernel counts for all sandboxes together, on the pool's filesystem, on what the
//! host does at a crash. Each is made by root inside, and where it can be made outside the walls, that is made, too.

use std::process::Command;

use mote_sandboxd::guest::Guest;

use crate::stage::{run, with_stage};

/// Makes a raw system call until it fails or was made 2,000 times, holds what it got, and says how often it succeeded.
fn hoard(file: &str, call: &str) -> String {
    format!(
        "perl -e 'my $b = \"\\0\" x 4096; my $n = 0; while ($n < 2000) {{ last if syscall({call}) < 0; $n++ }} \
         open(my $f, \">\", \"{file}\"); print $f $n; close $f; sleep 1000' >/dev/null 2>&1 &"
    )
}

async fn hoarded(guest: &Guest, file: &str, call: &str) -> u32 {
    assert!(run(guest, &hoard(file, call)).await.succeeded());
    let wait = format!("while ! [ -s {file} ]; do :; done; cat {file}");
    run(guest, &wait).await.text.trim().parse().unwrap()
}

/// `inotify_init1`.
const INOTIFY: &str = "294, 0";

#[test]
fn what_the_kernel_counts_for_each_user_is_each_sandboxs_own() {
    with_stage(|stage| async move {
        let (_, one) = stage.launch("a", |_| {}).await;
        let (_, other) = stage.launch("b", |_| {}).await;
        // As the sandbox's root and as a user: all that the host gives to one user.
        let first = hoarded(&one, "/tmp/n", INOTIFY).await;
        assert!((16..2000).contains(&first), "{first}");
        // It is used up for this sandbox, by whichever user, and for nobody else.
        assert_eq!(run(&one, &format!("perl -e 'print syscall({INOTIFY})'")).await.text, "-1");
        let second = hoarded(&other, "/tmp/n", INOTIFY).await;
        // The first process of each holds one or two of them, from some moment of its start on.
        assert!(second.abs_diff(first) <= 2, "another sandbox has as many: {second}, not {first}");
        rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).expect("the host's root has its own");
    });
}

/// Queues signals to itself until the kernel takes no more: `rt_sigqueueinfo` of a blocked signal, SIGRTMIN.
const SIGNALS: &str = "perl -MPOSIX -e 'my $s = POSIX::SigSet->new(34); sigprocmask(SIG_BLOCK, $s); \
    my $i = pack(\"iiix4ii\", 34, 0, -1, $$, 0) . \"\\0\" x 112; my $n = 0; \
    while ($n < 2000000) { last if syscall(129, $$, 34, $i) < 0; $n++ } \
    open(my $f, \">\", \"/tmp/signals\"); print $f $n; close $f; sleep 1000' >/dev/null 2>&1 &";

#[test]
fn pending_signals_of_one_sandbox_are_not_the_hosts() {
    with_stage(|stage| async move {
        let (_, one) = stage.launch("a", |_| {}).await;
        assert!(run(&one, SIGNALS).await.succeeded());
        let count = run(&one, "while ! [ -s /tmp/signals ]; do sleep 0.1; done; cat /tmp/signals").await;
        assert!(count.text.trim().parse::<u32>().unwrap() > 100, "{count:?}");
        // A process of the host's root that queues one: its own count is as it was.
        let script = "my $s = POSIX::SigSet->new(34); sigprocmask(SIG_BLOCK, $s); \
            my $i = pack(\"iiix4ii\", 34, 0, -1, $$, 0) . \"\\0\" x 112; exit(syscall(129, $$, 34, $i) < 0 ? 1 : 0)";
        assert!(Command::new("perl").args(["-MPOSIX", "-e", script]).status().unwrap().success());
    });
}

/// A raw system call inside; what it returned, or the error's number, negative.
async fn call(guest: &Guest, arguments: &str) -> i64 {
    let script = format!(
        "perl -e 'open(my $f, \"+>\", \"/tmp/called\"); my $d = fileno($f); my $b = \"\\0\" x 4096; \
         my $r = syscall({arguments}); print $r < 0 ? 0 - (0 + $!) : $r'"
    );
    let output = run(guest, &script).await;
    output.text.trim().parse().unwrap_or_else(|_| panic!("{arguments}: {output:?}"))
}

const EPERM: i64 = -1;
const ENOSYS: i64 = -38;
const EPROTONOSUPPORT: i64 = -93;

#[test]
fn requests_of_btrfs_are_refused_but_for_clones() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        // SUBVOL_CREATE, SNAP_CREATE, SUBVOL_CREATE_V2, SNAP_CREATE_V2, SNAP_DESTROY, DEFRAG, QUOTA_CTL, QGROUP_LIMIT,
        // TREE_SEARCH, INO_LOOKUP; the kernel reads 32 bits of a request, whatever stands above.
        for request in [
            "0x5000940e",
            "0x50009401",
            "0x50009418",
            "0x50009417",
            "0x5000940f",
            "0x50009402",
            "0xc0109428",
            "0x8030942b",
            "0xd0009411",
            "0xd0009412",
            "(0x5000940e | (1 << 32))",
        ] {
            assert_eq!(call(&guest, &format!("16, $d, {request}, $b")).await, EPERM, "{request}");
        }
        // FICLONE, FICLONERANGE, FIDEDUPERANGE: this filesystem may not have them, which is another answer.
        for request in ["0x40049409, $d", "0x4020940d, $b", "0xc0189436, $b"] {
            assert_ne!(call(&guest, &format!("16, $d, {request}")).await, EPERM, "{request}");
        }
        // Without the wall the kernel itself is asked.
        let script = "open(my $f, \"+>\", $ARGV[0]); my $b = \"\\0\" x 4096; \
            syscall(16, fileno($f), 0x5000940e, $b); print 0 + $!";
        let file = stage.folder.path().join("outside");
        let outside = Command::new("perl").args(["-e", script]).arg(&file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&outside.stdout), "25", "ENOTTY: {outside:?}");
    });
}

#[test]
fn the_hosts_events_and_its_audit_are_not_heard() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        for protocol in [9, 15] {
            // Datagrams, raw, and raw with close-on-exec.
            for kind in [2, 3, 0x8_0003] {
                assert_eq!(call(&guest, &format!("41, 16, {kind}, {protocol}")).await, EPROTONOSUPPORT, "{protocol}");
            }
            assert_eq!(call(&guest, &format!("53, 16, 3, {protocol}, $b")).await, EPROTONOSUPPORT, "socketpair");
        }
        assert!(call(&guest, "41, 16, 3, 0").await > 0, "routes may be read");
        // Outside, the socket is given.
        let outside = Command::new("perl").args(["-e", "exit(syscall(41, 16, 3, 15) < 0)"]).status().unwrap();
        assert!(outside.success());
    });
}

#[test]
fn the_bound_on_core_files_is_fixed_at_the_byte_that_starts_no_program() {
    with_stage(|stage| async move {
        let (started, guest) = stage.launch("a", |_| {}).await;
        let limit = "grep 'core file size' /proc/self/limits | tr -s ' '";
        let fixed = "Max core file size 1 1 bytes \n";
        // Every way to set it succeeds, as programs expect, and changes nothing.
        for set in [
            "ulimit -c 0;",
            "ulimit -S -c 0;",
            "ulimit -H -c 0;",
            "prlimit --core=0 true && prlimit --pid $$ --core=0:0;",
            "perl -e 'my $z = \"\\0\" x 16; exit(syscall(160, 4, $z) < 0)' || exit 1;",
            "perl -e 'my $z = \"\\0\" x 16; exit(syscall(302, 0, 4, $z, 0) < 0)' || exit 1;",
            "perl -e 'my $z = \"\\0\" x 16; exit(syscall(302, 0, (1 << 32) | 4, $z, 0) < 0)' || exit 1;",
        ] {
            let output = run(&guest, &format!("{set} {limit}")).await;
            assert!(output.succeeded() && output.text == fixed, "{set}: {output:?}");
        }
        // Others are set as before.
        assert_eq!(run(&guest, "ulimit -n 99; ulimit -n").await.text, "99\n");
        assert_eq!(
            run(&guest, "setpriv --reuid 65534 --clear-groups grep 'core file' /proc/self/limits | tr -s ' '")
                .await
                .text,
            fixed
        );
        // A crash leaves no file, and ends as one.
        let crash =
            run(&guest, "cd /tmp && mkdir crash && cd crash && { perl -e 'kill 11, $$'; echo $?; ls; } 2>/dev/null")
                .await;
        // Some shells say so themselves.
        let said: Vec<_> = crash.text.lines().filter(|line| *line != "Segmentation fault").collect();
        assert_eq!(said, ["139"], "{crash:?}");
        let first = std::fs::read_to_string(format!("/proc/{}/limits", started.pid)).unwrap();
        assert!(
            first.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == fixed.trim()),
            "{first}"
        );
    });
}

#[test]
fn events_of_io_setup_which_the_host_counts_for_all_are_not_to_be_had() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        assert_eq!(call(&guest, "206, 128, $b").await, ENOSYS);
        let outside =
            Command::new("perl").args(["-e", "my $b = \"\\0\" x 8; exit(syscall(206, 1, $b) < 0)"]).status().unwrap();
        assert!(outside.success(), "the host's own programs have it");
    });
}

/// Gives a copy of a program the capability of a raw socket (`security.capability`, version 2, effective), and runs it.
const WITH_CAPABILITY: &str = "cp /bin/true /tmp/pinging && perl -e 'my $v = pack(\"V5\", 0x02000001, 1 << CAP, 0, 0, 0); \
    my ($f, $n) = (\"/tmp/pinging\", \"security.capability\"); exit(syscall(188, $f, $n, $v, 20, 0) < 0)' && /tmp/pinging && \
    setpriv --reuid 65534 --clear-groups /tmp/pinging";

#[test]
fn programs_whose_files_carry_capabilities_run_and_may_do_no_more_than_others() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        // NET_RAW, NET_ADMIN, IPC_LOCK: `ping`, `tcpdump`, `vault` and their like.
        for capability in ["13", "12", "14"] {
            let output = run(&guest, &WITH_CAPABILITY.replace("CAP", capability)).await;
            assert!(output.succeeded(), "{capability}: {output:?}");
        }
        // One that is never given is refused at the execution, as everywhere (SYS_ADMIN).
        assert!(!run(&guest, &WITH_CAPABILITY.replace("CAP", "21")).await.succeeded());
        // They grant nothing, for what they are about is the host's: raw and packet sockets, links, locked memory.
        assert!(call(&guest, "41, 2, 3, 1").await < 0, "a raw socket");
        assert!(call(&guest, "41, 17, 3, 0").await < 0, "a packet socket");
        for line in ["ip link add dummy0 type dummy", "ip addr add 10.9.9.9/32 dev lo", "ip link set lo mtu 1000"] {
            assert!(!run(&guest, line).await.succeeded(), "{line}");
        }
        let mark = "perl -MSocket -e 'socket(my $s, PF_INET, SOCK_STREAM, 0); exit(setsockopt($s, SOL_SOCKET, 36, 7) ? 0 : 1)'";
        assert!(!run(&guest, mark).await.succeeded(), "SO_MARK");
    });
}

#[test]
fn a_personality_can_be_asked_for_and_not_weakened() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        assert_eq!(call(&guest, "135, 0xffffffff").await, 0);
        for weak in ["0x0400000", "0x0100000", "0xfffffffe", "(1 << 32) | 0x0400000"] {
            assert_eq!(call(&guest, &format!("135, {weak}")).await, EPERM, "{weak}");
        }
        // What a debugger and a deterministic run want: addresses that stay the same, for its own processes.
        assert!(run(&guest, "setarch -R true").await.succeeded());
    });
}
