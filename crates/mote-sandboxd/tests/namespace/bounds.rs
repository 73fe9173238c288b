//! Bounds hold, and what is not bounded is not: each with the bound on and off.

use mote_sandbox_api::error::Code;

use crate::stage::{eventually, run, with_stage};

const HUNGRY: &str = "perl -e 'my $x = \"x\" x (160*1024*1024); print length $x'";

#[test]
fn memory_is_bounded_and_the_end_of_a_hungry_process_is_counted() {
    with_stage(|stage| async move {
        let (_, bounded) = stage.launch("a", |launch| launch.resources.memory = Some(64 << 20)).await;
        assert!(!run(&bounded, HUNGRY).await.succeeded());
        let usage = stage.containers.usage("a");
        assert_eq!((usage.oom_kills, usage.memory_bytes_max), (1, 64 << 20));
        assert!(run(&bounded, "true").await.succeeded(), "the sandbox goes on");
        // Files in memory count too.
        assert!(!run(&bounded, "head -c 160M /dev/zero > /dev/shm/x").await.succeeded());
        let (_, free) = stage.launch("b", |_| {}).await;
        assert!(run(&free, HUNGRY).await.succeeded());
    });
}

/// How often the shown memory is read until it follows: each look starts a process, which takes a millisecond at least.
const LOOKS_MAX: usize = 2000;

/// Where programs look for the machine's memory and processors, they find the sandbox's.
#[test]
fn bounds_are_shown_where_programs_look_for_the_machine() {
    with_stage(|stage| async move {
        let change = |launch: &mut mote_sandboxd::namespace::launch::Launch| {
            launch.resources.memory = Some(64 << 20);
            launch.resources.cpu_milli = Some(1000);
        };
        let (_, bounded) = stage.launch("a", change).await;
        let shown = run(
            &bounded,
            "head -1 /proc/meminfo; cat /sys/devices/system/cpu/online; grep -c ^processor /proc/cpuinfo",
        )
        .await;
        assert_eq!(shown.text, "MemTotal:          65536 kB\n0\n1\n");
        let used = "head -c 16M /dev/zero >/dev/shm/x; head -2 /proc/meminfo | tail -1 | tr -dc 0-9";
        let free: u64 = run(&bounded, "sed -n 2p /proc/meminfo | tr -dc 0-9").await.text.parse().unwrap();
        assert!(run(&bounded, used).await.succeeded());
        // What was written a moment ago is not written again at once.
        let mut left = free;
        for _ in 0..LOOKS_MAX {
            left = run(&bounded, "sed -n 2p /proc/meminfo | tr -dc 0-9").await.text.parse().unwrap();
            if free.saturating_sub(left) >= 15 << 10 {
                return;
            }
        }
        panic!("{free} kB, then {left} kB");
    });
}

const MANY: &str = "perl -e 'my $n=0; for (1..60) { my $p=fork; last unless defined $p; if (!$p) { sleep 20; exit } $n++ } $|=1; print $n; kill 9, 0'";

#[test]
fn processes_are_bounded() {
    with_stage(|stage| async move {
        let (_, bounded) = stage.launch("a", |launch| launch.resources.pids = Some(32)).await;
        let many = run(&bounded, MANY).await;
        let many: u32 = many.text.trim().parse().unwrap();
        assert!((1..32).contains(&many), "{many}");
        let (_, free) = stage.launch("b", |_| {}).await;
        assert_eq!(run(&free, MANY).await.text.trim(), "60");
    });
}

/// Takes 0.2 s of a processor, however long that is.
const SPIN: &str = "perl -MTime::HiRes=clock -e '1 while clock() < 0.2'";

#[test]
fn processor_time_is_bounded() {
    with_stage(|stage| async move {
        let (_, bounded) = stage.launch("a", |launch| launch.resources.cpu_milli = Some(100)).await;
        // 10 ms in each period of 100. A busy host may leave it no more than that for a while: then nothing holds it back.
        let mut usage = stage.containers.usage("a");
        for round in 1..=100 {
            assert!(run(&bounded, SPIN).await.succeeded());
            usage = stage.containers.usage("a");
            assert!(usage.cpu_us >= round * 200_000, "{usage:?}");
            if usage.cpu_throttled_us > 0 {
                break;
            }
        }
        assert!(usage.cpu_throttled_us > 0, "{usage:?}");
        let (_, free) = stage.launch("b", |_| {}).await;
        assert!(run(&free, SPIN).await.succeeded());
        assert_eq!(stage.containers.usage("b").cpu_throttled_us, 0);
    });
}

#[test]
fn a_frozen_sandbox_uses_no_time_until_it_is_thawed() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        assert!(run(&guest, "(while :; do :; done) >/dev/null 2>&1 &").await.succeeded());
        stage.containers.freeze("a").await.unwrap();
        let frozen = stage.containers.usage("a").cpu_us;
        assert!(stage.containers.living().await.unwrap()[0].frozen);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(stage.containers.usage("a").cpu_us, frozen);
        stage.containers.thaw("a").await.unwrap();
        eventually("it goes on", || stage.containers.usage("a").cpu_us > frozen).await;
        // A frozen sandbox can be ended.
        stage.containers.freeze("a").await.unwrap();
        stage.containers.end("a").await.unwrap();
        assert_eq!(stage.containers.freeze("a").await.unwrap_err().code, Code::NotFound);
    });
}

#[test]
fn terminals_and_open_files_are_bounded() {
    with_stage(|stage| async move {
        let (_, guest) = stage.launch("a", |_| {}).await;
        let open = "perl -e 'my @f; while (open(my $f, \"+<\", \"/dev/ptmx\")) { push @f, $f } print scalar @f'";
        let opened: u32 = run(&guest, &format!("ulimit -n 1024; {open}")).await.text.trim().parse().unwrap();
        assert!(opened <= 256, "{opened}");
        assert!(!run(&guest, "ulimit -Hn unlimited").await.succeeded());
        assert_eq!(run(&guest, "ulimit -Hc").await.text.trim(), "0");
    });
}
