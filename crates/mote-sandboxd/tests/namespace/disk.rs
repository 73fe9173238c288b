//! Who waits for the disk where sandboxes end: with roots in a pool of btrfs, where the end of one overlay writes what all have
//! dirty.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mote_sandboxd::filesystem::Backend;
use mote_sandboxd::keeper::Settings;

use crate::stage::{self, Stage, run, with_settings};

/// Stops the next process that another one starts, and says its number; lets it go when its own input ends (`ptrace(2)`:
/// PTRACE_SEIZE with PTRACE_O_TRACEFORK, TRACEVFORK and TRACECLONE, PTRACE_GETEVENTMSG, PTRACE_DETACH, PTRACE_CONT).
const HOLD_NEXT_CHILD: &str = r#"
    my $of = $ARGV[0] + 0; $| = 1;
    my $status;
    sub trace { my $done = syscall(101, @_); die "ptrace: $!" if $done < 0 }
    sub stopped { $status = chr(0) x 8; my $pid = syscall(61, -1, $status, 0x40000000, 0); die "wait: $!" if $pid < 0; $pid }
    trace(0x4206, $of, 0, 2 | 4 | 8); print "attached\n";
    my ($child, %held);
    until ($child && $held{$child}) {
        my $pid = stopped();
        if ($pid != $of) { $held{$pid} = 1; next }
        my $why = unpack("l", $status);
        if ($why >> 16) {
            my $number = chr(0) x 8; trace(0x4201, $of, 0, $number); $child = unpack("Q", $number); trace(17, $of, 0, 0);
        } else { my $signal = ($why >> 8) & 255; trace(7, $of, 0, $signal == 5 ? 0 : $signal) }
    }
    print "$child\n"; <STDIN>;
"#;

/// The next child of a process, stopped before it does anything.
struct Held {
    tracer: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Held {
    fn next_of(process: u32) -> Self {
        let mut perl = Command::new("perl");
        perl.args(["-e", HOLD_NEXT_CHILD, &process.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tracer = perl.spawn().unwrap();
        let lines = BufReader::new(tracer.stdout.take().unwrap()).lines();
        let mut held = Self { tracer, lines };
        assert_eq!(held.line(), "attached");
        held
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the tracer says something").unwrap()
    }

    /// Waits until there is one.
    fn wait(&mut self) -> u32 {
        self.line().parse().unwrap()
    }

    fn let_go(mut self) {
        drop(self.tracer.stdin.take());
        assert!(self.tracer.wait().unwrap().success());
    }
}

/// The end of an overlay writes what the whole pool has dirty. What stands for that here is that whoever ends it does not go on: a
/// keeper that did it itself, or waited for who does, would answer nobody.
#[test]
fn whoever_waits_for_the_disk_at_the_end_of_a_root_is_not_the_keeper() {
    with_pool(|stage| async move {
        let (started, _) = stage.launch("a", |_| {}).await;
        let keeper = stage::parent(started.pid);
        let mut held = Held::next_of(keeper);
        stage.containers.end("a").await.unwrap();
        // When it has nothing else to do, the keeper has a child end the root. Without one, this waits in vain.
        let waiting = tokio::task::spawn_blocking(move || (held.wait(), held));
        let (child, held) = within(waiting).await.unwrap();
        assert_eq!(stage::parent(child), keeper);
        // The keeper serves everybody meanwhile, but whoever wants that very root.
        let again = tokio::spawn({
            let stage = Arc::clone(&stage);
            async move { stage.relaunch("a", |_| {}).await }
        });
        for id in ["b", "c"] {
            let (_, guest) = within(stage.launch(id, |_| {})).await;
            assert!(run(&guest, "true").await.succeeded());
            within(stage.containers.end(id)).await.unwrap();
        }
        assert!(!again.is_finished(), "two overlays would write to one directory");
        held.let_go();
        let (_, guest) = within(again).await.unwrap();
        assert!(run(&guest, "true").await.succeeded());
    });
}

/// With roots in a pool of btrfs, where the end of one waits for what all have written.
fn with_pool<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Arc<Stage>) -> F) {
    let pool = |settings: &mut Settings| {
        settings.filesystem.backend = Some(Backend::Btrfs);
        settings.filesystem.pool_bytes = Some(1 << 30);
    };
    with_settings(pool, test);
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("the keeper goes on")
}

#[test]
fn a_root_that_is_still_mounted_is_started_again_once_it_is_not() {
    with_pool(|stage| async move {
        for round in 0..20 {
            let (_, guest) =
                if round == 0 { stage.launch("a", |_| {}).await } else { stage.relaunch("a", |_| {}).await };
            let seen = run(&guest, "cat /rounds 2>/dev/null; echo x >> /rounds").await;
            assert_eq!(seen.text.lines().count(), round, "what was written before is there");
            stage.containers.end("a").await.unwrap();
        }
        // One that cannot be started gives its range and its groups back.
        let missing = stage.containers.start(stage::plan("missing", |_| {})).await;
        assert!(missing.is_err());
    });
}
