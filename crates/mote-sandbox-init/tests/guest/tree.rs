//! Orphans, time limits, and the end of everything.

use mote_sandbox_api::guest::{Exit, Reply, Request, Start};

use crate::client::{Init, command, shell};

#[test]
fn orphans_are_reaped_and_nobody_elses_children_are() {
    let init = Init::start();
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let init = &init;
            scope.spawn(move || {
                for round in 0..25 {
                    let code = lane * 25 + round;
                    let outcome = init.shell(&format!("(sh -c 'sleep 0.01' &) ; setsid -f true; exit {code}"));
                    assert_eq!(outcome.exit, Exit::Code(code));
                }
            });
        }
    });
    init.wait_until_alone();
}

#[test]
fn time_that_is_over_ends_the_group_and_those_that_left_it() {
    let init = Init::start();
    let script = "setsid sleep 1000 & sh -c 'setsid sleep 1000 & sleep 1000' & echo up; sleep 1000";
    let outcome = init.run(Start { timeout_ms: Some(400), ..shell(script) });
    assert_eq!((outcome.exit, outcome.timed_out), (Exit::Signal(9), true));
    assert_eq!(outcome.text(), "up");
    init.wait_until_alone();
}

#[test]
fn time_that_is_not_over_changes_nothing() {
    let init = Init::start();
    let outcome = init.run(Start { timeout_ms: Some(60_000), ..shell("exit 4") });
    assert_eq!((outcome.exit, outcome.timed_out), (Exit::Code(4), false));
}

#[test]
fn everything_ends_when_asked_and_the_sandbox_goes_on() {
    let init = Init::start();
    let (_, owner) = init.start_process(shell("trap '' TERM HUP; sleep 1000"));
    let detached = Start { detached: true, ..shell("setsid -f sleep 1000; while :; do sleep 1; done") };
    drop(init.start_process(detached));
    assert_eq!(init.ask(&Request::EndAll), Ok(Reply::Done));
    assert_eq!(owner.outcome().exit, Exit::Signal(9));
    init.wait_until_alone();
    assert_eq!(init.shell("echo on").text(), "on");
}

#[test]
fn a_signal_ends_the_sandbox_politely_first() {
    let init = Init::start();
    let flag = init.path("flag");
    let script = format!("trap 'touch {flag}; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    let (_, mut owner) = init.start_process(shell(&script));
    owner.read_until("up");
    let pid = rustix::process::Pid::from_raw(init.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(owner.outcome().exit, Exit::Code(0));
    assert!(std::fs::exists(&flag).unwrap());
    assert!(init.wait(), "it ends well");
}

#[test]
fn processes_inside_cannot_end_the_first() {
    let init = Init::start();
    init.shell("kill -KILL 1; kill -STOP 1; kill -USR1 1; kill -SEGV 1");
    let user = Start { user: Some("nobody".to_owned()), ..shell("kill -TERM 1 2>/dev/null || echo refused") };
    assert_eq!(init.run(user).text(), "refused");
    assert_eq!(init.run(command(&["echo", "there"])).text(), "there");
}
